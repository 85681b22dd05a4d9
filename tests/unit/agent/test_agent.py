"""The agent's whole life with a job, on a fake chain and engine: the good way, every crash, every bad input."""

from __future__ import annotations

import asyncio
import errno
import json
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gpumarket.chain import calls
from gpumarket.errors import MarketError
from gpumarket.images.image import OCI_LAYER
from gpumarket.images.policy import Policy
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.gateway import routes
from gpumarket.ipfs.reader import read_file, resolve
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import JobId
from provider_agent.agent import Agent
from provider_agent.state import JobState
from tests.fakes import FakeProgram, MemoryBlocks
from tests.unit.agent.world import World
from tests.unit.images.layouts import layout


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def closed(world: World, job_id: JobId) -> Any:
    def check() -> bool:
        row = world.journal.get(job_id)
        return row is not None and row.state is JobState.CLOSED

    return check


def effects(world: World, word: str) -> int:
    return sum(call.startswith(word) for call in world.runtime.calls)


def labels_sent(world: World) -> Counter[str]:
    return Counter(call.label for key, (call, _) in world.sender.sent.items() if key.startswith("job:"))


async def test_default_job_runs_completes_and_leaves_nothing(world: World) -> None:
    resource, image = await world.list_machine(), world.image()
    job_id = await world.rent(resource, image)
    await world.drive(world.life(resource), closed(world, job_id))
    row, job = world.row(job_id), await world.job(job_id)
    assert (row.exit_code, row.reason, job.status) == (3, "exited", JobStatus.COMPLETED)
    assert job.locked_amount == 0
    assert await world.runtime.inspect(world.name(job_id)) is None
    assert image not in {pin.cid for pin in world.store.pins()}
    root = Cid.dag_pb(bytes.fromhex(row.result[2:]))
    assert root in {pin.cid for pin in world.store.pins()}
    assert read_file(world.store, resolve(world.store, root, "results/answer")) == b"42"
    assert read_file(world.store, resolve(world.store, root, "stdout.log")) == b"one\ntwo\n"
    report = json.loads(read_file(world.store, resolve(world.store, root, "report.json")))["report"]
    assert (report["exitCode"], report["reason"]) == (3, "exited")
    assert labels_sent(world) == Counter(["acceptJob", "startJob", "completeJob", "settleJob"])


class Killed(BaseException):
    """The process is gone between two instructions."""


async def points(world: World) -> list[str]:
    """Every point at which a fault may fall in one job, in order."""
    found: list[str] = []
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    await world.drive(world.life(resource, found.append), closed(world, job_id))
    return found


async def live_until_killed(world: World, resource: Any, point: int, done: Any) -> bool:
    """One life that ends at its `point`-th fault point; true if it got to the end instead."""
    passed = 0

    def fault(_: str) -> None:
        nonlocal passed
        passed += 1
        if passed > point:
            raise Killed

    agent = world.life(resource, fault)
    try:
        await world.drive(agent, done)
    except Killed:
        return False
    return True


@pytest.mark.parametrize("lose_journal", [False, True])
async def test_killed_at_every_point_loses_nothing_and_doubles_nothing(tmp_path: Path, lose_journal: bool) -> None:
    count = len(await points(World(tmp_path / "dry")))
    assert count > 15
    for point in range(0, count, 4 if lose_journal else 1):
        world = World(tmp_path / str(point))
        resource = await world.list_machine()
        job_id = await world.rent(resource, world.image())
        assert not await live_until_killed(world, resource, point, closed(world, job_id))
        if lose_journal:
            world.lost_journal()
        await world.drive(world.life(resource), closed(world, job_id))
        assert labels_sent(world) == Counter(["acceptJob", "startJob", "completeJob", "settleJob"]), point
        assert (effects(world, "create "), effects(world, "start ")) == (1, 1), point
        assert (await world.job(job_id)).locked_amount == 0, point
        assert await world.runtime.inspect(world.name(job_id)) is None


async def test_killed_at_every_second_point_of_the_same_job(world: World) -> None:
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    for _ in range(60):
        if await live_until_killed(world, resource, 2, closed(world, job_id)):
            break
    else:
        raise AssertionError("no progress")
    assert labels_sent(world) == Counter(["acceptJob", "startJob", "completeJob", "settleJob"])
    assert (effects(world, "create "), effects(world, "start ")) == (1, 1)


