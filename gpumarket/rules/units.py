"""Ids, addresses, money and durations: how they are spelled everywhere off-chain."""

from __future__ import annotations

import re
from typing import NewType

JobId = NewType("JobId", str)
"""0x and 64 lower-case hex digits."""

ResourceId = NewType("ResourceId", str)
"""0x and 64 lower-case hex digits: the provider's address, then a 96-bit counter."""

Address = NewType("Address", str)
"""0x and 40 hex digits with an EIP-55 checksum."""

NO_ADDRESS = Address("0x" + "0" * 40)
NO_ID = "0x" + "0" * 64

_ID = re.compile(r"0x[0-9a-fA-F]{64}")
_AMOUNT = re.compile(r"([0-9]{1,60})(?:\.([0-9]{1,60}))?")
_DURATION = re.compile(r"(?:(\d{1,9})d)?(?:(\d{1,9})h)?(?:(\d{1,9})m)?(?:(\d{1,9})s)?", re.ASCII)
_SECONDS = (86_400, 3_600, 60, 1)


def parse_amount(text: str, decimals: int) -> int:
    """Base units of a decimal amount such as "1.5". Never rounds.

    Raises:
        ValueError: not a plain non-negative decimal, or finer than `decimals` digits.
    """
    match = _AMOUNT.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not an amount; write it like 1.5")
    whole, fraction = match[1], (match[2] or "").rstrip("0")
    if len(fraction) > decimals:
        raise ValueError(f"{text!r} has more than {decimals} decimals")
    return int(whole + fraction.ljust(decimals, "0"))


def format_amount(amount: int, decimals: int) -> str:
    """The shortest decimal text of `amount` base units; `parse_amount` reads it back."""
    sign = "-" if amount < 0 else ""
    whole, fraction = divmod(abs(amount), 10**decimals)
    digits = str(fraction).rjust(decimals, "0").rstrip("0") if decimals else ""
    return f"{sign}{whole}.{digits}" if digits else f"{sign}{whole}"


def parse_duration(text: str) -> int:
    """Seconds of "90s", "2h", "1h30m", "2d" or a bare number of seconds.

    Raises:
        ValueError: not a duration.
    """
    text = text.strip()
    if text.isascii() and text.isdigit() and len(text) < 10:
        return int(text)
    match = _DURATION.fullmatch(text)
    if match is None or not text:
        raise ValueError(f"{text!r} is not a duration; write it like 90s, 2h or 1h30m")
    return sum(int(part) * unit for part, unit in zip(match.groups(), _SECONDS, strict=True) if part)


def parse_job_id(text: str) -> JobId:
    """A job id in its one spelling.

    Raises:
        ValueError: not 32 bytes of hex with 0x.
    """
    return JobId(_parse_id(text, "job id"))


def parse_resource_id(text: str) -> ResourceId:
    """A resource id in its one spelling.

    Raises:
        ValueError: not 32 bytes of hex with 0x.
    """
    return ResourceId(_parse_id(text, "resource id"))


def provider_of(resource_id: str) -> str:
    """The address of the provider of a resource, lower-case hex."""
    return _parse_id(resource_id, "resource id")[:42]


def _parse_id(text: str, what: str) -> str:
    if _ID.fullmatch(text) is None:
        raise ValueError(f"{text!r} is not a {what}: 0x and 64 hex digits")
    return text.lower()
