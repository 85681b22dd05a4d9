"""Job logs: numbered, durable, bounded, resumable; the pump loses and doubles no line."""

from __future__ import annotations

import asyncio
import io
from collections.abc import AsyncIterator
from pathlib import Path

from gpumarket.log import Log
from gpumarket.rules.units import JobId
from provider_agent.logs import JobLog, LogHub
from provider_agent.pump import LogPump
from provider_agent.runtime import Container, ContainerId, ContainerState, LogLine
from tests.fakes import FakeRuntime

JOB = JobId("0x" + "1" * 64)
BOX = Container(ContainerId("c"), "n", ContainerState.EXITED, 0, False, 1.0, 2.0, {}, "i")


def line(number: int, text: str = "x", stream: str = "stdout") -> LogLine:
    return LogLine(f"2026-01-01T00:00:{number:02d}.000000000Z", stream, text)


def test_lines_are_numbered_from_one_and_read_after_a_number(tmp_path: Path) -> None:
    log = JobLog(tmp_path)
    for number in range(600):
        log.append(line(number % 60, str(number)))
    assert [e.seq for e in log.read(0, limit=3)] == [1, 2, 3]
    assert [e.line for e in log.read(598)] == ["598", "599"]
    assert log.read(600) == []


def test_a_reopened_log_goes_on_and_drops_the_half_line_of_a_crash(tmp_path: Path) -> None:
    log = JobLog(tmp_path)
    log.append(line(1, "kept"))
    with (tmp_path / "log.1.jsonl").open("ab") as file:
        file.write(b'[2, "2026')
    again = JobLog(tmp_path)
    assert again.append(line(2, "next")).seq == 2
    assert [e.line for e in JobLog(tmp_path).read(0)] == ["kept", "next"]


def test_old_lines_make_room_and_numbers_go_on(tmp_path: Path) -> None:
    log = JobLog(tmp_path, max_bytes=4_000)
    for number in range(300):
        log.append(line(number % 60, str(number)))
    kept = log.read(0, limit=1_000)
    assert kept[-1].seq == 300
    assert kept[0].seq > 100
    assert [e.seq for e in kept] == list(range(kept[0].seq, 301))
    assert sum(f.stat().st_size for f in tmp_path.iterdir()) < 5_000
    assert [e.seq for e in JobLog(tmp_path, 4_000).read(0, limit=1_000)] == [e.seq for e in kept]


def test_tail_is_whole_lines_of_one_stream(tmp_path: Path) -> None:
    log = JobLog(tmp_path)
    log.append(line(1, "a" * 10))
    log.append(line(2, "err", "stderr"))
    log.append(line(3, "b" * 10))
    assert log.tail("stdout", 15) == b"b" * 10 + b"\n"
    assert log.tail("stderr", 15) == b"err\n"


class Streams(FakeRuntime):
    """An engine whose log is what the test says; times may repeat and the streams be out of order."""

    lines: tuple[LogLine, ...] = ()

    async def logs(self, container: ContainerId, since: str = "", follow: bool = True) -> AsyncIterator[LogLine]:
        for found in self.lines:
            if found.ts > since:
                yield found


def pump(hub: LogHub, runtime: FakeRuntime) -> LogPump:
    return LogPump(runtime, hub, Log("t", stream=io.StringIO()), lambda: None)


async def test_reattaching_neither_loses_nor_doubles_lines_of_equal_or_crossed_times(tmp_path: Path) -> None:
    runtime = Streams(lambda: 0.0)
    everything = (line(5, "a"), line(5, "b"), line(7, "late", "stderr"), line(6, "c"), line(6, "c"), line(8, "d"))
    for cut in range(len(everything) + 1):
        runtime.lines = everything[:cut]
        folder = tmp_path / str(cut)
        await pump(LogHub(folder), runtime).drain(JOB, BOX)
        runtime.lines = everything
        hub = LogHub(folder)
        await pump(hub, runtime).drain(JOB, BOX)
        assert sorted(e.line for e in hub.of(JOB).read(0)) == sorted(found.line for found in everything), cut


async def test_waiting_reader_wakes_on_a_line_and_gives_up_after_its_time(tmp_path: Path) -> None:
    hub = LogHub(tmp_path)
    waiting = asyncio.create_task(hub.wait(JOB, 30))
    await asyncio.sleep(0)
    hub.append(JOB, line(1))
    await asyncio.wait_for(waiting, 1)
    await hub.wait(JOB, 0.001)
