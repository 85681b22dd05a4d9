"""What the agent relies on, held against the real Docker Engine and the fake alike."""

from __future__ import annotations

import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from provider_agent.docker_runtime import DockerRuntime
from provider_agent.runtime import ContainerSpec, ContainerState, Runtime
from tests.fakes import FakeProgram, FakeRuntime
from tests.parts.docker import busybox_image, docker_engine, remove_images

pytestmark = pytest.mark.docker

_PRINTS = ContainerSpec("", "", command=("sh", "-c", "echo one; echo two; mkdir /results/a; printf hi > /results/a/b"))
_SLEEPS = ContainerSpec("", "", command=("sh", "-c", "trap 'exit 143' TERM; echo up; while :; do sleep 0.1; done"))
_STUBBORN = ContainerSpec("", "", command=("sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.1; done"))
_PROGRAMS = {
    _PRINTS.command: FakeProgram(("one", "two"), {"a/b": b"hi"}, seconds=0.0),
    _SLEEPS.command: FakeProgram(("up",)),
    _STUBBORN.command: FakeProgram(("up",), ignores_sigterm=True),
}


@dataclass
class Host:
    """A runtime, and specs whose names are free on it."""

    runtime: Runtime
    spec: Callable[[ContainerSpec], ContainerSpec]


@pytest.fixture(params=["fake", "docker"])
async def host(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Host]:
    prefix = f"gmt-{uuid.uuid4().hex[:12]}"
    names: list[str] = []

    def named(spec: ContainerSpec) -> ContainerSpec:
        names.append(f"{prefix}-{len(names)}")
        return replace(spec, name=names[-1], image=tag, labels={"gpumarket.test": prefix}, results_bytes=4 << 20)

    if request.param == "fake":
        tag = "job:1"
        fake = FakeRuntime(time.time)

        def program(spec: ContainerSpec) -> ContainerSpec:
            fake.images[tag] = _PROGRAMS[spec.command]
            return named(spec)

        yield Host(fake, program)
        return
    with docker_engine():
        tag = busybox_image(f"{prefix}:1")
        runtime = DockerRuntime(tmp_path / "disks")
        yield Host(runtime, named)
        for name in names:
            await runtime.remove(name)
        await runtime.remove_image(tag)
        remove_images()
        await runtime.close()


async def test_ping_says_what_the_engine_is(host: Host) -> None:
    info = await host.runtime.ping()

    assert info.version
    assert "runc" in info.runtimes
    assert info.limits_missing == ()


async def test_a_job_runs_and_its_results_come_out(host: Host, tmp_path: Path) -> None:
    container = await host.runtime.create(host.spec(_PRINTS))
    await host.runtime.start(container)

    lines = [entry async for entry in host.runtime.logs(container)]
    seen = await host.runtime.inspect(container)
    copied = await host.runtime.copy_out(container, "/results", tmp_path / "out", 1 << 20)

    assert [(entry.stream, entry.line) for entry in lines] == [("stdout", "one"), ("stdout", "two")]
    assert seen is not None
    assert (seen.state, seen.exit_code, seen.ended) == (ContainerState.EXITED, 0, True)
    assert copied == 2
    assert (tmp_path / "out/a/b").read_bytes() == b"hi"


async def test_logs_resume_after_a_time(host: Host) -> None:
    container = await host.runtime.create(host.spec(_PRINTS))
    await host.runtime.start(container)
    first, *rest = [entry async for entry in host.runtime.logs(container)]

    again = [entry async for entry in host.runtime.logs(container, since=first.ts)]

    assert again == rest


async def test_create_twice_adopts(host: Host) -> None:
    spec = host.spec(_PRINTS)

    assert await host.runtime.create(spec) == await host.runtime.create(spec)


async def test_another_spec_under_the_same_name_is_refused(host: Host) -> None:
    spec = host.spec(_PRINTS)
    await host.runtime.create(spec)

    with pytest.raises(MarketError, match="another container") as refused:
        await host.runtime.create(replace(spec, memory_bytes=spec.memory_bytes * 2))

    assert refused.value.code == "docker_failed"


