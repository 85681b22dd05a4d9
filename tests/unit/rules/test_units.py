from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.rules.units import (
    format_amount,
    parse_amount,
    parse_duration,
    parse_job_id,
    parse_resource_id,
    provider_of,
)


def test_default_behavior() -> None:
    assert parse_amount("1.5", 18) == 15 * 10**17
    assert format_amount(15 * 10**17, 18) == "1.5"


@pytest.mark.parametrize(("text", "amount"), [("0", 0), ("1", 100), ("0.01", 1), ("1.10", 110), (" 2.000 ", 200)])
def test_amounts_of_a_token_with_two_decimals(text: str, amount: int) -> None:
    assert parse_amount(text, 2) == amount


@pytest.mark.parametrize("text", ["", "-1", "1.", ".5", "1e3", "0x10", "1,5", "1.001", "١", "nan", "1" * 61])
def test_other_text_is_no_amount(text: str) -> None:
    with pytest.raises(ValueError, match=r"amount|decimals"):
        parse_amount(text, 2)


def test_a_token_without_decimals_has_no_point() -> None:
    assert (parse_amount("7", 0), format_amount(7, 0)) == (7, "7")
    assert format_amount(-25, 1) == "-2.5"


@given(amount=st.integers(0, 2**256), decimals=st.integers(0, 36))
def test_formatting_and_parsing_give_the_amount_back(amount: int, decimals: int) -> None:
    whole = amount % 10**60
    assert parse_amount(format_amount(whole, decimals), decimals) == whole


@pytest.mark.parametrize(
    ("text", "seconds"), [("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1d1h1m1s", 90061), ("45", 45), ("90m", 5400)]
)
def test_durations(text: str, seconds: int) -> None:
    assert parse_duration(text) == seconds


@pytest.mark.parametrize("text", ["", "h", "30m1h", "1.5h", "-1s", "1 h", "2w", "²"])
def test_other_text_is_no_duration(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


def test_a_resource_names_its_provider() -> None:
    resource_id = "0x" + "AB" * 20 + "00" * 11 + "01"
    assert provider_of(resource_id) == "0x" + "ab" * 20
    assert parse_resource_id(resource_id) == resource_id.lower()


@pytest.mark.parametrize("text", ["", "0x", "ab" * 32, "0x" + "ab" * 31, "0x" + "zz" * 32, "0x" + "ab" * 32 + "\n"])
def test_other_text_is_no_id(text: str) -> None:
    with pytest.raises(ValueError, match="not a job id"):
        parse_job_id(text)
