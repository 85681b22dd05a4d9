"""Reading files and directories out of a store, every block checked against its CID and its parent."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from gpumarket.errors import MarketError
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import RAW, Cid
from gpumarket.ipfs.dagpb import malformed
from gpumarket.ipfs.store import BlockStore
from gpumarket.ipfs.unixfs import Kind, Node, check_child


@dataclass(frozen=True)
class Entry:
    """A directory entry. `size` is file bytes for a file, bytes of blocks for a directory."""

    name: str
    cid: Cid
    kind: Kind
    size: int


GetNode = Callable[[Cid], Node]


def load(store: BlockStore, cid: Cid) -> Node:
    """Read one node; raises `image_block_missing`, `image_block_corrupt`, `content_malformed`."""
    block = store.get(cid)
    if block is None:
        raise MarketError("image_block_missing", f"block {cid} is not in the store", cid=str(cid))
    return unixfs.parse(cid, block)


def stat(store: BlockStore, cid: Cid) -> Node:
    """The node at the top of `cid`: its kind, file size and bytes of blocks."""
    return load(store, cid)


def read_file(store: BlockStore, cid: Cid, offset: int = 0, length: int | None = None) -> bytes:
    """The bytes `[offset, offset + length)` of a file, fewer if it ends before. For large files use `stream_file`."""
    return b"".join(stream_file(store, cid, offset, length))


def stream_file(store: BlockStore, cid: Cid, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
    """The same bytes, one leaf at a time.

    Raises:
        MarketError: `invalid_argument` if `cid` is a directory, and whatever `load` raises.
    """
    node = load(store, cid)
    if node.kind is not Kind.FILE:
        raise MarketError("invalid_argument", f"{cid} is a directory")
    end = node.size if length is None else min(node.size, offset + length)
    for start, leaf in leaves(lambda child: load(store, child), node, offset, end):
        yield leaf.data[max(0, offset - start) : end - start]


def leaves(get: GetNode, node: Node, offset: int, end: int, *, depth: int = 0) -> Iterator[tuple[int, Node]]:
    """The leaves of a file that overlap `[offset, end)`, in order, each with its position in the file.

    Visits exactly the blocks needed for that range, each checked against its parent.
    """
    if offset >= end:
        return
    if not node.links:
        yield 0, node
        return
    if depth >= unixfs.MAX_FILE_DEPTH:
        raise malformed(f"file is deeper than {unixfs.MAX_FILE_DEPTH} levels")
    start = 0
    for index, blocksize in enumerate(node.blocksizes):
        if start < end and start + blocksize > offset:
            child = get(node.links[index].cid)
            check_child(node, index, child)
            for inner, leaf in leaves(get, child, max(0, offset - start), min(blocksize, end - start), depth=depth + 1):
                yield start + inner, leaf
        start += blocksize


def resolve(store: BlockStore, cid: Cid, path: str) -> Cid:
    """Follow `a/b/c` from a directory; raises `not_found`."""
    return trace(lambda child: load(store, child), cid, path)[-1].cid


def trace(get: GetNode, cid: Cid, path: str) -> list[Node]:
    """The nodes from `cid` along `path`, both ends included; raises `not_found`."""
    nodes = [get(cid)]
    for name in (part for part in path.split("/") if part):
        node = nodes[-1]
        index = next((i for i, link in enumerate(node.links) if link.name == name), None)
        if node.kind is not Kind.DIRECTORY or index is None:
            raise MarketError("not_found", f"{cid} has no {path!r}", cid=str(cid), path=path)
        if len(nodes) > unixfs.MAX_DIRECTORY_DEPTH:
            raise malformed(f"directories are nested deeper than {unixfs.MAX_DIRECTORY_DEPTH}")
        child = get(node.links[index].cid)
        check_child(node, index, child)
        nodes.append(child)
    return nodes


def ls(store: BlockStore, cid: Cid) -> tuple[Entry, ...]:
    """The entries of a directory, sorted by name; raises `invalid_argument` for a file."""
    node = load(store, cid)
    if node.kind is not Kind.DIRECTORY:
        raise MarketError("invalid_argument", f"{cid} is a file")
    return tuple(_entry(store, node, index) for index in range(len(node.links)))


def walk(get: GetNode, root: Node) -> Iterator[Node]:
    """Every node below `root`, depth first, parents before children, each once."""
    seen = {root.cid}
    stack = [(root, 0, 0, 0)]
    while stack:
        node, index, files, directories = stack.pop()
        if index == len(node.links):
            continue
        stack.append((node, index + 1, files, directories))
        below = deeper(node, files, directories)
        cid = node.links[index].cid
        if cid in seen:
            continue
        seen.add(cid)
        child = get(cid)
        check_child(node, index, child)
        yield child
        if child.links:
            stack.append((child, 0, *below))


def deeper(parent: Node, files: int, directories: int) -> tuple[int, int]:
    """Levels of file nodes and of directories above a child of `parent`; raises `content_malformed` over the limits."""
    if parent.kind is Kind.FILE:
        files += 1
    else:
        directories += 1
    if files > unixfs.MAX_FILE_DEPTH or directories > unixfs.MAX_DIRECTORY_DEPTH:
        raise malformed("content is nested too deep")
    return files, directories


def export_path(store: BlockStore, cid: Cid, dest: Path) -> int:
    """Write a file or a directory tree to `dest`, which must not exist. It appears there whole or not at all.

    Returns:
        The number of file bytes written.

    Raises:
        MarketError: `invalid_argument` if `dest` exists or cannot be written, `disk_full`, and whatever `load` raises.
    """
    if os.path.lexists(dest):
        raise MarketError("invalid_argument", f"{dest} already exists", hint="choose another place, or remove it")
    partial = dest.with_name(f".{dest.name}.{os.getpid()}.partial")
    try:
        written = _export(store, load(store, cid), partial, 0)
        os.rename(partial, dest)
        return written
    except OSError as error:
        code = "disk_full" if error.errno in (28, 122) else "invalid_argument"
        raise MarketError(code, f"cannot write {dest}: {error.strerror}") from error
    finally:
        _remove(partial)


def _export(store: BlockStore, node: Node, dest: Path, depth: int) -> int:
    if node.kind is Kind.FILE:
        descriptor = os.open(dest, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
        with os.fdopen(descriptor, "wb", buffering=0) as out:
            for _, leaf in leaves(lambda child: load(store, child), node, 0, node.size):
                view = memoryview(leaf.data)
                while view:
                    view = view[out.write(view) :]
        return node.size
    if depth >= unixfs.MAX_DIRECTORY_DEPTH:
        raise malformed(f"directories are nested deeper than {unixfs.MAX_DIRECTORY_DEPTH}")
    dest.mkdir()
    written = 0
    for index, link in enumerate(node.links):
        child = load(store, link.cid)
        check_child(node, index, child)
        written += _export(store, child, dest / link.name, depth + 1)
    return written


def _entry(store: BlockStore, node: Node, index: int) -> Entry:
    link = node.links[index]
    if link.cid.codec == RAW:
        return Entry(link.name, link.cid, Kind.FILE, link.tsize)
    child = load(store, link.cid)
    check_child(node, index, child)
    return Entry(link.name, link.cid, child.kind, child.size if child.kind is Kind.FILE else child.tsize)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
