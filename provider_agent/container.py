"""How a job becomes one container: its name, which is the lock against a double start, its labels, its limits."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from gpumarket.ipfs.cid import Cid
from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.units import Address, JobId
from provider_agent.runtime import ContainerSpec
from provider_agent.state import JobRow

JOB_LABEL = "gpumarket.job"
MARKET_LABEL = "gpumarket.market"
EXPIRES_LABEL = "gpumarket.expires"

EXPIRY_SLACK_S = 600
"""How long past its paid time a container may live before the watchdog takes it for forgotten."""


@dataclass(frozen=True)
class Machine:
    """What a job gets: the whole machine, less what the provider keeps. Sizes in bytes."""

    gpus: tuple[str, ...]
    memory_bytes: int
    cpus: float
    results_bytes: int
    workspace_bytes: int


@dataclass(frozen=True)
class Market:
    """One market on one chain, as a short tag: development chains restart with the same ids, their genesis differs."""

    chain_id: int
    marketplace: Address
    birth_hash: str

    @property
    def tag(self) -> str:
        return hashlib.sha256(f"{self.chain_id}:{self.marketplace}:{self.birth_hash}".encode()).hexdigest()[:12]


def container_name(market: Market, job_id: JobId) -> str:
    return f"gpumarket-{market.tag}-{job_id[2:34]}"


def image_tag(market: Market, job_id: JobId) -> str:
    return f"gpumarket-job/{market.tag}:{job_id[2:34]}"


def image_root(row: JobRow) -> Cid:
    return Cid.dag_pb(bytes.fromhex(row.image[2:]))


def container_labels(market: Market, row: JobRow, expires: int) -> Mapping[str, str]:
    return {
        JOB_LABEL: row.job_id,
        MARKET_LABEL: market.tag,
        EXPIRES_LABEL: str(expires),
        "gpumarket.chain": str(market.chain_id),
        "gpumarket.resource": row.resource_id,
        "gpumarket.image": str(image_root(row)),
    }


def container_spec(market: Market, machine: Machine, row: JobRow, spec: JobSpec, start_by: int) -> ContainerSpec:
    """The sandbox of a job. `start_by` is when its clock runs at the latest, unix seconds."""
    return ContainerSpec(
        name=container_name(market, row.job_id),
        image=image_tag(market, row.job_id),
        command=spec.command,
        entrypoint=spec.entrypoint,
        env={**spec.env, "GPUMARKET_JOB_ID": row.job_id},
        workdir=spec.workdir,
        labels=container_labels(market, row, start_by + row.duration + EXPIRY_SLACK_S),
        gpus=machine.gpus,
        memory_bytes=machine.memory_bytes,
        cpus=machine.cpus,
        shm_bytes=min(machine.memory_bytes // 2, 8 << 30),
        results_bytes=machine.results_bytes,
        disk_bytes=machine.workspace_bytes,
    )
