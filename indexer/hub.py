"""From a commit to those who wait for it, in this process. No poll, and a slow listener costs no memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from indexer.store import Changes


class Hub:
    """Fan-out of commits. Each listener holds only the ids it has not read yet, every id at most once."""

    def __init__(self) -> None:
        self._listeners: set[_Listener] = set()

    def publish(self, changes: Changes) -> None:
        """Tell every listener, at once and without waiting."""
        for listener in self._listeners:
            listener.offer(changes)

    @contextmanager
    def job_changes(self, job_id: str) -> Iterator[AsyncIterator[str]]:
        """The job's id again and again, each time its status changed since the last read."""
        with self._listen(_Listener(job_id)) as ids:
            yield ids

    @contextmanager
    def rentable(self) -> Iterator[AsyncIterator[str]]:
        """Ids of resources that have become rentable, oldest first."""
        with self._listen(_Listener(None)) as ids:
            yield ids

    @contextmanager
    def _listen(self, listener: _Listener) -> Iterator[AsyncIterator[str]]:
        self._listeners.add(listener)
        try:
            yield listener.ids()
        finally:
            self._listeners.discard(listener)


class _Listener:
    def __init__(self, job_id: str | None) -> None:
        self._job_id = job_id
        self._pending: dict[str, None] = {}
        self._wake = asyncio.Event()

    def offer(self, changes: Changes) -> None:
        found = changes.rentable if self._job_id is None else changes.jobs & {self._job_id}
        if found:
            self._pending.update(dict.fromkeys(sorted(found)))
            self._wake.set()

    async def ids(self) -> AsyncIterator[str]:
        while True:
            await self._wake.wait()
            self._wake.clear()
            pending, self._pending = self._pending, {}
            for found in pending:
                yield found