async def test_silent_chain_freezes_every_decision(world: World) -> None:
    world.runtime.default = FakeProgram(seconds=None)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image(), duration=60)
    agent = world.life(resource)
    await world.drive(agent, lambda: world.row(job_id).state is JobState.RUNNING)
    world.chain.silent = True
    for _ in range(500):
        with pytest.raises(MarketError, match="silent"):
            await agent.tick()
        world.chain.now += 1
    assert effects(world, "stop ") == 0
    world.chain.silent = False
    world.chain.advance(1)
    await world.drive(agent, closed(world, job_id))
    assert world.row(job_id).reason == "time over"


async def test_engine_that_is_gone_means_unknown_not_over(world: World) -> None:
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    agent = world.life(resource)
    await world.drive(agent, lambda: world.row(job_id).state is JobState.RUNNING)
    world.runtime.down = True
    await run_for(world, agent, 60)
    assert world.row(job_id).state is JobState.RUNNING
    world.runtime.down = False
    await world.drive(agent, closed(world, job_id))
    assert (world.row(job_id).reason, world.row(job_id).exit_code) == ("exited", 3)


async def run_for(world: World, agent: Agent, seconds: int) -> None:
    for _ in range(seconds):
        await agent.tick()
        await agent.settle_tasks()
        world.chain.advance(1)


async def refused(world: World, image: Cid, code: str, spec: bytes | None = None, duration: int = 60) -> None:
    """The job is not accepted, and expires with all money back; the machine is free again."""
    resource = await world.list_machine()
    before = await world.chain.token_balance(world.renter.address)
    job_id = await world.rent(resource, image, spec=spec, duration=duration)
    agent = world.life(resource)
    await run_for(world, agent, 3)
    row = world.row(job_id)
    assert (row.state, row.code) == (JobState.REFUSED, code)
    status = world.logs.status(job_id)
    assert status is not None
    assert (status["phase"], status["error"]["code"]) == ("REFUSED", code)
    await world.drive(agent, closed(world, job_id), step=20)
    assert (await world.job(job_id)).status is JobStatus.CANCELLED
    assert await world.chain.active_job_of(resource) is None
    balance = await world.chain.escrow_balance(world.renter.address)
    assert balance + await world.chain.token_balance(world.renter.address) == before
    assert effects(world, "create ") == 0
    assert "acceptJob" not in labels_sent(world)


async def test_image_over_the_limit_is_refused_before_acceptance(world: World) -> None:
    world.policy = Policy(max_bytes=600)
    big = bytes(2_000)
    await refused(world, world.image(layout([(big, OCI_LAYER, big)])), "image_too_large")


async def test_image_with_http_urls_is_refused_before_acceptance(world: World) -> None:
    bad = layout(layer={"urls": ["http://169.254.169.254/"]})
    await refused(world, world.image(bad), "image_policy_violation")


async def test_content_that_is_no_image_is_refused(world: World) -> None:
    (world.folder / "other").mkdir()
    (world.folder / "other" / "file").write_text("no image")
    made = layout()
    made.files = {"file": b"no image"}
    await refused(world, world.image(made), "image_unreadable")


async def test_malformed_spec_is_refused(world: World) -> None:
    await refused(world, world.image(), "invalid_job_spec", spec=b'{"v":9}')


async def test_job_for_another_resource_of_this_provider_is_refused(world: World) -> None:
    resource = await world.list_machine()
    other = world.params(gpus=1)
    await world.sender.execute("more stake", calls.stake(world.chain.deployment, 100 * 10**18))
    await world.sender.execute("other", calls.register_resource(world.chain.deployment, other))
    foreign = (await world.chain.provider_resources(world.provider.address))[-1]
    job_id = await world.rent(foreign, world.image())
    await run_for(world, world.life(resource), 2)
    assert (world.row(job_id).state, world.row(job_id).code) == (JobState.REFUSED, "resource_unavailable")


def remote(world: World, store: MemoryBlocks) -> httpx.ASGITransport:
    return httpx.ASGITransport(Starlette(routes=routes(store)))


class Breaking(httpx.AsyncBaseTransport):
    """Passes on so many requests, then refuses connections until mended."""

    def __init__(self, inner: httpx.AsyncBaseTransport, good: int) -> None:
        self.inner, self.good = inner, good

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.good -= 1
        if self.good < 0:
            raise httpx.ConnectError("gone", request=request)
        return await self.inner.handle_async_request(request)


