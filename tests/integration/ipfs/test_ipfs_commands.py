"""The `gpumarket ipfs` commands as a user runs them: processes, a served store, and Kubo behind `--api`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.fetch import fetch
from gpumarket.ipfs.reader import export_path
from tests.fakes import MemoryBlocks
from tests.parts.anvil import free_port
from tests.parts.kubo import kubo


def run(*arguments: str, home: Path) -> str:
    """Run `gpumarket ipfs ...`; returns its standard output."""
    command = [sys.executable, "-m", "gpumarket.cli.main", "ipfs", *arguments]
    environment = {**os.environ, "GPUMARKET_HOME": str(home)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@contextmanager
def served(home: Path, log: Path) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    port = free_port()
    command = [sys.executable, "-m", "gpumarket.cli.main", "ipfs", "serve", "--port", str(port)]
    with log.open("wb") as sink:
        process = subprocess.Popen(command, env={**os.environ, "GPUMARKET_HOME": str(home)}, stderr=sink)
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 20
        while True:
            try:
                assert httpx.get(f"{url}/readyz").json()["status"] == "ready"
                break
            except httpx.TransportError:
                assert process.poll() is None, log.read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        yield url, process
    finally:
        process.kill()
        process.wait()


async def test_a_served_store_gives_what_was_added(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/data").write_bytes(os.urandom(3_000_000))
    cid = Cid.parse(run("add", str(tmp_path / "dir"), "-o", "plain", home=tmp_path / "home"))
    with served(tmp_path / "home", tmp_path / "log") as (url, process):
        async with httpx.AsyncClient() as http:
            assert (await http.get(f"{url}/livez")).status_code == 200
            target = MemoryBlocks()
            await fetch(cid, target, [url], max_bytes=4_000_000, http=http)
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    export_path(target, cid, tmp_path / "copy")
    assert (tmp_path / "copy/data").read_bytes() == (tmp_path / "dir/data").read_bytes()


def test_serving_a_car_takes_bounded_memory(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(b"".join(i.to_bytes(4, "big") * (1 << 18) for i in range(200)))
    cid = run("add", str(tmp_path / "big"), "-o", "plain", home=tmp_path / "home")
    with served(tmp_path / "home", tmp_path / "log") as (url, process):
        with httpx.stream("GET", f"{url}/ipfs/{cid}?format=car") as response:
            pieces = response.iter_raw()
            size = len(next(pieces))
            time.sleep(1)  # a reader that does not read must stop the server from reading ahead
            size += sum(map(len, pieces))
        peak = next(x for x in Path(f"/proc/{process.pid}/status").read_text().splitlines() if x.startswith("VmHWM"))
    assert size > 200 << 20
    assert int(peak.split()[1]) < 160_000  # KiB; the interpreter with its libraries takes half of it


@pytest.mark.kubo
def test_every_command_works_on_kubo(tmp_path: Path) -> None:
    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/hello").write_bytes(b"hello world")
    home = tmp_path / "home"
    with kubo(tmp_path) as daemon:
        api = ("--api", daemon.api_url, "-o", "plain")
        cid = run("add", str(tmp_path / "dir"), *api, home=home)
        assert cid == run("add", str(tmp_path / "dir"), "-o", "plain", home=home)
        assert daemon.run("cat", f"/ipfs/{cid}/hello") == b"hello world"
        pins = json.loads(run("pin", "--api", daemon.api_url, "-o", "json", home=home))
        assert {"cid": cid, "name": "dir"} in pins
        run("get", cid, str(tmp_path / "copy"), *api, home=home)
        assert (tmp_path / "copy/hello").read_bytes() == b"hello world"
        run("export", cid, str(tmp_path / "dir.car"), *api, home=home)
        run("pin", cid, "--remove", *api, home=home)
        run("gc", *api, home=home)
        assert cid not in daemon.run("refs", "local").decode()
        assert run("import", str(tmp_path / "dir.car"), *api, home=home) == cid
        assert run("ls", cid, *api, home=home).endswith("hello")
