"""What the agent serves to the world: a job's output and metrics to its parties, and the store's blocks to anybody."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from starlette.routing import BaseRoute, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gpumarket.chain.deployments import Deployment
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address, JobId, parse_job_id
from provider_agent.access import Access, check_grant
from provider_agent.container import Market, container_name
from provider_agent.journal import Journal
from provider_agent.logs import LogHub
from provider_agent.ports import Clock
from provider_agent.runtime import Runtime, Stats
from provider_agent.state import ENDED, JobRow

AUTH_S = 10.0
METRICS_S = 5.0
MAX_WATCHERS = 256
MAX_FRAME_CHARS = 16_384
_BEAT_S = 15.0
_LOOK_S = 0.25

_CLOSE_CODES = {"invalid_argument": 1008, "unauthorized": 1008, "forbidden": 1008, "not_found": 1008}


@dataclass
class JobStreams:
    """Live views of jobs. Readers pull from the job's log on disk, so a slow one delays nobody."""

    journal: Journal
    logs: LogHub
    runtime: Runtime
    market: Market
    deployment: Deployment
    provider: Address
    clock: Clock
    stopping: asyncio.Event
    gpu_metrics: Callable[[], Awaitable[list[dict[str, Any]]]]
    patience_s: float = 6.0
    _watchers: int = field(default=0, init=False)

    def routes(self) -> list[BaseRoute]:
        return [
            WebSocketRoute("/v1/jobs/{job_id}/logs", self._handler("logs", self._send_logs)),
            WebSocketRoute("/v1/jobs/{job_id}/metrics", self._handler("metrics", self._send_metrics)),
        ]

    def _handler(
        self, scope: str, send: Callable[[WebSocket, JobRow, Access], Awaitable[None]]
    ) -> Callable[[WebSocket], Awaitable[None]]:
        async def handle(socket: WebSocket) -> None:
            await socket.accept()
            self._watchers += 1
            try:
                row, access = await self._enter(socket, scope)
                await _until_gone(socket, send(socket, row, access))
                await _close(socket, 1000)
            except MarketError as error:
                with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                    await socket.send_json({"type": "error", "error": error.as_dict()})
                await _close(socket, _CLOSE_CODES.get(error.code, 1011))
            except WebSocketDisconnect:
                return
            finally:
                self._watchers -= 1

        return handle

    async def _enter(self, socket: WebSocket, scope: str) -> tuple[JobRow, Access]:
        if self._watchers > MAX_WATCHERS:
            raise MarketError("rate_limited", "too many watchers")
        try:
            job_id = parse_job_id(socket.path_params["job_id"])
            text = await asyncio.wait_for(socket.receive_text(), AUTH_S)
            if len(text) > MAX_FRAME_CHARS:
                raise ValueError("the frame is too long")
            frame = json.loads(text)
        except TimeoutError:
            raise MarketError("unauthorized", "no auth frame in time") from None
        except (ValueError, KeyError, RecursionError) as error:
            raise MarketError("invalid_argument", f"not an auth frame: {str(error)[:80]}") from None
        # Nothing is said of a job, and nothing is looked up, before the caller has shown who it is.
        access = check_grant(frame, deployment=self.deployment, job_id=job_id, scope=scope, now=int(self.clock()))
        row = await self._known(job_id)
        if row is None:
            raise MarketError(
                "not_found", f"no job {job_id} here", hint="the agent has not seen this job yet; try again"
            )
        if access.account not in (row.user, self.provider):
            raise MarketError("forbidden", "only the job's renter and its provider may read this")
        return row, access

    async def _known(self, job_id: JobId) -> JobRow | None:
        """The job; a renter may be here a moment before the agent has seen the job's block."""
        looks = max(1, int(self.patience_s / _LOOK_S))
        for look in range(looks):
            row = self.journal.get(job_id)
            if row is not None or look == looks - 1:
                return row
            await asyncio.sleep(_LOOK_S)
        return None

    async def _send_logs(self, socket: WebSocket, row: JobRow, access: Access) -> None:
        job_id, after = row.job_id, access.after
        log, sent_status = self.logs.of(job_id), None
        while not self.stopping.is_set():
            status = self.logs.status(job_id)
            if status is not None and status != sent_status:
                await socket.send_json(status)
                sent_status = status
            now = self.journal.get(job_id) or row
            for entry in log.read(after):
                await socket.send_json(
                    {"type": "log", "seq": entry.seq, "ts": entry.ts, "stream": entry.stream, "line": entry.line}
                )
                after = entry.seq
            if log.last is not None and log.last.seq > after:
                continue
            if now.state in ENDED:
                await socket.send_json(_end(now))
                return
            await self.logs.wait(job_id, _BEAT_S)

    async def _send_metrics(self, socket: WebSocket, row: JobRow, _: Access) -> None:
        before: tuple[float, float] | None = None
        while not self.stopping.is_set():
            now = self.journal.get(row.job_id) or row
            if now.state in ENDED:
                await socket.send_json(_end(now))
                return
            container = await self.runtime.inspect(container_name(self.market, row.job_id))
            if container is not None and container.running:
                stats, at = await self.runtime.stats(container.id), self.clock()
                frame = _metrics(stats, at, before) | {"gpus": await self.gpu_metrics()}
                before = (at, stats.cpu_seconds)
                await socket.send_json({"type": "metrics", "jobId": row.job_id, **frame})
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.stopping.wait(), METRICS_S)


def _metrics(stats: Stats, at: float, before: tuple[float, float] | None) -> dict[str, Any]:
    """`cpuPercent` is of one core, since the frame before; None in the first frame."""
    percent = None
    if before is not None and at > before[0]:
        percent = round(100 * (stats.cpu_seconds - before[1]) / (at - before[0]), 1)
    return {
        "ts": at,
        "cpuSeconds": stats.cpu_seconds,
        "cpuPercent": percent,
        "memoryBytes": stats.memory_bytes,
        "memoryLimit": stats.memory_limit,
        "pids": stats.pids,
    }


def _end(row: JobRow) -> dict[str, Any]:
    return {
        "type": "end",
        "exitCode": row.exit_code,
        "reason": row.reason,
        "code": row.code,
        "state": row.state.value,
        "result": row.result,
    }


async def _until_gone(socket: WebSocket, sending: Any) -> None:
    """Run `sending` until it ends or the client leaves. What the client sends after the first frame is ignored."""
    task = asyncio.ensure_future(sending)
    watch = asyncio.ensure_future(_gone(socket))
    try:
        await asyncio.wait({task, watch}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            await task
    finally:
        for pending in (task, watch):
            pending.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(socket: WebSocket) -> None:
    while True:
        message = await socket.receive()
        if message["type"] == "websocket.disconnect":
            return


async def _close(socket: WebSocket, code: int) -> None:
    if socket.application_state is WebSocketState.CONNECTED and socket.client_state is WebSocketState.CONNECTED:
        with contextlib.suppress(RuntimeError, WebSocketDisconnect):
            await socket.close(code)