async def test_source_gone_in_the_middle_of_a_fetch_is_asked_again_when_it_is_back(world: World) -> None:
    theirs = MemoryBlocks()
    image = world.image(store=theirs)
    broken = Breaking(remote(world, theirs), 3)
    world.transport = broken
    resource = await world.list_machine()
    job_id = await world.rent(resource, image)
    agent = world.life(resource)
    await run_for(world, agent, 5)
    assert world.row(job_id).state is JobState.FETCHING
    status = world.logs.status(job_id)
    assert status is not None
    assert status["error"]["code"] == "source_unreachable"
    broken.good = 10_000
    await world.drive(agent, closed(world, job_id))
    assert world.row(job_id).exit_code == 3


async def test_source_gone_for_good_lets_the_offer_expire(world: World) -> None:
    image = world.image(store=MemoryBlocks())
    world.transport = Breaking(httpx.MockTransport(lambda _: httpx.Response(404)), 0)
    resource = await world.list_machine()
    job_id = await world.rent(resource, image)
    await world.drive(world.life(resource), closed(world, job_id), step=40)
    assert (await world.job(job_id)).status is JobStatus.CANCELLED
    assert "acceptJob" not in labels_sent(world)


async def test_renter_who_cancels_during_the_fetch_ends_it(world: World) -> None:
    image = world.image(store=MemoryBlocks())

    async def hang(request: httpx.Request) -> httpx.Response:
        await world.renting.execute("cancel", calls.cancel_job(world.chain.deployment, job_id))
        raise httpx.ReadTimeout("slow", request=request)

    world.transport = httpx.MockTransport(hang)
    resource = await world.list_machine()
    job_id = await world.rent(resource, image)
    await world.drive(world.life(resource), closed(world, job_id))
    assert (await world.job(job_id)).status is JobStatus.CANCELLED


class FullStore(MemoryBlocks):
    """A store on a disk with no room while `full`."""

    full = True

    def put(self, cid: Cid, block: bytes) -> None:
        if self.full:
            raise MarketError("disk_full", "no space left", errno=errno.ENOSPC)
        super().put(cid, block)


async def test_full_disk_during_the_fetch_waits_for_room(tmp_path: Path) -> None:
    store, theirs = FullStore(), MemoryBlocks()
    world = World(tmp_path, store=store)
    image = world.image(store=theirs)
    world.transport = remote(world, theirs)
    resource = await world.list_machine()
    job_id = await world.rent(resource, image)
    agent = world.life(resource)
    await run_for(world, agent, 4)
    status = world.logs.status(job_id)
    assert status is not None
    assert (world.row(job_id).state, status["error"]["code"]) == (JobState.FETCHING, "disk_full")
    store.full = False
    await world.drive(agent, closed(world, job_id))
    assert world.row(job_id).exit_code == 3


async def test_full_disk_at_the_end_completes_without_results_rather_than_bill_on(tmp_path: Path) -> None:
    store = FullStore()
    store.full = False
    world = World(tmp_path, store=store)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image(), duration=3600)
    agent = world.life(resource)
    await world.drive(agent, lambda: world.row(job_id).state is JobState.RUNNING)
    store.full = True
    await world.drive(agent, lambda: world.row(job_id).state is JobState.STOPPED)
    await world.drive(agent, closed(world, job_id))
    job = await world.job(job_id)
    assert (world.row(job_id).result, world.row(job_id).code) == ("", "disk_full")
    assert job.ended_at - job.started_at < 120


async def test_results_over_the_limit_are_left_out_and_the_report_says_so(world: World) -> None:
    world.results_bytes = 1
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    await world.drive(world.life(resource), closed(world, job_id))
    root = Cid.dag_pb(bytes.fromhex(world.row(job_id).result[2:]))
    report = json.loads(read_file(world.store, resolve(world.store, root, "report.json")))["report"]
    assert (report["problem"], report["resultsBytes"]) == ("image_too_large", 0)


async def test_container_that_ignores_sigterm_is_killed_when_its_time_is_over(world: World) -> None:
    world.runtime.default = FakeProgram(seconds=None, ignores_sigterm=True)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image(), duration=20)
    await world.drive(world.life(resource), closed(world, job_id))
    job = await world.job(job_id)
    assert (world.row(job_id).exit_code, world.row(job_id).reason) == (137, "time over")
    assert job.ended_at == job.started_at + 20


async def test_container_that_cannot_start_never_starts_the_clock(world: World) -> None:
    async def fails(_: Any) -> None:
        raise MarketError("docker_failed", "exec: no such file")

    world.runtime.start = fails  # type: ignore[method-assign]
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    await world.drive(world.life(resource), closed(world, job_id), step=10)
    row, job = world.row(job_id), await world.job(job_id)
    assert (row.reason, row.code, job.status) == ("start failed", "docker_failed", JobStatus.CANCELLED)
    assert job.started_at == 0
    assert await world.chain.active_job_of(resource) is None


