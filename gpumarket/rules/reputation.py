"""A provider's score: equal to contracts/libraries/Reputation.sol.

`score = (uptime*0.4 + response*0.2 + completion*0.3 + (1-disputes)*0.1) * 1000`, less penalties, plus rewards, kept in
0..1000. Rates are basis points 0..10000.
"""

from __future__ import annotations

from enum import IntEnum
from types import MappingProxyType

MAX_SCORE = 1_000
MIN_SAMPLE = 5
_FULL = 10_000


class JobOutcome(IntEnum):
    """IReputationSystem.JobOutcome."""

    COMPLETED = 0
    NOT_STARTED = 1
    PROVIDER_DIED = 2
    DISPUTE_LOST = 3
    DISPUTE_SPLIT = 4


class PenaltyReason(IntEnum):
    """IReputationSystem.PenaltyReason."""

    DOWNTIME = 0
    TIMEOUT = 1
    DATA_FRAUD = 2
    INVALID_SIGNATURE = 3
    DISPUTE_LOST = 4


PENALTY_POINTS = MappingProxyType(
    {
        PenaltyReason.DOWNTIME: 50,
        PenaltyReason.TIMEOUT: 25,
        PenaltyReason.DATA_FRAUD: 200,
        PenaltyReason.INVALID_SIGNATURE: 50,
        PenaltyReason.DISPUTE_LOST: 100,
    }
)


def rate(part: int, total: int) -> int:
    """`part` of `total` in basis points, rounded down; 0 of 0 is 0."""
    return part * _FULL // total if total else 0


def score(uptime: int, response: int, completion: int, disputes: int, penalty: int, bonus: int) -> int:
    """The score of a provider with enough jobs, 0..1000, from four rates in basis points and points so far."""
    base = (uptime * 4 + response * 2 + completion * 3 + (_FULL - disputes)) // 100
    return min(max(base + bonus - penalty, 0), MAX_SCORE)
