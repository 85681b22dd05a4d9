"""What to do next for a job: one pure function over three truths.

The chain says what is owed, the journal what was intended, the engine what is. `plan` looks at all three and names one
move; `provider_agent.job` carries it out. Every move can be carried out twice, so a crash between any two costs a
repetition. What could not be read is never planned on: whoever calls `plan` has all three answers.

Depth: fetching and accepting follow the newest block, containers start and stop at the `safe` block, local data is
deleted once the end is final (or long past). A status is at least as deep as a block whose time is not before the
status began.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from gpumarket.chain.types import Job, Windows
from gpumarket.rules.job_state import JobStatus
from provider_agent.runtime import Container, ContainerState
from provider_agent.state import STOP_REASON_OF, JobRow, JobState, StopReason

UNKNOWN_GRACE_S = 900
"""A job the chain does not know (a reorganization took it) is left alone for so long."""

CLEAN_GRACE_S = 3_600
"""A job over for so long is cleaned up even if the node names no finalized block."""


class Action(StrEnum):
    WAIT = "wait"
    CHECK = "check"
    FETCH = "fetch"
    ACCEPT = "accept"
    LAUNCH = "launch"
    CREATE = "create"
    START = "start"
    START_CLOCK = "start clock"
    ADOPT = "adopt"
    BEGIN_STOP = "begin stop"
    STOP = "stop"
    COLLECT = "collect"
    COMPLETE = "complete"
    SETTLE = "settle"
    EXPIRE = "expire"
    RESOLVE = "resolve"
    CLEAN = "clean"


@dataclass(frozen=True)
class Move:
    """An action, with the reason of a BEGIN_STOP and the state an ADOPT takes over."""

    action: Action
    reason: StopReason | None = None
    state: JobState | None = None


@dataclass(frozen=True)
class ChainView:
    """A job as the newest block has it, and the times of the newest, safe and finalized blocks."""

    job: Job
    windows: Windows
    head: int
    safe: int
    final: int


WAIT = Move(Action.WAIT)
_NOT_YET_STARTED = frozenset({JobState.OFFERED, JobState.FETCHING, JobState.ACCEPTED, JobState.REFUSED})


def ends_at(job: Job) -> int:
    """When the paid time of a running job is over, unix seconds."""
    return job.started_at + job.duration


def plan(chain: ChainView, row: JobRow, container: Container | None, *, now: int, machine_free: bool) -> Move:
    """The next move for a job.

    Args:
        now: this machine's clock, unix seconds. A deadline has passed only if the chain's clock agrees.
        machine_free: no other job holds this machine.
    """
    job = chain.job
    clock = min(now, chain.head)
    if row.state is JobState.CLOSED:
        return WAIT
    if row.state is JobState.STOPPING:
        return Move(Action.STOP if container is not None and container.running else Action.COLLECT)
    if row.state is JobState.STOPPED and container is not None and container.running:
        return Move(Action.STOP)
    match job.status:
        case JobStatus.NONE:
            return _unknown(row, container, now)
        case JobStatus.CREATED:
            return _created(chain, row, clock, machine_free)
        case JobStatus.ACCEPTED:
            return _accepted(chain, row, container, clock, machine_free)
        case JobStatus.RUNNING:
            return _running(job, row, container, clock)
        case _:
            return _over(chain, row, container, clock, now)


def _unknown(row: JobRow, container: Container | None, now: int) -> Move:
    if now < row.updated_at + UNKNOWN_GRACE_S:
        return WAIT
    if container is not None and container.running:
        return Move(Action.BEGIN_STOP, StopReason.UNKNOWN_TO_CHAIN)
    return Move(Action.CLEAN)


def _created(chain: ChainView, row: JobRow, clock: int, machine_free: bool) -> Move:
    if clock > chain.job.since + chain.windows.accept:
        return Move(Action.EXPIRE)
    match row.state:
        case JobState.OFFERED:
            return Move(Action.CHECK)
        case JobState.FETCHING:
            return Move(Action.FETCH)
        case JobState.ACCEPTED if machine_free:
            return Move(Action.ACCEPT)
        case _:
            return WAIT


def _accepted(chain: ChainView, row: JobRow, container: Container | None, clock: int, machine_free: bool) -> Move:
    late = clock > chain.job.since + chain.windows.start
    if container is not None and row.state in _NOT_YET_STARTED:
        return Move(Action.ADOPT, state=JobState.STARTING)
    if row.state is JobState.STARTING:
        if late:
            return Move(Action.BEGIN_STOP, StopReason.START_LATE)
        if container is None:
            return Move(Action.CREATE)
        return Move(Action.START if container.state is ContainerState.CREATED else Action.START_CLOCK)
    if row.state is JobState.RUNNING:
        return Move(Action.START_CLOCK)  # a reorganization took the clock's transaction
    if late:
        return Move(Action.EXPIRE)
    match row.state:
        case JobState.OFFERED:
            return Move(Action.ADOPT, state=JobState.FETCHING)
        case JobState.FETCHING:
            return Move(Action.FETCH)
        case JobState.ACCEPTED if machine_free and chain.job.since <= chain.safe:
            return Move(Action.LAUNCH)
        case _:
            return WAIT


def _running(job: Job, row: JobRow, container: Container | None, clock: int) -> Move:
    if row.state is JobState.STOPPED:
        return Move(Action.COMPLETE)
    if row.state is not JobState.RUNNING:
        return Move(Action.ADOPT, state=JobState.RUNNING)
    if container is None or container.state is ContainerState.CREATED:
        return Move(Action.BEGIN_STOP, StopReason.LOST)
    if not container.running:
        return Move(Action.BEGIN_STOP, StopReason.EXITED)
    if clock >= ends_at(job):
        return Move(Action.BEGIN_STOP, StopReason.TIME_OVER)
    return WAIT


def _over(chain: ChainView, row: JobRow, container: Container | None, clock: int, now: int) -> Move:
    job = chain.job
    if container is not None and row.state is not JobState.STOPPED:
        if container.running and job.since > chain.safe:
            return WAIT
        return Move(Action.BEGIN_STOP, STOP_REASON_OF[job.status])
    if job.status is JobStatus.DISPUTED:
        return Move(Action.RESOLVE) if clock > job.since + chain.windows.verdict else WAIT
    if job.status is JobStatus.COMPLETED and job.locked_amount > 0:
        return Move(Action.SETTLE) if clock > job.since + chain.windows.dispute else WAIT
    if job.since <= chain.final or now >= job.since + CLEAN_GRACE_S:
        return Move(Action.CLEAN)
    return WAIT
