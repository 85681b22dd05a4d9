"""The states of a job, numbered as in IMarketplace, and the ways between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from types import MappingProxyType


class JobStatus(IntEnum):
    """IMarketplace.JobStatus."""

    NONE = 0
    CREATED = 1
    ACCEPTED = 2
    RUNNING = 3
    COMPLETED = 4
    DISPUTED = 5
    RESOLVED = 6
    CANCELLED = 7


class EndReason(IntEnum):
    """IMarketplace.EndReason: why a job ended."""

    NONE = 0
    RENTER_CANCELLED = 1
    RENTER_STOPPED = 2
    PROVIDER_COMPLETED = 3
    NOT_ACCEPTED = 4
    NOT_STARTED = 5
    TIME_OVER = 6
    PROVIDER_DEAD = 7
    DISPUTED = 8
    RECLAIMED = 9


class Verdict(IntEnum):
    """IMarketplace.Verdict: what the committee decides in a dispute."""

    PROVIDER_FAULT = 0
    USER_FAULT = 1
    SPLIT_PAYMENT = 2


ALLOWED: Mapping[JobStatus, frozenset[JobStatus]] = MappingProxyType(
    {
        JobStatus.NONE: frozenset({JobStatus.CREATED}),
        JobStatus.CREATED: frozenset({JobStatus.ACCEPTED, JobStatus.CANCELLED}),
        JobStatus.ACCEPTED: frozenset({JobStatus.RUNNING, JobStatus.CANCELLED, JobStatus.DISPUTED}),
        JobStatus.RUNNING: frozenset({JobStatus.COMPLETED, JobStatus.DISPUTED}),
        JobStatus.COMPLETED: frozenset({JobStatus.DISPUTED}),
        JobStatus.DISPUTED: frozenset({JobStatus.RESOLVED}),
        JobStatus.RESOLVED: frozenset(),
        JobStatus.CANCELLED: frozenset(),
    }
)
"""Every arrow of the market's state diagram."""

TERMINAL = frozenset({JobStatus.COMPLETED, JobStatus.RESOLVED, JobStatus.CANCELLED})
"""Where nothing runs any more. Only the dispute window of a completed job is still open."""

_API = MappingProxyType(
    {
        JobStatus.CREATED: "PENDING",
        JobStatus.ACCEPTED: "PENDING",
        JobStatus.RUNNING: "RUNNING",
        JobStatus.COMPLETED: "COMPLETED",
        JobStatus.RESOLVED: "COMPLETED",
        JobStatus.CANCELLED: "FAILED",
        JobStatus.DISPUTED: "DISPUTED",
    }
)


def api_status(status: JobStatus) -> str:
    """The five statuses of the public API: PENDING, RUNNING, COMPLETED, FAILED, DISPUTED.

    Raises:
        ValueError: for NONE, which is the absence of a job.
    """
    if status is JobStatus.NONE:
        raise ValueError("a job that does not exist has no status")
    return _API[status]
