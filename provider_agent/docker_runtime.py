"""The container runtime over a Docker Engine, 20.10 or newer. The only file of the agent that talks to Docker.

Blocking calls run in threads of their own, each with a time limit. An engine that does not answer raises
`docker_unreachable`; the caller must then change nothing, since not knowing is not the same as the container being
gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import CancellableStream
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from gpumarket.errors import MarketError
from provider_agent import docker_logs, extract
from provider_agent.docker_facts import container_of, engine_info, host_facts, limits_missing
from provider_agent.runtime import (
    SPEC_LABEL,
    Container,
    ContainerId,
    ContainerSpec,
    DiskLimit,
    EngineInfo,
    LogLine,
    Stats,
)
from provider_agent.sandbox import settings, spec_digest, user_of
from provider_agent.stops import StopReasons
from provider_agent.volumes import Volumes

T = TypeVar("T")

_CALL_TIMEOUT_S = 60
_PULL_TIMEOUT_S = 1200.0
_COPY_TIMEOUT_S = 1800.0
_WATCH_EVERY_S = 2.0
_THREADS = 8


class DockerRuntime:
    """See `provider_agent.runtime.Runtime`.

    Args:
        directory: where fixed-size disks are kept, and why containers were ended.
        base_url: the engine's address; by default what `DOCKER_HOST` says, else the local socket.
        disk_limit: force a way to bound volumes; by default the strongest that works here.
    """

    def __init__(self, directory: Path, base_url: str | None = None, disk_limit: DiskLimit | None = None) -> None:
        self._volumes = Volumes(directory, disk_limit, _unless_gone, _seems_mounted)
        self._base_url = base_url
        self._threads = ThreadPoolExecutor(_THREADS, "docker")
        self._client: Any = None
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._stops = StopReasons(directory)

    async def close(self) -> None:
        """End this side's work; containers keep running."""
        for watch in self._watches.values():
            watch.cancel()
        await asyncio.gather(*self._watches.values(), return_exceptions=True)
        if self._client is not None:
            self._client.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    async def ping(self) -> EngineInfo:
        def call() -> EngineInfo:
            client = self._api()
            return engine_info(client.version(), client.info(), self._volumes.limit(client))

        return await self._call(call)

    async def pull(self, ref: str, tag: str) -> str:
        digest = ref.partition("@")[2]

        def call() -> str:
            client = self._api()
            for event in client.pull(ref, stream=True, decode=True, auth_config={}):
                if "error" in event:
                    raise _failed(str(event["error"]))
            digests = client.inspect_image(ref).get("RepoDigests") or []
            if not any(found.endswith("@" + digest) for found in digests):
                raise _failed(f"the engine holds {digests} where {ref} was pulled")
            return self._retag(client, ref, tag)

        return await self._call(call, _PULL_TIMEOUT_S)

    async def load(self, archive: Path, tag: str) -> str:
        def call() -> str:
            client = self._api()
            loaded = ""
            with archive.open("rb") as file:
                for event in client.load_image(file):
                    if "error" in event:
                        raise _failed(str(event["error"]))
                    words = str(event.get("stream", "")).split()
                    loaded = words[-1] if words[:2] == ["Loaded", "image"] or words[:1] == ["Loaded"] else loaded
            if not loaded:
                raise _failed("the engine loaded no image from the archive")
            return self._retag(client, loaded, tag)

        return await self._call(call, _PULL_TIMEOUT_S)

    async def create(self, spec: ContainerSpec) -> ContainerId:
        found = await self.inspect(spec.name)
        if found is None:
            await self._call(lambda: self._create(spec))
            found = await self.inspect(spec.name)
        if found is None or found.labels.get(SPEC_LABEL) != spec_digest(spec):
            raise MarketError(
                "docker_failed", f"another container is named {spec.name}", hint="remove it, or let the agent recover"
            )
        return found.id

    async def start(self, container: ContainerId) -> None:
        await self._call(lambda: self._api().start(container))
        await self.inspect(container)

    async def stop(self, container: ContainerId, grace_s: float) -> None:
        seconds = max(0, math.ceil(grace_s))
        await self._call(lambda: _unless_gone(lambda: self._api().stop(container, timeout=seconds)), seconds + 60)

    async def kill(self, container: ContainerId) -> None:
        def call() -> None:
            try:
                _unless_gone(lambda: self._api().kill(container))
            except APIError as error:
                if error.status_code != 409:
                    raise

        await self._call(call)

    async def remove(self, name_or_id: str) -> None:
        found = await self.inspect(name_or_id)
        name = found.name if found else name_or_id
        watch = self._watches.pop(name, None)
        if watch:
            watch.cancel()

        def call() -> None:
            client = self._api()
            _unless_gone(lambda: client.remove_container(name_or_id, v=True, force=True))
            self._volumes.remove(client, name)
            self._stops.forget(name)

        await self._call(call)

    async def inspect(self, name_or_id: str) -> Container | None:
        def call() -> Container | None:
            try:
                return self._seen(self._api().inspect_container(name_or_id))
            except NotFound:
                return None

        found = await self._call(call)
        await self._watch(found)
        return found

    async def list(self, labels: Mapping[str, str]) -> list[Container]:
        def call() -> list[Container]:
            client = self._api()
            wanted = [f"{key}={value}" if value else key for key, value in labels.items()]
            found = []
            for summary in client.containers(all=True, filters={"label": wanted}):
                with contextlib.suppress(NotFound):
                    found.append(self._seen(client.inspect_container(summary["Id"])))
            return found

        return await self._call(call)

    async def logs(self, container: ContainerId, since: str = "", follow: bool = True) -> AsyncIterator[LogLine]:
        resume = docker_logs.Resume(since)
        while True:
            before = await self.inspect(container)
            if before is None:
                raise _gone(container)
            live = follow and before.running
            reading = docker_logs.Reading(self._api, container, resume.reopen(), live, _translated, _shut)
            async with contextlib.aclosing(reading.lines()) as lines:
                async for line in lines:
                    if resume.is_new(line):
                        yield line
            # A live stream also ends when it dies silently; only a read begun after the container's end is the last
            # one.
            if not live:
                return

    async def stats(self, container: ContainerId) -> Stats:
        def call() -> Stats:
            sample = self._api().stats(container, stream=False, one_shot=True)
            memory = sample.get("memory_stats") or {}
            cache = (memory.get("stats") or {}).get("total_inactive_file", 0)
            return Stats(
                cpu_seconds=sample["cpu_stats"]["cpu_usage"]["total_usage"] / 1e9,
                memory_bytes=max(0, memory.get("usage", 0) - cache),
                memory_limit=memory.get("limit", 0),
                pids=(sample.get("pids_stats") or {}).get("current", 0),
            )

        return await self._call(call)

    async def copy_out(self, container: ContainerId, path: str, dest: Path, max_bytes: int) -> int:
        found = await self.inspect(container)
        if found is None:
            raise _gone(container)

        def call() -> int:
            self._volumes.reattach(found.name)
            try:
                chunks, _ = self._api().get_archive(container, path)
            except NotFound:
                dest.mkdir(parents=True)
                return 0
            return extract.extract_tree(chunks, dest, max_bytes)

        return await self._call(call, _COPY_TIMEOUT_S)

    async def remove_image(self, tag: str) -> None:
        await self._call(lambda: _unless_gone(lambda: self._api().remove_image(tag)))

    def _api(self) -> Any:
        if self._client is None:
            if self._base_url:
                self._client = docker.APIClient(self._base_url, version="auto", timeout=_CALL_TIMEOUT_S)
            else:
                known = kwargs_from_env()
                self._client = docker.APIClient(version="auto", timeout=_CALL_TIMEOUT_S, **known)
        return self._client

    async def _call(self, function: Callable[[], T], timeout_s: float = _CALL_TIMEOUT_S * 2) -> T:
        loop = asyncio.get_running_loop()
        try:
            return await asyncio.wait_for(loop.run_in_executor(self._threads, _translated, function), timeout_s)
        except TimeoutError as error:
            raise _unreachable(f"no answer within {timeout_s:.0f} s") from error

    def _create(self, spec: ContainerSpec) -> None:
        client = self._api()
        config = client.inspect_image(spec.image).get("Config") or {}
        info = client.info()
        missing = limits_missing(info)
        if missing:
            message = f"the Docker Engine cannot enforce {', '.join(missing)}"
            raise MarketError("machine_unsuitable", message, hint="enable these cgroup controllers for the engine")
        wanted = settings(spec, config, host_facts(info))
        self._volumes.make(client, spec, user_of(config))
        host = client.create_host_config(**wanted.host)
        try:
            client.create_container(
                **wanted.container,
                host_config=host,
                use_config_proxy=False,
                stop_signal="SIGTERM",
                healthcheck={"Test": ["NONE"]},
            )
        except APIError as error:
            # Somebody was faster: `create` then compares labels.
            if error.status_code != 409:
                raise

    async def _watch(self, found: Container | None) -> None:
        """Watch the volumes of a running container of ours, if nothing else bounds them; also one that was adopted."""
        if found is None or not found.running or SPEC_LABEL not in found.labels or found.name in self._watches:
            return
        if await self._call(lambda: self._volumes.limit(self._api())) is DiskLimit.WATCHED:
            watch = asyncio.create_task(self._watch_disk(found.id, found.name))
            self._watches[found.name] = watch
            watch.add_done_callback(lambda _: self._watches.pop(found.name, None))

    async def _watch_disk(self, container: ContainerId, name: str) -> None:
        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            with contextlib.suppress(MarketError):
                if await self._call(lambda: self._volumes.exceeded(self._api(), name)):
                    await self._call(lambda: self._stops.note(name, "disk limit"))
                    await self.kill(container)
                found = await self.inspect(container)
                if found is None or not found.running:
                    return

    def _retag(self, client: Any, ref: str, tag: str) -> str:
        """Give an image its name of ours and drop the one it came with, so that removing ours frees the image."""
        repository, _, version = tag.partition(":")
        image = str(client.inspect_image(ref)["Id"])
        client.tag(image, repository, version or "latest")
        if ref not in (image, tag):
            client.remove_image(ref)
        return image

    def _seen(self, inspected: Mapping[str, Any]) -> Container:
        return container_of(inspected, self._stops.of)


