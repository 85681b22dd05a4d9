from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpumarket.rules.settlement import accrued, billable_seconds, cost, fee, lock_up, split

prices = st.integers(0, 2**128 - 1)
seconds = st.integers(0, 2**40 - 1)


def test_default_behavior() -> None:
    assert (lock_up(3600, 90), cost(3600, 90)) == (90, 90)
    assert fee(1_000, 200) == 20


def test_the_lock_rounds_up_and_the_cost_down() -> None:
    assert (lock_up(1, 1), cost(1, 1)) == (1, 0)
    assert (lock_up(1, 3600), cost(1, 3600)) == (1, 1)
    assert (lock_up(0, 10), lock_up(10, 0)) == (0, 0)


def test_the_odd_unit_of_a_split_is_the_renters() -> None:
    assert split(7) == (3, 4)


def test_a_job_that_never_started_costs_nothing() -> None:
    assert billable_seconds(0, 10**9, 0, 60, 600) == 0


def test_billable_seconds_around_the_minimum_and_the_end() -> None:
    assert [billable_seconds(100, at, 0, 60, 600) for at in (100, 159, 160, 161)] == [60, 60, 60, 61]
    assert [billable_seconds(100, at, 0, 60, 600) for at in (699, 700, 701)] == [599, 600, 600]
    assert billable_seconds(100, 50, 0, 60, 600) == 60
    assert billable_seconds(100, 400, 1, 60, 600) == 299
    assert billable_seconds(100, 400, 10**6, 60, 600) == 60


@given(price=prices, duration=seconds, part=seconds)
def test_the_lock_covers_every_cost(price: int, duration: int, part: int) -> None:
    assert cost(price, min(part, duration)) <= lock_up(price, duration) <= cost(price, duration) + 1


@given(price=prices, times=st.lists(seconds, min_size=1, max_size=8))
def test_settling_often_pays_what_settling_once_pays(price: int, times: list[int]) -> None:
    settled = paid = 0
    for billed in times:  # also backwards, as a late outage report does
        paid += accrued(price, billed, settled)
        settled = max(settled, billed)
    assert paid == cost(price, max(times))


@given(started=st.integers(1, 2**40), at=seconds, outage=seconds, least=st.integers(0, 2**32), duration=seconds)
def test_billable_seconds_stay_between_the_minimum_and_the_paid_time(
    started: int, at: int, outage: int, least: int, duration: int
) -> None:
    billed = billable_seconds(started, at, outage, least, duration)
    assert min(least, duration) <= billed <= duration
    assert billable_seconds(started, at + 1, outage, least, duration) >= billed
    assert billable_seconds(started, at, outage + 1, least, duration) <= billed


@given(amount=st.integers(0, 2**96 - 1), bps=st.integers(0, 500))
def test_nothing_is_lost_between_fee_and_split(amount: int, bps: int) -> None:
    assert 0 <= fee(amount, bps) <= amount
    assert sum(split(amount)) == amount
    assert 0 <= split(amount)[1] - split(amount)[0] <= 1
