"""The watchdog's command on a real engine: it needs no key and no chain, and stops only what is overdue."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from provider_agent.container import EXPIRES_LABEL
from provider_agent.docker_runtime import DockerRuntime
from provider_agent.runtime import ContainerSpec
from tests.parts.docker import busybox_image, docker_engine, remove_images

pytestmark = pytest.mark.docker


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    found = DockerRuntime(tmp_path / "disks")
    yield found
    await found.close()


async def test_overdue_container_is_stopped_and_the_other_is_not(runtime: DockerRuntime, tmp_path: Path) -> None:
    tag = f"gmw-{uuid.uuid4().hex[:12]}:1"
    with docker_engine():
        busybox_image(tag)
        names = {f"{tag[:-2]}-over": int(time.time()) - 1, f"{tag[:-2]}-paid": int(time.time()) + 600}
        try:
            for name, expires in names.items():
                spec = ContainerSpec(
                    name,
                    tag,
                    command=("sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"),
                    labels={EXPIRES_LABEL: str(expires)},
                    results_bytes=4 << 20,
                )
                await runtime.start(await runtime.create(spec))
            program = "from provider_agent.app import cli; cli()"
            command = [sys.executable, "-c", program, "watchdog", "--data-dir", str(tmp_path), "--every", "0"]
            environment = {"PATH": "/usr/bin:/bin"}
            await asyncio.to_thread(subprocess.run, command, env=environment, check=True, timeout=60)
            found = {name: await runtime.inspect(name) for name in names}
            assert [container is not None and container.running for container in found.values()] == [False, True]
        finally:
            for name in names:
                await runtime.remove(name)
            remove_images(tag)
