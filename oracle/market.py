"""The part of the chain a committee member looks at: live jobs, what was already recorded, who may speak.

Events only say where to look; what is true of a job is read from the contract each time. Ranges overlap, so a short
reorganization is read again, and everything remembered from events is safe to see twice.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Protocol

from gpumarket.chain import events
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.types import Block, Committee, Job, Outcome, OutcomeKind, RawLog
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address, JobId, ResourceId

REORG_OVERLAP = 32
RANGE = 2_000
FORGET_ENDED_S = 3_600
REGISTRATION_CACHE_S = 30
_OPEN = frozenset({JobStatus.CREATED, JobStatus.ACCEPTED, JobStatus.RUNNING, JobStatus.DISPUTED})
_REPEATABLE = frozenset({OutcomeKind.VALIDATION, OutcomeKind.DOWNTIME})


class Chain(Protocol):
    """What a member reads of the chain; `ChainClient` is one."""

    @property
    def deployment(self) -> Deployment: ...
    async def block(self, which: int | str, /) -> Block: ...
    async def logs(self, from_block: int, to_block: int, /) -> list[RawLog]: ...
    async def job(self, job_id: str, /) -> Job: ...
    async def provider_resources(self, provider: Address, /) -> list[ResourceId]: ...
    async def committee(self) -> Committee: ...
    async def outcomes_root(self, seq: int, /) -> bytes: ...
    async def is_applied(self, seq: int, index: int, /) -> bool: ...


@dataclass(frozen=True)
class MarketJob:
    """A job with what only its events tell."""

    job: Job
    image: str
    recorded_until: int
    applied: frozenset[OutcomeKind]


class Market:
    """A member's view of the jobs that matter now. `refresh` may be called from several tasks."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._deployment = chain.deployment
        self._next = self._deployment.block_number
        self._images: dict[JobId, str] = {}
        self._recorded: dict[JobId, int] = {}
        self._applied: dict[JobId, set[OutcomeKind]] = {}
        self._ended: dict[JobId, tuple[ResourceId, int, int]] = {}
        self._measured: dict[str, tuple[int, int]] = {}
        self._resources: dict[JobId, ResourceId] = {}
        self._watched: set[JobId] = set()
        self._registered: dict[Address, float] = {}
        self._lock = asyncio.Lock()
        self.jobs: dict[JobId, MarketJob] = {}
        self.head: Block | None = None

    async def refresh(self) -> None:
        """Read what is new.

        Raises:
            MarketError: `chain_unreachable`; what was read stays.
        """
        async with self._lock:
            head = await self._chain.block("latest")
            while self._next <= head.number:
                to = min(self._next + RANGE - 1, head.number)
                for raw in await self._chain.logs(max(0, self._next - REORG_OVERLAP), to):
                    self._take(events.decode(raw, self._deployment.addresses))
                self._next = to + 1
            jobs: dict[JobId, MarketJob] = {}
            for job_id in list(self._watched):
                found = await self._read(job_id)
                if found is None or _is_over(found, head.timestamp):
                    self._watched.discard(job_id)
                else:
                    jobs[job_id] = found
            self.jobs, self.head = jobs, head

    def live(self, provider: Address) -> list[MarketJob]:
        """The accepted and running jobs of a provider."""
        wanted = (JobStatus.ACCEPTED, JobStatus.RUNNING)
        return [m for m in self.jobs.values() if m.job.provider == provider and m.job.status in wanted]

    def subject(self, outcome: Outcome) -> JobId | None:
        """The job that an outcome is about; metrics name the resource and the time the job started."""
        if outcome.kind is not OutcomeKind.METRICS:
            return JobId(outcome.job_id)
        for found in self.jobs.values():
            if found.job.resource_id == outcome.job_id and found.job.started_at == outcome.from_:
                return found.job.job_id
        return None

    async def is_registered(self, provider: Address, now: float) -> bool:
        """Whether a provider has at least one resource on chain. A yes is remembered for a while, a no is not."""
        if now - self._registered.get(provider, float("-inf")) < REGISTRATION_CACHE_S:
            return True
        if not await self._chain.provider_resources(provider):
            return False
        self._registered[provider] = now
        return True

    async def _read(self, job_id: JobId) -> MarketJob | None:
        try:
            job = await self._chain.job(job_id)
        except MarketError as error:
            if error.code != "not_found":
                raise
            return None
        applied = set(self._applied.get(job_id, set()))
        if self._is_measured(job_id):
            applied.add(OutcomeKind.METRICS)
        return MarketJob(job, self._images[job_id], self._recorded.get(job_id, 0), frozenset(applied))

    def _is_measured(self, job_id: JobId) -> bool:
        # Metrics are applied to a resource, which has one job at a time: the latest after a job's end is that job's.
        ended = self._ended.get(job_id)
        return ended is not None and self._measured.get(ended[0], (0, 0)) > ended[1:]

    def _take(self, event: events.Event | None) -> None:
        match event:
            case events.JobCreated(job_id=job_id, image_cid=digest, resource_id=resource_id):
                if job_id not in self._images:
                    self._images[job_id] = str(Cid.dag_pb(bytes.fromhex(digest[2:])))
                    self._resources[job_id] = resource_id
                    self._watched.add(job_id)
            case events.OutageRecorded(job_id=job_id, to=to):
                self._recorded[job_id] = max(to, self._recorded.get(job_id, 0))
            case events.JobDisputed(job_id=job_id):
                if job_id in self._images:
                    self._watched.add(job_id)
            case events.JobCompleted(job_id=job_id) | events.JobResolved(job_id=job_id):
                if job_id in self._resources:
                    self._ended[job_id] = (self._resources[job_id], event.block_number, event.log_index)
            case events.OutcomeApplied(job_id=subject, kind=OutcomeKind.METRICS):
                here = (event.block_number, event.log_index)
                self._measured[subject] = max(here, self._measured.get(subject, (0, 0)))
            case events.OutcomeApplied(job_id=job_id, kind=kind) if kind not in _REPEATABLE:
                self._applied.setdefault(job_id, set()).add(kind)
            case _:
                pass


def _is_over(found: MarketJob, now: int) -> bool:
    """Nothing left to say about a job: it never ran, its metrics are in and it is paid, or it ended long ago."""
    job = found.job
    if job.status in _OPEN:
        return False
    if job.status is JobStatus.CANCELLED or not job.started_at or now - job.since > FORGET_ENDED_S:
        return True
    # A completed job that is not paid out can still lose an outage. One that is disputed is brought back by its event.
    return OutcomeKind.METRICS in found.applied and not job.locked_amount
