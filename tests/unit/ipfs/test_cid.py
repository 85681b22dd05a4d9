from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import DAG_PB, RAW, Cid

EMPTY_RAW = "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"


def test_default_behavior() -> None:
    cid = Cid.of(RAW, b"")
    assert str(cid) == EMPTY_RAW
    assert Cid.parse(EMPTY_RAW) == cid
    assert cid.matches(b"")
    assert not cid.matches(b"x")


@given(st.binary(min_size=32, max_size=32), st.sampled_from([(RAW, 1), (DAG_PB, 1), (DAG_PB, 0)]))
def test_text_and_bytes_round_trip(digest: bytes, kind: tuple[int, int]) -> None:
    cid = Cid(kind[0], digest, kind[1])
    assert Cid.parse(str(cid)) == cid
    assert Cid.from_bytes(cid.to_bytes()) == cid


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b",
        "bafkqaaa",
        EMPTY_RAW.upper(),
        EMPTY_RAW[:-1],
        EMPTY_RAW + "a",
        EMPTY_RAW[:-1] + "v",  # the last character carries padding bits that must be zero
        "Qm" + "0" * 44,
        "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3N",
        "bafyreidepjmjhvhlvp5eyxqpmyyi7rxwvl7wsglwai3cnvq63komq4tdya",  # dag-cbor
        "../../etc/passwd",
        "b" + "é" * 58,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(MarketError) as caught:
        Cid.parse(text)
    assert caught.value.code == "invalid_argument"


@pytest.mark.parametrize(
    "arguments", [(0x71, bytes(32), 1), (RAW, bytes(31), 1), (RAW, bytes(32), 0), (RAW, bytes(32), 2)]
)
def test_unsupported_kinds_cannot_be_built(arguments: tuple[int, bytes, int]) -> None:
    with pytest.raises(MarketError):
        Cid(*arguments)


@given(st.binary(max_size=40))
def test_any_bytes_parse_or_are_malformed(binary: bytes) -> None:
    try:
        assert Cid.from_bytes(binary).to_bytes() == binary
    except MarketError as error:
        if error.code != "content_malformed":
            raise
