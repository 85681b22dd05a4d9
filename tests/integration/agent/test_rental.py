"""Jobs on a real chain and a real engine, and an agent that stops and starts around them."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect

from gpumarket.chain import calls, typed_data
from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import JobId
from tests.integration.agent.market import Market, containers, market

pytestmark = [pytest.mark.docker, pytest.mark.anvil, pytest.mark.timeout(170)]

ONCE = ["JobCreated", "FundsLocked", "JobAccepted", "JobStarted", "JobCompleted", "Refunded", "JobSettled"]


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Market]:
    async with market(tmp_path) as found:
        yield found


def shell(world: Market, script: str) -> JobSpec:
    return JobSpec(command=("sh", "-c", script), sources=(world.store_url,))


async def watch(world: Market, job_id: JobId, after: int = 0) -> list[dict[str, Any]]:
    """All frames of the job's log stream until its end, as its renter; `at` is when each came, unix seconds."""
    account, expires = world.renter_signer.address, int(time.time()) + 600
    grant = typed_data.access_grant(world.deployment, job_id, account, "logs", expires)
    frame = {
        "type": "auth",
        "grant": {"jobId": job_id, "account": account, "scope": "logs", "expiresAt": expires},
        "signature": "0x" + world.renter_signer.sign_typed(grant).hex(),
        "after": after,
    }
    frames = []
    async with connect(f"ws://127.0.0.1:{world.agent_port}/v1/jobs/{job_id}/logs", proxy=None) as socket:
        await socket.send(json.dumps(frame))
        async for text in socket:
            frames.append({**json.loads(text), "at": time.time()})
    return frames


async def test_default_rental_runs_pays_streams_and_leaves_nothing(world: Market, tmp_path: Path) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        script = "echo begin; sleep 3; echo 42 > /results/answer; echo end; exit 3"
        job_id = await world.rent(resource, shell(world, script))
        await world.until(job_id, JobStatus.RUNNING)
        assert len(containers(world.image)) == 1
        live = await watch(world, job_id)
        job = await world.until_paid(job_id)
        await world.until_gone()
        again = await watch(world, job_id, after=1)
    finally:
        assert agent.stop() == 0
    assert [f["line"] for f in live if f["type"] == "log"] == ["begin", "end"]
    assert (live[-1]["type"], live[-1]["exitCode"], live[-1]["reason"]) == ("end", 3, "exited")
    assert [f["line"] for f in again if f["type"] == "log"] == ["end"]
    assert 3 <= job.ended_at - job.started_at <= 20
    assert sorted(set(ONCE)) == sorted(name for name in world.events(job_id) if name in ONCE)
    out = world.results(job_id, tmp_path / "out")
    assert (out / "results" / "answer").read_text() == "42\n"
    assert (out / "stdout.log").read_text() == "begin\nend\n"
    document = json.loads((out / "report.json").read_text())
    assert (document["report"]["exitCode"], document["report"]["image"]) == (3, str(world.image))


async def test_each_line_comes_when_it_is_written(world: Market) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        job_id = await world.rent(resource, shell(world, "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done"))
        frames = await watch(world, job_id)  # from before the agent has seen the job
        await world.until_closed(job_id)
    finally:
        agent.stop()
    lines = [f for f in frames if f["type"] == "log"]
    assert [f["line"] for f in lines] == list("12345678")
    # When the engine read the line and when it came here: seconds before the container ended, one after another.
    late = [f["at"] - datetime.fromisoformat(f["ts"][:26] + "+00:00").timestamp() for f in lines]
    assert max(late) < 3, late
    assert frames[-1]["at"] - lines[0]["at"] > 5


async def test_agent_that_stops_leaves_the_job_running_and_the_next_adopts_it(world: Market, tmp_path: Path) -> None:
    agent = world.agent()
    resource = await world.resource()
    job_id = await world.rent(resource, shell(world, "for i in 1 2 3 4 5 6 7 8; do echo $i; sleep 1; done"))
    await world.until(job_id, JobStatus.RUNNING)
    began = time.monotonic()
    assert agent.stop() == 0
    assert time.monotonic() - began < 10
    (left,) = containers(world.image)
    assert left["State"] == "running"
    for name in ("journal.db", "journal.db-wal", "journal.db-shm"):
        (tmp_path / "agent" / name).unlink(missing_ok=True)  # the labels and the chain know enough
    agent = world.agent()
    try:
        assert await world.resource() == resource
        await world.until_paid(job_id)
        await world.until_gone()
    finally:
        agent.stop()
    assert world.events(job_id).count("JobStarted") == 1
    assert (world.results(job_id, tmp_path / "out") / "stdout.log").read_text().split() == list("12345678")


async def test_renter_stops_a_container_that_ignores_sigterm(world: Market) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        job_id = await world.rent(resource, shell(world, "trap '' TERM; while :; do sleep 0.2; done"))
        await world.until(job_id, JobStatus.RUNNING)
        await world.renter.execute("stop", calls.stop_job(world.deployment, job_id))
        await world.until_gone()
        frames = await watch(world, job_id)
        assert (frames[-1]["exitCode"], frames[-1]["reason"]) == (137, "ended on chain")
    finally:
        agent.stop()


async def test_paid_time_over_stops_the_container_and_completes_with_its_results(world: Market, tmp_path: Path) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        script = "echo kept > /results/partial; trap 'exit 0' TERM; while :; do sleep 0.2; done"
        job_id = await world.rent(resource, shell(world, script), duration=5)
        job = await world.until_paid(job_id)
        await world.until_gone()
    finally:
        agent.stop()
    assert job.ended_at == job.started_at + 5
    out = world.results(job_id, tmp_path / "out")
    assert (out / "results" / "partial").read_text() == "kept\n"
    assert json.loads((out / "report.json").read_text())["report"]["reason"] == "time over"


async def test_silent_node_stops_nothing(world: Market) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        job_id = await world.rent(resource, shell(world, "sleep 12; echo done"), duration=100)
        await world.until(job_id, JobStatus.RUNNING)
        world.node.process.send_signal(19)  # SIGSTOP: it accepts connections and never answers
        await asyncio.sleep(8)
        (left,) = containers(world.image)
        assert left["State"] == "running"
        world.node.process.send_signal(18)
        await world.until_paid(job_id, timeout=90)
    finally:
        world.node.process.send_signal(18)
        agent.stop()
    assert world.events(job_id).count("JobCompleted") == 1
