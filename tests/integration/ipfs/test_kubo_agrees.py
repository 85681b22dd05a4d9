"""A real Kubo computes the CIDs that we compute, reads what we write, and serves what we fetch."""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gpumarket.errors import MarketError
from gpumarket.ipfs import car, dag
from gpumarket.ipfs.cid import RAW, Cid
from gpumarket.ipfs.fetch import fetch
from gpumarket.ipfs.gateway import routes
from gpumarket.ipfs.importer import UNIXFS_V0_2015, UNIXFS_V1_2025, Profile, add_directory, add_file, add_path
from gpumarket.ipfs.kubo import KuboStore
from gpumarket.ipfs.reader import load, read_file
from tests.fakes import MemoryBlocks
from tests.parts import kubo as part
from tests.parts.kubo import Kubo, kubo
from tests.unit.ipfs.vectors import KeyStream

pytestmark = pytest.mark.kubo

OPTIONS = {
    UNIXFS_V1_2025.name: (
        "--cid-version=1",
        "--raw-leaves=true",
        "--chunker=size-1048576",
        "--max-file-links=1024",
        "--hash=sha2-256",
    ),
    UNIXFS_V0_2015.name: (
        "--cid-version=0",
        "--raw-leaves=false",
        "--chunker=size-262144",
        "--max-file-links=174",
        "--hash=sha2-256",
    ),
}
SIZES = [0, 1, 262_143, 262_144, 262_145, 1 << 20, (1 << 20) + 1, 3_000_001, 46_000_000]


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubo]:
    with kubo(tmp_path_factory.mktemp("kubo")) as running:
        yield running


@pytest.mark.parametrize("profile", [UNIXFS_V1_2025, UNIXFS_V0_2015], ids=lambda profile: profile.name)
@pytest.mark.parametrize("size", SIZES)
def test_files_have_the_cid_that_kubo_gives_them(daemon: Kubo, tmp_path: Path, profile: Profile, size: int) -> None:
    (tmp_path / "file").write_bytes(KeyStream(size, "kubo").read(size))
    ours = add_path(MemoryBlocks(), tmp_path / "file", profile=profile).cid
    theirs = daemon.run("add", "-Q", "--only-hash", *OPTIONS[profile.name], str(tmp_path / "file"))
    assert str(ours) == theirs.decode().strip()


@pytest.mark.parametrize("profile", [UNIXFS_V1_2025, UNIXFS_V0_2015], ids=lambda profile: profile.name)
def test_directories_have_the_cid_that_kubo_gives_them(daemon: Kubo, tmp_path: Path, profile: Profile) -> None:
    tree = tmp_path / "tree"
    for folder in ("empty", "blobs/sha256", "Z", "a/b/c/d"):
        (tree / folder).mkdir(parents=True)
    for index, size in enumerate([0, 1, 300_000, 2_500_000]):
        (tree / "blobs/sha256" / f"{index:064x}").write_bytes(KeyStream(size, "tree").read(size))
    for name in ("a-b", "a.b", "ab", "é", "~", ".hidden"):
        (tree / name).write_bytes(name.encode())
    ours = add_path(MemoryBlocks(), tree, profile=profile).cid
    theirs = daemon.run("add", "-rQ", "--hidden", "--only-hash", *OPTIONS[profile.name], str(tree))
    assert str(ours) == theirs.decode().strip()


def test_kubo_reads_our_car_and_we_read_kubos(daemon: Kubo, tmp_path: Path) -> None:
    store, data = MemoryBlocks(), os.urandom(3_000_000)
    added = add_directory(store, {"file": add_file(store, io.BytesIO(data))})
    packed = io.BytesIO()
    car.export_car(store, added.cid, packed)
    (tmp_path / "ours.car").write_bytes(packed.getvalue())
    daemon.run("dag", "import", str(tmp_path / "ours.car"))
    assert daemon.run("cat", f"/ipfs/{added.cid}/file") == data
    exported, copy = daemon.run("dag", "export", str(added.cid)), MemoryBlocks()
    assert exported == packed.getvalue()
    assert car.import_car(copy, io.BytesIO(exported)) == (added.cid,)
    assert copy.blocks == store.blocks


