"""The sandbox as a hostile program inside it meets it, on the real Docker Engine."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import uuid
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from provider_agent import disks
from provider_agent.docker_runtime import DockerRuntime
from provider_agent.runtime import Container, ContainerSpec, DiskLimit, LogLine
from tests.parts.docker import busybox_image, docker_engine, remove_images

pytestmark = pytest.mark.docker

_MIB = 1 << 20


@dataclass
class Host:
    runtime: DockerRuntime
    spec: ContainerSpec
    disks: Path

    async def run(self, script: str, spec: ContainerSpec | None = None) -> tuple[Container, list[str]]:
        """Run a shell script to its end; the container and the lines it printed."""
        chosen = replace(spec or self.spec, command=("sh", "-c", script))
        container = await self.runtime.create(chosen)
        await self.runtime.start(container)
        lines = [entry.line async for entry in self.runtime.logs(container)]
        seen = await self.runtime.inspect(container)
        assert seen is not None
        return seen, lines


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    async for made in _host(tmp_path, None, ()):
        yield made


@pytest.fixture
async def watched_host(tmp_path: Path) -> AsyncIterator[Host]:
    async for made in _host(tmp_path, DiskLimit.WATCHED, ()):
        yield made


@pytest.fixture
async def host_of_image_with_volume(tmp_path: Path) -> AsyncIterator[Host]:
    async for made in _host(tmp_path, None, ("VOLUME /data", "USER 0", "ENV NVIDIA_VISIBLE_DEVICES=all PATH=/bin")):
        yield made


async def _host(tmp_path: Path, limit: DiskLimit | None, changes: tuple[str, ...]) -> AsyncIterator[Host]:
    name = f"gmt-{uuid.uuid4().hex[:12]}"
    with docker_engine():
        tag = busybox_image(f"{name}:1", changes=changes or ('CMD ["/bin/sh"]', "ENV PATH=/bin"))
        runtime = DockerRuntime(tmp_path / "disks", disk_limit=limit)
        spec = ContainerSpec(name, tag, memory_bytes=64 * _MIB, pids=32, results_bytes=8 * _MIB, disk_bytes=8 * _MIB)
        yield Host(runtime, spec, tmp_path / "disks")
        await runtime.remove(name)
        await runtime.remove_image(tag)
        remove_images()
        await runtime.close()


async def test_no_capability_no_privilege_no_root(host: Host) -> None:
    _, lines = await host.run("id -u; id -g; grep -E 'Cap(Prm|Eff|Bnd)|NoNewPrivs|Seccomp:' /proc/self/status")

    facts = [line.replace("\t", " ") for line in lines]
    assert facts[:2] == ["65534", "65534"]
    assert {"CapPrm: 0000000000000000", "CapEff: 0000000000000000", "CapBnd: 0000000000000000"} <= set(facts)
    assert {"NoNewPrivs: 1", "Seccomp: 2"} <= set(facts)


async def test_root_is_read_only_and_results_are_writable(host: Host) -> None:
    _, lines = await host.run(
        "for d in / /bin /etc /proc/sys/kernel /dev; do touch $d/x 2>/dev/null && echo writable $d; done;"
        "for d in /results /workspace /tmp; do touch $d/x && echo $d; done; ls -a /results"
    )

    assert lines == ["/results", "/workspace", "/tmp", ".", "..", "x"]


async def test_there_is_no_network(host: Host) -> None:
    _, lines = await host.run("ls /sys/class/net; nc -w 2 169.254.169.254 80 2>&1")

    assert lines[0] == "lo"
    assert "unreachable" in lines[1]


async def test_processes_are_limited(host: Host) -> None:
    seen, lines = await host.run("for i in $(seq 64); do sleep 5 & done; echo none refused")

    assert seen.exit_code != 0
    assert any("can't fork" in line for line in lines)


async def test_memory_is_limited(host: Host) -> None:
    seen, _ = await host.run("exec tail /dev/zero")

    assert seen.exit_code == 137
    assert seen.oom_killed


async def test_disk_cannot_be_exceeded(host: Host) -> None:
    assert (await host.runtime.ping()).disk_limit is not DiskLimit.WATCHED
    _, lines = await host.run(
        "for d in results workspace; do dd if=/dev/zero of=/$d/x bs=64k count=1024 2>&1 | grep -c 'No space left';"
        "[ $(stat -c %s /$d/x) -lt 8388608 ] && echo small; done; dd if=/dev/zero of=/run/x bs=1M count=64 2>&1 |"
        "grep -c 'No such\\|No space\\|denied'"
    )

    assert lines == ["1", "small", "1", "small", "1"]


async def test_a_watched_disk_ends_the_job_and_says_why(watched_host: Host) -> None:
    seen, lines = await watched_host.run("dd if=/dev/zero of=/results/x bs=1M count=20 && echo full && sleep 60")

    assert "full" in lines
    assert (seen.exit_code, seen.stop_reason) == (137, "disk limit")
    after_restart = DockerRuntime(watched_host.disks, disk_limit=DiskLimit.WATCHED)
    assert await after_restart.inspect(watched_host.spec.name) == seen
    await after_restart.remove(watched_host.spec.name)
    await after_restart.close()
    assert list(watched_host.disks.glob("*.stopped")) == []


async def test_image_cannot_choose_volumes_user_or_gpus(host_of_image_with_volume: Host) -> None:
    host = host_of_image_with_volume
    _, lines = await host.run("id -u; echo $NVIDIA_VISIBLE_DEVICES; grep ' /data ' /proc/mounts | cut -d' ' -f1")

    assert lines == ["65534", "void", "tmpfs"]
    with docker_engine() as client:
        held = client.inspect_container(host.spec.name)["Mounts"]
    assert {mount["Name"] for mount in held if mount["Type"] == "volume"} == {
        f"{host.spec.name}-results",
        f"{host.spec.name}-workspace",
    }


async def test_removal_leaves_nothing(host: Host) -> None:
    await host.run("echo x > /results/x")

    await host.runtime.remove(host.spec.name)

    with docker_engine() as client:
        assert not client.containers(all=True, filters={"name": host.spec.name})
        assert not client.volumes(filters={"name": host.spec.name})["Volumes"]
    assert not [*host.disks.glob("*")]
    assert host.spec.name not in await asyncio.to_thread(_losetup, "-a")


async def test_an_interrupted_creation_is_cleaned_up_and_can_be_repeated(host: Host) -> None:
    disk = host.disks / f"{host.spec.name}-results.img"
    device = disks.make(disk, _MIB, "65534:65534")
    with docker_engine() as client:
        options = {"type": "ext4", "device": str(device)}
        labels = {"gpumarket.container": host.spec.name}
        client.create_volume(f"{host.spec.name}-results", driver_opts=options, labels=labels)

    await host.runtime.remove(host.spec.name)
    assert not disk.exists()
    seen, _ = await host.run("echo x > /results/x")

    assert seen.exit_code == 0


async def test_results_survive_a_lost_loop_device(host: Host, tmp_path: Path) -> None:
    seen, _ = await host.run("echo kept > /results/x")
    for disk in host.disks.glob("*.img"):
        device = disk.with_suffix(".dev").resolve()
        await asyncio.to_thread(_losetup, "-d", str(device))

    await host.runtime.copy_out(seen.id, "/results", tmp_path / "out", _MIB)

    assert (tmp_path / "out/x").read_text() == "kept\n"


async def test_links_and_pipes_do_not_come_out(host: Host, tmp_path: Path) -> None:
    seen, _ = await host.run(
        "cd /results; echo x > file; ln -s /etc/passwd link; ln file twin; mkfifo pipe; mkdir -p a/b; ln -s / a/root"
    )

    await host.runtime.copy_out(seen.id, "/results", tmp_path / "out", _MIB)

    found = {str(path.relative_to(tmp_path / "out")): path for path in (tmp_path / "out").rglob("*")}
    assert set(found) == {"file", "twin", "a", "a/b"}
    assert found["file"].read_text() == found["twin"].read_text() == "x\n"


async def test_logs_follow_live_and_lose_nothing(host: Host) -> None:
    container = await host.runtime.create(
        replace(
            host.spec,
            command=("sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done; sleep 4; echo end"),
        )
    )
    await host.runtime.start(container)
    lines: list[str] = []
    async with asyncio.timeout(30):
        async for entry in host.runtime.logs(container):
            lines.append(entry.line)
            if entry.line == "1999":
                seen = await host.runtime.inspect(container)
                assert seen is not None
                assert seen.running

    assert lines == [*map(str, range(2000)), "end"]


async def test_a_dead_log_stream_is_opened_again(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider_agent.docker_logs._QUIET_S", 0.4)
    _, lines = await host.run("for i in 1 2 3; do echo $i; sleep 1; done")

    assert lines == ["1", "2", "3"]


async def test_closing_a_log_reader_does_not_wait(host: Host) -> None:
    container = await host.runtime.create(replace(host.spec, command=("sh", "-c", "echo up; sleep 60")))
    await host.runtime.start(container)

    async with asyncio.timeout(5):
        async for _ in host.runtime.logs(container):
            break
        await host.runtime.kill(container)


async def test_an_engine_that_goes_away_is_unreachable_until_it_is_back(host: Host, tmp_path: Path) -> None:
    socket = tmp_path / "engine.sock"
    script = "i=0; while :; do echo $i; i=$((i+1)); sleep 0.2; done"
    container = await host.runtime.create(replace(host.spec, command=("sh", "-c", script)))
    await host.runtime.start(container)
    far = DockerRuntime(host.disks, base_url=f"unix://{socket}", disk_limit=DiskLimit.LOOP)
    seen: list[LogLine] = []
    relay = _Relay(socket)

    async def read_and_cut() -> None:
        async for entry in far.logs(container):
            seen.append(entry)
            if len(seen) == 3:
                await relay.cut()

    async with relay:
        for call in (read_and_cut(), far.inspect(container)):
            with pytest.raises(MarketError) as failed:
                await call
            assert failed.value.code == "docker_unreachable"
    async with _Relay(socket):
        async for entry in far.logs(container, since=seen[-1].ts):
            seen.append(entry)
            if len(seen) == 6:
                break
    await far.close()

    assert [entry.line for entry in seen] == [str(n) for n in range(6)]


async def test_no_engine_means_unreachable_not_gone(tmp_path: Path) -> None:
    runtime = DockerRuntime(tmp_path, base_url=f"unix://{tmp_path}/none.sock")
    for call in (runtime.ping(), runtime.inspect("x"), runtime.list({}), runtime.remove("x")):
        with pytest.raises(MarketError) as failed:
            await call
        assert failed.value.code == "docker_unreachable"
    await runtime.close()


class _Relay:
    """Stands between a client and the engine's socket, and can be cut."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._writers: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> _Relay:
        self._server = await asyncio.start_unix_server(self._serve, self._path)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()

    async def cut(self) -> None:
        if self._server:
            self._server.close()
            self._path.unlink(missing_ok=True)
        for writer in self._writers:
            writer.close()
        self._server = None

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_unix_connection("/var/run/docker.sock")
        self._writers += [writer, far_writer]
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        while data := await source.read(1 << 16):
            target.write(data)
            await target.drain()
        target.close()


def _losetup(*arguments: str) -> str:
    return subprocess.run(["losetup", *arguments], capture_output=True, text=True, check=True).stdout
