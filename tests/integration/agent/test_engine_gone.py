"""The Docker Engine under a running job is killed and comes back: not knowing is not the same as gone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import docker
import httpx
import pytest

from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.job_state import JobStatus
from tests.integration.agent.market import Market, containers, market
from tests.parts.engine import Engine, own_engine

pytestmark = [pytest.mark.docker, pytest.mark.anvil, pytest.mark.timeout(240)]

GONE_S = 10
LINES = 20


def mounts() -> list[str]:
    return Path("/proc/self/mounts").read_text().splitlines()


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    with own_engine() as found:
        monkeypatch.setenv("DOCKER_HOST", found.url)
        yield found


@pytest.fixture
async def world(engine: Engine, tmp_path: Path) -> AsyncIterator[Market]:
    async with market(tmp_path) as found:
        yield found


async def test_an_engine_killed_under_a_job_stops_and_doubles_nothing(
    world: Market, engine: Engine, tmp_path: Path
) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        script = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo $i; sleep 1; done; echo 42 > /results/answer"
        job_id = await world.rent(resource, JobSpec(command=("sh", "-c", script), sources=(world.store_url,)))
        await world.until(job_id, JobStatus.RUNNING)
        (before,) = containers(world.image)
        await asyncio.to_thread(engine.kill)
        await asyncio.sleep(GONE_S)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{world.agent_port}", timeout=10) as http:
            answer = await http.get("/readyz")
            assert (answer.status_code, answer.json()["error"]["code"]) == (503, "docker_unreachable")
        assert (await world.chain.job(job_id)).status is JobStatus.RUNNING
        assert agent.process.poll() is None
        await asyncio.to_thread(engine.start)
        (after,) = containers(world.image)
        assert (after["Id"], after["State"]) == (before["Id"], "running")
        job = await world.until_paid(job_id, timeout=90)
        await world.until_closed(job_id)
        assert [line for line in mounts() if str(engine.folder) in line and "volumes" in line] == []
    finally:
        agent.stop()
    events = world.events(job_id)
    assert [events.count(name) for name in ("JobAccepted", "JobStarted", "JobCompleted")] == [1, 1, 1]
    assert LINES - 2 <= job.ended_at - job.started_at < LINES + 30
    out = world.results(job_id, tmp_path / "out")
    assert (out / "results" / "answer").read_text() == "42\n"
    assert (out / "stdout.log").read_text().split() == [str(i + 1) for i in range(LINES)]


async def test_a_job_that_ends_while_the_engine_is_away_is_completed_when_it_is_back(
    world: Market, engine: Engine, tmp_path: Path
) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        spec = JobSpec(command=("sh", "-c", "sleep 6; echo 42 > /results/answer"), sources=(world.store_url,))
        job_id = await world.rent(resource, spec)
        await world.until(job_id, JobStatus.RUNNING)
        await asyncio.to_thread(engine.kill)
        began = time.monotonic()
        await asyncio.sleep(GONE_S)
        assert (await world.chain.job(job_id)).status is JobStatus.RUNNING
        await asyncio.to_thread(engine.start)
        await world.until_paid(job_id, timeout=90)
        assert time.monotonic() - began >= GONE_S
        await world.until_closed(job_id)
    finally:
        agent.stop()
    assert (world.results(job_id, tmp_path / "out") / "results" / "answer").read_text() == "42\n"


def test_the_second_engine_is_not_the_machines(engine: Engine) -> None:
    client = docker.APIClient(engine.url, version="auto")
    try:
        assert client.info()["DockerRootDir"].startswith(str(engine.folder))
        assert client.containers(all=True) == []
    finally:
        client.close()
