"""Child processes that cannot be lost: own session, own log, readiness with a deadline, stopped in reverse order."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import httpx

from gpumarket.dev.leftovers import signal_group
from gpumarket.errors import MarketError

STOP_GRACE_S = 12.0
_RESTART_PAUSE_S = 1.0
LineSink = Callable[[str], None]
Probe = Callable[[], Awaitable[bool]]


class Registrar(Protocol):
    """Is told about every process group, so that somebody can end it if this process dies."""

    def tell(self, line: str) -> None: ...


@dataclass(frozen=True)
class ChildSpec:
    """How to start one process.

    Attributes:
        log_path: both output streams go here.
        ready: answers true once the child can be used; asked until `ready_timeout_s`.
        restartable: it keeps what matters on disk, so it may be started again after it died.
    """

    name: str
    argv: tuple[str, ...]
    environ: Mapping[str, str]
    log_path: Path
    ready: Probe | None = None
    ready_timeout_s: float = 120.0
    cwd: Path | None = None
    restartable: bool = False


@dataclass
class Child:
    spec: ChildSpec
    process: asyncio.subprocess.Process


@dataclass
class Supervisor:
    """Starts and stops children. `failed` is set, with the reason, when a long-running child dies on its own."""

    registrar: Registrar
    failed: asyncio.Future[str]
    children: list[Child] = field(default_factory=list)
    revive: Callable[[str], None] | None = None
    """Told of a child that ended by itself, which is then started again; without it, that is a failure."""
    _watchers: set[asyncio.Task[None]] = field(default_factory=set)
    _stopping: bool = False

    async def start(self, spec: ChildSpec) -> Child:
        """Start a long-running child and wait until it is ready.

        Raises:
            MarketError: `machine_unsuitable` with the end of its log when it dies or is not ready in time.
        """
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        with spec.log_path.open("ab") as log:
            child = Child(spec, await self._spawn(spec, stdout=log.fileno(), stderr=log.fileno()))
        self.children.append(child)
        watcher = asyncio.create_task(self._watch(child))
        self._watchers.add(watcher)
        if spec.ready is not None:
            await self._until_ready(child, spec.ready)
        return child

    async def run(
        self, spec: ChildSpec, on_stderr: LineSink | None = None, on_stdout: LineSink | None = None, *, timeout_s: float
    ) -> str:
        """Run a command to its end and answer its standard output; every line also goes to the sinks and the log.

        Raises:
            MarketError: `internal` with the end of its output when it fails, `machine_unsuitable` when it takes long.
        """
        process = await self._spawn(spec, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE)
        tail: deque[str] = deque(maxlen=40)
        spec.log_path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with spec.log_path.open("a") as log:

                def keep(sink: LineSink | None) -> LineSink:
                    def take(line: str) -> None:
                        log.write(line + "\n")
                        tail.append(line)
                        if sink is not None:
                            sink(line)

                    return take

                async with asyncio.timeout(timeout_s):
                    output, _ = await asyncio.gather(
                        _lines(process.stdout, keep(on_stdout)), _lines(process.stderr, keep(on_stderr))
                    )
                    code = await process.wait()
        except TimeoutError:
            raise MarketError(
                "machine_unsuitable", f"{spec.name} did not finish within {timeout_s:.0f} s", log=str(spec.log_path)
            ) from None
        finally:
            await self._end(process)
        if code != 0:
            raise MarketError(
                "internal", f"{spec.name} ended with exit code {code}", hint="\n".join(tail), log=str(spec.log_path)
            )
        return "\n".join(output)

    async def stop(self) -> None:
        """End all children, newest first, each group as a whole; a child that ignores SIGTERM is killed."""
        self._stopping = True
        for watcher in self._watchers:
            watcher.cancel()
        for child in reversed(self.children):
            await self._end(child.process)
        self.children.clear()

    async def _spawn(self, spec: ChildSpec, *, stdout: int, stderr: int) -> asyncio.subprocess.Process:
        try:
            process = await asyncio.create_subprocess_exec(
                *spec.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=dict(spec.environ),
                cwd=spec.cwd,
                start_new_session=True,
                preexec_fn=die_with_parent,
                limit=1 << 20,
            )
        except FileNotFoundError as error:
            raise MarketError("machine_unsuitable", f"{spec.name}: there is no program {spec.argv[0]}") from error
        self.registrar.tell(f"group {process.pid}")
        return process

    async def _end(self, process: asyncio.subprocess.Process) -> None:
        if process.returncode is None:
            signal_group(process.pid, signal.SIGTERM)
            try:
                await asyncio.wait_for(process.wait(), STOP_GRACE_S)
            except TimeoutError:
                signal_group(process.pid, signal.SIGKILL)
                await process.wait()
        signal_group(process.pid, signal.SIGKILL)  # whatever the child itself started
        self.registrar.tell(f"forget {process.pid}")

    async def _watch(self, child: Child) -> None:
        code = await child.process.wait()
        if self._stopping or child not in self.children:
            return
        if self.revive is not None and child.spec.restartable:
            self.revive(f"{child.spec.name} ended with exit code {code}; it is started again with the same command")
            self.children.remove(child)
            await asyncio.sleep(_RESTART_PAUSE_S)
            with contextlib.suppress(MarketError):  # not ready in time: the next end is seen here again
                await self.start(child.spec)
        elif not self.failed.done():
            self.failed.set_result(
                f"{child.spec.name} ended with exit code {code}; its log ends:\n{log_tail(child.spec.log_path)}"
            )

    async def _until_ready(self, child: Child, ready: Probe) -> None:
        spec = child.spec
        why = f"was not ready within {spec.ready_timeout_s:.0f} s"
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(spec.ready_timeout_s):
                while child.process.returncode is None:
                    if await ready():
                        return
                    await asyncio.sleep(0.1)
                why = f"ended with exit code {child.process.returncode}"
        raise MarketError(
            "machine_unsuitable", f"{spec.name} {why}", hint=log_tail(spec.log_path), log=str(spec.log_path)
        )


def http_ready(url: str) -> Probe:
    """A probe for `/readyz`: true on 200."""

    async def probe() -> bool:
        try:
            async with httpx.AsyncClient(timeout=5, trust_env=False) as http:
                return (await http.get(url)).status_code == 200
        except httpx.HTTPError:
            return False

    return probe


def log_tail(path: Path, lines: int = 15) -> str:
    """The last lines of a log file."""
    try:
        return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])
    except OSError:
        return "(no log)"


def die_with_parent() -> None:
    """Ask Linux to kill this process when the thread that started it dies; elsewhere the reaper alone does it."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)


async def _lines(stream: asyncio.StreamReader | None, sink: LineSink) -> list[str]:
    lines: list[str] = []
    while stream is not None and (raw := await stream.readline()):
        line = raw.decode(errors="replace").rstrip("\n")
        lines.append(line)
        sink(line)
    return lines
