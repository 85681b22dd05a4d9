from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.chain import merkle
from gpumarket.chain.codec import keccak
from gpumarket.chain.types import Outcome, OutcomeKind
from gpumarket.rules.units import Address

PROVIDER = Address("0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB")


def outcome(number: int) -> Outcome:
    return Outcome(OutcomeKind.DOWNTIME, "0x" + f"{number:064x}", PROVIDER, number, number + 1, number)


def test_default_behavior() -> None:
    outcomes = [outcome(n) for n in range(3)]
    root = merkle.root(outcomes)
    assert all(merkle.verify(root, n, outcomes[n], merkle.proof(outcomes, n)) for n in range(3))


def test_one_outcome_is_its_own_root_and_none_is_zero() -> None:
    assert merkle.root([outcome(1)]) == merkle.leaf(0, outcome(1))
    assert merkle.proof([outcome(1)], 0) == []
    assert merkle.root([]) == bytes(32)


def test_a_leaf_is_the_double_hash_of_the_index_and_the_outcome() -> None:
    words = [7, 1, 5, int(PROVIDER, 16), 5, 6, 5, 0]
    encoded = b"".join(word.to_bytes(32, "big") for word in words)
    assert merkle.leaf(7, outcome(5)) == keccak(keccak(encoded))


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.data())
def test_every_outcome_is_provable_only_at_its_place(count: int, data: st.DataObject) -> None:
    outcomes = [outcome(n) for n in range(count)]
    index = data.draw(st.integers(0, count - 1))
    other = data.draw(st.integers(0, count))
    root, proof = merkle.root(outcomes), merkle.proof(outcomes, index)
    assert merkle.verify(root, index, outcomes[index], proof)
    assert merkle.verify(root, other, outcomes[index], proof) is (other == index)
    assert not merkle.verify(root, index, outcome(count), proof)


@pytest.mark.parametrize("place", [0, 1])
def test_a_changed_proof_proves_nothing(place: int) -> None:
    outcomes = [outcome(n) for n in range(4)]
    proof = merkle.proof(outcomes, 2)
    proof[place] = bytes(32)
    assert not merkle.verify(merkle.root(outcomes), 2, outcomes[2], proof)
