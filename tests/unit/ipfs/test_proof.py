from __future__ import annotations

import io
import os

import pytest

from gpumarket.errors import MarketError
from gpumarket.ipfs.car import CarDecoder, header, read_car, section
from gpumarket.ipfs.cid import RAW, Cid
from gpumarket.ipfs.importer import Added, add_directory, add_file
from gpumarket.ipfs.proof import MAX_PROOF, Proof, make_proof, verify_proof
from gpumarket.ipfs.reader import load
from tests.fakes import MemoryBlocks

FILE = os.urandom((3 << 20) + 500)


def image() -> tuple[MemoryBlocks, Added, dict[str, bytes]]:
    store = MemoryBlocks()
    files = {"a": b"small", "blobs/one": FILE, "blobs/two": os.urandom(1 << 20), "z": os.urandom(3000)}
    added = {name: add_file(store, io.BytesIO(data)) for name, data in files.items()}
    blobs = add_directory(store, {"one": added["blobs/one"], "two": added["blobs/two"]})
    return store, add_directory(store, {"a": added["a"], "blobs": blobs, "z": added["z"]}), files


def nonces(count: int) -> list[bytes]:
    return [bytes([i // 256, i % 256]) * 16 for i in range(count)]


def blocks_of(proof: Proof) -> list[tuple[Cid, bytes]]:
    return list(read_car(io.BytesIO(proof.car), CarDecoder()))


def joined(root: Cid, blocks: list[tuple[Cid, bytes]]) -> bytes:
    return header([root]) + b"".join(section(*block) for block in blocks)


def refused(root: Cid, nonce: bytes, car: bytes, length: int = 1024) -> None:
    with pytest.raises(MarketError) as caught:
        verify_proof(root, nonce, car, length)
    assert caught.value.code == "proof_invalid"


def test_default_behavior() -> None:
    store, root, files = image()
    reached = set()
    for nonce in nonces(200):
        proof = make_proof(store, root.cid, nonce)
        assert verify_proof(root.cid, nonce, proof.car) == proof.data
        assert len(proof.data) <= 1024
        reached |= {name for name, data in files.items() if proof.data in data}
    assert {"blobs/one", "blobs/two"} <= reached


def test_large_files_are_asked_about_more_often() -> None:
    store, root, files = image()
    hits = sum(make_proof(store, root.cid, nonce).data in files["blobs/one"] for nonce in nonces(200))
    assert 110 < hits < 190  # three quarters of the bytes


def test_a_file_alone_is_proved_too() -> None:
    for data in (b"x", FILE):
        store = MemoryBlocks()
        added = add_file(store, io.BytesIO(data))
        proof = make_proof(store, added.cid, b"nonce")
        assert proof.data in data
        assert verify_proof(added.cid, b"nonce", proof.car) == proof.data


def test_a_range_over_two_leaves() -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(FILE))
    for nonce in nonces(500):
        proof = make_proof(store, added.cid, nonce, 1 << 16)
        if len(blocks_of(proof)) == 3:
            assert verify_proof(added.cid, nonce, proof.car, 1 << 16) == proof.data
            assert len(proof.car) < MAX_PROOF
            return
    pytest.fail("no nonce met a border between leaves")


def test_empty_files_and_directories_prove_nothing_but_do_not_fail() -> None:
    store = MemoryBlocks()
    empty = add_file(store, io.BytesIO(b""))
    for root in (empty, add_directory(store, {}), add_directory(store, {"e": empty, "f": empty})):
        proof = make_proof(store, root.cid, b"n")
        assert proof.data == b""
        assert verify_proof(root.cid, b"n", proof.car) == b""


def test_a_tampered_leaf() -> None:
    store, root, _ = image()
    proof = make_proof(store, root.cid, b"n")
    for at in (len(proof.car) - 1, len(proof.car) // 2):
        changed = bytearray(proof.car)
        changed[at] ^= 1
        refused(root.cid, b"n", bytes(changed))


def test_a_leaf_replaced_by_another_honest_block() -> None:
    store, root, _ = image()
    blocks = blocks_of(make_proof(store, root.cid, b"n"))
    refused(root.cid, b"n", joined(root.cid, [*blocks[:-1], (Cid.of(RAW, b"other"), b"other")]))


def test_an_answer_to_another_nonce() -> None:
    store, root, _ = image()
    first = make_proof(store, root.cid, b"first")
    other = next(n for n in nonces(50) if make_proof(store, root.cid, n).car != first.car)
    refused(root.cid, other, first.car)


def test_another_offset_of_the_same_file() -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(FILE))
    node = load(store, added.cid)
    used = blocks_of(make_proof(store, added.cid, b"n"))
    others = [link.cid for link in node.links if link.cid != used[1][0]]
    for cid in others:
        refused(added.cid, b"n", joined(added.cid, [used[0], (cid, store.blocks[cid.digest])]))


def test_another_root() -> None:
    store, root, _ = image()
    other = add_file(store, io.BytesIO(FILE))
    refused(root.cid, b"n", make_proof(store, other.cid, b"n").car)
    blocks = blocks_of(make_proof(store, root.cid, b"n"))
    refused(root.cid, b"n", joined(other.cid, blocks))


def test_an_extra_a_missing_a_repeated_and_a_moved_block() -> None:
    store, root, _ = image()
    blocks = blocks_of(make_proof(store, root.cid, b"n"))
    extra = (Cid.of(RAW, b"extra"), b"extra")
    refused(root.cid, b"n", joined(root.cid, [*blocks, extra]))
    refused(root.cid, b"n", joined(root.cid, blocks[:-1]))
    refused(root.cid, b"n", joined(root.cid, [*blocks, blocks[0]]))
    refused(root.cid, b"n", joined(root.cid, blocks[::-1]))
    refused(root.cid, b"n", joined(root.cid, []))


def test_a_car_over_the_limit() -> None:
    store, root, _ = image()
    proof = make_proof(store, root.cid, b"n")
    refused(root.cid, b"n", proof.car + bytes(MAX_PROOF))


def test_a_cut_car_and_garbage() -> None:
    store, root, _ = image()
    proof = make_proof(store, root.cid, b"n")
    for data in (b"", b"garbage", proof.car[:-1], proof.car + b"\x01"):
        refused(root.cid, b"n", data)


def test_a_host_without_the_block_cannot_answer() -> None:
    store, root, _ = image()
    leaf = blocks_of(make_proof(store, root.cid, b"n"))[-1][0]
    del store.blocks[leaf.digest]
    with pytest.raises(MarketError) as caught:
        make_proof(store, root.cid, b"n")
    assert caught.value.code == "image_block_missing"


@pytest.mark.parametrize("length", [0, -1, (1 << 16) + 1])
def test_a_length_out_of_range(length: int) -> None:
    store, root, _ = image()
    with pytest.raises(MarketError) as caught:
        make_proof(store, root.cid, b"n", length)
    assert caught.value.code == "invalid_argument"
