"""Section [agent], and what it says about this machine."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from gpumarket.chain.deployments import PaymentToken
from gpumarket.chain.types import ResourceParams
from gpumarket.errors import MarketError
from gpumarket.rules.units import parse_amount
from provider_agent.container import Machine
from provider_agent.gpus import Inventory

_GIB = 1 << 30
_MEMORY_KEPT = 1 * _GIB
"""Memory the host keeps for itself where that leaves something to rent."""


@dataclass(frozen=True)
class Settings:
    """Section [agent].

    Attributes:
        price_per_hour: in whole payment tokens, e.g. "1.5".
        endpoint: public URL of this agent, as written on chain; by default its own address.
        gateways: trustless IPFS gateways to ask for images that a job's own sources lack.
        memory_gb, cpus: what is rented out; by default the machine's, less a little.
        results_gb, workspace_gb: the most a job may leave in /results and keep in /workspace.
    """

    rpc_url: str
    deployments: Path
    data_dir: Path
    price_per_hour: str
    keystore: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8090
    registry_port: int = 8091
    endpoint: str = ""
    gateways: tuple[str, ...] = ()
    min_seconds: int = 60
    max_seconds: int = 30 * 86_400
    memory_gb: float | None = None
    cpus: float | None = None
    results_gb: float = 1.0
    workspace_gb: float = 0.0
    max_image_gb: float = 16.0
    poll_s: float = 1.0
    heartbeat_s: float = 60.0
    log_level: str = "info"

    @property
    def public_url(self) -> str:
        return (self.endpoint or f"http://{self.host}:{self.port}").rstrip("/")


def machine_of(settings: Settings, inventory: Inventory) -> Machine:
    """What a job gets of this machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    rented = memory - _MEMORY_KEPT if memory > 2 * _MEMORY_KEPT else memory // 2
    return Machine(
        gpus=tuple(gpu.uuid for gpu in inventory.gpus),
        memory_bytes=int(settings.memory_gb * _GIB) if settings.memory_gb else rented,
        cpus=settings.cpus or float(os.cpu_count() or 1),
        results_bytes=int(settings.results_gb * _GIB),
        workspace_bytes=int(settings.workspace_gb * _GIB),
    )


def resource_of(settings: Settings, machine: Machine, inventory: Inventory, token: PaymentToken) -> ResourceParams:
    """The machine as the chain lists it. Mixed GPUs are named together.

    Raises:
        MarketError: `invalid_config` for a price or limits that make no sense.
    """
    try:
        price = parse_amount(settings.price_per_hour, token.decimals)
    except ValueError as error:
        raise MarketError("invalid_config", f"price_per_hour: {error}") from error
    if not 0 < settings.min_seconds <= settings.max_seconds:
        raise MarketError("invalid_config", "min_seconds must be positive and not above max_seconds")
    models = sorted({gpu.name for gpu in inventory.gpus})
    return ResourceParams(
        gpu_model=" + ".join(models) if models else "CPU-only",
        gpu_count=len(inventory.gpus),
        vcpu=max(1, int(machine.cpus)),
        memory_gb=max(1, machine.memory_bytes // _GIB),
        storage_gb=max(1, shutil.disk_usage(settings.data_dir).total // _GIB),
        price_per_hour=price,
        payment_token=token.address,
        min_seconds=settings.min_seconds,
        max_seconds=settings.max_seconds,
    )
