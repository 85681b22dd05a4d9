"""The container runtime over a Docker Engine, 20.10 or newer. The only file of the agent that talks to Docker.

Blocking calls run in threads of their own, each with a time limit. An engine that does not answer raises
`docker_unreachable`; the caller must then change nothing, since not knowing is not the same as the container being
gone.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import docker
from docker.errors import APIError, DockerException, ImageNotFound, NotFound
from docker.types import CancellableStream
from docker.utils import kwargs_from_env
from requests.exceptions import RequestException

from gpumarket.errors import MarketError
from provider_agent import disks, docker_logs, extract
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
from provider_agent.sandbox import SIZE_LABEL, VOLUME_LABEL, settings, spec_digest, user_of, volume_name, volumes

T = TypeVar("T")

_CALL_TIMEOUT_S = 60
_PULL_TIMEOUT_S = 1200.0
_COPY_TIMEOUT_S = 1800.0
_WATCH_EVERY_S = 2.0
_THREADS = 8
_HELPER = "-volumes"


class DockerRuntime:
    """See `provider_agent.runtime.Runtime`.

    Args:
        directory: where fixed-size disks are kept.
        base_url: the engine's address; by default what `DOCKER_HOST` says, else the local socket.
        disk_limit: force a way to bound volumes; by default the strongest that works here.
    """

    def __init__(self, directory: Path, base_url: str | None = None, disk_limit: DiskLimit | None = None) -> None:
        self._directory = directory
        self._base_url = base_url
        self._disk_limit = disk_limit
        self._threads = ThreadPoolExecutor(_THREADS, "docker")
        self._client: Any = None
        self._watches: dict[str, asyncio.Task[None]] = {}
        self._stop_reasons: dict[str, str] = {}

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
            return engine_info(client.version(), client.info(), self._bounded_by(client))

        return await self._call(call)

    async def pull(self, ref: str, tag: str) -> str:
        digest = ref.partition("@")[2]

        def call() -> str:
            client = self._api()
            for event in client.pull(ref, stream=True, decode=True):
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
        await self._watch(container)

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
        self._stop_reasons.pop(name, None)

        def call() -> None:
            client = self._api()
            for container in (name_or_id, name + _HELPER):
                _unless_gone(lambda container=container: client.remove_container(container, v=True, force=True))  # type: ignore[misc]
            held = client.volumes(filters={"label": f"{VOLUME_LABEL}={name}"}).get("Volumes") or []
            for volume in held:
                _unless_gone(lambda volume=volume: client.remove_volume(volume["Name"]))  # type: ignore[misc]
            for file in self._directory.glob(f"{name}-*.img"):
                disks.destroy(file)

        await self._call(call)

    async def inspect(self, name_or_id: str) -> Container | None:
        def call() -> Container | None:
            try:
                return self._seen(self._api().inspect_container(name_or_id))
            except NotFound:
                return None

        return await self._call(call)

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
            live = follow and before is not None and before.running
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
            raise MarketError("not_found", f"there is no container {container}")

        def call() -> int:
            for file in self._directory.glob(f"{found.name}-*.img"):
                disks.reattach(file)
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
        for path, size in volumes(spec).items():
            self._make_volume(client, spec, path, size, user_of(config))
        if volumes(spec) and self._bounded_by(client) is not DiskLimit.LOOP:
            self._open_volumes(client, spec, user_of(config))
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

    def _make_volume(self, client: Any, spec: ContainerSpec, path: str, size: int, owner: str) -> None:
        name = volume_name(spec, path)
        labels = {**spec.labels, VOLUME_LABEL: spec.name, SIZE_LABEL: str(size)}
        limit = self._bounded_by(client)
        if limit is DiskLimit.LOOP:
            device = disks.make(self._directory / f"{name}.img", size, owner)
            options = {"type": "ext4", "device": str(device), "o": "nosuid,nodev"}
        elif limit is DiskLimit.QUOTA:
            options = {"size": str(size)}
        else:
            options = {}
        # What an interrupted attempt left may have other options; no container holds it, since none of this name
        # exists.
        _unless_gone(lambda: client.remove_volume(name))
        client.create_volume(name, driver="local", driver_opts=options, labels=labels)

    def _open_volumes(self, client: Any, spec: ContainerSpec, user: str) -> None:
        """Let the job's user write to volumes that Docker made for root.

        The engine unpacks folders of that owner over them, through a container that never starts; no root is needed.
        """
        mounts = [{"Type": "volume", "Source": volume_name(spec, path), "Target": path} for path in volumes(spec)]
        helper = spec.name + _HELPER
        _unless_gone(lambda: client.remove_container(helper))
        host = client.create_host_config(mounts=mounts, network_mode="none")
        client.create_container(spec.image, entrypoint=["/none"], name=helper, host_config=host, use_config_proxy=False)
        client.put_archive(helper, "/", extract.folders_tar(volumes(spec), user))
        client.remove_container(helper)

    async def _watch(self, container: ContainerId) -> None:
        """Start watching the volumes of a running container, if nothing else bounds them."""
        found = await self.inspect(container)
        limit = await self._call(lambda: self._bounded_by(self._api()))
        if found is None or limit is not DiskLimit.WATCHED or found.name in self._watches:
            return
        self._watches[found.name] = asyncio.create_task(self._watch_disk(found.id, found.name))

    async def _watch_disk(self, container: ContainerId, name: str) -> None:
        def usage() -> list[tuple[int, int]]:
            client = self._api()
            volumes = [v for v in client.df().get("Volumes") or [] if (v.get("Labels") or {}).get(VOLUME_LABEL) == name]
            return [(int((v.get("UsageData") or {}).get("Size", 0)), int(v["Labels"][SIZE_LABEL])) for v in volumes]

        while True:
            await asyncio.sleep(_WATCH_EVERY_S)
            with contextlib.suppress(MarketError):
                over = [(used, size) for used, size in await self._call(usage) if used > size]
                if over:
                    self._stop_reasons[name] = "disk limit"
                    await self.kill(container)
                found = await self.inspect(container)
                if found is None or not found.running:
                    return

    def _bounded_by(self, client: Any) -> DiskLimit:
        """The strongest limit that works here, found out once by trying."""
        if self._disk_limit is None:
            info = client.info()
            name = f"gpumarket-probe-{time.time_ns()}"
            local = info.get("Name") == socket.gethostname() and Path(str(info.get("DockerRootDir"))).is_dir()
            try:
                client.create_volume(name, driver="local", driver_opts={"size": "1048576"})
                client.remove_volume(name)
                self._disk_limit = DiskLimit.QUOTA
            except APIError:
                self._disk_limit = DiskLimit.LOOP if local and disks.available() else DiskLimit.WATCHED
        return self._disk_limit

    def _retag(self, client: Any, ref: str, tag: str) -> str:
        """Give an image its name of ours and drop the one it came with, so that removing ours frees the image."""
        repository, _, version = tag.partition(":")
        image = str(client.inspect_image(ref)["Id"])
        client.tag(image, repository, version or "latest")
        if ref not in (image, tag):
            client.remove_image(ref)
        return image

    def _seen(self, inspected: Mapping[str, Any]) -> Container:
        return container_of(inspected, self._stop_reasons)


def _translated(function: Callable[[], T]) -> T:
    """Run a Docker call; its errors become ours."""
    try:
        return function()
    except APIError as error:
        raise _failed(str(error.explanation or error)) from error
    except (DockerException, RequestException, ConnectionError) as error:
        raise _unreachable(str(error)) from error


def _unless_gone(function: Callable[[], Any]) -> None:
    with contextlib.suppress(NotFound, ImageNotFound):
        function()


def _failed(message: str) -> MarketError:
    if "no space left" in message.lower():
        return MarketError("disk_full", f"the Docker Engine has no space: {message[:300]}", hint="docker system df")
    return MarketError("docker_failed", f"the Docker Engine refused: {message[:500]}")


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
