from __future__ import annotations

import io
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.errors import MarketError
from gpumarket.ipfs import dagpb, unixfs
from gpumarket.ipfs.cid import DAG_PB, Cid
from gpumarket.ipfs.dagpb import Link
from gpumarket.ipfs.importer import add_directory, add_file
from gpumarket.ipfs.reader import load
from gpumarket.ipfs.unixfs import Kind, check_child, parse
from tests.fakes import MemoryBlocks

LEAF = Cid.raw(bytes(32))
NODE = Cid.dag_pb(bytes(32))


def parsed(block: bytes) -> unixfs.Node:
    return parse(Cid.of(DAG_PB, block), block)


def refused(block: bytes) -> None:
    with pytest.raises(MarketError) as caught:
        parsed(block)
    assert caught.value.code == "content_malformed"


def message(kind: int, size: int | None = None, blocksizes: tuple[int, ...] = (), data: bytes | None = None) -> bytes:
    out = b"\x08" + dagpb.varint(kind)
    if data is not None:
        out += b"\x12" + dagpb.varint(len(data)) + data
    if size is not None:
        out += b"\x18" + dagpb.varint(size)
    return out + b"".join(b"\x20" + dagpb.varint(blocksize) for blocksize in blocksizes)


def test_default_behavior() -> None:
    block = unixfs.encode_file([Link(LEAF, "", 5), Link(LEAF, "", 7)], [5, 7])
    node = parsed(block)
    assert (node.kind, node.size, node.blocksizes, node.tsize) == (Kind.FILE, 12, (5, 7), len(block) + 12)
    directory = parsed(unixfs.encode_directory([Link(LEAF, "b", 1), Link(LEAF, "a", 1)]))
    assert [link.name for link in directory.links] == ["a", "b"]
    assert directory.kind is Kind.DIRECTORY


def test_a_wrapped_leaf_is_read() -> None:
    node = parsed(unixfs.encode_leaf(b"hello"))
    assert (node.kind, node.data, node.size) == (Kind.FILE, b"hello", 5)
    assert parsed(unixfs.encode_leaf(b"")).size == 0


def test_more_links_than_blocksizes() -> None:
    refused(dagpb.encode([Link(LEAF, "", 5)], message(2, 0)))


def test_more_blocksizes_than_links() -> None:
    refused(dagpb.encode([], message(2, 5, (5,))))


def test_size_that_is_not_the_sum() -> None:
    refused(dagpb.encode([Link(LEAF, "", 5)], message(2, 6, (5,))))
    refused(dagpb.encode([], message(2, 6, (), b"hello")))
    refused(dagpb.encode([], message(2, None, (), b"hello")))


def test_data_beside_links() -> None:
    refused(dagpb.encode([Link(LEAF, "", 5)], message(2, 10, (5,), b"hello")))


def test_a_named_part_of_a_file() -> None:
    refused(dagpb.encode([Link(LEAF, "x", 5)], message(2, 5, (5,))))


def test_a_raw_leaf_of_two_sizes() -> None:
    refused(dagpb.encode([Link(LEAF, "", 6)], message(2, 5, (5,))))


def test_too_many_links() -> None:
    count = unixfs.MAX_FILE_LINKS + 1
    refused(unixfs.encode_file([Link(LEAF, "", 1)] * count, [1] * count))


def test_a_raw_node_with_links() -> None:
    refused(dagpb.encode([Link(LEAF, "", 5)], message(0, 5, (5,))))


def test_a_block_over_the_limit() -> None:
    refused(unixfs.encode_leaf(bytes(unixfs.MAX_BLOCK)))
    with pytest.raises(MarketError):
        parse(LEAF, bytes(unixfs.MAX_BLOCK + 1))


@pytest.mark.parametrize("kind", [3, 4, 5, 6])
def test_other_types(kind: int) -> None:
    refused(dagpb.encode([], message(kind)))


def test_unknown_and_trailing_fields() -> None:
    refused(dagpb.encode([], message(1) + b"\x28\x00"))
    refused(dagpb.encode([], message(2, 0) + b"\x12\x00"))
    refused(unixfs.encode_directory([]) + b"\x00")
    refused(unixfs.encode_directory([]) + b"\x0a\x00")


