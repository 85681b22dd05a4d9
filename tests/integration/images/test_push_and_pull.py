"""An image's whole way on real parts: Docker Engine, block store, registry, Docker Engine, sandbox, and out again."""

from __future__ import annotations

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.types import ASGIApp, Receive, Scope, Send

from gpumarket.errors import MarketError
from gpumarket.images.export import write_docker_archive
from gpumarket.images.image import read_image
from gpumarket.images.policy import Policy, check, check_content
from gpumarket.images.push import PushedImage, push, push_from_engine
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.store import EmbeddedStore
from provider_agent.docker_runtime import DockerRuntime
from provider_agent.registry import routes
from provider_agent.runtime import ContainerSpec
from tests.parts.docker import busybox_image, docker_engine, remove_images

pytestmark = pytest.mark.docker


@dataclass
class Registry:
    """The agent's registry on a free port; `requests` lists what the engine asked."""

    port: int
    approved: set[Cid]
    requests: list[str] = field(default_factory=list)

    def ref(self, image: PushedImage) -> str:
        return f"127.0.0.1:{self.port}/ipfs/{image.root}@{image.manifest_digest}"


@pytest.fixture
def engine() -> Iterator[docker.APIClient]:
    with docker_engine() as client:
        yield client


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "blocks")


@pytest.fixture
async def registry(store: EmbeddedStore) -> AsyncIterator[Registry]:
    approved: set[Cid] = set()
    seen = Registry(0, approved)
    app: ASGIApp = Starlette(routes=routes(store, approved.__contains__))

    async def recording(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            seen.requests.append(f"{scope['method']} {scope['path']}")
        await app(scope, receive, send)

    server = uvicorn.Server(uvicorn.Config(recording, port=0, log_level="error", lifespan="off"))
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    seen.port = server.servers[0].sockets[0].getsockname()[1]
    yield seen
    server.should_exit = True
    await serving


@pytest.fixture
async def runtime(tmp_path: Path) -> AsyncIterator[DockerRuntime]:
    made = DockerRuntime(tmp_path / "disks")
    yield made
    await made.close()


@pytest.fixture
def name() -> str:
    return f"gmt-{uuid.uuid4().hex[:12]}"


async def test_the_whole_way(
    name: str,
    engine: docker.APIClient,
    store: EmbeddedStore,
    registry: Registry,
    runtime: DockerRuntime,
    tmp_path: Path,
) -> None:
    source, tag = f"{name}:src", f"{name}:job"
    script = b"#!/bin/sh\necho $((6 * 7)) > /results/answer; echo done\n"
    await asyncio.to_thread(
        busybox_image, source, files={"work.sh": script}, changes=("ENV PATH=/bin", 'CMD ["sh", "/work.sh"]')
    )
    pushed = await asyncio.to_thread(push_from_engine, source, store)
    remove_images(source)
    image = read_image(store, pushed.root)
    check(image, Policy())
    check_content(store, image, Policy())
    registry.approved.add(pushed.root)
    try:
        await runtime.pull(registry.ref(pushed), tag)
        container = await runtime.create(ContainerSpec(name, tag, results_bytes=1 << 20))
        await runtime.start(container)
        lines = [entry.line async for entry in runtime.logs(container)]
        await runtime.copy_out(container, "/results", tmp_path / "out", 1 << 20)
    finally:
        await runtime.remove(name)
        await runtime.remove_image(tag)

    assert lines == ["done"]
    assert (tmp_path / "out/answer").read_text() == "42\n"
    assert not engine.images(filters={"reference": f"127.0.0.1:{registry.port}/ipfs/*"})
    assert not engine.images(name)
    assert not engine.containers(all=True, filters={"name": name})
    assert not engine.volumes(filters={"name": name})["Volumes"]


async def test_pushing_twice_gives_the_same_cid(
    name: str, engine: docker.APIClient, store: EmbeddedStore, tmp_path: Path
) -> None:
    seen: list[int] = []
    await asyncio.to_thread(busybox_image, f"{name}:1")
    try:
        first = await asyncio.to_thread(push_from_engine, f"{name}:1", store, lambda count, _: seen.append(count))
        other = await asyncio.to_thread(push_from_engine, f"{name}:1", EmbeddedStore(tmp_path / "other"))
        archive = tmp_path / "image.tar"
        await asyncio.to_thread(_save, engine, f"{name}:1", archive)
        from_tar = await asyncio.to_thread(push, str(archive), EmbeddedStore(tmp_path / "third"))
    finally:
        remove_images(f"{name}:1")

    assert first == other == from_tar
    assert seen == sorted(seen)
    assert seen[-1] >= first.size
    assert first.root in {pin.cid for pin in store.pins()}


async def test_a_shared_layer_is_not_asked_for_again(
    name: str, store: EmbeddedStore, registry: Registry, runtime: DockerRuntime
) -> None:
    images = []
    for number in (1, 2):
        await asyncio.to_thread(busybox_image, f"{name}:src{number}", files={"extra": b"%d" % number})
        images.append(await asyncio.to_thread(push_from_engine, f"{name}:src{number}", store))
        registry.approved.add(images[-1].root)
    remove_images(f"{name}:src1", f"{name}:src2")
    base = {layer.digest for layer in read_image(store, images[0].root).layers}
    second = {layer.digest for layer in read_image(store, images[1].root).layers}
    try:
        await runtime.pull(registry.ref(images[0]), f"{name}:1")
        registry.requests.clear()
        await runtime.pull(registry.ref(images[1]), f"{name}:2")
    finally:
        await runtime.remove_image(f"{name}:1")
        await runtime.remove_image(f"{name}:2")

    asked = {path.rpartition("/")[2] for path in registry.requests if "/blobs/" in path}
    assert base & second
    assert not asked & base
    assert asked >= second - base


async def test_an_image_that_is_not_approved_is_not_served(
    name: str, store: EmbeddedStore, registry: Registry, runtime: DockerRuntime
) -> None:
    await asyncio.to_thread(busybox_image, f"{name}:1")
    pushed = await asyncio.to_thread(push_from_engine, f"{name}:1", store)
    remove_images(f"{name}:1")

    with pytest.raises(MarketError) as refused:
        await runtime.pull(registry.ref(pushed), f"{name}:job")

    assert refused.value.code == "docker_failed"


async def test_load_where_the_registry_cannot_be_reached(
    name: str, engine: docker.APIClient, store: EmbeddedStore, runtime: DockerRuntime, tmp_path: Path
) -> None:
    await asyncio.to_thread(busybox_image, f"{name}:src", files={"extra": b"x"})
    pushed = await asyncio.to_thread(push_from_engine, f"{name}:src", store)
    remove_images(f"{name}:src")
    image = read_image(store, pushed.root)
    write_docker_archive(store, image, tmp_path / "image.tar")
    try:
        loaded = await runtime.load(tmp_path / "image.tar", f"{name}:job")
        held = await asyncio.to_thread(engine.inspect_image, f"{name}:job")
    finally:
        await runtime.remove_image(f"{name}:job")

    assert held["Id"] == loaded == image.config_descriptor.digest
    assert tuple(held["RootFS"]["Layers"]) == image.diff_ids


def test_an_unknown_image_is_not_found(store: EmbeddedStore, engine: docker.APIClient) -> None:
    with pytest.raises(MarketError) as missing:
        push_from_engine("gpumarket-no-such-image:1", store)

    assert missing.value.code == "not_found"


def _save(engine: docker.APIClient, tag: str, dest: Path) -> None:
    with dest.open("wb") as out:
        for chunk in engine.get_image(tag):
            out.write(chunk)
