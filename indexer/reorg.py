"""Deciding what a new stretch of the chain means for what is already indexed. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from itertools import pairwise
from typing import Protocol


class Header(Protocol):
    """What of a block header decides: `gpumarket.chain` blocks and stored rows both fit."""

    @property
    def number(self) -> int: ...
    @property
    def hash(self) -> str: ...
    @property
    def parent_hash(self) -> str: ...


class Link(Enum):
    """How a stretch of headers relates to the last indexed block."""

    FOLLOWS = "follows"
    REORGANIZED = "reorganized"
    TORN = "torn"
    """The headers do not link among themselves: the chain changed while they were read; read again."""


def link(cursor_hash: str | None, headers: Sequence[Header]) -> Link:
    """Compare consecutive `headers` with the hash of the block before the first of them.

    Args:
        cursor_hash: hash of the last indexed block; none if nothing is indexed yet, then anything follows.
    """
    for before, after in pairwise(headers):
        if after.number != before.number + 1 or after.parent_hash != before.hash:
            return Link.TORN
    if headers and cursor_hash is not None and headers[0].parent_hash != cursor_hash:
        return Link.REORGANIZED
    return Link.FOLLOWS


def common_ancestor(ours: Mapping[int, str], theirs: Iterable[Header]) -> int | None:
    """The highest block both chains have, or none among those given.

    Args:
        ours: number → hash of indexed blocks.
        theirs: headers of the node's chain, in any order.
    """
    shared = [header.number for header in theirs if ours.get(header.number) == header.hash]
    return max(shared, default=None)
