"""Taking a tree out of a container: a tar stream made by somebody hostile, written to a fresh folder."""

from __future__ import annotations

import io
import os
import posixpath
import shutil
import tarfile
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any, cast

from gpumarket.errors import MarketError
from gpumarket.images.archive import IterableReader
from gpumarket.ipfs.unixfs import MAX_DIRECTORY_DEPTH, valid_name

MAX_ENTRIES = 100_000
MAX_DEPTH = MAX_DIRECTORY_DEPTH - 1
_CHUNK = 1 << 20


def extract_tree(chunks: Iterable[bytes], dest: Path, max_bytes: int) -> int:
    """Write a folder's tar (as the engine's archive call gives it) to `dest`, which must not exist.

    The archive's first path component is the folder itself. Plain files, folders and second names of files inside the
    tree are written; symbolic links, devices, sockets and anything that points elsewhere are left out. Modes and
    owners are not kept.

    Returns:
        Bytes written.

    Raises:
        MarketError: `image_too_large` over `max_bytes` or over `MAX_ENTRIES`, `disk_full`, `docker_failed` for a
        broken stream.
    """
    dest.mkdir(parents=True, mode=0o700)
    try:
        return _extract(chunks, dest, max_bytes)
    except BaseException as error:
        shutil.rmtree(dest, ignore_errors=True)
        if isinstance(error, tarfile.TarError | EOFError):
            raise MarketError("docker_failed", f"the engine's archive breaks off: {error}") from error
        if isinstance(error, OSError) and error.errno in (28, 122):
            raise MarketError("disk_full", f"no space for {dest.name}: {error.strerror}") from error
        raise


def folders_tar(paths: Iterable[str], owner: str) -> bytes:
    """A tar of empty folders that belong to `owner` (`uid:gid`) and are open to every user."""
    uid, gid = (int(part) for part in owner.split(":"))
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for path in paths:
            entry = tarfile.TarInfo(path.strip("/") + "/")
            entry.type, entry.mode, entry.uid, entry.gid = tarfile.DIRTYPE, 0o1777, uid, gid
            tar.addfile(entry)
    return out.getvalue()


def _extract(chunks: Iterable[bytes], dest: Path, max_bytes: int) -> int:
    total = 0
    with tarfile.open(fileobj=cast(Any, IterableReader(chunks, None)), mode="r|") as tar:
        for number, member in enumerate(tar):
            if number >= MAX_ENTRIES:
                raise _too_large(f"more than {MAX_ENTRIES} files")
            target = _target(dest, member.name)
            if target is None:
                continue
            if member.isdir():
                target.mkdir(parents=True, exist_ok=True)
                continue
            source = _content(tar, member, dest)
            if source is None:
                continue
            total += member.size if member.isreg() else os.fstat(source.fileno()).st_size
            if total > max_bytes:
                source.close()
                raise _too_large(f"more than {max_bytes} bytes")
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("xb") as out:
                shutil.copyfileobj(source, out, _CHUNK)
    return total


def _content(tar: tarfile.TarFile, member: tarfile.TarInfo, dest: Path) -> IO[bytes] | None:
    if member.isreg() and not member.issparse():
        return tar.extractfile(member)
    if member.islnk():
        first = _target(dest, member.linkname)
        # Nothing but plain files and folders is ever made under `dest`, so this cannot lead out of it.
        if first is not None and first.is_file():
            return first.open("rb")
    return None


def _target(dest: Path, name: str) -> Path | None:
    """Where a member goes; None for the top folder itself and for names that no honest archive has."""
    first, *parts = posixpath.normpath(name).split("/")
    if not parts or len(parts) > MAX_DEPTH or not all(map(_good, (first, *parts))):
        return None
    return dest.joinpath(*parts)


def _good(name: str) -> bool:
    """Whether the market's content format can hold this name."""
    try:
        return valid_name(name)
    except UnicodeEncodeError:
        return False


def _too_large(message: str) -> MarketError:
    return MarketError("image_too_large", f"the results hold {message}", hint="write less, or rent with a larger limit")
