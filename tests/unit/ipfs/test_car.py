from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.errors import MarketError
from gpumarket.ipfs import car
from gpumarket.ipfs.car import CarDecoder, export_car, header, import_car, read_car, section, write_car
from gpumarket.ipfs.cid import DAG_PB, RAW, Cid
from gpumarket.ipfs.importer import add_directory, add_file
from gpumarket.ipfs.reader import read_file
from gpumarket.ipfs.unixfs import MAX_BLOCK
from tests.fakes import MemoryBlocks

BLOCK = b"hello"
CID = Cid.of(RAW, BLOCK)


def decoded(data: bytes) -> tuple[tuple[Cid, ...], list[tuple[Cid, bytes]]]:
    decoder = CarDecoder()
    blocks = list(read_car(io.BytesIO(data), decoder))
    return decoder.roots, blocks


def code_of(data: bytes, max_bytes: int | None = None) -> str:
    with pytest.raises(MarketError) as caught:
        list(read_car(io.BytesIO(data), CarDecoder(max_bytes=max_bytes)))
    return caught.value.code


def test_default_behavior() -> None:
    store, data = MemoryBlocks(), os.urandom(3 << 20)
    added = add_directory(store, {"f": add_file(store, io.BytesIO(data)), "g": add_file(store, io.BytesIO(data))})
    out = io.BytesIO()
    assert export_car(store, added.cid, out) == 5  # two directory entries, one content
    copy = MemoryBlocks()
    assert import_car(copy, io.BytesIO(out.getvalue())) == (added.cid,)
    assert copy.blocks == store.blocks


def test_the_header_is_canonical() -> None:
    expected = b"\x3a\xa2\x65roots\x81\xd8\x2a\x58\x25\x00" + CID.to_bytes() + b"\x67version\x01"
    assert header([CID]) == expected


@given(st.lists(st.binary(max_size=300), max_size=8), st.integers(1, 400))
def test_pieces_of_any_size(blocks: list[bytes], piece: int) -> None:
    pairs = [(Cid.of(DAG_PB if i % 2 else RAW, block, 0 if i % 4 == 1 else 1), block) for i, block in enumerate(blocks)]
    out = io.BytesIO()
    write_car(out, [cid for cid, _ in pairs], pairs)
    data, decoder = out.getvalue(), CarDecoder()
    got = [item for at in range(0, len(data), piece) for item in decoder.feed(data[at : at + piece])]
    decoder.finish()
    assert got == pairs
    assert decoder.roots == tuple(cid for cid, _ in pairs)


def test_no_roots_are_fine() -> None:
    assert decoded(header([]) + section(CID, BLOCK)) == ((), [(CID, BLOCK)])


def test_a_wrong_block() -> None:
    assert code_of(header([CID]) + section(CID, b"hellO")) == "image_block_corrupt"


@pytest.mark.parametrize("cut", [1, 5, 58, 60, 90, 100])
def test_a_cut_car(cut: int) -> None:
    data = header([CID]) + section(CID, BLOCK)
    assert cut < len(data)
    if cut != len(header([CID])):
        assert code_of(data[:cut]) == "content_malformed"


def test_an_empty_stream() -> None:
    assert code_of(b"") == "content_malformed"


@pytest.mark.parametrize(
    "data",
    [
        b"\x00",
        b"\xff\xff\xff\xff\xff\x01",
        b"\x0aabcdefghij",
        car.varint(car.MAX_HEADER + 1),
        header([CID]).replace(b"version\x01", b"version\x02"),
        header([CID]).replace(b"\xd8\x2a", b"\xd8\x2b"),
        header([CID]).replace(b"\x81\xd8", b"\x82\xd8"),
        header([CID]) + b"\x00",
        header([CID]) + car.varint(MAX_BLOCK + 37),
        header([CID]) + b"\x05hello",
        header([CID]) + car.varint(36) + b"\x01\x71\x12\x20" + bytes(32),
    ],
)
def test_malformed_cars(data: bytes) -> None:
    assert code_of(data) == "content_malformed"


def test_a_car_over_the_limit() -> None:
    data = header([CID]) + section(CID, BLOCK)
    assert code_of(data, len(data) - 1) == "image_too_large"
    list(read_car(io.BytesIO(data), CarDecoder(max_bytes=len(data))))


def test_an_import_may_be_limited() -> None:
    with pytest.raises(MarketError) as caught:
        import_car(MemoryBlocks(), io.BytesIO(header([CID]) + section(CID, BLOCK)), max_bytes=10)
    assert caught.value.code == "image_too_large"


@given(st.binary(max_size=200))
def test_any_bytes_are_a_car_or_an_error(data: bytes) -> None:
    try:
        decoded(data)
    except MarketError as error:
        if error.code not in ("content_malformed", "image_block_corrupt"):
            raise


def test_an_export_of_missing_content() -> None:
    with pytest.raises(MarketError) as caught:
        export_car(MemoryBlocks(), CID, io.BytesIO())
    assert caught.value.code == "image_block_missing"


def test_imported_content_reads_back() -> None:
    store = MemoryBlocks()
    import_car(store, io.BytesIO(header([CID]) + section(CID, BLOCK)))
    assert read_file(store, CID) == BLOCK