def _translated(function: Callable[[], T]) -> T:
    """Run a Docker call; its errors become ours."""
    try:
        return function()
    except APIError as error:
        raise _failed(str(error.explanation or error)) from error
    except (DockerException, RequestException, HTTPError, ConnectionError) as error:
        raise _unreachable(str(error)) from error


def _unless_gone(function: Callable[[], Any]) -> None:
    with contextlib.suppress(NotFound, ImageNotFound):
        function()


def _seems_mounted(function: Callable[[], Any]) -> bool:
    try:
        _unless_gone(function)
    except APIError as error:
        if "active mounts" not in str(error.explanation):
            raise
        return True
    return False


def _failed(message: str) -> MarketError:
    if "no space left" in message.lower():
        return MarketError("disk_full", f"the Docker Engine has no space: {message[:300]}", hint="docker system df")
    return MarketError("docker_failed", f"the Docker Engine refused: {message[:500]}")


def _gone(container: str) -> MarketError:
    return MarketError("not_found", f"there is no container {container}")


def _unreachable(message: str) -> MarketError:
    return MarketError(
        "docker_unreachable",
        f"the Docker Engine does not answer: {message[:300]}",
        hint="is dockerd running, may this user reach it?",
    )


def _shut(response: Any) -> None:
    """Wake a thread that is blocked reading `response`."""
    with contextlib.suppress(Exception):
        CancellableStream(iter(()), response).close()
