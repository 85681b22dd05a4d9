"""The chain's node is away for a quarter of a minute: all four services come back by themselves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.job_state import JobStatus
from tests.integration.agent.market import ROOT, Market, containers, market
from tests.parts.anvil import ANVIL_KEYS, free_port

pytestmark = [pytest.mark.docker, pytest.mark.anvil, pytest.mark.timeout(240)]

AWAY_S = 15


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Market]:
    async with market(tmp_path) as found:
        yield found


@contextlib.contextmanager
def running(world: Market, service: str, **settings: Any) -> Iterator[tuple[subprocess.Popen[bytes], str]]:
    """A service and its URL."""
    port = free_port()
    file = world.folder / f"{service}.toml"
    values = {"port": port, **settings}
    file.write_text(f"[{service}]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items()))
    command = [sys.executable, "-c", f"from {service}.app import cli; cli()", "run", "--config", str(file)]
    environment = {**os.environ, "GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[0]}
    with (world.folder / f"{service}.log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
    try:
        yield process, f"http://127.0.0.1:{port}"
    finally:
        process.kill()
        process.wait()


async def readiness(http: httpx.AsyncClient, url: str) -> int:
    try:
        return (await http.get(f"{url}/readyz")).status_code
    except httpx.HTTPError:
        return 0


async def until_all(http: httpx.AsyncClient, urls: list[str], wanted: int, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while (found := await asyncio.gather(*(readiness(http, url) for url in urls))) != [wanted] * len(urls):
        assert time.monotonic() < deadline, dict(zip(urls, found, strict=True))
        await asyncio.sleep(0.5)


async def test_a_node_that_is_away_and_comes_back_is_survived_by_all(world: Market, tmp_path: Path) -> None:
    chain = {"rpc_url": world.node.url, "deployments": str(world.folder)}
    agent = world.agent()
    try:
        with (
            running(world, "indexer", **chain, data_dir=str(tmp_path / "indexer")) as (indexer, indexer_url),
            running(world, "gateway", indexer_url=indexer_url) as (gateway, gateway_url),
            running(
                world, "oracle", **chain, data_dir=str(tmp_path / "oracle"), heartbeat_s=1.0, epoch_s=4, dead_beats=600
            ) as (oracle, oracle_url),
        ):
            async with httpx.AsyncClient(timeout=8) as http:
                agent_url = f"http://127.0.0.1:{world.agent_port}"
                resource = await world.resource()
                of_the_chain = [agent_url, oracle_url, indexer_url]
                await until_all(http, [*of_the_chain, gateway_url], 200, 60)
                script = f"sleep {AWAY_S + 10}; echo 42 > /results/answer"
                spec = JobSpec(command=("sh", "-c", script), sources=(world.store_url,))
                job_id = await world.rent(resource, spec, duration=120)
                await world.until(job_id, JobStatus.RUNNING)
                world.node.process.send_signal(signal.SIGSTOP)  # it accepts connections and never answers
                began = time.monotonic()
                try:
                    await until_all(http, of_the_chain, 503, AWAY_S + 20)
                    await asyncio.sleep(max(0.0, AWAY_S - (time.monotonic() - began)))
                    (container,) = containers(world.image)
                    assert container["State"] == "running"
                finally:
                    world.node.process.send_signal(signal.SIGCONT)
                await until_all(http, [*of_the_chain, gateway_url], 200, 60)
                await world.until_paid(job_id, timeout=90)
                deadline = time.monotonic() + 20
                while True:
                    seen = (await http.get(f"{gateway_url}/api/v1/instances/{job_id}")).json()
                    if seen.get("status") == "COMPLETED":
                        break
                    assert time.monotonic() < deadline, seen
                    await asyncio.sleep(0.5)
                assert [p.poll() for p in (agent.process, oracle, indexer, gateway)] == [None] * 4
    finally:
        agent.stop()
    events = world.events(job_id)
    assert [events.count(name) for name in ("JobAccepted", "JobStarted", "JobCompleted")] == [1, 1, 1]
    assert (world.results(job_id, tmp_path / "out") / "results" / "answer").read_text() == "42\n"
