"""What the engine's JSON answers mean. Pure: no call is made here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from provider_agent.runtime import Container, ContainerId, ContainerState, DiskLimit, EngineInfo, Tier
from provider_agent.sandbox import HostFacts

_TIME = re.compile(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)")


def engine_info(version: Mapping[str, Any], info: Mapping[str, Any], limit: DiskLimit) -> EngineInfo:
    """From `/version` and `/info`. The tier is what jobs on this engine really get."""
    security = tuple(str(option) for option in info.get("SecurityOptions") or ())
    names = {option.partition("name=")[2].partition(",")[0] for option in security}
    runtimes = tuple(sorted(info.get("Runtimes") or {}))
    cdi = _has_cdi(info)
    nvidia = "nvidia" in runtimes or cdi
    sandboxed = _gvisor_usable(info, nvidia)
    user_namespaces = bool(names & {"rootless", "userns"})
    return EngineInfo(
        version=str(version.get("Version", "")),
        api_version=str(version.get("ApiVersion", "")),
        storage_driver=str(info.get("Driver", "")),
        cgroup_version=str(info.get("CgroupVersion", "")),
        rootless="rootless" in names,
        runtimes=runtimes,
        cdi=cdi,
        nvidia=nvidia,
        tier=Tier.T2 if sandboxed else Tier.T1 if user_namespaces else Tier.T0,
        disk_limit=limit,
        security=security,
        architecture=str(info.get("Architecture", "")),
        containers_running=int(info.get("ContainersRunning", 0)),
        limits_missing=limits_missing(info),
        runc=next((str(c.get("Version", "")) for c in version.get("Components") or () if c.get("Name") == "runc"), ""),
    )


def host_facts(info: Mapping[str, Any]) -> HostFacts:
    """What the sandbox settings depend on."""
    cdi = _has_cdi(info)
    nvidia = "nvidia" in (info.get("Runtimes") or {}) or cdi
    # A default runtime of "nvidia" would let the image choose its GPUs.
    plain = "runc" if info.get("DefaultRuntime") not in (None, "runc") else ""
    return HostFacts(
        cpus=int(info.get("NCPU", 1)),
        cdi=cdi,
        runtime="runsc" if _gvisor_usable(info, nvidia) else plain,
        init=bool(info.get("InitBinary")),
    )


def limits_missing(info: Mapping[str, Any]) -> tuple[str, ...]:
    """The limits a sandbox needs and this engine cannot set."""
    return tuple(flag for flag in ("MemoryLimit", "PidsLimit", "CpuCfsQuota") if not info.get(flag))


def container_of(inspected: Mapping[str, Any], stop_reason: Callable[[str], str]) -> Container:
    """From `/containers/{id}/json`, and by the container's name why the runtime ended it."""
    state, config = inspected["State"], inspected["Config"]
    name = str(inspected["Name"]).removeprefix("/")
    status = ContainerState(state["Status"])
    ended = status in (ContainerState.EXITED, ContainerState.DEAD)
    return Container(
        id=ContainerId(inspected["Id"]),
        name=name,
        state=status,
        exit_code=int(state["ExitCode"]) if ended else None,
        oom_killed=bool(state.get("OOMKilled")),
        started_at=unix_time(state.get("StartedAt", "")),
        finished_at=unix_time(state.get("FinishedAt", "")) if ended else None,
        labels=dict(config.get("Labels") or {}),
        image=str(config.get("Image", "")),
        stop_reason=stop_reason(name) if ended else "",
    )


def unix_time(text: str) -> float | None:
    """Seconds since 1970 of an engine's RFC 3339 time; None for its zero time."""
    match = _TIME.fullmatch(text)
    if match is None or text.startswith("0001-"):
        return None
    whole = datetime.fromisoformat(match[1] + match[3].replace("Z", "+00:00")).timestamp()
    return whole + float(match[2] or 0)


def _has_cdi(info: Mapping[str, Any]) -> bool:
    """Whether the engine itself lists NVIDIA devices.

    Older engines list none: there the nvidia request lets the toolkit choose.
    """
    discovered = info.get("DiscoveredDevices") or []
    return any(str(device.get("ID", "")).startswith("nvidia.com/gpu") for device in discovered)


def _gvisor_usable(info: Mapping[str, Any], nvidia: bool) -> bool:
    runsc = (info.get("Runtimes") or {}).get("runsc")
    if not isinstance(runsc, dict):
        return False
    arguments = [str(argument) for argument in runsc.get("runtimeArgs") or ()]
    return not nvidia or any(argument.lstrip("-").startswith("nvproxy") for argument in arguments)
