"""A job's output on disk: numbered lines that outlive the container, in two files that rotate.

Old lines make room for new ones once a job wrote more than its share; numbers go on, so that a reader sees the gap.
"""

from __future__ import annotations

import asyncio
import bisect
import collections
import itertools
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumarket.rules.units import JobId
from provider_agent.runtime import LogLine

MAX_LINE_CHARS = 16_384
DEFAULT_MAX_BYTES = 64 << 20
_INDEX_EVERY = 256


@dataclass(frozen=True)
class Entry:
    """A stored line; `seq` counts from 1."""

    seq: int
    ts: str
    stream: str
    line: str


class JobLog:
    """One job's lines. One writer; any number of readers, each at its own pace."""

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._old = _Segment(folder / "log.0.jsonl")
        self._new = _Segment(folder / "log.1.jsonl")
        self._half = max_bytes // 2
        self.last: Entry | None = None
        self._places: dict[str, tuple[str, int]] = {}
        for segment in (self._old, self._new):
            for entry in segment.load():
                self._count(entry)

    def append(self, line: LogLine) -> Entry:
        """Store a line; it outlives a crash of this process."""
        entry = Entry((self.last.seq if self.last else 0) + 1, line.ts, line.stream, line.line[:MAX_LINE_CHARS])
        if self._new.size > self._half:
            fresh = _Segment(self._new.path)
            self._old, self._new = self._new.renamed(self._old.path), fresh
        self._new.append(entry)
        self._count(entry)
        return entry

    def read(self, after: int, limit: int = 500) -> list[Entry]:
        """Up to `limit` lines with a number above `after`."""
        if self.last is None or self.last.seq <= after:
            return []
        return list(itertools.islice(itertools.chain(self._old.entries(after), self._new.entries(after)), limit))

    def tail(self, stream: str, max_bytes: int) -> bytes:
        """The end of what the job wrote to `stream`, whole lines."""
        kept: collections.deque[bytes] = collections.deque()
        size = 0
        for entry in itertools.chain(self._old.entries(0), self._new.entries(0)):
            if entry.stream == stream:
                kept.append(entry.line.encode() + b"\n")
                size += len(kept[-1])
                while size > max_bytes:
                    size -= len(kept.popleft())
        return b"".join(kept)

    def places(self) -> dict[str, tuple[str, int]]:
        """Per stream, the time of its last line and how many lines of it have that very time."""
        return dict(self._places)

    def _count(self, entry: Entry) -> None:
        ts, count = self._places.get(entry.stream, ("", 0))
        self._places[entry.stream] = (entry.ts, count + 1 if ts == entry.ts else 1)
        self.last = entry


class _Segment:
    """A file of lines and a sparse index into it, so that a reader near the end does not read the beginning."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.size = 0
        self._index: list[tuple[int, int]] = []

    def load(self) -> list[Entry]:
        """Index what is on disk, cutting off the half line of a crash; the last lines."""
        if not self.path.exists():
            return []
        last: collections.deque[Entry] = collections.deque(maxlen=_INDEX_EVERY)
        with self.path.open("rb+") as file:
            for text in file:
                entry = _parse(text)
                if entry is None:
                    break
                self._note(entry, len(text))
                last.append(entry)
            file.truncate(self.size)
        return list(last)

    def renamed(self, path: Path) -> _Segment:
        """The same lines under another name, in the place of what was there."""
        self.path.replace(path)
        self.path = path
        return self

    def append(self, entry: Entry) -> None:
        text = json.dumps([entry.seq, entry.ts, entry.stream, entry.line]).encode() + b"\n"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab") as file:
            file.write(text)
        self._note(entry, len(text))

    def entries(self, after: int) -> Iterator[Entry]:
        if not self._index:
            return
        at = max(0, bisect.bisect_right(self._index, (after, 1 << 62)) - 1)
        with self.path.open("rb") as file:
            file.seek(self._index[at][1])
            for text in file:
                entry = _parse(text)
                if entry is not None and entry.seq > after:
                    yield entry

    def _note(self, entry: Entry, length: int) -> None:
        if not self._index or entry.seq >= self._index[-1][0] + _INDEX_EVERY:
            self._index.append((entry.seq, self.size))
        self.size += length


class LogHub:
    """All jobs' logs, with a signal for whoever waits for more.

    Args:
        folder: holds one folder per job.
    """

    def __init__(self, folder: Path, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._folder = folder
        self._max_bytes = max_bytes
        self._logs: dict[JobId, JobLog] = {}
        self._status: dict[JobId, dict[str, Any]] = {}
        self._changed: dict[JobId, asyncio.Event] = {}

    def of(self, job_id: JobId) -> JobLog:
        if job_id not in self._logs:
            self._logs[job_id] = JobLog(self._folder / job_id, self._max_bytes)
        return self._logs[job_id]

    def append(self, job_id: JobId, line: LogLine) -> None:
        self.of(job_id).append(line)
        self.wake(job_id)

    def set_status(self, job_id: JobId, phase: str, **values: Any) -> None:
        """What the job is doing right now, for its watchers; kept in memory."""
        self._status[job_id] = {"type": "status", "phase": phase, **values}
        self.wake(job_id)

    def status(self, job_id: JobId) -> dict[str, Any] | None:
        return self._status.get(job_id)

    def wake(self, job_id: JobId) -> None:
        event = self._changed.pop(job_id, None)
        if event is not None:
            event.set()

    async def wait(self, job_id: JobId, timeout: float) -> None:
        """Until something changed for the job, or `timeout` seconds."""
        event = self._changed.setdefault(job_id, asyncio.Event())
        try:
            await asyncio.wait_for(event.wait(), timeout)
        except TimeoutError:
            return

    def forget(self, job_id: JobId) -> None:
        """Drop what is in memory of a job that is over; its files stay."""
        self._logs.pop(job_id, None)
        self._status.pop(job_id, None)


def _parse(text: bytes) -> Entry | None:
    try:
        seq, ts, stream, line = json.loads(text)
        return Entry(int(seq), str(ts), str(stream), str(line))
    except (ValueError, TypeError):
        return None