def test_a_directory_with_file_fields() -> None:
    refused(dagpb.encode([], message(1, 0)))
    refused(dagpb.encode([], message(1, None, (), b"x")))


@pytest.mark.parametrize("names", [["b", "a"], ["a", "a"], [""], ["."], [".."], ["a/b"], ["a\0"], ["x" * 256]])
def test_bad_names_in_directories(names: list[str]) -> None:
    refused(dagpb.encode([Link(LEAF, name, 1) for name in names], b"\x08\x01"))


def test_names_that_are_not_utf8() -> None:
    good = dagpb.encode([Link(LEAF, "ab", 1)], b"\x08\x01")
    refused(good.replace(b"\x12\x02ab", b"\x12\x02\xff\xfe"))


def test_unknown_hash_and_codec_in_a_link() -> None:
    good = dagpb.encode([Link(LEAF, "", 1)], message(2, 1, (1,)))
    refused(good.replace(b"\x01\x55\x12\x20", b"\x01\x71\x12\x20"))
    refused(good.replace(b"\x01\x55\x12\x20", b"\x01\x55\x13\x20"))
    refused(good.replace(b"\x01\x55\x12\x20", b"\x01\x55\x00\x20"))


def test_data_before_links() -> None:
    data = dagpb.encode([], message(2, 1, (1,)))
    link = dagpb.encode([Link(LEAF, "", 1)], b"")[:-2]
    refused(data + link)


def test_a_varint_that_is_not_minimal() -> None:
    refused(b"\x0a\x82\x00\x08\x01")
    refused(b"\x0a\x02\x08\x01"[:-1] + b"\x81\x00")
    refused(b"\x0a" + b"\xff" * 10 + b"\x01")


def test_missing_link_fields() -> None:
    cid = b"\x0a\x24" + LEAF.to_bytes()
    for body in (b"", cid, cid + b"\x12\x00", b"\x12\x00\x18\x01", cid + b"\x18\x01", cid + b"\x12\x00\x18\x01\x00"):
        refused(b"\x12" + dagpb.varint(len(body)) + body + b"\x0a\x02\x08\x01")


@given(st.binary(max_size=200))
def test_any_bytes_parse_or_are_malformed(block: bytes) -> None:
    try:
        node = parsed(block)
    except MarketError as error:
        if error.code != "content_malformed":
            raise
    else:
        assert node.size >= 0


@given(st.integers(0, 120), st.integers(1, 255))
def test_every_flipped_byte_is_noticed_or_changes_the_meaning(at: int, flip: int) -> None:
    block = unixfs.encode_file([Link(LEAF, "", 5), Link(LEAF, "", 7)], [5, 7])
    changed = bytearray(block)
    changed[at % len(block)] ^= flip
    try:
        assert parsed(bytes(changed)) != parsed(block)
    except MarketError as error:
        if error.code != "content_malformed":
            raise


def test_a_child_of_another_size_than_promised() -> None:
    store = MemoryBlocks()
    small, large = add_file(store, io.BytesIO(b"x")), add_file(store, io.BytesIO(os.urandom(2 << 20)))
    for link in (Link(small.cid, "f", 2), Link(large.cid, "f", large.tsize + 1)):
        parent = parsed(unixfs.encode_directory([link]))
        with pytest.raises(MarketError) as caught:
            check_child(parent, 0, load(store, link.cid))
        assert caught.value.code == "content_malformed"
    honest = parsed(unixfs.encode_directory([Link(large.cid, "f", large.tsize)]))
    check_child(honest, 0, load(store, large.cid))


def test_a_directory_cannot_be_part_of_a_file() -> None:
    store = MemoryBlocks()
    directory = add_directory(store, {})
    parent = parsed(unixfs.encode_file([Link(directory.cid, "", directory.tsize)], [0]))
    with pytest.raises(MarketError) as caught:
        check_child(parent, 0, load(store, directory.cid))
    assert caught.value.code == "content_malformed"
