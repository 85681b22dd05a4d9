"""What a job costs: equal to contracts/libraries/Settlement.sol to the base unit.

Prices are base units per hour, times unix seconds or seconds. Everything rounds in the renter's favour, except the
lock, which rounds up so that it always covers the cost.
"""

from __future__ import annotations

SECONDS_PER_HOUR = 3_600
BASIS_POINTS = 10_000


def lock_up(price_per_hour: int, duration: int) -> int:
    """Base units to lock for `duration` seconds, rounded up."""
    return -(-price_per_hour * duration // SECONDS_PER_HOUR)


def cost(price_per_hour: int, seconds: int) -> int:
    """Base units that `seconds` cost, rounded down."""
    return price_per_hour * seconds // SECONDS_PER_HOUR


def fee(amount: int, fee_bps: int) -> int:
    """The platform's part of `amount`, rounded down."""
    return amount * fee_bps // BASIS_POINTS


def billable_seconds(started_at: int, at: int, outage_seconds: int, min_seconds: int, duration: int) -> int:
    """Seconds to pay for a job that ends at `at`: running less outage, at least `min_seconds`, at most `duration`.

    A job that never started (`started_at` 0) costs nothing.
    """
    if started_at == 0:
        return 0
    running = max(at - started_at, 0)
    proven = max(running - outage_seconds, 0)
    return min(max(proven, min_seconds), duration)


def accrued(price_per_hour: int, billable: int, settled_seconds: int) -> int:
    """Base units owed for `billable` seconds when `settled_seconds` of them are paid already."""
    if billable <= settled_seconds:
        return 0
    return cost(price_per_hour, billable) - cost(price_per_hour, settled_seconds)


def split(amount: int) -> tuple[int, int]:
    """Halves of a disputed amount, (provider, renter); the renter gets the odd unit."""
    to_provider = amount // 2
    return to_provider, amount - to_provider
