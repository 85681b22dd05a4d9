from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from starlette.routing import Route

from gpumarket import service
from gpumarket.errors import MarketError
from gpumarket.service import DirectoryLock, Service
from tests.parts.anvil import free_port

PROGRAM = """
import asyncio, sys
from gpumarket import service
async def main(s):
    async def loop():
        print("running", flush=True)
        await s.stop.wait()
        {at_stop}
    s.add_task("loop", loop())
sys.exit(service.run("probe", main))
"""


def start(at_stop: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(at_stop=at_stop)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "running\n"
    return process


def test_default_behavior_sigterm_ends_with_zero() -> None:
    process = start("pass")
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0


def test_a_second_signal_exits_at_once() -> None:
    process = start("await asyncio.sleep(60)")
    process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.wait(5) == 130


def test_a_task_that_never_stops_is_cancelled_within_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "STOP_DEADLINE_S", 1.2)

    async def main(s: Service) -> None:
        async def stubborn() -> None:
            await asyncio.sleep(60)

        s.add_task("stubborn", stubborn())
        s.stop.set()

    began = time.monotonic()
    assert service.run("probe", main) == 0
    assert time.monotonic() - began < 5


def test_a_dead_side_task_stops_the_service_with_its_exit_code() -> None:
    async def main(s: Service) -> None:
        async def broken() -> None:
            raise MarketError("docker_unreachable", "no engine")

        async def other() -> None:
            await s.stop.wait()

        s.add_task("broken", broken())
        s.add_task("other", other())

    assert service.run("probe", main) == 8


def test_a_task_that_ends_early_is_a_failure() -> None:
    async def main(s: Service) -> None:
        async def short() -> None:
            return

        s.add_task("short", short())

    assert service.run("probe", main) == 1


def test_health_pages_tell_alive_from_ready() -> None:
    port = free_port()
    seen: dict[str, httpx.Response] = {}

    async def main(s: Service) -> None:
        ready = False

        async def check() -> dict[str, object]:
            if not ready:
                raise MarketError("chain_unreachable", "no node")
            return {"head": 7}

        async def probe() -> None:
            nonlocal ready
            async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
                for _ in range(100):
                    try:
                        seen["livez"] = await http.get("/livez")
                        break
                    except httpx.ConnectError:
                        await asyncio.sleep(0.05)
                seen["early"] = await http.get("/readyz")
                ready = True
                seen["late"] = await http.get("/readyz")
                seen["metrics"] = await http.get("/metrics")
                seen["extra"] = await http.get("/extra")
            s.stop.set()

        s.metrics.counter("things", "Things.").inc()
        s.add_ready_check(check)
        s.add_http([Route("/extra", lambda request: service.JSONResponse({"x": 1}))], host="127.0.0.1", port=port)
        s.add_task("probe", probe())

    assert service.run("probe", main) == 0
    assert seen["livez"].status_code == 200
    assert seen["early"].status_code == 503
    assert seen["early"].json()["error"]["code"] == "chain_unreachable"
    assert seen["late"].json() == {"service": "probe", "head": 7, "status": "ready"}
    assert "gpumarket_probe_things_total 1.0" in seen["metrics"].text
    assert seen["extra"].json() == {"x": 1}


def test_a_port_in_use_is_a_clear_error() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()

        async def main(s: Service) -> None:
            s.add_http([], host="127.0.0.1", port=taken.getsockname()[1])

        assert service.run("probe", main) == 2


def test_a_data_directory_belongs_to_one_process(tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "data")
    with pytest.raises(MarketError) as caught:
        DirectoryLock(tmp_path / "data")
    assert caught.value.code == "already_running"
    lock.release()
    DirectoryLock(tmp_path / "data").release()
    assert os.path.exists(tmp_path / "data")
