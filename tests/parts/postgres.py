"""A throwaway PostgreSQL cluster on a Unix socket, gone when the test is."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def postgres_server() -> Iterator[str]:
    """Start a server of its own and answer the URL of an empty database.

    As root it runs as the user postgres, since the server refuses root. The socket's folder is short:
    its path has a limit.
    """
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    try:
        if os.geteuid() == 0:
            shutil.chown(folder, "postgres", "postgres")
        data = folder / "data"
        _as_owner(
            [_program("initdb"), "-D", str(data), "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "-N"]
        )
        options = f"-c listen_addresses= -c unix_socket_directories={folder} -c fsync=off"
        control = [_program("pg_ctl"), "-D", str(data), "-w", "-t", "30"]
        _as_owner([*control, "-l", str(folder / "log"), "-o", options, "start"])
        try:
            yield f"postgresql+asyncpg://postgres@/postgres?host={folder}"
        finally:
            _as_owner([*control, "-m", "immediate", "stop"])
    finally:
        shutil.rmtree(folder, ignore_errors=True)


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
