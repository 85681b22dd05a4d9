"""How values read to a person: money, durations, ids, times."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from gpumarket.errors import MarketError
from gpumarket.rules import units

T = TypeVar("T")


def money(symbol: str, decimals: int) -> Callable[[Any], str]:
    """A column that shows base units as an amount with its token."""

    def show(value: Any) -> str:
        return f"{units.format_amount(int(value), decimals)} {symbol}"

    return show


def seconds(value: Any) -> str:
    """90 -> "1m30s"."""
    left, text = int(value), ""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "m")):
        count, left = divmod(left, size)
        text += f"{count}{unit}" if count else ""
    return text + (f"{left}s" if left or not text else "")


def when(value: Any) -> str:
    """Unix seconds as UTC."""
    return time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(int(value)))


def yes_no(value: Any) -> str:
    return "yes" if value else "no"


def duration(text: str) -> int:
    """Seconds somebody typed. Raises MarketError `invalid_argument`."""
    return _parsed(lambda: units.parse_duration(text))


def amount(text: str, decimals: int) -> int:
    """Base units somebody typed as an amount. Raises MarketError `invalid_argument`."""
    return _parsed(lambda: units.parse_amount(text, decimals))


def job_id(text: str) -> units.JobId:
    """Raises MarketError `invalid_argument`."""
    return _parsed(lambda: units.parse_job_id(text))


def resource_id(text: str) -> units.ResourceId:
    """Raises MarketError `invalid_argument`."""
    return _parsed(lambda: units.parse_resource_id(text))


def _parsed(parse: Callable[[], T]) -> T:
    try:
        return parse()
    except ValueError as error:
        raise MarketError("invalid_argument", str(error)) from error