async def test_lost_container_is_reported_as_lost_and_billed_no_longer(world: World) -> None:
    world.runtime.default = FakeProgram(seconds=None)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image(), duration=3600)
    agent = world.life(resource)
    await world.drive(agent, lambda: world.row(job_id).state is JobState.RUNNING)
    await world.runtime.remove(world.name(job_id))
    await world.drive(agent, closed(world, job_id))
    job = await world.job(job_id)
    assert world.row(job_id).reason == "container lost"
    assert job.ended_at - job.started_at < 60
    assert effects(world, "create ") == 1


async def test_renter_who_stops_gets_the_results_kept_and_nothing_is_completed_twice(world: World) -> None:
    world.runtime.default = FakeProgram(lines=("x",), files={"part": b"1"}, seconds=None)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    agent = world.life(resource)
    await world.drive(agent, lambda: world.row(job_id).state is JobState.RUNNING)
    await world.renting.execute("stop", calls.stop_job(world.chain.deployment, job_id))
    await world.drive(agent, closed(world, job_id))
    assert world.row(job_id).reason == "ended on chain"
    assert world.row(job_id).result
    assert "completeJob" not in labels_sent(world)


async def test_extended_job_runs_on_and_raises_its_lease(world: World) -> None:
    world.runtime.default = FakeProgram(seconds=None)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image(), duration=30)
    agent = world.life(resource)
    await world.drive(agent, lambda: world.row(job_id).state is JobState.RUNNING)
    await world.renting.execute("extend", calls.extend_job(world.chain.deployment, job_id, 40))
    await run_for(world, agent, 50)
    assert world.row(job_id).state is JobState.RUNNING
    job = await world.job(job_id)
    lease = int((world.folder / "leases" / world.name(job_id)).read_text())
    assert lease == job.started_at + 70 + 600
    await world.drive(agent, closed(world, job_id))
    assert not (world.folder / "leases" / world.name(job_id)).exists()


async def test_machine_still_held_accepts_nothing_and_takes_the_next_job_after(world: World) -> None:
    world.runtime.default = FakeProgram(seconds=None)
    resource, image = await world.list_machine(), world.image()
    first = await world.rent(resource, image)
    agent = world.life(resource)
    await world.drive(agent, lambda: world.row(first).state is JobState.RUNNING)
    with pytest.raises(MarketError) as busy:
        await world.rent(resource, image)
    assert busy.value.code == "resource_busy"
    await world.renting.execute("stop", calls.stop_job(world.chain.deployment, first))
    second = await world.rent(resource, image)  # on chain the machine is free, here it is not yet
    await world.drive(agent, lambda: world.row(second).state is JobState.RUNNING)
    assert world.runtime.calls.index(f"stop {world.name(first)}") < world.runtime.calls.index(
        f"create {world.name(second)}"
    )


async def test_draining_agent_takes_no_offer(world: World) -> None:
    resource, image = await world.list_machine(), world.image()
    job_id = await world.rent(resource, image)
    agent = world.life(resource, draining=True)
    await run_for(world, agent, 5)
    assert world.row(job_id).state is JobState.OFFERED


async def test_draining_agent_ends_by_itself_once_its_jobs_are_done(world: World) -> None:
    resource, image = await world.list_machine(), world.image()
    job_id = await world.rent(resource, image)
    await world.drive(world.life(resource), lambda: world.row(job_id).state is JobState.RUNNING)
    agent, stop = world.life(resource, draining=True), asyncio.Event()
    running = asyncio.create_task(agent.run(stop))
    for _ in range(2_000):
        world.chain.advance(1)
        agent.wake()
        await asyncio.sleep(0)
        if running.done():
            break
    await asyncio.wait_for(running, 5)
    assert stop.is_set()
    assert world.row(job_id).state is JobState.CLOSED


async def test_stopping_agent_leaves_its_containers_running(world: World) -> None:
    world.runtime.default = FakeProgram(seconds=None)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    agent, stop = world.life(resource), asyncio.Event()
    await world.drive(agent, lambda: world.row(job_id).state is JobState.RUNNING)
    stop.set()
    await asyncio.wait_for(agent.run(stop), 5)
    found = await world.runtime.inspect(world.name(job_id))
    assert found is not None
    assert found.running
