"""Proof that somebody holds a piece of content, checked with nothing but its root CID.

The nonce chooses a place; the proof is the chain of blocks from the root down to the bytes there. Both sides run the
same walk: in each directory, bytes 0..16 of sha256(nonce ‖ digest of the directory) pick an entry in proportion to the
sizes the directory states; in the file reached, bytes 16..24 of sha256(nonce ‖ root digest) modulo the file's size are
the offset.

A proof shows access to the bytes within the deadline, not that they were stored here before: a host with a fast source
elsewhere can fetch them on demand.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from gpumarket.errors import MarketError
from gpumarket.ipfs import car, unixfs
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.dagpb import malformed
from gpumarket.ipfs.reader import GetNode, leaves
from gpumarket.ipfs.store import BlockStore
from gpumarket.ipfs.unixfs import Kind, Node, check_child

MAX_PROOF = 4 << 20
MAX_LENGTH = 1 << 16


@dataclass(frozen=True)
class Proof:
    """The blocks from root to leaves as a CAR, and the bytes they prove."""

    car: bytes
    data: bytes


def make_proof(store: BlockStore, root: Cid, nonce: bytes, length: int = 1024) -> Proof:
    """Answer a challenge from the store.

    Returns:
        The proof. Its data is shorter than `length` where the chosen file ends, and empty if it is empty.

    Raises:
        MarketError: `image_block_missing`, `image_block_corrupt`, `content_malformed`, `invalid_argument`.
    """
    used: dict[Cid, bytes] = {}

    def get(cid: Cid) -> bytes:
        block = store.get(cid)
        if block is None:
            raise MarketError("image_block_missing", f"block {cid} is not in the store", cid=str(cid))
        used[cid] = block
        return block

    data = _challenged_bytes(get, root, nonce, length)
    return Proof(car.header([root]) + b"".join(car.section(cid, block) for cid, block in used.items()), data)


def verify_proof(root: Cid, nonce: bytes, proof: bytes, length: int = 1024) -> bytes:
    """Check the CAR of a proof.

    Returns:
        The bytes that the challenge asked for.

    Raises:
        MarketError: `proof_invalid`.
    """
    if len(proof) > MAX_PROOF:
        raise _invalid(f"the proof has {len(proof)} bytes, more than {MAX_PROOF}")
    given: dict[Cid, bytes] = {}
    used: dict[Cid, None] = {}

    def get(cid: Cid) -> bytes:
        if cid not in given:
            raise _invalid(f"block {cid} is not in the proof")
        used[cid] = None
        return given[cid]

    try:
        decoder = car.CarDecoder()
        for cid, block in decoder.feed(proof):
            if cid in given:
                raise _invalid(f"block {cid} is in the proof twice")
            given[cid] = block
        decoder.finish()
        data = _challenged_bytes(get, root, nonce, length)
    except MarketError as error:
        raise error if error.code == "proof_invalid" else _invalid(error.message) from error
    if decoder.roots != (root,):
        raise _invalid("the proof is about another root")
    if list(used) != list(given):
        raise _invalid("the proof has blocks that the challenge does not need, or has them out of order")
    return data


def _challenged_bytes(get_block: Callable[[Cid], bytes], root: Cid, nonce: bytes, length: int) -> bytes:
    if not 0 < length <= MAX_LENGTH:
        raise MarketError("invalid_argument", f"a proof covers 1 to {MAX_LENGTH} bytes, not {length}")

    def get(cid: Cid) -> Node:
        return unixfs.parse(cid, get_block(cid))

    file = _challenged_file(get, root, nonce)
    if file is None or not file.size:
        return b""
    offset = int.from_bytes(hashlib.sha256(nonce + root.digest).digest()[16:24], "big") % file.size
    end = min(file.size, offset + length)
    return b"".join(leaf.data[max(0, offset - at) : end - at] for at, leaf in leaves(get, file, offset, end))


def _challenged_file(get: GetNode, root: Cid, nonce: bytes) -> Node | None:
    """Walk down to a file; None where the walk ends in an empty directory."""
    node = get(root)
    for _ in range(unixfs.MAX_DIRECTORY_DEPTH):
        if node.kind is Kind.FILE:
            return node
        if not node.links:
            return None
        total = sum(link.tsize for link in node.links)
        pick = int.from_bytes(hashlib.sha256(nonce + node.cid.digest).digest()[:16], "big") % max(1, total)
        index = 0
        while index < len(node.links) - 1 and pick >= node.links[index].tsize:
            pick -= node.links[index].tsize
            index += 1
        child = get(node.links[index].cid)
        check_child(node, index, child)
        node = child
    if node.kind is Kind.FILE:
        return node
    raise malformed("directories are nested too deep")


def _invalid(what: str) -> MarketError:
    return MarketError("proof_invalid", what)
