"""The sandbox a job runs in, as the engine's settings. Pure: spec and engine facts in, settings out.

The renter's image is hostile by assumption. It gets no capability, no way to gain privileges, a read-only root, no
network, and every writable byte is bounded: `/tmp` and `/dev/shm` by its memory limit, `/results` and `/workspace` by
volumes of fixed size.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumarket.errors import MarketError
from provider_agent.runtime import SPEC_LABEL, ContainerSpec

NOBODY = "65534:65534"
VOLUME_LABEL = "gpumarket.container"
SIZE_LABEL = "gpumarket.size"
WORKSPACE = "/workspace"
_OOM_SCORE = 500
_MAX_IMAGE_VOLUMES = 32


@dataclass(frozen=True)
class HostFacts:
    """What the settings depend on. `runtime` is the low-level one to use, "" for the default."""

    cpus: int
    cdi: bool
    runtime: str
    init: bool


@dataclass(frozen=True)
class Settings:
    """Keyword arguments of docker's `create_host_config` and `create_container`."""

    host: Mapping[str, Any]
    container: Mapping[str, Any]


def volumes(spec: ContainerSpec) -> dict[str, int]:
    """Writable volumes: size in bytes by mount path."""
    wanted = {spec.results_path: spec.results_bytes, WORKSPACE: spec.disk_bytes}
    return {path: size for path, size in wanted.items() if size > 0}


def volume_name(spec: ContainerSpec, path: str) -> str:
    results, workspace = volume_names(spec.name)
    return results if path == spec.results_path else workspace


def volume_names(container: str) -> tuple[str, str]:
    """Names of a container's volumes for results and for scratch space; it need not have both."""
    return f"{container}-results", f"{container}-workspace"


def spec_digest(spec: ContainerSpec) -> str:
    """What `SPEC_LABEL` holds."""
    fields = dataclasses.asdict(spec)
    return hashlib.sha256(json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def user_of(image_config: Mapping[str, Any]) -> str:
    """The user to run as: the image's if it is a number other than 0, else nobody.

    A name is not trusted: the image's own `/etc/passwd` could map it to root.
    """
    user = str(image_config.get("User") or "")
    uid, _, gid = user.partition(":")
    if not _is_id(uid) or (gid and not _is_id(gid)):
        return NOBODY
    return f"{int(uid)}:{int(gid or uid)}"


def settings(spec: ContainerSpec, image_config: Mapping[str, Any], facts: HostFacts) -> Settings:
    """Everything the engine needs to create the container."""
    if spec.network:
        raise MarketError("machine_unsuitable", "this host rents out no network access", hint="rent without network")
    host = {
        "privileged": False,
        "cap_drop": ["ALL"],
        "security_opt": ["no-new-privileges:true"],
        "read_only": True,
        "tmpfs": {
            "/tmp": f"rw,nosuid,nodev,mode=1777,size={spec.memory_bytes}",  # noqa: S108
            "/run": "rw,nosuid,nodev,noexec,size=16m",
        },
        "mounts": _mounts(spec, image_config),
        "mem_limit": spec.memory_bytes,
        "memswap_limit": spec.memory_bytes,
        "nano_cpus": int(min(spec.cpus, facts.cpus) * 1e9),
        "pids_limit": spec.pids,
        "shm_size": min(spec.shm_bytes, spec.memory_bytes),
        "ulimits": [{"Name": "core", "Soft": 0, "Hard": 0}],
        "oom_score_adj": _OOM_SCORE,
        "init": facts.init,
        "ipc_mode": "private",
        "cgroupns": "private",
        "network_mode": "none",
        "log_config": {"Type": "json-file", "Config": {"max-size": "20m", "max-file": "3"}},
        "restart_policy": {"Name": "no"},
        "auto_remove": False,
        "runtime": facts.runtime or None,
        "device_requests": _gpus(spec, facts) or None,
    }
    container: dict[str, Any] = {
        "name": spec.name,
        "image": spec.image,
        "hostname": "job",
        "user": user_of(image_config),
        "environment": _environment(spec),
        "labels": {**spec.labels, SPEC_LABEL: spec_digest(spec)},
        "working_dir": spec.workdir or None,
        "command": list(spec.command) or None,
    }
    if spec.entrypoint is not None:
        container["entrypoint"] = list(spec.entrypoint)
    return Settings(host, container)


def _mounts(spec: ContainerSpec, image_config: Mapping[str, Any]) -> list[dict[str, Any]]:
    mounts: list[dict[str, Any]] = [
        {
            "Type": "volume",
            "Source": volume_name(spec, path),
            "Target": path,
            "ReadOnly": False,
            "VolumeOptions": {"NoCopy": True},
        }
        for path in volumes(spec)
    ]
    declared = sorted(image_config.get("Volumes") or {})
    if len(declared) > _MAX_IMAGE_VOLUMES:
        raise MarketError("image_policy_violation", f"the image declares {len(declared)} volumes, too many")
    taken = {mount["Target"] for mount in mounts} | {"/tmp", "/run"}  # noqa: S108
    # An image's VOLUME would become a host folder without any limit; memory-backed, it is bounded.
    for path in declared:
        if path.rstrip("/") not in taken:
            options = {"SizeBytes": spec.memory_bytes, "Mode": 0o1777}
            mounts.append({"Type": "tmpfs", "Target": path, "TmpfsOptions": options})
    return mounts


def _gpus(spec: ContainerSpec, facts: HostFacts) -> list[dict[str, Any]]:
    if not spec.gpus:
        return []
    if facts.cdi:
        return [{"Driver": "cdi", "DeviceIDs": [f"nvidia.com/gpu={uuid}" for uuid in spec.gpus]}]
    return [{"Driver": "nvidia", "DeviceIDs": list(spec.gpus), "Capabilities": [["gpu", "compute", "utility"]]}]


def _environment(spec: ContainerSpec) -> dict[str, str]:
    home = WORKSPACE if spec.disk_bytes else "/tmp"  # noqa: S108
    # An image's own NVIDIA_VISIBLE_DEVICES=all must never decide which GPUs it sees.
    forced = {"NVIDIA_VISIBLE_DEVICES": ",".join(spec.gpus) if spec.gpus else "void"}
    if spec.gpus:
        forced["NVIDIA_DRIVER_CAPABILITIES"] = "compute,utility"
    return {"HOME": home, **spec.env, **forced}


def _is_id(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text) < 2**31
