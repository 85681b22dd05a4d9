"""An epoch's outcomes under one root, as IOracleCommittee says: double-hashed leaves, sorted pairs, keccak256.

A node without a partner moves up unchanged, which OpenZeppelin's MerkleProof verifies too.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_abi.abi import encode

from gpumarket.chain.calls import OUTCOME, outcome_values
from gpumarket.chain.codec import keccak
from gpumarket.chain.types import Outcome


def leaf(index: int, outcome: Outcome) -> bytes:
    """keccak256(keccak256(abi.encode(index, outcome))); the index keeps an outcome from being applied twice."""
    return keccak(keccak(encode(("uint32", OUTCOME), (index, outcome_values(outcome)))))


def root(outcomes: Sequence[Outcome]) -> bytes:
    """The 32 bytes a report carries; zero for no outcomes."""
    level = [leaf(number, outcome) for number, outcome in enumerate(outcomes)]
    if not level:
        return bytes(32)
    while len(level) > 1:
        level = _parents(level)
    return level[0]


def proof(outcomes: Sequence[Outcome], index: int) -> list[bytes]:
    """The siblings from outcome `index` up to the root."""
    level = [leaf(number, outcome) for number, outcome in enumerate(outcomes)]
    siblings: list[bytes] = []
    while len(level) > 1:
        sibling = index ^ 1
        if sibling < len(level):
            siblings.append(level[sibling])
        level = _parents(level)
        index //= 2
    return siblings


def verify(root: bytes, index: int, outcome: Outcome, proof: Sequence[bytes]) -> bool:
    """Whether `outcome` is number `index` under `root`."""
    node = leaf(index, outcome)
    for sibling in proof:
        node = _pair(node, sibling)
    return node == root


def _parents(level: list[bytes]) -> list[bytes]:
    return [_pair(level[i], level[i + 1]) if i + 1 < len(level) else level[i] for i in range(0, len(level), 2)]


def _pair(a: bytes, b: bytes) -> bytes:
    return keccak(min(a, b) + max(a, b))
