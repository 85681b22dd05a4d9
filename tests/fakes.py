"""Fakes for unit tests. Each is held against the real part by a contract test in tests/integration."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gpumarket.errors import MarketError
from provider_agent.runtime import (
    SPEC_LABEL,
    Container,
    ContainerId,
    ContainerSpec,
    ContainerState,
    DiskLimit,
    EngineInfo,
    LogLine,
    Stats,
    Tier,
)
from provider_agent.sandbox import spec_digest


@dataclass(frozen=True)
class FakeProgram:
    """What a fake image does when run: prints, leaves files, exits after `seconds` (None: never by itself)."""

    lines: tuple[str, ...] = ()
    files: Mapping[str, bytes] = field(default_factory=dict)
    exit_code: int = 0
    seconds: float | None = None
    ignores_sigterm: bool = False


@dataclass
class _FakeContainer:
    spec: ContainerSpec
    labels: dict[str, str]
    id: ContainerId
    program: FakeProgram
    started_at: float | None = None
    finished_at: float | None = None
    exit_code: int | None = None
    stop_reason: str = ""


class FakeRuntime:
    """A container engine in memory; see `provider_agent.runtime.Runtime`.

    Attributes:
        images: programs by tag; what `pull` and `load` bring is `default`.
        down: while true every call raises `docker_unreachable`.
        calls: names of the calls that changed something, in order.
    """

    def __init__(self, clock: Callable[[], float], default: FakeProgram | None = None) -> None:
        self._clock = clock
        self._containers: dict[str, _FakeContainer] = {}
        self.default = default or FakeProgram()
        self.images: dict[str, FakeProgram] = {}
        self.down = False
        self.calls: list[str] = []

    async def ping(self) -> EngineInfo:
        self._check()
        return EngineInfo(
            version="27.0.0", api_version="1.46", storage_driver="overlay2", cgroup_version="2", rootless=False,
            runtimes=("runc",), cdi=False, nvidia=False, tier=Tier.T0, disk_limit=DiskLimit.LOOP, security=(),
            architecture="x86_64", containers_running=sum(self._seen(c).running for c in self._containers.values()),
        )  # fmt: skip

    async def pull(self, ref: str, tag: str) -> str:
        self._check(f"pull {ref}")
        self.images.setdefault(tag, self.default)
        return "sha256:" + hashlib.sha256(ref.partition("@")[2].encode()).hexdigest()

    async def load(self, archive: Path, tag: str) -> str:
        self._check(f"load {tag}")
        self.images.setdefault(tag, self.default)
        return "sha256:" + hashlib.sha256(archive.read_bytes()).hexdigest()

    async def create(self, spec: ContainerSpec) -> ContainerId:
        self._check()
        if spec.network:
            raise MarketError("machine_unsuitable", "this host rents out no network access")
        held = self._containers.get(spec.name)
        if held is None:
            if spec.image not in self.images:
                raise MarketError("docker_failed", f"no such image {spec.image}")
            self.calls.append(f"create {spec.name}")
            labels = {**spec.labels, SPEC_LABEL: spec_digest(spec)}
            identity = ContainerId(hashlib.sha256(f"{spec.name} {len(self.calls)}".encode()).hexdigest())
            held = _FakeContainer(spec, labels, identity, self.images[spec.image])
            self._containers[spec.name] = held
        if held.labels[SPEC_LABEL] != spec_digest(spec):
            raise MarketError("docker_failed", f"another container is named {spec.name}")
        return held.id

    async def start(self, container: ContainerId) -> None:
        held = self._need(container)
        if held.started_at is None:
            self.calls.append(f"start {held.spec.name}")
            held.started_at = self._clock()

    async def stop(self, container: ContainerId, grace_s: float) -> None:
        self._check()
        held = self._find(container)
        if held is not None and self._seen(held).running:
            self.calls.append(f"stop {held.spec.name}")
            self._end(held, 137 if held.program.ignores_sigterm else 143)

    async def kill(self, container: ContainerId) -> None:
        self._check()
        held = self._find(container)
        if held is not None and self._seen(held).running:
            self.calls.append(f"kill {held.spec.name}")
            self._end(held, 137)

    async def remove(self, name_or_id: str) -> None:
        self._check()
        held = self._find(name_or_id)
        if held is not None:
            self.calls.append(f"remove {held.spec.name}")
            del self._containers[held.spec.name]

    async def inspect(self, name_or_id: str) -> Container | None:
        self._check()
        held = self._find(name_or_id)
        return self._seen(held) if held else None

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        self._check()
        return [
            self._seen(held)
            for held in self._containers.values()
            if all(key in held.labels and value in ("", held.labels[key]) for key, value in labels.items())
        ]

    async def logs(self, container: ContainerId, since: str = "", follow: bool = True) -> AsyncIterator[LogLine]:
        held = self._need(container)
        for number, text in enumerate(held.program.lines if held.started_at is not None else ()):
            ts = f"2026-01-01T00:00:00.{number:09d}Z"
            if ts > since:
                yield LogLine(ts, "stdout", text)
        while follow and self._seen(held).running:
            await asyncio.sleep(0)

    async def stats(self, container: ContainerId) -> Stats:
        held = self._need(container)
        running = self._seen(held).running
        elapsed = self._clock() - held.started_at if running and held.started_at is not None else 0.0
        return Stats(elapsed, 1 << 20 if running else 0, held.spec.memory_bytes, 1 if running else 0)

    async def copy_out(self, container: ContainerId, path: str, dest: Path, max_bytes: int) -> int:
        held = self._need(container)
        total = sum(len(data) for data in held.program.files.values())
        if total > max_bytes:
            raise MarketError("image_too_large", f"the results hold more than {max_bytes} bytes")
        dest.mkdir(parents=True)
        for name, data in held.program.files.items() if path == held.spec.results_path else ():
            (dest / name).parent.mkdir(parents=True, exist_ok=True)
            (dest / name).write_bytes(data)
        return total

    async def remove_image(self, tag: str) -> None:
        self._check(f"remove_image {tag}")
        self.images.pop(tag, None)

    def finish(self, name: str, exit_code: int = 0) -> None:
        """Let a running container exit now."""
        self._end(self._containers[name], exit_code)

    def _check(self, call: str = "") -> None:
        if self.down:
            raise MarketError("docker_unreachable", "the Docker Engine does not answer")
        if call:
            self.calls.append(call)

    def _find(self, name_or_id: str) -> _FakeContainer | None:
        return next((c for c in self._containers.values() if name_or_id in (c.spec.name, c.id)), None)

    def _need(self, container: ContainerId) -> _FakeContainer:
        self._check()
        held = self._find(container)
        if held is None:
            raise MarketError("docker_failed", f"no such container {container}")
        return held

    def _end(self, held: _FakeContainer, exit_code: int) -> None:
        held.exit_code, held.finished_at = exit_code, self._clock()

    def _seen(self, held: _FakeContainer) -> Container:
        seconds = held.program.seconds
        if held.started_at is not None and held.finished_at is None and seconds is not None:
            if self._clock() >= held.started_at + seconds:
                held.exit_code, held.finished_at = held.program.exit_code, held.started_at + seconds
        state = ContainerState.RUNNING if held.started_at is not None else ContainerState.CREATED
        if held.finished_at is not None:
            state = ContainerState.EXITED
        return Container(
            held.id, held.spec.name, state, held.exit_code, False, held.started_at, held.finished_at, held.labels,
            held.spec.image, held.stop_reason,
        )  # fmt: skip
