"""The machine's NVIDIA GPUs through NVML: what there is, how it does, who has it. The only file that talks to NVML.

A machine without NVML is an ordinary thing: it has no GPU to rent out and says why.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import pynvml

from gpumarket.errors import MarketError

T = TypeVar("T")


@dataclass(frozen=True)
class Gpu:
    """What a GPU is. Memory in bytes, power limit in watts; `compute_capability` like "9.0", "" if unknown."""

    uuid: str
    name: str
    memory_bytes: int
    pci_bus_id: str
    compute_capability: str
    power_limit_w: int
    mig: bool


@dataclass(frozen=True)
class Inventory:
    """All GPUs of this machine. `reason` says in plain words why there are none; "" if there are some."""

    gpus: tuple[Gpu, ...]
    driver: str
    cuda: str
    reason: str


@dataclass(frozen=True)
class GpuMetrics:
    """A GPU at this moment; None where the card does not tell.

    `throttle` is NVML's bit mask of reasons for slower clocks.
    """

    uuid: str
    utilization_percent: int | None
    memory_used_bytes: int | None
    temperature_c: int | None
    power_w: float | None
    sm_clock_mhz: int | None
    throttle: int | None
    ecc_uncorrected: int | None
    processes: int | None


def inventory() -> Inventory:
    """Ask NVML what there is. Blocks for up to a second or so; call it in a thread."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Inventory((), "", "", f"no GPU: {_why(error)}")
    try:
        driver, cuda = _text(pynvml.nvmlSystemGetDriverVersion()), _cuda_version()
        count = pynvml.nvmlDeviceGetCount()
        if count == 0:
            return Inventory((), driver, cuda, "no GPU: the NVIDIA driver is loaded and finds no card")
        return Inventory(tuple(_gpu(index) for index in range(count)), driver, cuda, "")
    except pynvml.NVMLError as error:
        return Inventory((), "", "", f"no GPU: NVML failed: {error}")
    finally:
        _shutdown()


def metrics(uuids: Iterable[str]) -> tuple[GpuMetrics, ...]:
    """How the named GPUs do now; a GPU that NVML no longer finds is left out. Blocks; call it in a thread."""
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return ()
    try:
        return tuple(found for uuid in uuids if (found := _metrics(uuid)) is not None)
    finally:
        _shutdown()


class GpuPool:
    """Which GPUs are given to whom. All or nothing; giving the same owner the same GPUs again is no error."""

    def __init__(self, uuids: Iterable[str]) -> None:
        self._owners: dict[str, str] = dict.fromkeys(uuids, "")

    @property
    def free(self) -> tuple[str, ...]:
        return tuple(uuid for uuid, owner in self._owners.items() if not owner)

    def of(self, owner: str) -> tuple[str, ...]:
        """What `owner` has."""
        return tuple(uuid for uuid, current in self._owners.items() if current == owner)

    def take(self, owner: str, count: int) -> tuple[str, ...]:
        """Give `owner` exactly `count` GPUs, or those it already has.

        Raises:
            MarketError: `resource_busy` if fewer are free; none is given then. `already_running` if it has another
                number.
        """
        held = self.of(owner)
        if held:
            if len(held) != count:
                raise MarketError("already_running", f"{owner} holds {len(held)} GPUs and asks for {count}")
            return held
        if len(self.free) < count:
            raise MarketError("resource_busy", f"{count} GPUs are asked for, {len(self.free)} are free")
        given = self.free[:count]
        self._owners.update(dict.fromkeys(given, owner))
        return given

    def adopt(self, owner: str, uuids: Iterable[str]) -> None:
        """Record what a container that survived a restart holds.

        Raises:
            MarketError: `resource_busy` or `not_found`; nothing is recorded then.
        """
        wanted = tuple(uuids)
        for uuid in wanted:
            if uuid not in self._owners:
                raise MarketError("not_found", f"GPU {uuid} is not in this machine any more")
            if self._owners[uuid] not in ("", owner):
                raise MarketError("resource_busy", f"GPU {uuid} belongs to {self._owners[uuid]}")
        self._owners.update(dict.fromkeys(wanted, owner))

    def release(self, owner: str) -> None:
        """Take back all that `owner` has; nothing happens if it has none."""
        self._owners.update(dict.fromkeys(self.of(owner), ""))

    def owners(self) -> Mapping[str, str]:
        """Owner by GPU, "" for free ones."""
        return dict(self._owners)


def _gpu(index: int) -> Gpu:
    handle = pynvml.nvmlDeviceGetHandleByIndex(index)
    capability = _maybe(lambda: pynvml.nvmlDeviceGetCudaComputeCapability(handle))
    mig = _maybe(lambda: pynvml.nvmlDeviceGetMigMode(handle))
    return Gpu(
        uuid=_text(pynvml.nvmlDeviceGetUUID(handle)),
        name=_text(pynvml.nvmlDeviceGetName(handle)),
        memory_bytes=int(pynvml.nvmlDeviceGetMemoryInfo(handle).total),
        pci_bus_id=_text(_maybe(lambda: pynvml.nvmlDeviceGetPciInfo(handle).busId) or ""),
        compute_capability=f"{capability[0]}.{capability[1]}" if capability else "",
        power_limit_w=(_maybe(lambda: pynvml.nvmlDeviceGetPowerManagementLimit(handle)) or 0) // 1000,
        mig=bool(mig and mig[0]),
    )


def _metrics(uuid: str) -> GpuMetrics | None:
    handle = _maybe(lambda: pynvml.nvmlDeviceGetHandleByUUID(uuid))
    if handle is None:
        return None
    milliwatts = _maybe(lambda: pynvml.nvmlDeviceGetPowerUsage(handle))
    return GpuMetrics(
        uuid=uuid,
        utilization_percent=_maybe(lambda: int(pynvml.nvmlDeviceGetUtilizationRates(handle).gpu)),
        memory_used_bytes=_maybe(lambda: int(pynvml.nvmlDeviceGetMemoryInfo(handle).used)),
        temperature_c=_maybe(lambda: int(pynvml.nvmlDeviceGetTemperature(handle, pynvml.NVML_TEMPERATURE_GPU))),
        power_w=None if milliwatts is None else milliwatts / 1000,
        sm_clock_mhz=_maybe(lambda: int(pynvml.nvmlDeviceGetClockInfo(handle, pynvml.NVML_CLOCK_SM))),
        throttle=_maybe(lambda: int(pynvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle))),
        ecc_uncorrected=_maybe(
            lambda: int(
                pynvml.nvmlDeviceGetTotalEccErrors(
                    handle, pynvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, pynvml.NVML_VOLATILE_ECC
                )
            )
        ),
        processes=_maybe(lambda: len(pynvml.nvmlDeviceGetComputeRunningProcesses(handle))),
    )


def _maybe(function: Callable[[], T]) -> T | None:
    """A reading that not every card or driver gives; a driver older than our NVML binding raises the second error."""
    try:
        return function()
    except (pynvml.NVMLError, pynvml.NVMLLibraryMismatchError):
        return None


def _cuda_version() -> str:
    version = _maybe(pynvml.nvmlSystemGetCudaDriverVersion_v2)
    return f"{version // 1000}.{version % 1000 // 10}" if version else ""


def _why(error: Any) -> str:
    if isinstance(error, pynvml.NVMLError_LibraryNotFound):
        return "the NVIDIA management library (NVML) is not installed"
    if isinstance(error, pynvml.NVMLError_DriverNotLoaded):
        return "the NVIDIA driver is not loaded"
    return f"NVML does not start: {error}"


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value


def _shutdown() -> None:
    _maybe(pynvml.nvmlShutdown)
