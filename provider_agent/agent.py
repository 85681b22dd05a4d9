"""The agent's loop: look at the chain, then let every open job make its next moves. Events only shorten the wait.

Unknown is not gone: while the chain or the engine does not answer, nothing is decided and nothing is stopped; the job
is looked at again after a pause that grows.
"""

from __future__ import annotations

import asyncio
import dataclasses
from dataclasses import dataclass

from gpumarket.chain.types import Block, Job, Windows
from gpumarket.errors import MarketError
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import NO_ADDRESS, JobId
from provider_agent.container import EXPIRY_SLACK_S, container_name
from provider_agent.follow import Follower
from provider_agent.job import Desk, JobDesk
from provider_agent.reconcile import Action, ChainView, ends_at, plan
from provider_agent.runtime import Container
from provider_agent.state import HOLDS_MACHINE, JobRow, JobState
from provider_agent.watchdog import write_lease

SAFE_DEPTH = 5
FINAL_DEPTH = 64
"""Blocks below the newest that count as safe and as finalized on a node that does not name such blocks."""

_MOVES_AT_ONCE = 32
_MAX_PAUSE_S = 30.0
_STOP_S = 5.0


@dataclass(frozen=True)
class Heads:
    """The chain's newest, safe and finalized blocks, and the market's windows."""

    head: Block
    safe: Block
    final: Block
    windows: Windows


class Agent:
    """Reconciles all jobs of one machine.

    Args:
        draining: take no new offers.
    """

    def __init__(self, desk: Desk, follower: Follower, *, draining: bool = False) -> None:
        self._d = desk
        self._jobs = JobDesk(desk)
        self._follower = follower
        self._draining = draining
        self._wake = asyncio.Event()
        self._tasks: dict[JobId, asyncio.Task[None]] = {}
        self._failures: dict[JobId, int] = {}
        self._due: dict[JobId, float] = {}

    def wake(self) -> None:
        """Look now instead of at the next poll."""
        self._wake.set()

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop`, or until nothing is left to do when draining. Containers stay as they are."""
        failures = 0
        try:
            while not stop.is_set():
                try:
                    await self.tick()
                    failures = 0
                    if self._draining and not self._tasks and not self._pending():
                        self._d.log.info("drained")
                        stop.set()
                except MarketError as error:
                    failures += 1
                    self._d.log.warning("nothing is decided for now", code=error.code, reason=error.message)
                await self._pause(stop, self._d.poll_s if not failures else _pause_s(failures, self._d.poll_s))
        finally:
            await self._release()

    async def tick(self) -> None:
        """One look at the chain; starts a task for every job that is due and has none.

        Raises:
            MarketError: `chain_unreachable`.
        """
        heads = await self._heads()
        for row in await self._follower.step(heads.head):
            self._d.log.info("job offered", job_id=row.job_id, image=row.image, duration=row.duration)
        now = self._d.clock()
        for row in self._pending():
            if row.job_id not in self._tasks and self._due.get(row.job_id, 0) <= now:
                self._tasks[row.job_id] = asyncio.create_task(self._advance(row.job_id))

    async def settle_tasks(self) -> None:
        """Until every task started so far has made its moves."""
        while self._tasks:
            await asyncio.gather(*self._tasks.values())

    def running(self) -> list[JobRow]:
        """Jobs that have the machine now."""
        return [row for row in self._d.journal.open_jobs() if row.state in HOLDS_MACHINE]

    async def _advance(self, job_id: JobId) -> None:
        try:
            for _ in range(_MOVES_AT_ONCE):
                if not await self._step(job_id):
                    break
            self._failures.pop(job_id, None)
            self._due.pop(job_id, None)
        except MarketError as error:
            pause = self._postpone(job_id)
            self._d.log.warning("job waits", job_id=job_id, code=error.code, reason=error.message, seconds=pause)
        except Exception as error:  # one job's trouble must not stop the others'
            self._postpone(job_id)
            self._d.log.error("job step failed", error=error, job_id=job_id)
        finally:
            self._tasks.pop(job_id, None)

    async def _step(self, job_id: JobId) -> bool:
        """One move; false if there was none to make."""
        row = self._d.journal.get(job_id)
        if row is None or row.state is JobState.CLOSED:
            return False
        view, container = await self._look(row)
        free = not any(other.job_id != job_id for other in self.running())
        move = plan(view, row, container, now=int(self._d.clock()), machine_free=free)
        if container is not None and container.running:
            self._d.pump.ensure(job_id, container)
            if view.job.status is JobStatus.RUNNING:
                write_lease(self._d.leases, container.name, ends_at(view.job) + EXPIRY_SLACK_S)
        if move.action is Action.WAIT:
            return False
        await self._jobs.carry_out(move, view, row, container)
        return True

    async def _look(self, row: JobRow) -> tuple[ChainView, Container | None]:
        heads = await self._heads()
        try:
            job = await self._d.chain.job(row.job_id)
        except MarketError as error:
            if error.code != "not_found":
                raise
            job = _unknown_job(row)
        container = await self._d.runtime.inspect(container_name(self._d.market, row.job_id))
        stamps = (block.timestamp for block in (heads.head, heads.safe, heads.final))
        return ChainView(job, heads.windows, *stamps), container

    async def _heads(self) -> Heads:
        head, windows = await asyncio.gather(self._d.chain.block("latest"), self._d.chain.windows())
        safe, final = await asyncio.gather(
            self._deep("safe", head.number - SAFE_DEPTH), self._deep("finalized", head.number - FINAL_DEPTH)
        )
        return Heads(head, safe, final, windows)

    async def _deep(self, tag: str, number: int) -> Block:
        try:
            return await self._d.chain.block(tag)
        except MarketError:
            return await self._d.chain.block(max(0, number))

    def _pending(self) -> list[JobRow]:
        rows = self._d.journal.open_jobs()
        if not self._draining:
            return rows
        return [row for row in rows if row.state not in (JobState.OFFERED, JobState.FETCHING, JobState.REFUSED)]

    def _postpone(self, job_id: JobId) -> float:
        self._failures[job_id] = self._failures.get(job_id, 0) + 1
        pause = _pause_s(self._failures[job_id], self._d.poll_s)
        self._due[job_id] = self._d.clock() + pause
        return pause

    async def _pause(self, stop: asyncio.Event, seconds: float) -> None:
        waits = [asyncio.create_task(event.wait()) for event in (stop, self._wake)]
        try:
            await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in waits:
                task.cancel()
        self._wake.clear()

    async def _release(self) -> None:
        """Let go of everything in progress; each step is picked up again by the next start."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_STOP_S)
        await self._d.pump.stop()
        left = len(self.running())
        self._d.log.info("agent stops; containers stay", jobs=left)


def _pause_s(failures: int, poll_s: float) -> float:
    return float(min(_MAX_PAUSE_S, poll_s * 2 ** min(failures - 1, 10)))


def _unknown_job(row: JobRow) -> Job:
    nothing = {field.name: 0 for field in dataclasses.fields(Job)}
    known = {"job_id": row.job_id, "user": row.user, "resource_id": row.resource_id, "provider": NO_ADDRESS}
    return Job(**{**nothing, **known, "payment_token": NO_ADDRESS, "status": JobStatus.NONE})  # type: ignore[arg-type]
