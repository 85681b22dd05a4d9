"""Reading what clients send; whatever is malformed is `invalid_argument` with a sentence that says why."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from gpumarket.chain.codec import checksum
from gpumarket.errors import MarketError
from gpumarket.rules.units import parse_job_id, parse_resource_id
from indexer.queries import Page

_AMOUNT_DIGITS = 78


def job_id_of(text: str) -> str:
    return _parsed(parse_job_id, text)


def resource_id_of(text: str) -> str:
    return _parsed(parse_resource_id, text)


def address_of(text: str) -> str:
    return checksum(text)


def amount_of(text: str) -> int:
    """Base units from decimal text."""
    if not (text.isascii() and text.isdigit() and len(text) < _AMOUNT_DIGITS):
        raise MarketError(
            "invalid_argument",
            f"{text[:80]!r} is not an amount in base units",
            hint="write a whole number of base units",
        )
    return int(text)


def text_of(text: str) -> str:
    """Text that every database takes."""
    if "\x00" in text:
        raise MarketError("invalid_argument", "text with a NUL character")
    return text


def page_of(limit: int | None, offset: int | None) -> Page:
    page = Page(100 if limit is None else limit, offset or 0)
    if page.limit < 0 or page.offset < 0:
        raise MarketError("invalid_argument", "limit and offset are not negative")
    return page


def connection_page_of(first: int | None, after: str | None) -> Page:
    return replace(page_of(first, 0), after=after, peek=True)


def _parsed(parse: Callable[[str], str], text: str) -> str:
    try:
        return parse(text)
    except ValueError as error:
        raise MarketError("invalid_argument", str(error)[:200]) from error