def test_kubo_imports_what_our_gateway_answers(daemon: Kubo, tmp_path: Path) -> None:
    store, data = MemoryBlocks(), os.urandom(3_000_000)
    root = add_directory(store, {"file": add_file(store, io.BytesIO(data)), "other": add_file(store, io.BytesIO(b"x"))})
    client = TestClient(Starlette(routes=[*routes(store)]))
    part_of = client.get(f"/ipfs/{root.cid}/file?format=car&entity-bytes=1048576:2097151").content
    (tmp_path / "part.car").write_bytes(part_of)
    daemon.run("dag", "import", "--pin-roots=false", str(tmp_path / "part.car"))
    offline = ("--offline", "cat", "--offset=1048576", "--length=1048576", f"/ipfs/{root.cid}/file")
    assert daemon.run(*offline) == data[1 << 20 : 2 << 20]
    (tmp_path / "whole.car").write_bytes(client.get(f"/ipfs/{root.cid}?format=car").content)
    daemon.run("dag", "import", str(tmp_path / "whole.car"))
    assert daemon.run("cat", f"/ipfs/{root.cid}/file") == data


def test_a_car_goes_to_kubo_in_one_request(daemon: Kubo) -> None:
    store, target = MemoryBlocks(), KuboStore(daemon.api_url)
    added = add_file(store, io.BytesIO(os.urandom(5_000_000)))
    packed = io.BytesIO()
    car.export_car(store, added.cid, packed)
    packed.seek(0)
    target.import_car(packed)
    target.pin(added.cid)
    assert target.get(added.cid) == store.get(added.cid)


async def test_we_fetch_from_kubos_gateway(daemon: Kubo) -> None:
    source, target, data = KuboStore(daemon.api_url), MemoryBlocks(), os.urandom(7_000_000)
    added = add_directory(source, {"file": add_file(source, io.BytesIO(data)), "empty": add_directory(source, {})})
    async with httpx.AsyncClient() as http:
        done = await fetch(added.cid, target, [daemon.gateway_url], max_bytes=10_000_000, http=http)
        assert done.sources_used == (daemon.gateway_url,)
        assert done.bytes_new == done.bytes_total == added.tsize
        assert read_file(target, load(target, added.cid).links[1].cid) == data
        with pytest.raises(MarketError) as caught:
            await fetch(Cid.of(RAW, b"none"), target, [daemon.gateway_url], max_bytes=100, http=http)
        assert caught.value.code == "image_block_missing"


async def test_kubos_gateway_answers_with_the_same_blocks_as_ours(daemon: Kubo) -> None:
    source = KuboStore(daemon.api_url)
    file = add_file(source, io.BytesIO(os.urandom(3_000_000)))
    root = add_directory(source, {"file": file})
    async with httpx.AsyncClient() as http:
        url = f"{daemon.gateway_url}/ipfs/{root.cid}/file"
        for query in (
            "",
            "&dag-scope=block",
            "&dag-scope=entity",
            "&entity-bytes=1048576:1048576",
            "&entity-bytes=-9:*",
        ):
            theirs = await http.get(f"{url}?format=car{query}")
            blocks = list(car.read_car(io.BytesIO(theirs.content), car.CarDecoder()))
            ours, got = _ours(source, root.cid, query), [cid for cid, _ in blocks]
            if "entity-bytes" in query:  # Kubo reads ahead and sends more than the range needs
                assert set(ours) <= set(got)
            else:
                assert got == ours


def _ours(source: KuboStore, root: Cid, query: str) -> list[Cid]:
    pairs = dict(item.split("=") for item in query.split("&") if item)
    scope = dag.Scope(pairs.get("dag-scope", "entity" if "entity-bytes" in pairs else "all"))
    first, _, last = pairs.get("entity-bytes", "").partition(":")
    span = (int(first), None if last == "*" else int(last)) if first else None
    return [cid for cid, _ in dag.blocks(source, root, "file", scope, span)]


def test_a_daemon_that_is_gone_is_unreachable(tmp_path: Path) -> None:
    with kubo(tmp_path) as running:
        store = KuboStore(running.api_url, timeout_s=5)
    for action in (store.pins, lambda: KuboStore(running.api_url)):
        with pytest.raises(MarketError) as caught:
            action()
        assert caught.value.code == "ipfs_unreachable"


def test_a_missing_kubo_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GPUMARKET_KUBO", str(tmp_path / "no-such-ipfs"))
    with pytest.raises(RuntimeError, match="no Kubo"):
        part.kubo_binary()


def test_an_old_kubo_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    old = tmp_path / "ipfs"
    old.write_text("#!/bin/sh\necho 0.42.1\n")
    old.chmod(0o755)
    assert subprocess.run([str(old), "version", "-n"], capture_output=True, text=True).stdout == "0.42.1\n"
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("GPUMARKET_KUBO", str(old))
    with pytest.raises(RuntimeError, match="no Kubo"):
        part.kubo_binary()
