"""A container's output as it comes: the engine's blocking stream, read by a thread, given out as an async iterator."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Any

from provider_agent.docker_facts import unix_time
from provider_agent.runtime import ContainerId, LogLine

_QUEUE = 512
_CONNECT_S = 10.0
_QUIET_S = 10.0
_HEADER = 8
_GONE = 404
_STREAMS = {1: "stdout", 2: "stderr"}


class Resume:
    """Where reading stands, so that a reopened stream neither loses nor repeats a line.

    Within one of the two streams times never fall, but stdout and stderr may be a moment out of order; and the pieces
    of a long line share one time. So the place is kept per stream, as the last time and how many lines had it.
    """

    def __init__(self, since: str) -> None:
        self._after = since
        self._last: dict[str, tuple[str, int]] = {}
        self._skip: dict[str, tuple[str, int]] = {}

    def reopen(self) -> str:
        """Begin another reading; returns the unix time to ask from, a second early."""
        self._skip = dict(self._last)
        latest = max([self._after, *(ts for ts, _ in self._last.values())])
        return str(int(max(0.0, (unix_time(latest) or 0.0) - 1)))

    def is_new(self, line: LogLine) -> bool:
        """Whether the line has not been given out before; notes it."""
        if line.ts <= self._after:
            return False
        ts, count = self._skip.get(line.stream, ("", 0))
        if line.ts < ts:
            return False
        if line.ts == ts and count > 0:
            self._skip[line.stream] = (ts, count - 1)
            return False
        ts, count = self._last.get(line.stream, ("", 0))
        self._last[line.stream] = (line.ts, count + 1 if line.ts == ts else 1)
        return True


class Reading:
    """One pass over the engine's log stream.

    Args:
        connect: gives the Docker client, which is a `requests.Session`.
        translate: runs a function and turns Docker's errors into ours.
        shut: wakes a thread that is blocked reading a response.
    """

    def __init__(
        self,
        connect: Callable[[], Any],
        container: ContainerId,
        since: str,
        follow: bool,
        translate: Callable[[Callable[[], Any]], Any],
        shut: Callable[[Any], None],
    ) -> None:
        self._connect = connect
        self._container = container
        self._options = {"stdout": 1, "stderr": 1, "timestamps": 1, "since": since, "follow": int(follow)}
        self._translate = translate
        self._shut = shut
        self._closed = threading.Event()
        self._response: Any = None
        self._room = threading.Semaphore(_QUEUE)
        self._items: deque[LogLine | BaseException | None] = deque()
        self._arrived = asyncio.Event()

    async def lines(self) -> AsyncGenerator[LogLine, None]:
        """Lines until the stream ends, falls silent for `_QUIET_S`, or the caller closes the iterator."""
        loop = asyncio.get_running_loop()
        threading.Thread(target=self._read, args=(loop,), name="docker-logs", daemon=True).start()
        try:
            while True:
                # Cleared before looking, so that what arrives after the look wakes us.
                self._arrived.clear()
                while self._items:
                    item = self._items.popleft()
                    self._room.release()
                    if item is None:
                        return
                    if isinstance(item, BaseException):
                        raise item
                    yield item
                await self._arrived.wait()
        finally:
            self._closed.set()
            if self._response is not None:
                self._shut(self._response)

    def _read(self, loop: asyncio.AbstractEventLoop) -> None:
        # A closed loop ends the thread; the reader is gone then.
        with contextlib.suppress(RuntimeError):
            try:
                self._translate(lambda: self._pump(loop))
                self._put(loop, None)
            except Exception as error:
                self._put(loop, error)

    def _pump(self, loop: asyncio.AbstractEventLoop) -> None:
        client = self._connect()
        url = f"{client.base_url}/v{client.api_version}/containers/{self._container}/logs"
        self._response = client.get(url, params=self._options, stream=True, timeout=(_CONNECT_S, _QUIET_S))
        with contextlib.closing(self._response):
            if self._response.status_code == _GONE:
                return
            self._response.raise_for_status()
            for line in frames(self._response.raw.read):
                if self._closed.is_set():
                    return
                self._put(loop, line)

    def _put(self, loop: asyncio.AbstractEventLoop, item: LogLine | BaseException | None) -> None:
        while not self._room.acquire(timeout=1):
            if self._closed.is_set():
                return
        self._items.append(item)
        loop.call_soon_threadsafe(self._arrived.set)


def frames(read: Callable[[int], bytes]) -> Iterator[LogLine]:
    """Docker's multiplexed stream: 8 bytes of header (stream number, length), then `<time> <text>`.

    The engine cuts lines at 16 KiB, so a frame is small; a stream that breaks off or falls silent just ends.
    """
    while True:
        try:
            header = read(_HEADER)
            if len(header) < _HEADER:
                return
            size = int.from_bytes(header[4:], "big")
            body = read(size)
        except (
            Exception
        ):  # the connection library has many words for "no more"; the caller asks the engine what is true
            return
        if len(body) < size:
            return
        ts, _, text = body.decode("utf-8", "replace").partition(" ")
        yield LogLine(ts, _STREAMS.get(header[0], "stdout"), text.removesuffix("\n").removesuffix("\r"))
