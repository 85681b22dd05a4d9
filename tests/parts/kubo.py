"""A throwaway Kubo daemon for a test: its own repository, loopback only, no network, no peers."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gpumarket import config

MINIMUM = (0, 43)
_CONFIG = (
    ("Addresses.API", '"/ip4/127.0.0.1/tcp/0"'),
    ("Addresses.Gateway", '"/ip4/127.0.0.1/tcp/0"'),
    ("Addresses.Swarm", '["/ip4/127.0.0.1/tcp/0"]'),
    ("AutoConf.Enabled", "false"),
    ("Routing.Type", '"none"'),
    ("Discovery.MDNS.Enabled", "false"),
    ("Gateway.NoFetch", "true"),
)


@dataclass(frozen=True)
class Kubo:
    """A running daemon."""

    api_url: str
    gateway_url: str
    binary: str
    repository: Path

    def run(self, *arguments: str, stdin: bytes | None = None) -> bytes:
        """Run the `ipfs` command against this daemon; returns its standard output."""
        return _ipfs(self.binary, self.repository, *arguments, stdin=stdin)


def kubo_binary() -> str:
    """An `ipfs` of at least version 0.43: `GPUMARKET_KUBO`, else PATH, else the cache folder.

    Raises:
        RuntimeError: none is found; a test that needs Kubo must fail then, not skip.
    """
    cached = sorted(config.cache_home().glob("kubo-*/ipfs"), reverse=True)
    candidates = [os.environ.get("GPUMARKET_KUBO"), shutil.which("ipfs"), *map(str, cached)]
    for candidate in candidates:
        if candidate and _version(candidate) >= MINIMUM:
            return candidate
    raise RuntimeError("no Kubo >= 0.43 found: run `make test` once, or set GPUMARKET_KUBO to an ipfs binary")


@contextlib.contextmanager
def kubo(tmp_path: Path, *profiles: str) -> Iterator[Kubo]:
    """Start a daemon with the test profile and any further profiles; stop it at the end."""
    binary, repository = kubo_binary(), tmp_path / "kubo"
    _ipfs(binary, repository, "init", "--profile=" + ",".join(("test", *profiles)))
    _ipfs(binary, repository, "bootstrap", "rm", "--all")
    for key, value in _CONFIG:
        _ipfs(binary, repository, "config", "--json", key, value)
    log_path = tmp_path / "kubo.log"
    with log_path.open("wb") as log:
        process = subprocess.Popen(
            [binary, "daemon"], env=_environment(repository), stdout=log, stderr=subprocess.STDOUT
        )
    try:
        deadline = time.monotonic() + 30
        while "Daemon is ready" not in (text := log_path.read_text()):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"Kubo did not start: {text[-2000:]}")
            time.sleep(0.05)
        yield Kubo(_address(repository / "api"), _gateway(text), binary, repository)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextlib.contextmanager
def kubo_daemon(tmp_path: Path) -> Iterator[str]:
    """The same for a test that needs the RPC address alone."""
    with kubo(tmp_path) as running:
        yield running.api_url


def _ipfs(binary: str, repository: Path, *arguments: str, stdin: bytes | None = None) -> bytes:
    command = [binary, *arguments]
    done = subprocess.run(command, env=_environment(repository), input=stdin, capture_output=True, timeout=120)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.decode()[-2000:]}")
    return done.stdout


def _environment(repository: Path) -> dict[str, str]:
    return {**os.environ, "IPFS_PATH": str(repository)}


def _version(binary: str) -> tuple[int, ...]:
    try:
        text = subprocess.run([binary, "version", "-n"], capture_output=True, text=True, timeout=20).stdout
    except OSError:
        return ()
    return tuple(int(number) for number in re.findall(r"\d+", text)[:2])


def _address(file: Path) -> str:
    found = re.fullmatch(r"/ip4/([\d.]+)/tcp/(\d+)", file.read_text().strip())
    if found is None:
        raise RuntimeError(f"Kubo's API address is {file.read_text()!r}")
    return f"http://{found[1]}:{found[2]}"


def _gateway(log: str) -> str:
    found = re.search(r"Gateway server listening on /ip4/([\d.]+)/tcp/(\d+)", log)
    if found is None:
        raise RuntimeError("Kubo opened no gateway")
    return f"http://{found[1]}:{found[2]}"
