"""`gpumarket agent doctor`: whether this machine can rent itself out, each point with how to mend it.

Every check asks through a function that is passed in, within a time limit; a check that cannot be made is a failed
check, never an exception.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TypeVar

from gpumarket.errors import MarketError
from gpumarket.rules.units import format_amount
from provider_agent.gpus import Inventory
from provider_agent.runtime import DiskLimit, EngineInfo, Tier

TIMEOUT_S = 20.0
MIN_ENGINE = (20, 10)
# Below these, published exploits let a container out: CVE-2025-23266 (toolkit), CVE-2025-31133 and relatives (runc).
TOOLKIT_FLOOR = (1, 17, 8)
TOOLKIT_ADVISED = (1, 18, 0)
RUNC_ADVISED = (1, 2, 8)
T = TypeVar("T")

_MAX_CLOCK_SKEW_S = 15.0
_MAX_HEAD_AGE_S = 120.0


class Status(StrEnum):
    PASS = "pass"  # noqa: S105
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True)
class Finding:
    """One point: what was found, and how to mend it if it is not `pass`."""

    name: str
    status: Status
    message: str
    fix: str = ""


@dataclass(frozen=True)
class ChainHead:
    """The newest block as the configured node shows it; `timestamp` in unix seconds."""

    chain_id: int
    number: int
    timestamp: float


@dataclass(frozen=True)
class Funds:
    """What the provider's account holds, in base units: coin for gas, stake, and what the market demands."""

    native: int
    min_native: int
    stake: int
    required_stake: int


@dataclass(frozen=True)
class Examination:
    """Where the doctor looks.

    `chain` and `funds` are left out on a machine that is not set up for a chain yet; `clock` gives unix seconds;
    `min_free_bytes` is what must be free in `data_dir`.
    """

    engine: Callable[[], Awaitable[EngineInfo]]
    inventory: Callable[[], Inventory]
    toolkit: Callable[[], str]
    clock: Callable[[], float]
    data_dir: Path
    min_free_bytes: int
    chain: Callable[[], Awaitable[ChainHead]] | None = None
    funds: Callable[[], Awaitable[Funds]] | None = None


async def diagnose(look: Examination) -> tuple[Finding, ...]:
    """Make all checks; the findings in the order a person would mend them."""
    groups = [
        _asked("engine", look.engine, _engine, "start Docker: systemctl start docker; the agent's user must reach it"),
        _disk(look),
        _gpus(look),
    ]
    if look.chain:
        hint = "check rpc_url in the [agent] section, and that the node runs"
        groups.append(_asked("chain", look.chain, lambda head: _chain(head, look.clock()), hint))
    if look.funds:
        groups.append(_asked("funds", look.funds, _funds, "check rpc_url and deployments in the [agent] section"))
    return tuple(finding for group in await asyncio.gather(*groups) for finding in group)


def healthy(findings: tuple[Finding, ...]) -> bool:
    """Whether the agent may start: no check failed."""
    return all(finding.status is not Status.FAIL for finding in findings)


def toolkit_version() -> str:
    """Version of the installed NVIDIA Container Toolkit, "" if there is none. Blocks; call it in a thread."""
    program = shutil.which("nvidia-ctk")
    if program is None:
        return ""
    try:
        done = subprocess.run([program, "--version"], capture_output=True, text=True, timeout=10, check=True)
    except (subprocess.SubprocessError, OSError):
        return ""
    found = re.search(r"\d+\.\d+\.\d+", done.stdout)
    return found[0] if found else ""


async def _asked(
    name: str, ask: Callable[[], Awaitable[T]], judge: Callable[[T], list[Finding]], fix: str
) -> list[Finding]:
    try:
        return judge(await asyncio.wait_for(ask(), TIMEOUT_S))
    except MarketError as error:
        return [Finding(name, Status.FAIL, error.message, error.hint or fix)]
    except TimeoutError:
        return [Finding(name, Status.FAIL, f"no answer within {TIMEOUT_S:.0f} s", fix)]


def _engine(info: EngineInfo) -> list[Finding]:
    found = [
        _either(
            "engine",
            _version(info.version) >= MIN_ENGINE,
            f"Docker Engine {info.version}, {info.storage_driver}",
            "install Docker Engine 20.10 or newer",
        ),
        _either(
            "limits",
            not info.limits_missing,
            "memory, CPU and processes can be limited"
            if not info.limits_missing
            else f"the engine cannot enforce {', '.join(info.limits_missing)}",
            "enable the memory, cpu and pids cgroup controllers (with rootless Docker: delegate them)",
        ),
        _sandbox(info),
    ]
    if _version(info.runc) < RUNC_ADVISED and info.runc and info.tier is Tier.T0:
        fix = f"upgrade runc to {_text(RUNC_ADVISED)} or newer, unless your distribution has patched this version"
        found.append(Finding("runc", Status.WARN, f"runc {info.runc} has known ways out of a container", fix))
    if info.disk_limit is DiskLimit.WATCHED:
        fix = "run the agent as root on the engine's machine, or put Docker on XFS with pquota"
        found.append(Finding("disk limit", Status.WARN, "jobs' disks are only watched, not bounded", fix))
    else:
        found.append(Finding("disk limit", Status.PASS, f"jobs' disks are bounded ({info.disk_limit})"))
    return found


