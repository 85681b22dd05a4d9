from __future__ import annotations

import pytest

from gpumarket.errors import ERROR_KINDS, MarketError


def test_default_behavior_an_error_carries_its_code_everywhere() -> None:
    error = MarketError("insufficient_balance", "needs 5, has 3", hint="top up", needed="5")
    assert error.as_dict() == {
        "code": "insufficient_balance",
        "message": "needs 5, has 3",
        "hint": "top up",
        "details": {"needed": "5"},
    }
    problem = error.as_problem()
    assert problem["status"] == 402
    assert problem["code"] == "insufficient_balance"
    assert problem["needed"] == "5"
    assert error.kind.exit_code == 5


def test_an_unknown_code_is_a_defect() -> None:
    with pytest.raises(KeyError):
        MarketError("no_such_code", "x")


def test_every_kind_has_sane_numbers() -> None:
    for code, kind in ERROR_KINDS.items():
        assert 400 <= kind.http_status < 600, code
        assert 1 <= kind.exit_code <= 9, code
        assert kind.summary.endswith("."), code
    assert ERROR_KINDS["internal"].exit_code == 1
