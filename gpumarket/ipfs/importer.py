"""Files and directory trees into blocks, in one pass and constant memory.

The layout is a published profile (IPIP-499), so that everybody who imports the same bytes gets the same CID.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpumarket.errors import MarketError
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import DAG_PB, RAW, Cid
from gpumarket.ipfs.dagpb import Link
from gpumarket.ipfs.store import BlockStore


@dataclass(frozen=True)
class Profile:
    """How bytes become blocks: chunk size, links per file node, bare or wrapped leaves, CID version."""

    name: str
    chunk: int
    width: int
    raw_leaves: bool
    version: int


UNIXFS_V1_2025 = Profile("unixfs-v1-2025", 1 << 20, 1024, True, 1)
UNIXFS_V0_2015 = Profile("unixfs-v0-2015", 1 << 18, 174, False, 0)


@dataclass(frozen=True)
class Added:
    """What was imported.

    Attributes:
        size: file bytes (of all files, for a directory).
        tsize: bytes of all blocks, duplicates counted; what a directory entry for it must say.
    """

    cid: Cid
    size: int
    tsize: int


class ByteStream(Protocol):
    def read(self, size: int, /) -> bytes: ...


Progress = Callable[[int], None]
"""Called with the number of bytes just imported."""


def add_file(
    store: BlockStore, stream: ByteStream, *, profile: Profile = UNIXFS_V1_2025, progress: Progress | None = None
) -> Added:
    """Import a stream as a file. Nothing is pinned."""
    tree = _Tree(store, profile)
    chunk = _read_full(stream, profile.chunk)
    while True:
        tree.add_leaf(chunk)
        if progress:
            progress(len(chunk))
        # A short chunk is the last one; an empty file is one empty leaf.
        if len(chunk) < profile.chunk:
            return tree.root()
        chunk = _read_full(stream, profile.chunk)
        if not chunk:
            return tree.root()


def add_path(
    store: BlockStore, path: Path, *, profile: Profile = UNIXFS_V1_2025, progress: Progress | None = None
) -> Added:
    """Import a file, or a directory with everything in it, hidden entries included. Nothing is pinned.

    Raises:
        MarketError: `not_found`; `invalid_argument` for a symbolic link, a device or a socket, and for a name that is
            not UTF-8.
    """
    try:
        mode = path.lstat().st_mode
        if stat.S_ISREG(mode):
            with path.open("rb", buffering=0) as stream:
                return add_file(store, stream, profile=profile, progress=progress)
        if not stat.S_ISDIR(mode):
            raise MarketError("invalid_argument", f"{path} is neither a file nor a directory")
        children = {name: add_path(store, path / name, profile=profile, progress=progress) for name in os.listdir(path)}
    except OSError as error:
        raise MarketError("not_found", f"cannot read {path}: {error.strerror}") from error
    return add_directory(store, children, profile=profile)


def add_directory(store: BlockStore, children: dict[str, Added], *, profile: Profile = UNIXFS_V1_2025) -> Added:
    """Make a directory of things already imported.

    It is always one flat block. Kubo splits a directory whose block passes 262,144 bytes (some 4,700 entries) into
    shards; beyond that size our CID is valid but not the one Kubo gives.

    Raises:
        MarketError: `invalid_argument` for a bad name, or for more entries than a block of 2 MiB holds (some 38,000).
    """
    for name in children:
        try:
            good = unixfs.valid_name(name)
        except UnicodeEncodeError:
            good = False
        if not good:
            raise MarketError("invalid_argument", f"a directory entry cannot be named {name!r}")
    block = unixfs.encode_directory([Link(child.cid, name, child.tsize) for name, child in children.items()])
    if len(block) > unixfs.MAX_BLOCK:
        raise MarketError("invalid_argument", f"{len(children)} entries are too many for one directory")
    cid = Cid.of(DAG_PB, block, profile.version)
    store.put(cid, block)
    return Added(cid, sum(c.size for c in children.values()), len(block) + sum(c.tsize for c in children.values()))


class _Tree:
    """A balanced tree that grows from its leaves; holds at most `width` children per level."""

    def __init__(self, store: BlockStore, profile: Profile) -> None:
        self._store = store
        self._profile = profile
        self._levels: list[list[Added]] = [[]]

    def add_leaf(self, data: bytes) -> None:
        if self._profile.raw_leaves:
            codec, block, version = RAW, data, 1
        else:
            codec, block, version = DAG_PB, unixfs.encode_leaf(data), self._profile.version
        cid = Cid.of(codec, block, version)
        self._store.put(cid, block)
        self._add(0, Added(cid, len(data), len(block)))

    def root(self) -> Added:
        level = 0
        while level < len(self._levels) - 1 or len(self._levels[level]) > 1:
            if self._levels[level]:
                self._close(level)
            level += 1
        return self._levels[level][0]

    def _add(self, level: int, child: Added) -> None:
        if level == len(self._levels):
            self._levels.append([])
        # A full level is closed only when one more child comes, so that exactly `width` children do not grow the tree.
        if len(self._levels[level]) == self._profile.width:
            self._close(level)
        self._levels[level].append(child)

    def _close(self, level: int) -> None:
        children, self._levels[level] = self._levels[level], []
        block = unixfs.encode_file([Link(c.cid, "", c.tsize) for c in children], [c.size for c in children])
        cid = Cid.of(DAG_PB, block, self._profile.version)
        self._store.put(cid, block)
        self._add(level + 1, Added(cid, sum(c.size for c in children), len(block) + sum(c.tsize for c in children)))


def _read_full(stream: ByteStream, size: int) -> bytes:
    """Read exactly `size` bytes, or fewer only at the end."""
    data = stream.read(size)
    if len(data) == size or not data:
        return data
    parts = [data]
    missing = size - len(data)
    while missing and (data := stream.read(missing)):
        parts.append(data)
        missing -= len(data)
    return b"".join(parts)
