from __future__ import annotations

from dataclasses import replace

import pytest

from gpumarket.ipfs.cid import Cid
from oracle.possession import DEADLINE_S, Answer, Finding, Transcript, conclude, judge
from tests.fakes import MemoryBlocks
from tests.unit.oracle.oracle_stage import RENTER, answer, challenge, image, statement


@pytest.fixture
def store() -> MemoryBlocks:
    return MemoryBlocks()


@pytest.fixture
def root(store: MemoryBlocks) -> Cid:
    return image(store)


def test_default_behavior_an_honest_answer_is_a_success(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    found = conclude(asked, answer(store, asked), asked.issued_at + 1.5, statement)
    assert found.finding is Finding.SUCCESS
    assert found.latency_s == 1.5


def test_a_signed_hash_of_other_bytes_is_wrong(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    finding, _ = judge(asked, answer(store, asked, claim=b"made up"), statement)
    assert finding is Finding.WRONG


def test_nobody_is_framed_by_a_broken_car_under_a_good_signature(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    good = answer(store, asked)
    for car in (b"", b"junk", good.car[:-1], good.car[:-1] + bytes([good.car[-1] ^ 1])):
        finding, detail = judge(asked, replace(good, car=car), statement)
        assert finding is Finding.CONTAINED
        assert detail.startswith("car")


def test_a_signature_of_somebody_else_or_of_nothing_is_contained(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    honest = answer(store, asked)
    for given in (
        answer(store, asked, signer=RENTER),
        replace(honest, signature=b""),
        replace(honest, signature=b"x" * 65),
    ):
        assert judge(asked, given, statement) == (Finding.CONTAINED, "signature")


def test_an_answer_to_another_challenge_is_contained(store: MemoryBlocks, root: Cid) -> None:
    first, second = challenge(root, 1), challenge(root, 2)
    assert judge(second, answer(store, first), statement)[0] is Finding.CONTAINED


def test_a_huge_car_is_not_looked_at(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    given = replace(answer(store, asked), car=bytes((4 << 20) + 1))
    assert judge(asked, given, statement) == (Finding.CONTAINED, "car too large")


def test_the_deadline_is_thirty_seconds(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    given = answer(store, asked)
    assert DEADLINE_S == 30
    assert conclude(asked, given, asked.issued_at + 30, statement).finding is Finding.SUCCESS
    assert conclude(asked, given, asked.issued_at + 31, statement).finding is Finding.NO_ANSWER


def test_a_transcript_survives_its_json(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    found = conclude(asked, answer(store, asked), asked.issued_at + 1, statement)
    assert found.answer is not None
    assert Transcript.from_dict(found.as_dict(), found.answer.car) == found


def test_a_malformed_transcript_is_refused(store: MemoryBlocks, root: Cid) -> None:
    asked = challenge(root)
    good = conclude(asked, answer(store, asked), asked.issued_at + 1, statement).as_dict()
    for change in (
        {"nonce": "0x12"},
        {"issuedAt": "1"},
        {"finding": "fine"},
        {"dataSha256": None},
        {"signature": "zz"},
    ):
        with pytest.raises((ValueError, TypeError, KeyError)):
            Transcript.from_dict({**good, **change}, b"")
    del good["cid"]
    with pytest.raises(KeyError):
        Transcript.from_dict(good, b"")


def test_a_challenge_frame_says_all_a_host_needs(root: Cid) -> None:
    frame = challenge(root).frame()
    assert frame["type"] == "challenge"
    assert frame["length"] == 1024
    assert frame["expiresAt"] == challenge(root).issued_at + 30
    assert Answer("0x", b"", b"").car == b""
