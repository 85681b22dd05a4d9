from __future__ import annotations

import errno
import io
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from gpumarket.ipfs import store as module
from gpumarket.ipfs.cid import DAG_PB, RAW, Cid
from gpumarket.ipfs.importer import Added, add_directory, add_file
from gpumarket.ipfs.reader import read_file
from gpumarket.ipfs.store import EmbeddedStore

HOUR = 3600.0


def file_of(path: Path, cid: Cid) -> Path:
    text = cid.digest.hex()
    return path / "blocks" / text[:2] / text


def some(store: EmbeddedStore, data: bytes = b"content") -> Added:
    return add_directory(store, {"f": add_file(store, io.BytesIO(data))})


def leftovers(path: Path) -> list[Path]:
    return list((path / "tmp").iterdir())


def test_default_behavior(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    cid = Cid.of(RAW, b"x")
    assert not store.has(cid)
    assert store.get(cid) is None
    store.put(cid, b"x")
    assert store.has(cid)
    assert EmbeddedStore(tmp_path).get(cid) == b"x"
    assert leftovers(tmp_path) == []


def test_one_file_serves_both_codecs(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    store.put(Cid.of(RAW, b"\x0a\x02\x08\x01"), b"\x0a\x02\x08\x01")
    assert store.has(Cid.of(DAG_PB, b"\x0a\x02\x08\x01"))


@pytest.mark.parametrize("damage", [b"wrong!!", b"", b"content and more"])
def test_a_damaged_file_is_noticed_and_healed_by_putting_it_again(tmp_path: Path, damage: bytes) -> None:
    store = EmbeddedStore(tmp_path)
    cid = Cid.of(RAW, b"content")
    store.put(cid, b"content")
    file_of(tmp_path, cid).write_bytes(damage)
    with pytest.raises(MarketError) as caught:
        store.get(cid)
    assert caught.value.code == "image_block_corrupt"
    store.put(cid, b"content")
    assert store.get(cid) == b"content"


def test_a_full_disk_is_said_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    store = EmbeddedStore(tmp_path)
    for call in ("write", "fdatasync", "rename"):
        with monkeypatch.context() as patched:
            patched.setattr(module.os, call, full)
            with pytest.raises(MarketError) as caught:
                store.put(Cid.of(RAW, b"x"), b"x")
        assert caught.value.code == "disk_full"
        assert leftovers(tmp_path) == []
        assert not store.has(Cid.of(RAW, b"x"))


def test_another_disk_error_is_not_called_full(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(MarketError) as caught:
        EmbeddedStore(tmp_path / "file")
    assert caught.value.code == "machine_unsuitable"


def test_a_damaged_pin_database_is_said(tmp_path: Path) -> None:
    (tmp_path / "pins.db").write_bytes(b"not a database, for sure" * 100)
    with pytest.raises(MarketError) as caught:
        EmbeddedStore(tmp_path)
    assert caught.value.code == "machine_unsuitable"


def test_pins_are_listed_renamed_and_removed(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    one, two = some(store, b"1"), some(store, b"2")
    store.pin(one.cid, "first")
    store.pin(two.cid)
    store.pin(one.cid, "renamed")
    assert {(pin.cid, pin.name) for pin in EmbeddedStore(tmp_path).pins()} == {(one.cid, "renamed"), (two.cid, "")}
    store.unpin(one.cid)
    store.unpin(one.cid)
    assert [pin.cid for pin in store.pins()] == [two.cid]


@pytest.mark.parametrize("part", [0, 1])
def test_incomplete_content_cannot_be_pinned(tmp_path: Path, part: int) -> None:
    store = EmbeddedStore(tmp_path)
    leaf = add_file(store, io.BytesIO(b"leaf"))
    root = add_directory(store, {"f": leaf})
    file_of(tmp_path, (root, leaf)[part].cid).unlink()
    with pytest.raises(MarketError) as caught:
        store.pin(root.cid)
    assert caught.value.code == "image_block_missing"
    assert store.pins() == ()


def test_collection_keeps_pinned_and_fresh_blocks(tmp_path: Path) -> None:
    store, now = EmbeddedStore(tmp_path, grace_s=HOUR), time.time()
    pinned, loose = some(store, b"pinned"), some(store, b"loose")
    store.pin(pinned.cid)
    assert store.gc(now + HOUR - 60).blocks == 0
    gone = store.gc(now + HOUR + 60)
    assert (gone.blocks, gone.bytes) == (2, loose.tsize)
    assert read_file(store, add_file(store, io.BytesIO(b"pinned")).cid) == b"pinned"
    assert not store.has(loose.cid)
    assert store.gc(now + 9 * HOUR).blocks == 0


def test_putting_a_block_again_renews_its_grace(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path, grace_s=HOUR)
    cid = Cid.of(RAW, b"x")
    store.put(cid, b"x")
    os.utime(file_of(tmp_path, cid), (0, 0))
    store.put(cid, b"x")
    assert store.gc(time.time()).blocks == 0


def test_collection_stops_at_a_damaged_pinned_tree(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)
    root = some(store)
    store.pin(root.cid)
    file_of(tmp_path, root.cid).write_bytes(b"damaged")
    with pytest.raises(MarketError) as caught:
        store.gc(time.time() + 9 * HOUR)
    assert caught.value.code == "image_block_corrupt"
    assert store.has(add_file(store, io.BytesIO(b"content")).cid)
    store.unpin(root.cid)
    assert store.gc(time.time() + 9 * HOUR).blocks == 2


def test_many_threads_at_once(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path)

    def work(number: int) -> bytes:
        added = some(store, bytes([number % 7]) * 5000)
        store.pin(added.cid, str(number))
        store.gc(time.time())
        return store.get(added.cid) or b""

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(40)))
    assert len(store.pins()) == 7
    assert leftovers(tmp_path) == []


_IMPORT = """
import itertools, pathlib, sys
from gpumarket.ipfs.importer import add_file
from gpumarket.ipfs.store import EmbeddedStore

class Numbers:
    def __init__(self):
        self.left, self.count = 40 << 20, itertools.count()
    def read(self, size):
        size = min(size, self.left)
        self.left -= size
        return (next(self.count).to_bytes(8, "big") * (size // 8 + 1))[:size]

store = EmbeddedStore(pathlib.Path(sys.argv[1]))
print("ready", flush=True)
added = add_file(store, Numbers())
store.pin(added.cid, "whole")
print(added.cid, flush=True)
"""


def run_import(path: Path, *, kill_after: int | None = None) -> str:
    """Import 40 MiB in another process; kill it with signal 9 once `kill_after` blocks are there."""
    command = [sys.executable, "-c", _IMPORT, str(path)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    with process, process.stdout:
        assert process.stdout.readline() == "ready\n"
        if kill_after is None:
            return process.stdout.readline().strip()
        while process.poll() is None and sum(1 for _ in (path / "blocks").glob("*/*")) < kill_after:
            pass
        process.send_signal(signal.SIGKILL)
    return ""


def test_kill_9_at_any_time_leaves_a_usable_store(tmp_path: Path) -> None:
    for kill_after in (0, 1, 7, 20, 39):
        run_import(tmp_path, kill_after=kill_after)
        store = EmbeddedStore(tmp_path)
        for file in (tmp_path / "blocks").glob("*/*"):
            assert store.get(Cid.raw(bytes.fromhex(file.name))) is not None, "a block under its name is whole"
        for pin in store.pins():
            store.pin(pin.cid)
    cid = Cid.parse(run_import(tmp_path))
    store = EmbeddedStore(tmp_path)
    assert [(pin.cid, pin.name) for pin in store.pins()] == [(cid, "whole")]
    assert len(read_file(store, cid)) == 40 << 20
    store.gc(time.time() + 9 * HOUR)
    assert leftovers(tmp_path) == []
    assert len(read_file(store, cid)) == 40 << 20
