"""One job on a real chain and a real engine, and the ways a host may go wrong around it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.reader import export_path
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.job_state import JobStatus
from tests.integration.agent.market import Market, containers, market

pytestmark = [pytest.mark.docker, pytest.mark.anvil]

WORK = JobSpec(command=("sh", "-c", "echo begin; sleep 3; echo 42 > /results/answer; echo end; exit 3"))


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Market]:
    async with market(tmp_path) as found:
        yield found


def spec(world: Market, base: JobSpec = WORK) -> JobSpec:
    return JobSpec(command=base.command, sources=(world.store_url,))


async def test_default_rental_runs_pays_and_leaves_nothing(world: Market, tmp_path: Path) -> None:
    agent = world.agent()
    try:
        resource = await world.resource()
        job_id = await world.rent(resource, spec(world))
        await world.until(job_id, JobStatus.RUNNING)
        assert len(containers(world.image)) == 1
        job = await world.until_paid(job_id)
        await world.until_gone()
    finally:
        assert agent.stop() == 0
    assert 3 <= job.ended_at - job.started_at <= 20
    assert world.transactions(job_id).count("JobStarted") == 1
    completed = [name for name in world.transactions(job_id) if name == "JobCompleted"]
    assert completed == ["JobCompleted"]
    store = EmbeddedStore(tmp_path / "agent" / "ipfs")
    pinned = next(pin.cid for pin in store.pins() if pin.name == f"results {job_id}")
    export_path(store, pinned, tmp_path / "out")
    assert (tmp_path / "out" / "results" / "answer").read_text() == "42\n"
    assert (tmp_path / "out" / "stdout.log").read_text() == "begin\nend\n"
    report = json.loads((tmp_path / "out" / "report.json").read_text())["report"]
    assert (report["exitCode"], report["reason"], report["image"]) == (3, "exited", str(world.image))
    assert isinstance(pinned, Cid)
