"""How every service starts, reports ready, and stops.

`run` owns the process: signals, one stop event, the service's tasks, the health server. SIGTERM or SIGINT sets the
stop event; the tasks then have `STOP_DEADLINE_S` to finish; a second signal exits at once. A side task that dies stops
the service.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import signal
import socket
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.metrics import Metrics

STOP_DEADLINE_S = 10.0

ReadyCheck = Callable[[], Awaitable[dict[str, Any]]]
"""Answers details for /readyz; raises MarketError while the service is not ready."""


@dataclass
class Service:
    """What a service's main function gets: a logger, metrics, a stop event, and a task group to put its loops into."""

    name: str
    log: Log
    metrics: Metrics
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    _tasks: list[tuple[str, Coroutine[Any, Any, None]]] = field(default_factory=list)
    _ready: list[ReadyCheck] = field(default_factory=list)

    def add_task(self, name: str, task: Coroutine[Any, Any, None]) -> None:
        """Register a loop to run until stop. If it ends early or raises, the service stops."""
        self._tasks.append((name, task))

    def add_ready_check(self, check: ReadyCheck) -> None:
        self._ready.append(check)

    def add_http(self, routes: list[BaseRoute], *, host: str, port: int, lifespan: Any = None) -> None:
        """Serve `routes` plus /livez, /readyz and /metrics."""
        app = Starlette(routes=[*self.health_routes(), *routes], lifespan=lifespan)
        self.add_asgi(app, host=host, port=port)

    def add_asgi(self, app: Any, *, host: str, port: int) -> None:
        """Serve an ASGI application as is."""
        self.add_task("http", self._serve(app, host, port))

    async def wait(self, seconds: float) -> bool:
        """Sleep at most `seconds`; true if the service is stopping."""
        try:
            await asyncio.wait_for(self.stop.wait(), seconds)
            return True
        except TimeoutError:
            return False

    def health_routes(self) -> list[BaseRoute]:
        """/livez, /readyz and /metrics, for a service that builds its own application."""

        async def livez(_: Request) -> Response:
            return JSONResponse({"service": self.name, "status": "alive"})

        async def readyz(_: Request) -> Response:
            details: dict[str, Any] = {"service": self.name}
            try:
                for check in self._ready:
                    details |= await asyncio.wait_for(check(), 5)
            except MarketError as error:
                return JSONResponse({**details, "status": "not ready", "error": error.as_dict()}, status_code=503)
            except TimeoutError:
                return JSONResponse({**details, "status": "not ready", "error": {"code": "internal"}}, status_code=503)
            return JSONResponse({**details, "status": "ready"})

        async def metrics(_: Request) -> Response:
            body, media_type = self.metrics.render()
            return Response(body, headers={"content-type": media_type})

        return [Route("/livez", livez), Route("/readyz", readyz), Route("/metrics", metrics)]

    async def _serve(self, app: Any, host: str, port: int) -> None:
        try:
            listener = socket.create_server((host, port), reuse_port=False)
        except OSError as error:
            raise MarketError(
                "invalid_config", f"cannot listen on {host}:{port}: {error.strerror}", hint="is the port in use?"
            ) from error
        config = uvicorn.Config(
            app, log_level="error", access_log=False, ws_max_size=8 << 20, timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(config)
        server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]  # signals are ours
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        while not server.started and not serving.done():  # noqa: ASYNC110  # uvicorn offers no event
            await asyncio.sleep(0.01)
        self.log.info("listening", host=host, port=port)
        stopping = asyncio.create_task(self.stop.wait())
        try:
            await asyncio.wait({serving, stopping}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopping.cancel()
            server.should_exit = True
            await serving


def run(name: str, main: Callable[[Service], Awaitable[None]], *, log_level: str = "info") -> int:
    """Run a service until a signal. `main` builds the parts and registers tasks, then returns.

    Returns:
        The process exit code: 0 after a clean stop, the error's exit code otherwise.
    """
    log = Log(name, log_level)
    try:
        asyncio.run(_run(Service(name, log, Metrics(name)), main))
        return 0
    except* MarketError as group:
        error = _first(group)
        log.error("service failed", error=error)
        code = error.kind.exit_code if isinstance(error, MarketError) else 1
    except* Exception as group:
        log.error("service failed", error=_first(group))
        code = 1
    return code


async def _run(service: Service, main: Callable[[Service], Awaitable[None]]) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, _on_signal, service)
    await main(service)
    service.log.info("started", pid=os.getpid())
    running = {asyncio.create_task(_until_stop(service, task), name=name) for name, task in service._tasks}
    stopping = asyncio.create_task(service.stop.wait())
    try:
        await asyncio.wait({*running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        service.stop.set()
        _, late = await asyncio.wait(running, timeout=STOP_DEADLINE_S - 1)
        for task in late:
            service.log.warning("task did not stop in time", task=task.get_name())
            task.cancel()
        results = await asyncio.gather(*running, return_exceptions=True)
    finally:
        stopping.cancel()
    failures = [r for r in results if isinstance(r, Exception)]
    service.log.info("stopped")
    if failures:
        raise ExceptionGroup("service tasks failed", failures)


async def _until_stop(service: Service, task: Coroutine[Any, Any, None]) -> None:
    await task
    if not service.stop.is_set():
        raise RuntimeError("a service task ended before the service was asked to stop")


def _on_signal(service: Service) -> None:
    if service.stop.is_set():
        os._exit(130)
    service.stop.set()


def _first(group: BaseExceptionGroup[Any]) -> BaseException:
    error = group.exceptions[0]
    return _first(error) if isinstance(error, BaseExceptionGroup) else error


class DirectoryLock:
    """Holds a data directory for this process; a second process gets `already_running`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._file = (directory / "lock").open("a+")
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise MarketError(
                "already_running",
                f"another process works on {directory}",
                hint="stop it, or use another data directory",
            ) from None

    def release(self) -> None:
        self._file.close()
