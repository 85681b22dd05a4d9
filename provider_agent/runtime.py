"""What the agent asks of a container engine. `DockerRuntime` is the real one; tests use `tests.fakes.FakeRuntime`.

Every method is bounded in time and may be repeated: `remove` of what is gone succeeds, `create` of what exists adopts
it. Errors are `MarketError`: `docker_unreachable` when no engine answers (nothing is known, so nothing may be
concluded), `docker_failed` when it answered and refused.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import NewType, Protocol

ContainerId = NewType("ContainerId", str)

SPEC_LABEL = "gpumarket.spec"
"""Holds a digest of the spec. A container of the same name is adopted only if this label is equal."""


class Tier(IntEnum):
    """The isolation that was measured: T0 runc, T1 user namespaces or rootless, T2 gVisor."""

    T0 = 0
    T1 = 1
    T2 = 2


class DiskLimit(StrEnum):
    """How a volume's size is bounded."""

    QUOTA = "quota"
    """Project quota of the engine's file system: writes beyond it fail."""
    LOOP = "loop"
    """A file system of fixed size in a file: writes beyond it fail."""
    WATCHED = "watched"
    """Measured every few seconds: a container beyond it is killed."""


class ContainerState(StrEnum):
    CREATED = "created"
    RUNNING = "running"
    PAUSED = "paused"
    RESTARTING = "restarting"
    REMOVING = "removing"
    EXITED = "exited"
    DEAD = "dead"


@dataclass(frozen=True)
class ContainerSpec:
    """One sandboxed container.

    Attributes:
        name: unique on the engine; it is the lock against starting a job twice.
        image: a reference the engine already has.
        command, entrypoint: replace the image's own when given (`()` and `None` keep them).
        labels: kept on the container and its volumes; must let the agent rebuild its journal.
        gpus: UUIDs, never indices; empty gives none.
        memory_bytes: memory and swap together; `/tmp` and `/dev/shm` count towards it.
        results_bytes: size of the writable, kept volume at `results_path`.
        disk_bytes: size of the writable scratch volume at `/workspace`; 0 for none.
        network: only False is possible on this engine; True is refused with `machine_unsuitable`.
    """

    name: str
    image: str
    command: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] | None = None
    env: Mapping[str, str] = field(default_factory=dict)
    workdir: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    gpus: tuple[str, ...] = ()
    memory_bytes: int = 1 << 30
    cpus: float = 1.0
    pids: int = 4096
    shm_bytes: int = 64 << 20
    results_path: str = "/results"
    results_bytes: int = 256 << 20
    disk_bytes: int = 0
    network: bool = False


@dataclass(frozen=True)
class Container:
    """What the engine says about a container. Times are unix seconds, `None` if it has not happened.

    `stop_reason` is set when the runtime itself ended it, for instance "disk limit".
    """

    id: ContainerId
    name: str
    state: ContainerState
    exit_code: int | None
    oom_killed: bool
    started_at: float | None
    finished_at: float | None
    labels: Mapping[str, str]
    image: str
    stop_reason: str = ""

    @property
    def running(self) -> bool:
        return self.state in (ContainerState.RUNNING, ContainerState.PAUSED, ContainerState.RESTARTING)

    @property
    def ended(self) -> bool:
        return self.state in (ContainerState.EXITED, ContainerState.DEAD)


@dataclass(frozen=True)
class LogLine:
    """One line of output.

    `ts` is the engine's RFC 3339 time with nanoseconds; it is what `logs(since=...)` resumes from.
    """

    ts: str
    stream: str
    line: str


@dataclass(frozen=True)
class Stats:
    """Use right now: CPU seconds since the start, bytes of memory, processes."""

    cpu_seconds: float
    memory_bytes: int
    memory_limit: int
    pids: int


@dataclass(frozen=True)
class EngineInfo:
    """What the engine is, and what it can enforce.

    `limits_missing` names limits the engine cannot set; it must be empty, or no job can start.
    """

    version: str
    api_version: str
    storage_driver: str
    cgroup_version: str
    rootless: bool
    runtimes: tuple[str, ...]
    cdi: bool
    nvidia: bool
    tier: Tier
    disk_limit: DiskLimit
    security: tuple[str, ...]
    architecture: str
    containers_running: int
    limits_missing: tuple[str, ...] = ()
    runc: str = ""


class Runtime(Protocol):
    """A container engine."""

    async def ping(self) -> EngineInfo:
        """Version and capabilities. Raises `docker_unreachable`."""
        ...

    async def pull(self, ref: str, tag: str) -> str:
        """Pull `name@sha256:...`, check the digest the engine recorded, tag it `tag`; the engine's image id."""
        ...

    async def load(self, archive: Path, tag: str) -> str:
        """Load a docker-archive that holds one image and tag it; the fallback where loopback cannot be reached."""
        ...

    async def create(self, spec: ContainerSpec) -> ContainerId:
        """Create, not start. A container of that name with an equal `SPEC_LABEL` is adopted; another is an error."""
        ...

    async def start(self, container: ContainerId) -> None:
        """Start; succeeds if it already runs."""
        ...

    async def stop(self, container: ContainerId, grace_s: float) -> None:
        """SIGTERM, then SIGKILL after `grace_s`; succeeds if it is not running or gone."""
        ...

    async def kill(self, container: ContainerId) -> None:
        """SIGKILL; succeeds if it is not running or gone."""
        ...

    async def remove(self, name_or_id: str) -> None:
        """Remove the container and its volumes, running or not; also what an interrupted `create` of that name left."""
        ...

    async def inspect(self, name_or_id: str) -> Container | None:
        """The container, or None if the engine answered that there is none."""
        ...

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        """All containers, running or not, that carry all `labels` (an empty value matches any)."""
        ...

    def logs(self, container: ContainerId, since: str = "", follow: bool = True) -> AsyncIterator[LogLine]:
        """Lines after the time `since`, in order; with `follow` until the container ends. Raises `not_found`."""
        ...

    async def stats(self, container: ContainerId) -> Stats:
        """Use of a running container."""
        ...

    async def copy_out(self, container: ContainerId, path: str, dest: Path, max_bytes: int) -> int:
        """Copy the tree at `path` to the new folder `dest`; the bytes copied.

        Only plain files and folders come; links, devices and sockets are left out. Raises `not_found`, and
        `image_too_large` over `max_bytes`.
        """
        ...

    async def remove_image(self, tag: str) -> None:
        """Remove a tag, and the image if nothing else holds it; succeeds if it is gone."""
        ...
