"""Child processes with real processes: ready or a clear failure, and nothing left behind."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gpumarket.dev.process import ChildSpec, Supervisor
from gpumarket.dev.reaper import Reaper
from gpumarket.errors import MarketError

STUBBORN = (
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up', flush=True)\ntime.sleep(600)"
)
WITH_CHILD = "import subprocess, time\nprint(subprocess.Popen(['sleep', '600']).pid, flush=True)\ntime.sleep(600)"


class Told:
    """Collects what the supervisor tells."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def tell(self, line: str) -> None:
        self.lines.append(line)


def spec(tmp_path: Path, script: str, ready: str | None = None, **options: float) -> ChildSpec:
    log = tmp_path / "child.log"

    async def seen() -> bool:
        return ready is not None and ready in log.read_text()

    return ChildSpec("child", (sys.executable, "-c", script), dict(os.environ), log, seen if ready else None, **options)  # type: ignore[arg-type]


def supervisor() -> Supervisor:
    return Supervisor(Told(), asyncio.get_running_loop().create_future())


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def wait_gone(pid: int, timeout_s: float = 20) -> bool:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if not alive(pid):
            return True
        time.sleep(0.05)
    return False


async def test_default_behavior(tmp_path: Path) -> None:
    parent = supervisor()
    child = await parent.start(spec(tmp_path, "print('up', flush=True)\nimport time\ntime.sleep(600)", "up"))
    assert alive(child.process.pid)
    await parent.stop()
    assert not alive(child.process.pid)


async def test_a_child_that_dies_before_it_is_ready_shows_its_log(tmp_path: Path) -> None:
    parent = supervisor()
    with pytest.raises(MarketError) as caught:
        await parent.start(spec(tmp_path, "raise SystemExit('no such database')", "never"))
    assert caught.value.code == "machine_unsuitable"
    assert "exit code 1" in caught.value.message
    assert "no such database" in caught.value.hint
    await parent.stop()


async def test_a_child_that_is_never_ready_has_a_deadline(tmp_path: Path) -> None:
    parent = supervisor()
    with pytest.raises(MarketError) as caught:
        await parent.start(spec(tmp_path, "import time\ntime.sleep(600)", "never", ready_timeout_s=0.5))
    assert "not ready within" in caught.value.message
    await parent.stop()


async def test_a_child_that_ignores_sigterm_is_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumarket.dev.process.STOP_GRACE_S", 0.5)
    parent = supervisor()
    child = await parent.start(spec(tmp_path, STUBBORN, "up"))
    await parent.stop()
    assert child.process.returncode == -signal.SIGKILL


async def test_what_a_child_started_goes_with_it(tmp_path: Path) -> None:
    parent = supervisor()
    await parent.start(spec(tmp_path, WITH_CHILD, "\n"))
    grandchild = int((tmp_path / "child.log").read_text())
    await parent.stop()
    assert wait_gone(grandchild)


async def test_a_death_in_service_is_noticed(tmp_path: Path) -> None:
    parent = supervisor()
    await parent.start(spec(tmp_path, "print('up', flush=True)\nimport time\ntime.sleep(0.3)\nexit(3)", "up"))
    assert "exit code 3" in await asyncio.wait_for(parent.failed, 10)
    await parent.stop()


async def test_a_command_gives_its_output_line_by_line(tmp_path: Path) -> None:
    parent, notes = supervisor(), list[str]()
    script = "import sys\nprint('a')\nprint('b')\nprint('note', file=sys.stderr)"
    assert await parent.run(spec(tmp_path, script), notes.append, timeout_s=20) == "a\nb"
    assert notes == ["note"]


async def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(MarketError) as caught:
        await supervisor().run(spec(tmp_path, "raise SystemExit('bad')"), timeout_s=20)
    assert "bad" in caught.value.hint


async def test_a_command_has_a_deadline(tmp_path: Path) -> None:
    parent = supervisor()
    with pytest.raises(MarketError) as caught:
        await parent.run(spec(tmp_path, "import time\ntime.sleep(600)"), timeout_s=0.5)
    assert caught.value.code == "machine_unsuitable"


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(MarketError) as caught:
        await supervisor().start(ChildSpec("x", ("/no/such/program",), {}, tmp_path / "log"))
    assert "/no/such/program" in caught.value.message


def test_the_reaper_ends_what_a_closed_pipe_leaves() -> None:
    reaper = Reaper()
    orphan = subprocess.Popen(["sleep", "600"], start_new_session=True)
    reaper.tell(f"group {orphan.pid}")
    reaper.close(30)
    assert orphan.wait(5) == -signal.SIGTERM


def test_a_killed_parent_leaves_nothing(tmp_path: Path) -> None:
    script = """
import asyncio, sys
from pathlib import Path
from gpumarket.dev.process import ChildSpec, Supervisor
from gpumarket.dev.reaper import Reaper

async def main():
    parent = Supervisor(Reaper(), asyncio.get_running_loop().create_future())
    child = await parent.start(ChildSpec("c", ("sleep", "600"), {"PATH": "/bin:/usr/bin"}, Path(sys.argv[1])))
    print(child.process.pid, parent.registrar._process.pid, flush=True)
    await asyncio.sleep(600)

asyncio.run(main())
"""
    parent = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "log")], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child, reaper = map(int, parent.stdout.readline().split())
    assert alive(child)
    parent.kill()
    parent.wait()
    assert wait_gone(child)
    assert wait_gone(reaper)


async def test_a_restartable_child_that_dies_is_started_again_with_the_same_command(tmp_path: Path) -> None:
    family, told = supervisor(), list[str]()
    family.revive = told.append
    child = await family.start(dataclasses.replace(spec(tmp_path, STUBBORN, "up"), restartable=True))
    os.kill(child.process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and not (family.children and family.children[0] is not child):  # noqa: ASYNC110
        await asyncio.sleep(0.05)
    again = family.children[0].process.pid
    assert again != child.process.pid
    assert alive(again)
    assert "started again" in told[0]
    assert not family.failed.done()
    await family.stop()
    assert wait_gone(again)
