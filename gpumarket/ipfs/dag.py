"""Which blocks answer a question about content, in the order in which a reader needs them (depth first, each once)."""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum

from gpumarket.errors import MarketError
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.dagpb import malformed
from gpumarket.ipfs.reader import GetNode, trace, walk
from gpumarket.ipfs.store import BlockStore
from gpumarket.ipfs.unixfs import Kind, Node, check_child

Span = tuple[int, int | None]
"""First and last byte, both included; negative counts from the end; None is the end of the file."""


class Scope(Enum):
    """What is sent of the thing at a path's end: its top block, itself (a whole file, one directory), or everything."""

    BLOCK = "block"
    ENTITY = "entity"
    ALL = "all"


def blocks(
    store: BlockStore, cid: Cid, path: str = "", scope: Scope = Scope.ALL, span: Span | None = None
) -> Iterator[tuple[Cid, bytes]]:
    """The blocks along `path`, then those of the thing at its end.

    `span` limits a file to the blocks that prove those bytes; directories ignore it. Errors about the root, the path
    and the span are raised before the first block is yielded.

    Raises:
        MarketError: `not_found` (path), `invalid_argument` (span outside the file), `image_block_missing`,
            `image_block_corrupt`, `content_malformed`.
    """
    pending: list[tuple[Cid, bytes]] = []
    sent: set[Cid] = set()

    def get(child: Cid) -> Node:
        block = store.get(child)
        if block is None:
            raise MarketError("image_block_missing", f"block {child} is not in the store", cid=str(child))
        node = unixfs.parse(child, block)
        if child not in sent:
            sent.add(child)
            pending.append((child, block))
        return node

    end = trace(get, cid, path)[-1]
    for _ in _below(get, end, scope, span):
        yield from pending
        pending.clear()


def _below(get: GetNode, node: Node, scope: Scope, span: Span | None) -> Iterator[Node]:
    """The node itself and what the scope adds below it."""
    ranged = span is not None and node.kind is Kind.FILE
    start, end = _resolve(span, node.size) if span is not None and ranged else (0, 0)
    yield node
    if scope is Scope.BLOCK or (scope is Scope.ENTITY and node.kind is Kind.DIRECTORY):
        return
    if ranged:
        yield from _part(get, node, start, end, set(), 0)
    else:
        yield from walk(get, node)


def _part(get: GetNode, node: Node, start: int, end: int, seen: set[Cid], depth: int) -> Iterator[Node]:
    """The nodes of a file that overlap `[start, end)`. Repeated parts that are wholly inside are visited once."""
    if depth > unixfs.MAX_FILE_DEPTH:
        raise malformed("content is nested too deep")
    at = 0
    for index, size in enumerate(node.blocksizes):
        low, high = max(0, start - at), min(size, end - at)
        at += size
        link = node.links[index]
        whole = low == 0 and high == size
        if low >= high or (whole and link.cid in seen):
            continue
        child = get(link.cid)
        check_child(node, index, child)
        yield child
        yield from _part(get, child, low, high, seen, depth + 1)
        if whole:
            seen.add(link.cid)


def _resolve(span: Span, size: int) -> tuple[int, int]:
    """The half-open byte range that a span means in a file of this size; empty if it selects nothing."""
    first, last = span
    start = first if first >= 0 else max(0, size + first)
    end = size if last is None else min(size, last + 1 if last >= 0 else size + last + 1)
    if size and start >= size:
        raise MarketError("invalid_argument", f"bytes {first} and up are outside a file of {size} bytes")
    return start, max(start, end)
