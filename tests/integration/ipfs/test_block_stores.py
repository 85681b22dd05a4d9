"""One suite over every backend: what a block store promises, and what files do in it."""

from __future__ import annotations

import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from gpumarket.ipfs import car
from gpumarket.ipfs.cid import RAW, Cid
from gpumarket.ipfs.importer import UNIXFS_V0_2015, add_directory, add_file, add_path
from gpumarket.ipfs.kubo import KuboStore
from gpumarket.ipfs.reader import export_path, ls, read_file, resolve
from gpumarket.ipfs.store import BlockStore, EmbeddedStore
from tests.fakes import MemoryBlocks
from tests.parts.kubo import kubo_daemon

FAR = 10**12


@pytest.fixture(scope="module")
def kubo_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with kubo_daemon(tmp_path_factory.mktemp("kubo")) as api_url:
        yield api_url


@pytest.fixture(params=["memory", "embedded", pytest.param("kubo", marks=pytest.mark.kubo)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> BlockStore:
    if request.param == "kubo":
        daemon = KuboStore(request.getfixturevalue("kubo_api"))
        for pin in daemon.pins():
            daemon.unpin(pin.cid)
        daemon.gc(FAR)
        return daemon
    return EmbeddedStore(tmp_path / "store") if request.param == "embedded" else MemoryBlocks()


def test_put_get_has(store: BlockStore) -> None:
    block = os.urandom(1 << 20)
    cid = Cid.of(RAW, block)
    assert (store.has(cid), store.get(cid)) == (False, None)
    store.put(cid, block)
    store.put(cid, block)
    assert (store.has(cid), store.get(cid)) == (True, block)


def test_the_empty_block(store: BlockStore) -> None:
    cid = Cid.of(RAW, b"")
    store.put(cid, b"")
    assert store.get(cid) == b""


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_files_of_many_sizes(store: BlockStore, size: int) -> None:
    data = os.urandom(size)
    added = add_file(store, io.BytesIO(data))
    assert read_file(store, added.cid) == data
    assert read_file(store, added.cid, size // 2, 100) == data[size // 2 : size // 2 + 100]


def test_content_of_the_older_profile(store: BlockStore) -> None:
    data = os.urandom(600_000)
    added = add_file(store, io.BytesIO(data), profile=UNIXFS_V0_2015)
    store.pin(added.cid, "old")
    assert read_file(store, added.cid) == data
    assert added.cid in [pin.cid for pin in store.pins()]


def test_trees_go_in_and_out(store: BlockStore, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "a/b").mkdir(parents=True)
    (source / "a/b/data").write_bytes(os.urandom(2_500_000))
    (source / "ünïcode").write_bytes(b"x")
    added = add_path(store, source)
    assert [entry.name for entry in ls(store, added.cid)] == ["a", "ünïcode"]
    export_path(store, resolve(store, added.cid, "a"), tmp_path / "copy")
    assert (tmp_path / "copy/b/data").read_bytes() == (source / "a/b/data").read_bytes()


def test_pins(store: BlockStore) -> None:
    added = add_directory(store, {"f": add_file(store, io.BytesIO(os.urandom(100)))})
    store.pin(added.cid, "named")
    assert [(pin.cid, pin.name) for pin in store.pins()] == [(added.cid, "named")]
    store.pin(added.cid, "named")
    store.unpin(added.cid)
    store.unpin(added.cid)
    assert store.pins() == ()


def test_incomplete_content_cannot_be_pinned(store: BlockStore) -> None:
    other = MemoryBlocks()
    added = add_directory(other, {"f": add_file(other, io.BytesIO(os.urandom(100)))})
    for present in (False, True):
        if present:
            store.put(added.cid, other.blocks[added.cid.digest])
        with pytest.raises(MarketError) as caught:
            store.pin(added.cid)
        assert caught.value.code == "image_block_missing"
        assert store.pins() == ()


def test_collection_keeps_what_is_pinned(store: BlockStore) -> None:
    keep = add_directory(store, {"f": add_file(store, io.BytesIO(os.urandom(2_000_000)))})
    drop = add_directory(store, {"f": add_file(store, io.BytesIO(os.urandom(2_000_000)))})
    store.pin(keep.cid)
    removed = store.gc(FAR)
    assert removed.blocks >= 4  # two leaves, the file, the directory
    assert removed.bytes > 1_900_000
    assert len(read_file(store, resolve(store, keep.cid, "f"))) == 2_000_000
    assert not store.has(drop.cid)
    store.unpin(keep.cid)
    store.gc(FAR)
    assert not store.has(keep.cid)


def test_cars_go_in_and_out(store: BlockStore) -> None:
    other = MemoryBlocks()
    added = add_directory(
        other, {"f": add_file(other, io.BytesIO(os.urandom(3_000_000))), "e": add_directory(other, {})}
    )
    packed = io.BytesIO()
    car.export_car(other, added.cid, packed)
    packed.seek(0)
    assert car.import_car(store, packed) == (added.cid,)
    store.pin(added.cid)
    again = io.BytesIO()
    car.export_car(store, added.cid, again)
    assert again.getvalue() == packed.getvalue()


def test_a_damaged_car_is_refused(store: BlockStore) -> None:
    cid = Cid.of(RAW, b"right")
    with pytest.raises(MarketError) as caught:
        car.import_car(store, io.BytesIO(car.header([cid]) + car.section(cid, b"wrong")))
    assert caught.value.code == "image_block_corrupt"
    assert not store.has(cid)


def test_many_threads(store: BlockStore) -> None:
    def work(number: int) -> bool:
        data = bytes([number]) * 300_000
        return read_file(store, add_file(store, io.BytesIO(data)).cid) == data

    started = time.monotonic()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(48)))
    assert time.monotonic() - started < 30
