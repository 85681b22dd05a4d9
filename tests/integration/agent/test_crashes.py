"""The agent is killed at every point between two steps of one job; nothing is lost and nothing happens twice."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from gpumarket.rules.job_spec import JobSpec
from tests.integration.agent.market import Market, market

pytestmark = [pytest.mark.docker, pytest.mark.anvil, pytest.mark.timeout(300)]

POINTS = (
    "journal FETCHING",
    "image fetched",
    "journal ACCEPTED",
    "accept due",
    "accept mined",
    "journal STARTING",
    "image pulled",
    "container created",
    "container started",
    "start due",
    "clock started",
    "journal RUNNING",
    "results pinned",
    "journal STOPPED",
    "complete due",
    "complete mined",
    "settle due",
    "settle mined",
    "container removed",
    "image removed",
    "journal CLOSED",
)
"""In the order in which a job meets them."""

ONCE = ("JobCreated", "JobAccepted", "JobStarted", "JobCompleted", "JobSettled", "FundsReleased")
SETUP_TRANSACTIONS = 4  # register, approve, stake, list
JOB_TRANSACTIONS = 4  # accept, start, complete, settle


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Market]:
    async with market(tmp_path) as found:
        yield found


async def test_killed_between_any_two_steps_one_job_happens_exactly_once(world: Market, tmp_path: Path) -> None:
    agent = world.agent(POINTS[0])
    resource = await world.resource()
    script = "echo begin; sleep 2; cat /proc/sys/kernel/random/uuid > /results/id; echo end"
    job_id = await world.rent(resource, JobSpec(command=("sh", "-c", script), sources=(world.store_url,)), duration=120)
    try:
        for following in (*POINTS[1:], ""):
            assert agent.process.wait(40) == -9, f"did not reach the point before {following}"
            agent = world.agent(following)
        await world.until_paid(job_id)
        await world.until_gone()
        assert await world.resource() == resource
    finally:
        agent.stop()
    events = world.events(job_id)
    assert {name: events.count(name) for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert world.transactions_sent() == SETUP_TRANSACTIONS + JOB_TRANSACTIONS
    out = world.results(job_id, tmp_path / "out")
    assert (out / "stdout.log").read_text() == "begin\nend\n"
    assert len((out / "results" / "id").read_text()) == 37
