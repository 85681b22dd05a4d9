from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gpumarket.chain.calls import Call
from gpumarket.chain.journal import Attempt, IntentState, Journal, NonceTaken
from gpumarket.errors import MarketError
from gpumarket.rules.units import NO_ADDRESS

CALL = Call(NO_ADDRESS, b"\x01\x02", 2**200, "label")


def attempt(nonce: int, name: str = "", signed_at: float = 1.0) -> Attempt:
    tx_hash = f"0x{name or nonce}"
    return Attempt(tx_hash, nonce, tx_hash.encode(), 21_000, 2**90, 2**80, signed_at)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    journal = Journal(tmp_path / "deep" / "sender.db")
    yield journal
    journal.close()


def test_default_behavior(journal: Journal, tmp_path: Path) -> None:
    journal.add("a", 0, CALL, attempt(4))
    intent = journal.find("a")
    assert intent is not None
    assert (intent.state, intent.nonce, intent.call, intent.block_number) == (IntentState.PENDING, 4, CALL, None)
    assert journal.attempts(intent) == [attempt(4)]
    assert journal.find("b") is None
    assert stat.S_IMODE((tmp_path / "deep" / "sender.db").stat().st_mode) == 0o600


def test_it_is_there_again_after_a_restart(tmp_path: Path) -> None:
    first = Journal(tmp_path / "sender.db")
    first.bind("me on chain 1")
    first.add("a", 0, CALL, attempt(4))
    first.close()
    second = Journal(tmp_path / "sender.db")
    assert second.find("a") is not None
    assert second.next_nonce() == 5
    second.bind("me on chain 1")
    with pytest.raises(MarketError) as other:
        second.bind("me on chain 2")
    assert other.value.code == "chain_mismatch"
    second.close()


def test_nonces_rise_from_zero_without_a_gap(journal: Journal) -> None:
    assert journal.next_nonce() == 0
    journal.add("a", 0, CALL, attempt(0))
    journal.add("b", 0, CALL, attempt(1))
    assert journal.next_nonce() == 2


def test_a_nonce_cannot_be_given_twice(journal: Journal) -> None:
    journal.add("a", 0, CALL, attempt(0))
    with pytest.raises(NonceTaken):
        journal.add("b", 0, CALL, attempt(0, "other"))
    assert journal.find("b") is None


def test_attempts_are_newest_first_and_of_the_present_round(journal: Journal) -> None:
    journal.add("a", 0, CALL, attempt(0, "first", 1.0))
    journal.add_attempt("a", 0, attempt(0, "dearer", 2.0))
    intent = journal.find("a")
    assert intent is not None
    assert [found.tx_hash for found in journal.attempts(intent)] == ["0xdearer", "0xfirst"]
    assert journal.newest_from(0) == [b"0xdearer"]
    journal.set_state("a", IntentState.REVERTED, 9)
    journal.add("a", 1, CALL, attempt(1, "again", 3.0))
    intent = journal.find("a")
    assert intent is not None
    assert (intent.round, intent.state, intent.nonce, intent.block_number) == (1, IntentState.PENDING, 1, None)
    assert [found.tx_hash for found in journal.attempts(intent)] == ["0xagain"]
    assert journal.newest_from(0) == [b"0xdearer", b"0xagain"]
    assert journal.newest_from(1) == [b"0xagain"]


def test_unfinished_is_what_a_node_may_have_to_hear_of_again(journal: Journal) -> None:
    for nonce, (key, state) in enumerate(zip("abcd", IntentState, strict=True)):
        journal.add(key, 0, CALL, attempt(nonce))
        journal.set_state(key, state, nonce)
    assert [(intent.key, intent.state) for intent in journal.unfinished()] == [
        ("a", IntentState.PENDING),
        ("b", IntentState.MINED),
    ]