async def test_an_unknown_image_is_refused(host: Host) -> None:
    with pytest.raises(MarketError) as refused:
        await host.runtime.create(replace(host.spec(_PRINTS), image="gpumarket-no-such-image:1"))

    assert refused.value.code == "docker_failed"


async def test_network_is_refused(host: Host) -> None:
    with pytest.raises(MarketError) as refused:
        await host.runtime.create(replace(host.spec(_PRINTS), network=True))

    assert refused.value.code == "machine_unsuitable"


async def test_start_and_stop_may_be_repeated(host: Host) -> None:
    container = await host.runtime.create(host.spec(_SLEEPS))
    for _ in range(2):
        await host.runtime.start(container)
    running = await host.runtime.inspect(container)
    for _ in range(2):
        await host.runtime.stop(container, 5)
    ended = await host.runtime.inspect(container)

    assert running is not None
    assert (running.running, running.exit_code) == (True, None)
    assert ended is not None
    assert (ended.ended, ended.exit_code) == (True, 143)
    assert ended.started_at is not None
    assert ended.finished_at is not None
    assert ended.started_at <= ended.finished_at


async def test_a_program_that_ignores_sigterm_is_killed(host: Host) -> None:
    container = await host.runtime.create(host.spec(_STUBBORN))
    await host.runtime.start(container)

    await host.runtime.stop(container, 1)
    seen = await host.runtime.inspect(container)

    assert seen is not None
    assert (seen.ended, seen.exit_code) == (True, 137)


async def test_kill_may_be_repeated(host: Host) -> None:
    container = await host.runtime.create(host.spec(_SLEEPS))
    await host.runtime.start(container)
    for _ in range(2):
        await host.runtime.kill(container)
    seen = await host.runtime.inspect(container)

    assert seen is not None
    assert seen.exit_code == 137


async def test_what_is_gone_is_gone_without_error(host: Host) -> None:
    spec = host.spec(_PRINTS)
    container = await host.runtime.create(spec)
    for _ in range(2):
        await host.runtime.remove(spec.name)
    await host.runtime.stop(container, 0)
    await host.runtime.kill(container)
    await host.runtime.remove_image("gpumarket-no-such-image:1")

    assert await host.runtime.inspect(spec.name) is None


async def test_a_container_that_is_gone_has_no_logs_and_no_results(host: Host, tmp_path: Path) -> None:
    spec = host.spec(_PRINTS)
    container = await host.runtime.create(spec)
    await host.runtime.remove(spec.name)

    for call in (anext(host.runtime.logs(container)), host.runtime.copy_out(container, "/results", tmp_path / "o", 1)):
        with pytest.raises(MarketError) as missing:
            await call
        assert missing.value.code == "not_found"
    with pytest.raises(MarketError) as refused:
        await host.runtime.start(container)
    assert refused.value.code == "docker_failed"


async def test_list_matches_every_label(host: Host) -> None:
    spec = host.spec(_PRINTS)
    await host.runtime.create(spec)
    prefix = spec.labels["gpumarket.test"]

    assert [c.name for c in await host.runtime.list({"gpumarket.test": prefix})] == [spec.name]
    assert [c.name for c in await host.runtime.list({"gpumarket.test": prefix, "gpumarket.spec": ""})] == [spec.name]
    assert await host.runtime.list({"gpumarket.test": "other"}) == []


async def test_stats_of_a_running_container(host: Host) -> None:
    container = await host.runtime.create(host.spec(_SLEEPS))
    await host.runtime.start(container)

    stats = await host.runtime.stats(container)

    assert stats.memory_limit == _SLEEPS.memory_bytes
    assert stats.pids >= 1
    assert stats.memory_bytes > 0


async def test_results_over_the_limit_are_refused(host: Host, tmp_path: Path) -> None:
    container = await host.runtime.create(host.spec(_PRINTS))
    await host.runtime.start(container)
    async for _ in host.runtime.logs(container):
        pass

    with pytest.raises(MarketError) as refused:
        await host.runtime.copy_out(container, "/results", tmp_path / "out", 1)

    assert refused.value.code == "image_too_large"
    assert not (tmp_path / "out").exists()
