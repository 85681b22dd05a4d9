"""Brings a container's output into the job's log, exactly once, also over a restart of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.units import JobId
from provider_agent.logs import LogHub
from provider_agent.runtime import Container, Runtime

_RETRY_S = 2.0
_REREAD_S = 2


class LogPump:
    """One task per running container."""

    def __init__(self, runtime: Runtime, hub: LogHub, log: Log, on_end: Callable[[], None]) -> None:
        self._runtime = runtime
        self._hub = hub
        self._log = log
        self._on_end = on_end
        self._tasks: dict[JobId, asyncio.Task[None]] = {}

    def ensure(self, job_id: JobId, container: Container) -> None:
        """Follow the container's output, if nobody does yet."""
        task = self._tasks.get(job_id)
        if task is None or task.done():
            self._tasks[job_id] = asyncio.create_task(self._follow(job_id, container))

    async def drain(self, job_id: JobId, container: Container) -> None:
        """Take over everything an ended container wrote. Raises what the engine says."""
        await self.stop(job_id)
        await self._copy(job_id, container, follow=False)

    async def stop(self, job_id: JobId | None = None) -> None:
        """Stop following one job, or all."""
        ids = list(self._tasks) if job_id is None else [job_id]
        tasks = [self._tasks.pop(i) for i in ids if i in self._tasks]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _follow(self, job_id: JobId, container: Container) -> None:
        while True:
            try:
                await self._copy(job_id, container, follow=True)
            except MarketError as error:
                self._log.warning("log stream broke", job_id=job_id, code=error.code)
                await asyncio.sleep(_RETRY_S)
            else:
                self._on_end()
                return

    async def _copy(self, job_id: JobId, container: Container, *, follow: bool) -> None:
        places = self._hub.of(job_id).places()
        since = _earlier(max((ts for ts, _ in places.values()), default=""))
        async for line in self._runtime.logs(container.id, since=since, follow=follow):
            ts, stored = places.get(line.stream, ("", 0))
            if line.ts < ts:
                continue
            if line.ts == ts and stored > 0:
                places[line.stream] = (ts, stored - 1)
                continue
            self._hub.append(job_id, line)


def _earlier(ts: str) -> str:
    """An engine time a moment earlier: the two streams may be out of order by so much, and times may repeat."""
    if not ts:
        return ""
    moment = datetime.fromisoformat(ts[:19]) - timedelta(seconds=_REREAD_S)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.000000000Z")
