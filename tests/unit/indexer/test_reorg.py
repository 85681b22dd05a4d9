"""The pure decisions about a new stretch of the chain."""

from __future__ import annotations

from gpumarket.chain.types import Block
from indexer.reorg import Link, common_ancestor, link


def chain(*hashes: str) -> list[Block]:
    return [Block(n, hashes[n], hashes[n - 1] if n else "", n) for n in range(len(hashes))][1:]


def test_default_behavior() -> None:
    assert link("a", chain("a", "b", "c")) is Link.FOLLOWS


def test_another_parent_is_a_reorganization() -> None:
    assert link("z", chain("a", "b", "c")) is Link.REORGANIZED


def test_headers_that_do_not_link_are_torn_whatever_their_first_parent_is() -> None:
    blocks = chain("a", "b", "c")
    broken = [blocks[0], Block(2, "c", "x", 2)]
    assert link("a", broken) is Link.TORN
    assert link("z", broken) is Link.TORN
    assert link("a", [blocks[0], Block(3, "d", "b", 3)]) is Link.TORN


def test_nothing_new_follows_anything() -> None:
    assert link("a", []) is Link.FOLLOWS
    assert link(None, chain("a", "b")) is Link.FOLLOWS


def test_the_common_ancestor_is_the_highest_shared_block() -> None:
    ours = {1: "b", 2: "c", 3: "d"}
    assert common_ancestor(ours, chain("a", "b", "c", "x")) == 2
    assert common_ancestor(ours, chain("a", "x", "y", "z")) is None
