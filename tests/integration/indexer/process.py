"""The indexer as a process of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.parts.anvil import Anvil

ROOT = Path(__file__).resolve().parents[3]


@contextmanager
def service(node: Anvil, folder: Path, port: int, database_url: str = "") -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "indexer.app", "run", "--rpc-url", node.url, "--port", str(port)]
    command += ["--data-dir", str(folder / "data"), "--deployments", str(folder / "deployments")]
    environment = {**os.environ, "GPUMARKET_INDEXER_DATABASE_URL": database_url}
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=log)
        try:
            yield process
        finally:
            process.kill()
            process.wait()


async def until_ready(http: httpx.AsyncClient) -> dict[str, Any]:
    deadline = time.monotonic() + 60
    while True:
        try:
            answer = await http.get("/readyz")
            if answer.status_code == 200:
                return dict(answer.json())
        except httpx.TransportError:
            pass
        assert time.monotonic() < deadline, "never ready"
        await asyncio.sleep(0.05)
