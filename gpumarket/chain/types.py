"""What the chain tells, as plain data mirrored from the contracts' structs. Times: unix seconds; money: base units."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address, JobId, ResourceId

RawLog: TypeAlias = dict[str, Any]
"""A log as JSON-RPC gives it: hex text for numbers, `address`, `topics`, `data`, `blockNumber`, `blockHash`, ..."""


@dataclass(frozen=True)
class Block:
    number: int
    hash: str
    parent_hash: str
    timestamp: int


@dataclass(frozen=True)
class Job:
    """IMarketplace.Job."""

    job_id: JobId
    user: Address
    provider: Address
    resource_id: ResourceId
    payment_token: Address
    status: JobStatus
    since: int
    started_at: int
    ended_at: int
    duration: int
    outage_seconds: int
    min_seconds: int
    settled_seconds: int
    dead_at: int
    price_per_hour: int
    locked_amount: int


@dataclass(frozen=True)
class Resource:
    """IResourceRegistry.GPUResource, with its id."""

    resource_id: ResourceId
    provider: Address
    gpu_model: str
    gpu_count: int
    vcpu: int
    memory_gb: int
    storage_gb: int
    price_per_hour: int
    payment_token: Address
    min_seconds: int
    max_seconds: int
    available: bool
    total_uptime: int
    reputation: int
    registered_at: int
    metadata_cid: bytes


@dataclass(frozen=True)
class Escrow:
    """IPaymentEscrow.EscrowRecord."""

    job_id: JobId
    user: Address
    provider: Address
    token: Address
    locked_amount: int
    fee_bps: int
    completed: bool


@dataclass(frozen=True)
class Deadline:
    """The call that is due for a job: its function's selector (four zero bytes for none) and when."""

    selector: bytes
    timestamp: int


@dataclass(frozen=True)
class Windows:
    """Seconds each side has; see IMarketplace.Windows."""

    accept: int
    start: int
    dispute: int
    verdict: int


@dataclass(frozen=True)
class Stake:
    active: int
    pending: int
    pending_until: int


@dataclass(frozen=True)
class Reputation:
    """IReputationSystem.ReputationScore."""

    score: int
    is_new: bool
    total_jobs: int
    successful_jobs: int
    disputes: int
    penalty: int
    bonus: int
    last_updated: int


@dataclass(frozen=True)
class Member:
    signer: Address
    endpoint: str


@dataclass(frozen=True)
class Committee:
    members: tuple[Member, ...]
    threshold: int
    config_digest: bytes
    latest_seq: int


@dataclass(frozen=True)
class Receipt:
    """A mined transaction. `status` is true if it took effect; `to` is None for a deployment."""

    tx_hash: str
    block_number: int
    block_hash: str
    gas_used: int
    effective_gas_price: int
    status: bool
    logs: tuple[RawLog, ...]
    from_: Address
    to: Address | None


class OutcomeKind(IntEnum):
    """IOracleCommittee.OutcomeKind."""

    VALIDATION = 0
    DOWNTIME = 1
    TIMEOUT = 2
    INVALID_DATA = 3
    INVALID_SIGNATURE = 4
    VERDICT = 5
    METRICS = 6


@dataclass(frozen=True)
class Outcome:
    """IOracleCommittee.Outcome: one finding of the committee. `from_` and `to` are unix seconds."""

    kind: OutcomeKind
    job_id: str
    provider: Address
    from_: int = 0
    to: int = 0
    value: int = 0
    evidence: bytes = bytes(32)


@dataclass(frozen=True)
class Report:
    """IOracleCommittee.Report: an epoch's outcomes under one root."""

    config_digest: bytes
    seq: int
    epoch: int
    outcomes_root: bytes
    count: int
    evidence_digest: bytes


@dataclass(frozen=True)
class JobRequest:
    """IMarketplace.JobRequest. `image_cid` is the sha2-256 digest of the root CID, `spec` the encoded job spec."""

    resource_id: ResourceId
    image_cid: bytes
    duration: int
    max_price_per_hour: int
    payment_token: Address
    spec: bytes = b""


@dataclass(frozen=True)
class ResourceParams:
    """IResourceRegistry.ResourceParams: what a provider declares of a machine."""

    gpu_model: str
    gpu_count: int
    vcpu: int
    memory_gb: int
    storage_gb: int
    price_per_hour: int
    payment_token: Address
    min_seconds: int
    max_seconds: int
    metadata_cid: bytes = bytes(32)
