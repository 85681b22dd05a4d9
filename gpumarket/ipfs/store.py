"""Where blocks live: the protocol every backend fulfils, and the embedded backend, a folder that needs no daemon.

Layout of the folder: `blocks/<2 hex>/<64 hex of the sha2-256>`, `tmp/`, and `pins.db` (SQLite, WAL). A block file
appears under its name only after its bytes are on disk, so a crash at any moment leaves whole blocks and at worst a
stray file in `tmp/`. Several processes may share the folder.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from gpumarket.errors import MarketError
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import RAW, Cid


@dataclass(frozen=True)
class Pin:
    """A root that garbage collection keeps, with everything under it."""

    cid: Cid
    name: str


@dataclass(frozen=True)
class Collected:
    """What garbage collection removed."""

    blocks: int
    bytes: int


class BlockStore(Protocol):
    """A place for blocks, safe to share between threads. All calls may wait: asynchronous callers use a thread."""

    def get(self, cid: Cid) -> bytes | None:
        """The block, checked against its CID; None if absent. Raises `image_block_corrupt`."""

    def put(self, cid: Cid, block: bytes) -> None:
        """Keep a block that the caller has hashed. Raises `disk_full`."""

    def has(self, cid: Cid) -> bool: ...

    def pin(self, cid: Cid, name: str = "") -> None:
        """Keep `cid` and all under it; durable on return. Raises `image_block_missing` if a block is absent."""

    def unpin(self, cid: Cid) -> None:
        """Forget a pin; nothing happens if there is none."""

    def pins(self) -> tuple[Pin, ...]: ...

    def gc(self, now: float) -> Collected:
        """Remove blocks that no pin needs."""


class EmbeddedStore:
    """Blocks in a folder.

    Args:
        path: the folder; made if absent.
        grace_s: garbage collection spares blocks put within this time, because an import may be about to pin them.
    """

    def __init__(self, path: Path, *, grace_s: float = 3600.0) -> None:
        self.path = path
        self._blocks = path / "blocks"
        self._tmp = path / "tmp"
        self._grace_s = grace_s
        with _disk_errors(path):
            self._tmp.mkdir(parents=True, exist_ok=True)
            for shard in range(256):
                (self._blocks / f"{shard:02x}").mkdir(parents=True, exist_ok=True)
            with self._database() as db:
                db.execute("PRAGMA journal_mode=WAL")
                db.execute("CREATE TABLE IF NOT EXISTS pins (cid TEXT PRIMARY KEY, name TEXT NOT NULL) WITHOUT ROWID")

    def get(self, cid: Cid) -> bytes | None:
        try:
            with open(self._file(cid), "rb", buffering=0) as file:
                block = file.read()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise _unreadable(cid) from error
        if not cid.matches(block):
            raise _unreadable(cid)
        return block

    def put(self, cid: Cid, block: bytes) -> None:
        file = self._file(cid)
        with _disk_errors(self.path):
            if _holds(file, block):
                os.utime(file)
                return
            descriptor, temporary = tempfile.mkstemp(dir=self._tmp)
            try:
                try:
                    view = memoryview(block)
                    while view:
                        view = view[os.write(descriptor, view) :]
                    os.fdatasync(descriptor)
                finally:
                    os.close(descriptor)
                os.rename(temporary, file)
            except BaseException:
                with contextlib.suppress(OSError):
                    os.unlink(temporary)
                raise

    def has(self, cid: Cid) -> bool:
        return self._file(cid).exists()

    def pin(self, cid: Cid, name: str = "") -> None:
        # The write lock is held from the check to the insert, so that no collection in between can take a block away.
        with _disk_errors(self.path), self._database() as db:
            db.execute("BEGIN IMMEDIATE")
            needed: set[bytes] = set()
            mark(self, cid, needed, leaves=True)
            for shard in {digest[:1].hex() for digest in needed}:
                _sync_directory(self._blocks / shard)
            db.execute("INSERT OR REPLACE INTO pins VALUES (?, ?)", (str(cid), name))

    def unpin(self, cid: Cid) -> None:
        with _disk_errors(self.path), self._database() as db:
            db.execute("DELETE FROM pins WHERE cid = ?", (str(cid),))

    def pins(self) -> tuple[Pin, ...]:
        with _disk_errors(self.path), self._database() as db:
            rows = db.execute("SELECT cid, name FROM pins ORDER BY cid").fetchall()
        return tuple(Pin(Cid.parse(cid), name) for cid, name in rows)

    def gc(self, now: float) -> Collected:
        blocks = size = 0
        with _disk_errors(self.path), self._database() as db:
            db.execute("BEGIN IMMEDIATE")
            keep: set[bytes] = set()
            for (text,) in db.execute("SELECT cid FROM pins").fetchall():
                # A damaged pinned tree stops the collection: nothing under it can be told from garbage.
                mark(self, Cid.parse(text), keep, leaves=False)
            for folder in (self._tmp, *sorted(self._blocks.iterdir())):
                for file in os.scandir(folder):
                    status = file.stat()
                    fresh = status.st_mtime > now - self._grace_s
                    if fresh or (folder is not self._tmp and bytes.fromhex(file.name) in keep):
                        continue
                    os.unlink(file.path)
                    blocks, size = blocks + 1, size + status.st_size
        return Collected(blocks, size)

    def _file(self, cid: Cid) -> Path:
        text = cid.digest.hex()
        return self._blocks / text[:2] / text

    @contextlib.contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        db = sqlite3.connect(self.path / "pins.db", timeout=60, isolation_level=None)
        try:
            db.execute("PRAGMA synchronous=FULL")
            yield db
            if db.in_transaction:
                db.execute("COMMIT")
        finally:
            db.close()


def mark(store: BlockStore, root: Cid, seen: set[bytes], *, leaves: bool) -> None:
    """Add every digest from `root` down to `seen`.

    Raises:
        MarketError: `image_block_corrupt`; `image_block_missing` for an inner block, and with `leaves` for any block.
    """
    stack = [root]
    while stack:
        cid = stack.pop()
        if cid.digest in seen:
            continue
        seen.add(cid.digest)
        if cid.codec == RAW:
            if leaves and not store.has(cid):
                raise _missing(cid)
            continue
        block = store.get(cid)
        if block is None:
            raise _missing(cid)
        stack.extend(link.cid for link in unixfs.parse(cid, block).links)


def _holds(file: Path, block: bytes) -> bool:
    """Whether the file already has exactly these bytes; a damaged one is written anew."""
    try:
        if file.stat().st_size != len(block):
            return False
        return file.read_bytes() == block
    except OSError:
        return False


def _missing(cid: Cid) -> MarketError:
    return MarketError("image_block_missing", f"block {cid} is not in the store", cid=str(cid))


def _unreadable(cid: Cid) -> MarketError:
    return MarketError(
        "image_block_corrupt",
        f"block {cid} is damaged on disk",
        hint="fetch or add the content again; it replaces the block",
        cid=str(cid),
    )


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            hint = "free some space, or run `gpumarket ipfs gc`"
            raise MarketError("disk_full", f"no space left for {path}", hint=hint) from error
        raise MarketError("machine_unsuitable", f"cannot work on {path}: {error.strerror}") from error
    except sqlite3.Error as error:
        full = getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
        raise MarketError("disk_full" if full else "machine_unsuitable", f"cannot work on {path}: {error}") from error
