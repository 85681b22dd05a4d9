"""The agent's own states of a job, the ways between them, and why it stopped.

The image is fetched and checked before the job is accepted: an image this machine cannot or will not run costs the
renter nothing, because an offer that is never accepted gives all money back. The paid clock starts only after the
container has.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address, JobId, ResourceId


class JobState(StrEnum):
    """How far the agent is with a job."""

    OFFERED = "OFFERED"
    """Seen on chain, nothing done."""
    FETCHING = "FETCHING"
    """The offer is good; its image is being fetched and verified."""
    ACCEPTED = "ACCEPTED"
    """The image is here and verified; the agent commits itself on chain and waits until that is safe."""
    STARTING = "STARTING"
    """The container is being created and started, then the clock."""
    RUNNING = "RUNNING"
    """The clock runs."""
    STOPPING = "STOPPING"
    """There is a reason to stop; the container ends and its results are collected."""
    STOPPED = "STOPPED"
    """Nothing runs; results are pinned; the chain learns of it and pays."""
    REFUSED = "REFUSED"
    """Will not be accepted; the offer expires."""
    CLOSED = "CLOSED"
    """Over on chain and nothing of it is left on this machine."""


_S = JobState

ALLOWED: Mapping[JobState, frozenset[JobState]] = MappingProxyType(
    {
        # The second line of a row holds the moves of an agent that lost its journal and adopts what it finds.
        _S.OFFERED: frozenset({_S.FETCHING, _S.REFUSED, _S.CLOSED}) | {_S.STARTING, _S.RUNNING, _S.STOPPING},
        _S.FETCHING: frozenset({_S.ACCEPTED, _S.REFUSED, _S.CLOSED}) | {_S.STARTING, _S.RUNNING, _S.STOPPING},
        _S.ACCEPTED: frozenset({_S.STARTING, _S.REFUSED, _S.CLOSED}) | {_S.RUNNING, _S.STOPPING},
        _S.STARTING: frozenset({_S.RUNNING, _S.STOPPING, _S.CLOSED}),
        _S.RUNNING: frozenset({_S.STOPPING, _S.CLOSED}),
        _S.STOPPING: frozenset({_S.STOPPED}),
        _S.STOPPED: frozenset({_S.CLOSED}),
        _S.REFUSED: frozenset({_S.CLOSED}) | {_S.STARTING, _S.RUNNING, _S.STOPPING},
        _S.CLOSED: frozenset(),
    }
)
"""Every move a journal row may make. Staying is always allowed."""

HOLDS_MACHINE = frozenset({_S.STARTING, _S.RUNNING, _S.STOPPING})
"""States in which a job has, or may have, the machine's GPUs."""

ENDED = frozenset({_S.STOPPED, _S.REFUSED, _S.CLOSED})
"""States in which the renter sees no further output."""


class StopReason(StrEnum):
    """Why a container stops, or never ran. The first reason is kept."""

    EXITED = "exited"
    TIME_OVER = "time over"
    ENDED_ON_CHAIN = "ended on chain"
    CANCELLED = "cancelled"
    DISPUTED = "disputed"
    START_FAILED = "start failed"
    START_LATE = "not started in time"
    LOST = "container lost"
    UNKNOWN_TO_CHAIN = "unknown to the chain"


STOP_REASON_OF: Mapping[JobStatus, StopReason] = MappingProxyType(
    {
        JobStatus.COMPLETED: StopReason.ENDED_ON_CHAIN,
        JobStatus.RESOLVED: StopReason.ENDED_ON_CHAIN,
        JobStatus.CANCELLED: StopReason.CANCELLED,
        JobStatus.DISPUTED: StopReason.DISPUTED,
    }
)
"""What a job's status on chain says to a container that still runs."""


@dataclass(frozen=True)
class JobRow:
    """One job in the journal. Times are unix seconds.

    Attributes:
        image: sha2-256 digest of the image's root CID, 0x hex.
        spec: the job spec's bytes as emitted by the chain; empty for an old default one.
        reason: why it stopped or was refused; empty while there is none.
        code: the error code behind `reason`; empty if there was no error.
        exit_code: the container's; None while unknown, or if it never ran.
        result: sha2-256 digest of the results' root CID, 0x hex; empty while there is none.
        manifest: digest of the image's platform manifest once it was checked.
        updated_at: when the state was entered.
    """

    job_id: JobId
    resource_id: ResourceId
    user: Address
    image: str
    spec: bytes
    duration: int
    price_per_hour: int
    state: JobState
    updated_at: int
    reason: str = ""
    code: str = ""
    exit_code: int | None = None
    result: str = ""
    manifest: str = ""
