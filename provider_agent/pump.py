"""Brings a container's output into the job's log, exactly once, also over a restart of the agent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.units import JobId
from provider_agent.logs import LogHub
from provider_agent.runtime import Container, Runtime

_RETRY_S = 2.0


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
        since, seen = self._hub.of(job_id).resume_point()
        async for line in self._runtime.logs(container.id, since=since, follow=follow):
            if line.ts < since:
                continue
            if line.ts == since and seen > 0:
                seen -= 1
                continue
            self._hub.append(job_id, line)