def _sandbox(info: EngineInfo) -> Finding:
    meaning = {Tier.T0: "runc", Tier.T1: "user namespaces", Tier.T2: "gVisor"}[info.tier]
    message = f"isolation {info.tier.name} ({meaning})"
    if not any(option.startswith("name=seccomp") for option in info.security) and info.tier is not Tier.T2:
        return Finding("sandbox", Status.FAIL, message + ", no seccomp", "use a kernel and engine with seccomp")
    if info.tier is Tier.T0:
        fix = "for a higher tier: dockerd with userns-remap, rootless Docker, or gVisor (runsc)"
        return Finding("sandbox", Status.WARN, message, fix)
    return Finding("sandbox", Status.PASS, message)


async def _disk(look: Examination) -> list[Finding]:
    try:
        free = await asyncio.to_thread(_free_bytes, look.data_dir)
    except OSError as error:
        return [
            Finding("disk", Status.FAIL, f"cannot use {look.data_dir}: {error.strerror}", "choose another data_dir")
        ]
    message = f"{free >> 30} GiB free, {look.min_free_bytes >> 30} GiB wanted"
    return [_either("disk", free >= look.min_free_bytes, message, "free some space, or choose another data_dir")]


def _free_bytes(directory: Path) -> int:
    directory.mkdir(parents=True, exist_ok=True)
    return shutil.disk_usage(directory).free


async def _gpus(look: Examination) -> list[Finding]:
    found = await asyncio.to_thread(look.inventory)
    if not found.gpus:
        fix = "if there is a GPU: install the NVIDIA driver; else the machine is listed as CPU-only"
        return [Finding("gpu", Status.WARN, found.reason, fix)]
    names = ", ".join(sorted({gpu.name for gpu in found.gpus}))
    return [
        Finding("gpu", Status.PASS, f"{len(found.gpus)} GPU ({names}), driver {found.driver}, CUDA {found.cuda}"),
        _toolkit(await asyncio.to_thread(look.toolkit)),
    ]


def _toolkit(version: str) -> Finding:
    fix = f"install NVIDIA Container Toolkit {_text(TOOLKIT_ADVISED)} or newer"
    if not version:
        return Finding("toolkit", Status.FAIL, "the NVIDIA Container Toolkit is not installed", fix)
    message = f"NVIDIA Container Toolkit {version}"
    if _version(version) < TOOLKIT_FLOOR:
        return Finding("toolkit", Status.FAIL, message + " lets images take over the host (CVE-2025-23266)", fix)
    if _version(version) < TOOLKIT_ADVISED:
        return Finding("toolkit", Status.WARN, message, fix)
    return Finding("toolkit", Status.PASS, message)


def _chain(head: ChainHead, now: float) -> list[Finding]:
    found = [Finding("chain", Status.PASS, f"chain {head.chain_id} at block {head.number}")]
    behind = now - head.timestamp
    if behind < -_MAX_CLOCK_SKEW_S:
        message = f"this clock is {-behind:.0f} s behind the chain's newest block"
        found.append(Finding("clock", Status.FAIL, message, "synchronise it: timedatectl set-ntp true"))
    elif behind > _MAX_HEAD_AGE_S:
        message = f"the newest block is {behind:.0f} s old: the node lags, or this clock is ahead"
        found.append(Finding("clock", Status.WARN, message, "check the node's peers and timedatectl"))
    else:
        found.append(Finding("clock", Status.PASS, "the clock agrees with the chain"))
    return found


def _funds(funds: Funds) -> list[Finding]:
    gas = f"{_amount(funds.native)} coin for gas, {_amount(funds.min_native)} wanted"
    stake = f"{_amount(funds.stake)} GPU staked or in the wallet, {_amount(funds.required_stake)} demanded"
    return [
        _either("gas", funds.native >= funds.min_native, gas, "send native coin to the provider's account"),
        _either("stake", funds.stake >= funds.required_stake, stake, "stake more before listing resources"),
    ]


def _amount(base_units: int) -> str:
    return format_amount(base_units, 18)  # the native coin and the stake's token alike


def _either(name: str, good: bool, message: str, fix: str) -> Finding:
    return Finding(name, Status.PASS, message) if good else Finding(name, Status.FAIL, message, fix)


def _version(text: str) -> tuple[int, ...]:
    found = re.match(r"\d+(\.\d+)*", text)
    return tuple(int(part) for part in found[0].split(".")) if found else ()


def _text(version: tuple[int, ...]) -> str:
    return ".".join(map(str, version))
