from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpumarket.errors import MarketError
from gpumarket.ipfs import reader, unixfs
from gpumarket.ipfs.cid import DAG_PB, Cid
from gpumarket.ipfs.dagpb import Link
from gpumarket.ipfs.importer import UNIXFS_V0_2015, Added, Profile, add_directory, add_file, add_path
from gpumarket.ipfs.reader import export_path, load, ls, read_file, resolve, stream_file, walk
from gpumarket.ipfs.unixfs import Kind
from tests.fakes import MemoryBlocks

TINY = Profile("tiny", 4, 3, True, 1)
MAX_DEPTH = unixfs.MAX_DIRECTORY_DEPTH


def nested(store: MemoryBlocks, depth: int) -> Added:
    """A file below `depth` directories."""
    added = add_file(store, io.BytesIO(b"deep"))
    for _ in range(depth):
        added = add_directory(store, {"d": added})
    return added


def code_of(action: object) -> str:
    assert callable(action)
    with pytest.raises(MarketError) as caught:
        action()
    return caught.value.code


def test_default_behavior(tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "data").write_bytes(os.urandom((2 << 20) + 1))
    (source / ".hidden").write_bytes(b"")
    store = MemoryBlocks()
    added = add_path(store, source)
    data = (source / "sub" / "data").read_bytes()
    assert read_file(store, resolve(store, added.cid, "/sub/data")) == data
    assert [(e.name, e.kind, e.size) for e in ls(store, resolve(store, added.cid, "sub"))] == [
        ("data", Kind.FILE, len(data)),
        ("empty", Kind.DIRECTORY, 4),
    ]
    assert export_path(store, added.cid, tmp_path / "copy") == len(data)
    assert (tmp_path / "copy/sub/data").read_bytes() == data
    assert (tmp_path / "copy/sub/empty").is_dir()
    assert (tmp_path / "copy/.hidden").read_bytes() == b""
    assert sorted(p.name for p in tmp_path.iterdir()) == ["copy", "source"]


@given(st.binary(max_size=150), st.integers(0, 160), st.integers(0, 160))
def test_any_range_of_any_file(data: bytes, offset: int, length: int) -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(data), profile=TINY)
    assert read_file(store, added.cid, offset, length) == data[offset : offset + length]


def test_a_range_reads_only_the_blocks_it_needs() -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(os.urandom(5 << 20)))
    parts = load(store, added.cid).links
    for link in (parts[0], parts[1], parts[3], parts[4]):
        del store.blocks[link.cid.digest]
    assert len(read_file(store, added.cid, (2 << 20) + 5, 100)) == 100
    assert code_of(lambda: read_file(store, added.cid, 0, 1)) == "image_block_missing"


def test_content_of_the_older_profile_is_read() -> None:
    store, data = MemoryBlocks(), os.urandom(700_000)
    added = add_file(store, io.BytesIO(data), profile=UNIXFS_V0_2015)
    assert str(added.cid).startswith("Qm")
    assert read_file(store, added.cid) == data


def test_a_corrupt_block_is_never_handed_out() -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(b"right"))
    store.blocks[added.cid.digest] = b"wrong"
    assert code_of(lambda: read_file(store, added.cid)) == "image_block_corrupt"


def test_a_directory_is_not_a_file_and_back() -> None:
    store = MemoryBlocks()
    file = add_file(store, io.BytesIO(b"x"))
    directory = add_directory(store, {"f": file})
    assert code_of(lambda: list(stream_file(store, directory.cid))) == "invalid_argument"
    assert code_of(lambda: ls(store, file.cid)) == "invalid_argument"


@pytest.mark.parametrize("path", ["nothing", "f/below", "../f"])
def test_a_path_that_leads_nowhere(path: str) -> None:
    store = MemoryBlocks()
    directory = add_directory(store, {"f": add_file(store, io.BytesIO(b"x"))})
    assert code_of(lambda: resolve(store, directory.cid, path)) == "not_found"


def test_nesting_at_the_limit_and_one_deeper(tmp_path: Path) -> None:
    store = MemoryBlocks()
    good, bad = nested(store, MAX_DEPTH), nested(store, MAX_DEPTH + 1)
    assert len(list(walk(lambda cid: load(store, cid), load(store, good.cid)))) == MAX_DEPTH
    export_path(store, good.cid, tmp_path / "good")
    assert code_of(lambda: list(walk(lambda cid: load(store, cid), load(store, bad.cid)))) == "content_malformed"
    assert code_of(lambda: export_path(store, bad.cid, tmp_path / "bad")) == "content_malformed"
    assert code_of(lambda: resolve(store, bad.cid, "d/" * (MAX_DEPTH + 1))) == "content_malformed"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["good"]


def test_a_file_of_endless_levels_is_refused() -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(b"x"))
    for _ in range(unixfs.MAX_FILE_DEPTH + 1):
        block = unixfs.encode_file([Link(added.cid, "", added.tsize)], [added.size])
        added = Added(Cid.of(DAG_PB, block), added.size, added.tsize + len(block))
        store.put(added.cid, block)
    assert code_of(lambda: read_file(store, added.cid)) == "content_malformed"


def test_export_does_not_overwrite_or_follow(tmp_path: Path) -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(b"new"))
    (tmp_path / "there").write_bytes(b"old")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    assert code_of(lambda: export_path(store, added.cid, tmp_path / "there")) == "invalid_argument"
    assert code_of(lambda: export_path(store, added.cid, tmp_path / "link")) == "invalid_argument"
    assert (tmp_path / "there").read_bytes() == b"old"
    assert not (tmp_path / "elsewhere").exists()


def test_export_leaves_nothing_behind_when_a_block_is_missing(tmp_path: Path) -> None:
    store = MemoryBlocks()
    first, second = add_file(store, io.BytesIO(b"1")), add_file(store, io.BytesIO(b"2"))
    added = add_directory(store, {"a": first, "b": second})
    del store.blocks[second.cid.digest]
    assert code_of(lambda: export_path(store, added.cid, tmp_path / "out")) == "image_block_missing"
    assert list(tmp_path.iterdir()) == []


def test_export_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.open

    def full(path: str, flags: int, *rest: int, **options: int) -> int:
        if flags & os.O_CREAT:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, *rest, **options)

    store = MemoryBlocks()
    added = add_directory(store, {"f": add_file(store, io.BytesIO(b"x"))})
    monkeypatch.setattr(reader.os, "open", full)
    assert code_of(lambda: export_path(store, added.cid, tmp_path / "out")) == "disk_full"
    assert list(tmp_path.iterdir()) == []


def test_walk_visits_a_repeated_subtree_once() -> None:
    store = MemoryBlocks()
    added = add_file(store, io.BytesIO(b"x"))
    for _ in range(20):
        added = add_directory(store, {"a": added, "b": added})
    assert len(list(walk(lambda cid: load(store, cid), load(store, added.cid)))) == 20
