"""Carries out one move of a job. A crash before a step has left its trace repeats the step, and nothing else.

What makes a repetition harmless: transactions have a key per job and action, the container's name is unique on the
engine, the store and the journal take the same thing twice.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from gpumarket.chain import calls
from gpumarket.chain.deployments import Deployment
from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import JobId, ResourceId
from provider_agent.container import Machine, Market, container_name, container_spec, image_root, image_tag
from provider_agent.image import Images
from provider_agent.journal import Journal
from provider_agent.logs import LogHub
from provider_agent.offer import Limits, check_offer, read_spec
from provider_agent.ports import Chain, Clock, Fault, Transactions
from provider_agent.pump import LogPump
from provider_agent.reconcile import Action, ChainView, Move
from provider_agent.results import ResultsDesk
from provider_agent.runtime import Container, Runtime
from provider_agent.state import JobRow, JobState, StopReason
from provider_agent.watchdog import drop_lease

STOP_GRACE_S = 10.0
"""Between SIGTERM and SIGKILL."""

ATTEMPTS = 3
"""Tries at a step that the engine or the disk refuses, while the renter waits or pays."""

REFUSALS = frozenset(
    {
        "image_policy_violation",
        "image_too_large",
        "image_unreadable",
        "content_malformed",
        "invalid_job_spec",
        "invalid_argument",
        "payment_token_mismatch",
        "resource_unavailable",
    }
)
"""Errors of an offer that no second try can mend; any other is tried again until the offer expires."""


@dataclass(frozen=True)
class Desk:
    """Everything a job needs of this machine."""

    chain: Chain
    transactions: Transactions
    runtime: Runtime
    journal: Journal
    images: Images
    results: ResultsDesk
    logs: LogHub
    pump: LogPump
    market: Market
    machine: Machine
    resource_id: ResourceId
    limits: Limits
    registry_port: int
    leases: Path
    poll_s: float
    clock: Clock
    log: Log
    fault: Fault


class JobDesk:
    """Does what `plan` decides."""

    def __init__(self, desk: Desk) -> None:
        self._d = desk
        self._attempts: dict[tuple[JobId, Action], int] = {}

    async def carry_out(self, move: Move, view: ChainView, row: JobRow, container: Container | None) -> None:
        """One move, to its end or to an error.

        Raises:
            MarketError: the move did not happen, or not wholly; plan again later.
        """
        log = self._d.log.bind(job_id=row.job_id, action=move.action.value)
        log.debug("move", state=row.state.value, status=view.job.status.name)
        match move.action:
            case Action.CHECK:
                await self._check(view, row)
            case Action.FETCH:
                await self._fetch(view, row)
            case Action.LAUNCH:
                self._move(row, JobState.STARTING)
            case Action.ADOPT if move.state is not None:
                log.info("adopting a job found on chain", state=move.state.value)
                self._move(row, move.state)
            case Action.CREATE:
                await self._tried(row, Action.CREATE, self._create(view, row))
            case Action.START if container is not None:
                await self._tried(row, Action.START, self._start(row, container))
            case Action.START_CLOCK if container is not None:
                await self._start_clock(row, container)
            case Action.BEGIN_STOP if move.reason is not None:
                log.info("stopping", reason=move.reason.value)
                self._d.journal.begin_stop(row.job_id, move.reason, self._now())
            case Action.STOP if container is not None:
                await self._d.runtime.stop(container.id, STOP_GRACE_S)
                self._d.fault("container stopped")
            case Action.COLLECT:
                await self._collect(view, row, container)
            case Action.CLEAN:
                await self._clean(row)
            case Action.ACCEPT | Action.COMPLETE | Action.SETTLE | Action.EXPIRE | Action.RESOLVE:
                await self._transact(row, move.action)
            case _:
                return
        self._d.logs.wake(row.job_id)

    # ------------------------------------------------------------- the offer

    async def _check(self, view: ChainView, row: JobRow) -> None:
        resource = await self._d.chain.resource(row.resource_id)
        try:
            check_offer(view.job, row, resource, self._d.resource_id, self._d.limits)
        except MarketError as error:
            self._refuse(row, error)
            return
        self._move(row, JobState.FETCHING)

    async def _fetch(self, view: ChainView, row: JobRow) -> None:
        created = view.job.status is JobStatus.CREATED
        window = view.windows.accept if created else view.windows.start
        timeout = max(5.0, view.job.since + window - self._d.clock())
        hub = self._d.logs

        def progress(done: int, total: int | None) -> None:
            hub.set_status(row.job_id, "FETCHING", bytesDone=done, bytesTotal=total)

        progress(0, None)
        try:
            sources = read_spec(row).sources
            work = self._d.images.prepare(image_root(row), sources, progress, timeout)
            manifest = await self._while_wanted(row.job_id, asyncio.ensure_future(work))
        except MarketError as error:
            if error.code in REFUSALS:
                self._refuse(row, error)
                return
            hub.set_status(row.job_id, "FETCHING", error=error.as_dict())
            raise
        self._d.fault("image fetched")
        if manifest:
            self._move(row, JobState.ACCEPTED, manifest=manifest)

    async def _while_wanted(self, job_id: JobId, work: asyncio.Future[str]) -> str:
        """The work's outcome, or "" once the chain says that the job is over; an unreadable chain says nothing."""
        try:
            while True:
                await asyncio.wait({work}, timeout=self._d.poll_s)
                if work.done():
                    return work.result()
                with contextlib.suppress(MarketError):
                    job = await self._d.chain.job(job_id)
                    if job.status not in (JobStatus.CREATED, JobStatus.ACCEPTED):
                        return ""
        finally:
            if not work.done():
                work.cancel()
                await asyncio.gather(work, return_exceptions=True)

    def _refuse(self, row: JobRow, error: MarketError) -> None:
        self._d.log.warning("job refused", job_id=row.job_id, code=error.code, reason=error.message)
        self._d.logs.set_status(row.job_id, "REFUSED", error=error.as_dict())
        self._move(row, JobState.REFUSED, reason=error.message, code=error.code)

    # ----------------------------------------------------------- the container

    async def _create(self, view: ChainView, row: JobRow) -> None:
        desk = self._d
        desk.logs.set_status(row.job_id, "STARTING")
        spec, root = read_spec(row), image_root(row)
        start_by = view.job.since + view.windows.start
        if not row.manifest:  # adopted without it; the blocks are here, so this is no second download
            manifest = await desk.images.prepare(root, spec.sources, lambda *_: None, max(5.0, start_by - desk.clock()))
            row = desk.journal.move(row.job_id, row.state, self._now(), manifest=manifest)
        reference = f"127.0.0.1:{desk.registry_port}/ipfs/{root}@{row.manifest}"
        await desk.runtime.pull(reference, image_tag(desk.market, row.job_id))
        desk.fault("image pulled")
        await desk.runtime.create(container_spec(desk.market, desk.machine, row, spec, start_by))
        desk.fault("container created")

    async def _start(self, row: JobRow, container: Container) -> None:
        await self._d.runtime.start(container.id)
        self._d.fault("container started")
        self._d.pump.ensure(row.job_id, container)

    async def _start_clock(self, row: JobRow, container: Container) -> None:
        self._d.pump.ensure(row.job_id, container)
        await self._execute(row, "start", calls.start_job(self._d.chain.deployment, row.job_id))
        self._d.fault("clock started")
        self._move(row, JobState.RUNNING)
        self._d.logs.set_status(row.job_id, "RUNNING")

    async def _collect(self, view: ChainView, row: JobRow, container: Container | None) -> None:
        desk = self._d
        exit_code = None if container is None else container.exit_code
        if view.job.started_at == 0 or view.job.status is JobStatus.CANCELLED:
            self._move(row, JobState.STOPPED, exit_code=exit_code)
            return
        desk.logs.set_status(row.job_id, "COLLECTING")
        problem = row.code
        if container is not None:
            await desk.pump.drain(row.job_id, container)
        try:
            digest = await desk.results.collect(row, view.job, container, desk.logs.of(row.job_id), problem)
        except MarketError as error:
            if error.code == "docker_unreachable" or not self._spent(row, Action.COLLECT, error):
                raise
            # The renter pays until the job completes, so it completes without what cannot be had: first without the
            # files, and if not even the report can be kept, without any result.
            desk.log.warning("results left out", job_id=row.job_id, code=error.code)
            if problem:
                self._move(row, JobState.STOPPED, exit_code=exit_code)
            else:
                desk.journal.move(row.job_id, row.state, self._now(), code=error.code)
            return
        desk.fault("results pinned")
        self._move(row, JobState.STOPPED, result="0x" + digest.hex(), exit_code=exit_code)

    async def _clean(self, row: JobRow) -> None:
        desk = self._d
        await desk.pump.stop(row.job_id)
        await desk.runtime.remove(container_name(desk.market, row.job_id))
        drop_lease(desk.leases, container_name(desk.market, row.job_id))
        desk.fault("container removed")
        await desk.runtime.remove_image(image_tag(desk.market, row.job_id))
        if not any(other.image == row.image and other.job_id != row.job_id for other in desk.journal.open_jobs()):
            await desk.images.release(image_root(row))
        desk.fault("image removed")
        self._move(row, JobState.CLOSED)
        desk.logs.wake(row.job_id)
        desk.logs.forget(row.job_id)
        desk.log.info("job closed", job_id=row.job_id, reason=row.reason)

    async def _tried(self, row: JobRow, action: Action, work: Awaitable[None]) -> None:
        """Do `work`; after `ATTEMPTS` refusals of the engine the job has failed to start."""
        try:
            await work
        except MarketError as error:
            if error.code == "docker_unreachable" or not self._spent(row, action, error):
                raise
            self._d.log.warning("container does not start", job_id=row.job_id, code=error.code, reason=error.message)
            self._d.logs.set_status(row.job_id, "FAILED", error=error.as_dict())
            self._d.journal.begin_stop(row.job_id, StopReason.START_FAILED, self._now(), code=error.code)

    def _spent(self, row: JobRow, action: Action, error: MarketError) -> bool:
        """Count a failed try; true after the last."""
        key = (row.job_id, action)
        self._attempts[key] = self._attempts.get(key, 0) + 1
        return error.code in REFUSALS or self._attempts[key] >= ATTEMPTS

    # ------------------------------------------------------------ transactions

    async def _transact(self, row: JobRow, action: Action) -> None:
        deployment, job_id = self._d.chain.deployment, row.job_id
        if action is Action.COMPLETE:
            call = calls.complete_job(deployment, job_id, bytes.fromhex(row.result[2:]) if row.result else bytes(32))
        else:
            call = _CALLS[action](deployment, job_id)
        await self._execute(row, action.value, call)
        self._d.fault(f"{action.value} mined")

    async def _execute(self, row: JobRow, name: str, call: calls.Call) -> None:
        """Once per job and action, whatever happens in between."""
        self._d.fault(f"{name} due")
        receipt = await self._d.transactions.execute(f"job:{row.job_id}:{name}", call)
        self._d.log.info("transaction mined", job_id=row.job_id, call=call.label, tx=receipt.tx_hash)

    def _move(self, row: JobRow, state: JobState, **values: Any) -> None:
        self._d.journal.move(row.job_id, state, self._now(), **values)
        self._d.fault(f"journal {state.value}")

    def _now(self) -> int:
        return int(self._d.clock())


_CALLS: Mapping[Action, Callable[[Deployment, str], calls.Call]] = MappingProxyType(
    {
        Action.ACCEPT: calls.accept_job,
        Action.SETTLE: calls.settle_job,
        Action.EXPIRE: calls.expire_job,
        Action.RESOLVE: calls.resolve_by_timeout,
    }
)
