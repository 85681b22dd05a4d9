"""Tar archives of images, read as a stream and trusted with nothing.

Nothing is ever extracted to a file system: each member's bytes go straight into the block store, under a name that is
only a dictionary key. A path like `../../etc/passwd` therefore has no meaning here, and is refused all the same.
"""

from __future__ import annotations

import hashlib
import io
import posixpath
import tarfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

from gpumarket.errors import MarketError
from gpumarket.images.image import unreadable
from gpumarket.ipfs.importer import Added, add_file
from gpumarket.ipfs.store import BlockStore

MAX_MEMBERS = 10_000
_MAX_PATH = 512
_MAX_LINK_HOPS = 8

Progress = Callable[[int, int | None], None]
"""Called with bytes read so far, and the total if it is known."""


class Readable(Protocol):
    """All that is needed of a source: `read(n)`, empty at the end."""

    def read(self, size: int = -1, /) -> bytes: ...


@dataclass(frozen=True)
class Stored:
    """A member's content in the store: its UnixFS file, its sha256 in hex, its size in bytes."""

    added: Added
    sha256: str
    size: int


def store_members(source: BinaryIO, store: BlockStore, max_bytes: int) -> dict[str, Stored]:
    """Put every file of a tar stream (plain or gzip) into the store.

    Returns:
        Content by normalised path. A link inside the archive (old Docker archives use them for repeated layers) is an
        alias.

    Raises:
        MarketError: `image_unreadable` for a broken tar, a path outside the archive or a device; `image_too_large`
        over `max_bytes`.
    """
    members: dict[str, Stored] = {}
    links: dict[str, str] = {}
    total = 0
    try:
        with tarfile.open(fileobj=source, mode="r|*") as tar:
            for number, member in enumerate(tar):
                if number >= MAX_MEMBERS:
                    raise unreadable(f"the archive has more than {MAX_MEMBERS} members")
                name = _safe_name(member.name)
                if member.isdir():
                    continue
                if member.issym() or member.islnk():
                    base = posixpath.dirname(name) if member.issym() else ""
                    links[name] = _safe_name(posixpath.join(base, member.linkname))
                    continue
                content = tar.extractfile(member) if member.isreg() else None
                if content is None:
                    raise unreadable(f"the archive has {name!r}, which is neither file, folder nor link")
                if member.issparse():
                    raise unreadable(f"the archive has the sparse file {name!r}")
                total += member.size
                if total > max_bytes:
                    raise MarketError(
                        "image_too_large", f"the archive holds more than {max_bytes} bytes", limit=max_bytes
                    )
                members[name] = store_stream(content, store)
    except (tarfile.TarError, EOFError) as error:
        raise unreadable(f"this is not a complete tar archive: {error}") from error
    for name in links:
        members[name] = _follow(name, links, members)
    return members


def store_stream(stream: Readable, store: BlockStore) -> Stored:
    """Put one stream into the store, hashing on the way."""
    hashing = _Hashing(stream)
    added = add_file(store, hashing)
    return Stored(added, hashing.sha256.hexdigest(), hashing.count)


def store_bytes(data: bytes, store: BlockStore) -> Stored:
    return store_stream(io.BytesIO(data), store)


class IterableReader(io.RawIOBase):
    """A file object over an iterator of byte chunks, as the Docker library returns; reports progress."""

    def __init__(self, chunks: Iterable[bytes], progress: Progress | None, total: int | None = None) -> None:
        self._chunks: Iterator[bytes] = iter(chunks)
        self._rest = b""
        self._count = 0
        self._total = total
        self._progress = progress

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        """At most `size` bytes; fewer, or none, only at the end."""
        pieces: list[bytes] = []
        missing = size if size >= 0 else -1
        while missing != 0:
            if not self._rest:
                self._rest = next(self._chunks, b"")
                if not self._rest:
                    break
                self._count += len(self._rest)
                if self._progress:
                    self._progress(self._count, self._total)
            piece = self._rest if missing < 0 else self._rest[:missing]
            self._rest = self._rest[len(piece) :]
            pieces.append(piece)
            missing = missing - len(piece) if missing > 0 else missing
        return b"".join(pieces)


class _Hashing:
    def __init__(self, stream: Readable) -> None:
        self._stream = stream
        self.sha256 = hashlib.sha256()
        self.count = 0

    def read(self, size: int = -1, /) -> bytes:
        data = self._stream.read(size)
        self.sha256.update(data)
        self.count += len(data)
        return data


def _safe_name(name: str) -> str:
    clean = posixpath.normpath(name)
    if name.startswith("/") or clean == ".." or clean.startswith("../") or "\0" in name or len(name) > _MAX_PATH:
        raise unreadable(f"the archive has the path {name[:80]!r}, which leads outside of it")
    return clean


def _follow(name: str, links: dict[str, str], members: dict[str, Stored]) -> Stored:
    target = name
    for _ in range(_MAX_LINK_HOPS):
        target = links.get(target, target)
        if target in members:
            return members[target]
    raise unreadable(f"the archive has the link {name!r}, which leads nowhere")
