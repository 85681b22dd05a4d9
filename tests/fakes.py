"""Fakes for unit tests. Each is held against the real part by a contract test in tests/integration."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumarket.chain.types import Block
from gpumarket.errors import MarketError
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.store import Collected, Pin
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


def _write_tree(dest: Path, files: Mapping[str, bytes]) -> None:
    dest.mkdir(parents=True)
    for name, data in files.items():
        (dest / name).parent.mkdir(parents=True, exist_ok=True)
        (dest / name).write_bytes(data)


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
        return "sha256:" + hashlib.sha256(str(archive).encode()).hexdigest()

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
        # Other tasks of the test must end it; the time that passes is theirs.
        while follow and self._seen(held).running:  # noqa: ASYNC110
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
        _write_tree(dest, held.program.files if path == held.spec.results_path else {})
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
        going = held.started_at is not None and held.finished_at is None
        if going and seconds is not None and self._clock() >= (held.started_at or 0) + seconds:
            held.exit_code, held.finished_at = held.program.exit_code, (held.started_at or 0) + seconds
        state = ContainerState.RUNNING if held.started_at is not None else ContainerState.CREATED
        if held.finished_at is not None:
            state = ContainerState.EXITED
        return Container(
            held.id, held.spec.name, state, held.exit_code, False, held.started_at, held.finished_at, held.labels,
            held.spec.image, held.stop_reason,
        )  # fmt: skip


class MemoryBlocks:
    """A block store in memory. Checked against the real ones by tests/integration/ipfs/test_block_stores.py."""

    def __init__(self) -> None:
        self.blocks: dict[bytes, bytes] = {}
        self.pinned: dict[Cid, str] = {}

    def get(self, cid: Cid) -> bytes | None:
        block = self.blocks.get(cid.digest)
        if block is not None and not cid.matches(block):
            raise MarketError("image_block_corrupt", f"block {cid} is damaged", cid=str(cid))
        return block

    def put(self, cid: Cid, block: bytes) -> None:
        self.blocks[cid.digest] = block

    def has(self, cid: Cid) -> bool:
        return cid.digest in self.blocks

    def pin(self, cid: Cid, name: str = "") -> None:
        self._reachable(cid)
        self.pinned[cid] = name

    def unpin(self, cid: Cid) -> None:
        self.pinned.pop(cid, None)

    def pins(self) -> tuple[Pin, ...]:
        return tuple(Pin(cid, name) for cid, name in sorted(self.pinned.items(), key=lambda item: str(item[0])))

    def gc(self, now: float) -> Collected:
        keep = {digest for cid in self.pinned for digest in self._reachable(cid)}
        gone = {digest: block for digest, block in self.blocks.items() if digest not in keep}
        for digest in gone:
            del self.blocks[digest]
        return Collected(len(gone), sum(map(len, gone.values())))

    def _reachable(self, cid: Cid) -> set[bytes]:
        block = self.get(cid)
        if block is None:
            raise MarketError("image_block_missing", f"block {cid} is not in the store", cid=str(cid))
        return {cid.digest}.union(*(self._reachable(link.cid) for link in unixfs.parse(cid, block).links))


class FakeNode:
    """A node whose chain a test writes: blocks with raw logs, finality, reorganizations, silence.

    Fits `indexer.follow.Chain`. A block's hash depends on its parent and its logs, as in reality.
    """

    def __init__(self, *, finality_depth: int = 1_000) -> None:
        self.finality_depth = finality_depth
        self.silent = False
        self.blocks: list[Block] = []
        self.requests = 0
        self._logs: dict[str, list[dict[str, Any]]] = {}
        self.add([])

    def add(self, logs: Sequence[dict[str, Any]], *, salt: str = "") -> Block:
        """Append a block with these logs (address, topics, data); their places are filled in."""
        number = len(self.blocks)
        parent = self.blocks[-1].hash if self.blocks else "0x" + "00" * 32
        seed = json.dumps([number, parent, salt, list(logs)])
        block = Block(number, "0x" + hashlib.sha256(seed.encode()).hexdigest(), parent, 1_700_000_000 + 2 * number)
        self.blocks.append(block)
        self._logs[block.hash] = [
            {
                **log,
                "blockNumber": hex(number),
                "blockHash": block.hash,
                "transactionHash": "0x" + hashlib.sha256(f"{block.hash}{index}".encode()).hexdigest(),
                "logIndex": hex(index),
            }
            for index, log in enumerate(logs)
        ]
        return block

    def drop(self, depth: int) -> None:
        """Forget the newest blocks; what is added next is another history."""
        del self.blocks[len(self.blocks) - depth :]

    async def block(self, which: int | str) -> Block:
        self._speak()
        number = which if isinstance(which, int) else len(self.blocks) - 1
        if which == "finalized":
            number = max(0, number - self.finality_depth)
        if not 0 <= number < len(self.blocks):
            raise MarketError("not_found", f"the node has no block {which}")
        return self.blocks[number]

    async def logs(self, from_block: int, to_block: int) -> list[dict[str, Any]]:
        self._speak()
        return [log for block in self.blocks[from_block : to_block + 1] for log in self._logs[block.hash]]

    async def logs_of_block(self, block_hash: str) -> list[dict[str, Any]]:
        self._speak()
        return list(self._logs[block_hash])

    def _speak(self) -> None:
        self.requests += 1
        if self.silent:
            raise MarketError("chain_unreachable", "the node is silent")
