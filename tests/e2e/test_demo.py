"""The whole market in processes of its own: one rental adds up, and an interruption at any moment leaves nothing."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumarket.rules import settlement

pytestmark = [pytest.mark.e2e, pytest.mark.docker, pytest.mark.anvil, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 420


@dataclass
class Demo:
    """A demo under way, in a folder by which its processes are found again."""

    process: subprocess.Popen[str]
    folder: Path

    def until(self, text: str) -> list[str]:
        """Read output up to a line with `text`."""
        assert self.process.stdout is not None
        seen: list[str] = []
        for line in self.process.stdout:
            seen.append(line)
            if text in line:
                return seen
        raise AssertionError(f"the demo ended before {text!r}:\n" + "".join(seen[-30:]))

    def end(self) -> tuple[int, str]:
        output, _ = self.process.communicate(timeout=DEADLINE_S)
        return self.process.returncode, output


@pytest.fixture
def demo(tmp_path: Path) -> Iterator[Demo]:
    folder = tmp_path / "market"
    command = [sys.executable, "-m", "gpumarket.cli.main", "dev", "demo"]
    command += ["--data-dir", str(folder), "--receipt", str(tmp_path / "receipt.json")]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    yield Demo(process, folder)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=120)


def leftovers(folder: Path) -> list[str]:
    """Processes, mounts, loop devices, containers and images of a demo."""
    found = [f"process {line}" for line in _processes(str(folder))]
    found += [line for line in Path("/proc/self/mounts").read_text().splitlines() if str(folder) in line]
    found += [line for line in _lines("losetup", "--list", "--noheadings") if str(folder) in line]
    run_id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    found += _lines("docker", "image", "ls", "--quiet", "--filter", f"label=gpumarket.dev={run_id}")
    resource = _resource(folder)
    if resource:
        found += _lines("docker", "ps", "--all", "--quiet", "--filter", f"label=gpumarket.resource={resource}")
        found += _lines("docker", "volume", "ls", "--quiet", "--filter", f"label=gpumarket.resource={resource}")
    return found


def _processes(text: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            arguments = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in arguments:
            found.append(arguments)
    return found


def _resource(folder: Path) -> str:
    log = folder / "logs" / "agent.jsonl"
    for line in log.read_text().splitlines() if log.exists() else ():
        resource = json.loads(line).get("resource_id") if line.startswith("{") else None
        if resource:
            return str(resource)
    return ""


def _lines(*command: str) -> list[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()


def test_one_rental_adds_up_and_leaves_nothing(demo: Demo, tmp_path: Path) -> None:
    code, output = demo.end()
    assert code == 0, output[-4000:]
    receipt = json.loads((tmp_path / "receipt.json").read_text())
    assert receipt["ok"]
    assert [check for check in receipt["checks"] if not check["ok"]] == []

    money = {name: int(value) for name, value in receipt["money"].items()}
    price, seconds = int(receipt["price_per_hour"]), receipt["billable_seconds"]
    cost = settlement.cost(price, seconds)
    assert money["locked"] == settlement.lock_up(price, receipt["paid_for_seconds"])
    assert (money["cost"], money["fee"]) == (cost, settlement.fee(cost, 200))
    assert money["to_provider"] + money["fee"] + money["refund"] == money["locked"]

    assert receipt["report"]["signers"] >= 2
    assert receipt["report"]["possessions_verified"] >= 1
    done = " ".join(entry["what"] for entry in receipt["transactions"])
    for event in ("JobCreated", "JobAccepted", "JobStarted", "JobCompleted", "FundsReleased", "ReportSubmitted"):
        assert event in done
    assert all(entry["gas_used"] > 0 for entry in receipt["transactions"])
    assert "part 10 of 10" in output
    assert leftovers(demo.folder) == []


@pytest.mark.parametrize("moment", ["1/9", "contracts: ready", "docker build", "part 3 of 10"])
def test_an_interruption_leaves_nothing(demo: Demo, moment: str) -> None:
    demo.until(moment)
    demo.process.send_signal(signal.SIGINT)
    time.sleep(0.2)
    demo.process.send_signal(signal.SIGINT)
    code, output = demo.end()
    assert code == 130, output[-4000:]
    assert leftovers(demo.folder) == []


def test_a_killed_demo_leaves_nothing(demo: Demo) -> None:
    demo.until("part 3 of 10")
    demo.process.kill()
    demo.process.wait()
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and leftovers(demo.folder):
        time.sleep(0.5)
    assert leftovers(demo.folder) == []
