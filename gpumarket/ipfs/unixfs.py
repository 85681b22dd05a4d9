"""UnixFS nodes: files and directories as blocks, read strictly.

`parse` checks one block alone; `check_child` checks it against what its parent promised. A reader that calls both on
every step can trust sizes before it has seen the bytes, which is what bounds fetching, ranges and proofs.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from gpumarket.ipfs import dagpb
from gpumarket.ipfs.cid import RAW, Cid
from gpumarket.ipfs.dagpb import Link, malformed

MAX_BLOCK = 2 << 20
MAX_FILE_LINKS = 1024
MAX_FILE_DEPTH = 8
MAX_DIRECTORY_DEPTH = 32

_TYPE_RAW, _TYPE_DIRECTORY, _TYPE_FILE = 0, 1, 2


class Kind(Enum):
    FILE = "file"
    DIRECTORY = "directory"


@dataclass(frozen=True, slots=True)
class Node:
    """One block, understood.

    Attributes:
        links: a directory's entries sorted by name, or the parts of a file in order.
        data: the bytes of a leaf, empty elsewhere.
        blocksizes: file bytes under each link; empty for directories.
        size: file bytes under this node; 0 for directories.
        tsize: bytes of all blocks from here down, duplicates counted.
    """

    cid: Cid
    kind: Kind
    links: tuple[Link, ...]
    data: bytes
    blocksizes: tuple[int, ...]
    size: int
    tsize: int


def parse(cid: Cid, block: bytes) -> Node:
    """Understand a block whose hash was already checked; raises `content_malformed`."""
    if len(block) > MAX_BLOCK:
        raise malformed(f"block {cid} has {len(block)} bytes, more than {MAX_BLOCK}")
    if cid.codec == RAW:
        return Node(cid, Kind.FILE, (), block, (), len(block), len(block))
    links, message = dagpb.decode(block)
    kind, data, size, blocksizes = _decode_message(message)
    tsize = len(block) + sum(link.tsize for link in links)
    if kind == _TYPE_DIRECTORY:
        if data is not None or size is not None or blocksizes:
            raise malformed(f"directory {cid} carries file fields")
        _check_names(cid, links)
        return Node(cid, Kind.DIRECTORY, links, b"", (), 0, tsize)
    data = data or b""
    if len(links) != len(blocksizes) or size != sum(blocksizes) + len(data) or (links and data):
        raise malformed(f"file node {cid} contradicts itself about its size")
    if len(links) > MAX_FILE_LINKS:
        raise malformed(f"file node {cid} has {len(links)} links, more than {MAX_FILE_LINKS}")
    if kind == _TYPE_RAW and links:
        raise malformed(f"raw node {cid} has links")
    for link, blocksize in zip(links, blocksizes, strict=True):
        if link.name:
            raise malformed(f"file node {cid} names its parts")
        if link.cid.codec == RAW and link.tsize != blocksize:
            raise malformed(f"file node {cid} contradicts itself about a leaf's size")
    return Node(cid, Kind.FILE, links, data, blocksizes, size, tsize)


def check_child(parent: Node, index: int, child: Node) -> None:
    """Check that the child is what the parent's link `index` promised; raises `content_malformed`."""
    link = parent.links[index]
    if child.tsize != link.tsize:
        raise malformed(f"{child.cid} holds {child.tsize} bytes of blocks, its parent says {link.tsize}")
    if parent.kind is Kind.FILE and (child.kind is not Kind.FILE or child.size != parent.blocksizes[index]):
        raise malformed(f"{child.cid} is not the part of a file that its parent says it is")


def encode_file(links: list[Link], blocksizes: list[int]) -> bytes:
    """An inner node of a file."""
    message = b"\x08\x02\x18" + dagpb.varint(sum(blocksizes))
    return dagpb.encode(links, message + b"".join(b"\x20" + dagpb.varint(size) for size in blocksizes))


def encode_leaf(data: bytes) -> bytes:
    """A leaf wrapped in dag-pb, as profile unixfs-v0-2015 has it."""
    body = b"\x12" + dagpb.varint(len(data)) + data if data else b""
    return dagpb.encode([], b"\x08\x02" + body + b"\x18" + dagpb.varint(len(data)))


def encode_directory(links: list[Link]) -> bytes:
    """A directory; sorts its links by the bytes of their names."""
    return dagpb.encode(sorted(links, key=lambda link: link.name.encode()), b"\x08\x01")


def valid_name(name: str) -> bool:
    """Whether an entry may have this name: a single path segment that cannot climb."""
    return bool(name) and name not in (".", "..") and "/" not in name and "\0" not in name and len(name.encode()) <= 255


def _decode_message(message: bytes) -> tuple[int, bytes | None, int | None, tuple[int, ...]]:
    """Type, data, file size and block sizes; fields strictly in the order of the format, none unknown."""
    if message[:1] != b"\x08":
        raise malformed("UnixFS data without a type")
    kind, at = dagpb.read_varint(message, 1)
    if kind not in (_TYPE_RAW, _TYPE_DIRECTORY, _TYPE_FILE):
        raise malformed(f"UnixFS type {kind} is not supported (symbolic links and sharded directories are not)")
    data: bytes | None = None
    size: int | None = None
    blocksizes: list[int] = []
    if message[at : at + 1] == b"\x12":
        data, at = dagpb.read_bytes(message, at + 1)
    if message[at : at + 1] == b"\x18":
        size, at = dagpb.read_varint(message, at + 1)
    while message[at : at + 1] == b"\x20":
        blocksize, at = dagpb.read_varint(message, at + 1)
        blocksizes.append(blocksize)
    if at != len(message):
        raise malformed(f"UnixFS data has an unexpected field {message[at] >> 3}")
    return kind, data, size, tuple(blocksizes)


def _check_names(cid: Cid, links: tuple[Link, ...]) -> None:
    previous = b""
    for link in links:
        name = link.name.encode()
        if not valid_name(link.name):
            raise malformed(f"directory {cid} has an entry named {link.name[:80]!r}")
        if name <= previous:
            raise malformed(f"directory {cid} is not sorted, or has a name twice")
        previous = name
