"""A throwaway PostgreSQL cluster on a Unix socket, gone when the test is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Cluster:
    """A server of its own. `url` is that of an empty database."""

    url: str
    folder: Path

    def start(self) -> None:
        options = f"-c listen_addresses= -c unix_socket_directories={self.folder} -c fsync=off"
        self._control("-w", "-t", "30", "-l", str(self.folder / "log"), "-o", options, "start")

    def stop(self) -> None:
        """As a crash does: no farewell to anybody."""
        self._control("-w", "-t", "30", "-m", "immediate", "stop")

    def _control(self, *arguments: str) -> None:
        _as_owner([_program("pg_ctl"), "-D", str(self.folder / "data"), *arguments])


@contextmanager
def postgres_cluster() -> Iterator[Cluster]:
    """Start a server; it is gone at the end.

    As root it runs as the user postgres, since the server refuses root. The socket's folder is short:
    its path has a limit.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        initdb = [_program("initdb"), "-D", str(folder / "data"), "-A", "trust", "-U", "postgres", "-N"]
        _as_owner([*initdb, "-E", "UTF8", "--no-locale"])
        cluster = Cluster(f"postgresql+asyncpg://postgres@/postgres?host={folder}", folder)
        cluster.start()
        try:
            yield cluster
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def postgres_server() -> Iterator[str]:
    """The same for a test that needs the URL alone."""
    with postgres_cluster() as cluster:
        yield cluster.url


def _program(name: str) -> str:
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: int(path.parts[-3]))
    found = str(installed[-1]) if installed else shutil.which(name)
    if found is None:
        pytest.fail(
            f"PostgreSQL's {name} is not installed; on Debian or Ubuntu: apt-get install postgresql", pytrace=False
        )
    return found


def _as_owner(command: list[str]) -> None:
    as_root = os.geteuid() == 0
    done = subprocess.run(
        command,
        user="postgres" if as_root else None,
        group="postgres" if as_root else None,
        extra_groups=[] if as_root else None,
        cwd="/",
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=60,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{Path(command[0]).name} failed: {done.stdout[-2_000:]}")
