"""A job's writable volumes on the engine: made bounded, made writable for its user, and removed without a trace."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from provider_agent import disks, extract
from provider_agent.runtime import ContainerSpec, DiskLimit
from provider_agent.sandbox import SIZE_LABEL, VOLUME_LABEL, volume_name, volume_names, volumes

_HELPER = "-volumes"

UnlessGone = Callable[[Callable[[], Any]], None]
"""Runs a call to the engine; that its object does not exist is no error."""

SeemsMounted = Callable[[Callable[[], Any]], bool]
"""The same for removing a volume; true if the engine refuses because it believes the volume to be mounted."""


class Volumes:
    """Every method blocks.

    Args:
        directory: where disks of fixed size are kept.
        limit: force a way to bound volumes; None for the strongest that works here, found out once by trying.
    """

    def __init__(
        self, directory: Path, limit: DiskLimit | None, unless_gone: UnlessGone, seems_mounted: SeemsMounted
    ) -> None:
        self._directory = directory.absolute()
        self._limit = limit
        self._unless_gone = unless_gone
        self._seems_mounted = seems_mounted

    def limit(self, client: Any) -> DiskLimit:
        """How volumes are bounded on this engine."""
        if self._limit is None:
            self._limit = DiskLimit.QUOTA if self._has_quota(client) else self._without_quota(client)
        return self._limit

    def make(self, client: Any, spec: ContainerSpec, user: str) -> None:
        """Make all volumes of `spec`, writable by `user` (`uid:gid`). What an interrupted attempt left is replaced."""
        limit = self.limit(client)
        for path, size in volumes(spec).items():
            name = volume_name(spec, path)
            labels = {**spec.labels, VOLUME_LABEL: spec.name, SIZE_LABEL: str(size)}
            options: dict[str, str] = {}
            if limit is DiskLimit.LOOP:
                device = disks.make(self._file(name), size, user)
                options = {"type": "ext4", "device": str(device), "o": "nosuid,nodev"}
            elif limit is DiskLimit.QUOTA:
                options = {"size": str(size)}
            self._unless_gone(lambda name=name: client.remove_volume(name))  # type: ignore[misc]
            client.create_volume(name, driver="local", driver_opts=options, labels=labels)
        if volumes(spec) and limit is not DiskLimit.LOOP:
            self._open(client, spec, user)

    def reattach(self, container: str) -> None:
        """Attach the container's disks if they are not, as after a reboot."""
        for name in volume_names(container):
            if self._file(name).exists():
                disks.reattach(self._file(name))

    def remove(self, client: Any, container: str) -> None:
        """Remove the volumes of a container that is gone."""
        self._unless_gone(lambda: client.remove_container(container + _HELPER, v=True, force=True))
        for volume in client.volumes(filters={"label": f"{VOLUME_LABEL}={container}"}).get("Volumes") or []:
            self._remove(client, str(volume["Name"]))
        for name in volume_names(container):
            if self._file(name).parent.exists():
                disks.destroy(self._file(name))

    def _remove(self, client: Any, name: str) -> None:
        if self._seems_mounted(lambda: client.remove_volume(name)) and self._file(name).exists():
            # An engine that died and came back under the container believes for ever that it has the disk mounted.
            # Without the disk the volume is an empty name, which must not keep the job open.
            disks.destroy(self._file(name))
            self._seems_mounted(lambda: client.remove_volume(name, force=True))

    def exceeded(self, client: Any, container: str) -> bool:
        """Whether a volume of the container holds more than it may; the engine counts, which takes it a while."""
        for volume in client.df().get("Volumes") or []:
            labels = volume.get("Labels") or {}
            used = int((volume.get("UsageData") or {}).get("Size", 0))
            if labels.get(VOLUME_LABEL) == container and used > int(labels.get(SIZE_LABEL, 0)):
                return True
        return False

    def _open(self, client: Any, spec: ContainerSpec, user: str) -> None:
        """Let the job's user write to volumes that Docker made for root.

        The engine unpacks folders of that owner over them, through a container that never starts; no root is needed.
        """
        mounts = [{"Type": "volume", "Source": volume_name(spec, path), "Target": path} for path in volumes(spec)]
        helper = spec.name + _HELPER
        self._unless_gone(lambda: client.remove_container(helper))
        host = client.create_host_config(mounts=mounts, network_mode="none")
        client.create_container(spec.image, entrypoint=["/none"], name=helper, host_config=host, use_config_proxy=False)
        client.put_archive(helper, "/", extract.folders_tar(volumes(spec), user))
        client.remove_container(helper, v=True)

    def _file(self, volume: str) -> Path:
        return self._directory / f"{volume}.img"

    def _has_quota(self, client: Any) -> bool:
        name = f"gpumarket-probe-{time.time_ns()}"
        try:
            client.create_volume(name, driver="local", driver_opts={"size": "1048576"})
        except Exception:  # the engine refuses this option unless its file system has project quotas
            client.ping()
            return False
        client.remove_volume(name)
        return True

    def _without_quota(self, client: Any) -> DiskLimit:
        info = client.info()
        ours = info.get("Name") == socket.gethostname() and Path(str(info.get("DockerRootDir"))).is_dir()
        rootless = "name=rootless" in (info.get("SecurityOptions") or ())
        return DiskLimit.LOOP if ours and not rootless and disks.available() else DiskLimit.WATCHED
