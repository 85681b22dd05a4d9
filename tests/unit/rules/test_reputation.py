from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpumarket.rules.reputation import PENALTY_POINTS, PenaltyReason, rate, score

bps = st.integers(0, 10_000)


def test_default_behavior() -> None:
    assert score(10_000, 10_000, 10_000, 0, 0, 0) == 1000
    assert score(0, 0, 0, 10_000, 0, 0) == 0


def test_weights_are_four_two_three_one() -> None:
    assert [score(10_000, 0, 0, 10_000, 0, 0), score(0, 10_000, 0, 10_000, 0, 0)] == [400, 200]
    assert [score(0, 0, 10_000, 10_000, 0, 0), score(0, 0, 0, 0, 0, 0)] == [300, 100]


def test_points_move_the_score_inside_its_limits() -> None:
    assert score(10_000, 10_000, 10_000, 0, 50, 0) == 950
    assert score(10_000, 10_000, 10_000, 0, 0, 50) == 1000
    assert score(0, 0, 0, 10_000, 50, 0) == 0
    assert score(0, 0, 0, 0, 200, 150) == 50


def test_penalties_are_those_of_the_contract() -> None:
    assert [PENALTY_POINTS[reason] for reason in PenaltyReason] == [50, 25, 200, 50, 100]


def test_the_rate_of_nothing_is_zero() -> None:
    assert (rate(0, 0), rate(1, 3), rate(3, 3)) == (0, 3333, 10_000)


@given(bps, bps, bps, bps, st.integers(0, 5_000), st.integers(0, 5_000))
def test_the_score_is_the_formula_rounded_down(u: int, r: int, c: int, d: int, penalty: int, bonus: int) -> None:
    exact = (u * 4 + r * 2 + c * 3 + (10_000 - d)) / 100
    assert score(u, r, c, d, penalty, bonus) == min(max(int(exact) + bonus - penalty, 0), 1000)
