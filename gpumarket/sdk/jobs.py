"""A renter's jobs: what the chain says of them, with what the indexer adds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumarket.chain import events
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.types import Deadline, Job, Receipt
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules import settlement
from gpumarket.rules.job_state import TERMINAL, JobStatus, api_status
from gpumarket.rules.units import Address, JobId

JOB_FIELDS = """
  id user provider resourceId imageCID status chainStatus endReason startTime endTime duration pricePerHour maxCost
  totalCost providerAmount fee refunded resultCID transactions { hash block event }
"""
ONE = f"query($id: ID!) {{ job(id: $id) {{ {JOB_FIELDS} }} }}"
MINE = f"query($user: String) {{ jobs(user: $user) {{ {JOB_FIELDS} }} }}"


@dataclass(frozen=True)
class JobView:
    """One job, now. Money in base units.

    Attributes:
        accrued: owed to the provider for the seconds so far.
        refundable: comes back if it ended this second.
        deadline: the call that is due next, and when.
        indexed: the indexer's row; None while it has not seen the job.
    """

    job: Job
    accrued: int
    refundable: int
    deadline: Deadline
    indexed: Mapping[str, Any] | None

    @property
    def over(self) -> bool:
        return self.job.status in TERMINAL

    def as_row(self) -> dict[str, Any]:
        job = self.job
        indexed = self.indexed or {}
        return {
            "job_id": job.job_id,
            "status": api_status(job.status),
            "chain_status": job.status.name,
            "end_reason": indexed.get("endReason"),
            "renter": job.user,
            "provider": job.provider,
            "resource_id": job.resource_id,
            "image": indexed.get("imageCID"),
            "result": indexed.get("resultCID"),
            "started_at": job.started_at or None,
            "ended_at": job.ended_at or None,
            "duration": job.duration,
            "outage_seconds": job.outage_seconds,
            "price_per_hour": str(job.price_per_hour),
            "locked": str(job.locked_amount),
            "accrued": str(self.accrued),
            "refundable": str(self.refundable),
            "total_cost": indexed.get("totalCost"),
            "refunded": indexed.get("refunded"),
            "next_deadline": self.deadline.timestamp or None,
        }


@dataclass(frozen=True)
class JobSummary:
    """One line of a renter's list, as the indexer tells it."""

    row: Mapping[str, Any]

    def as_row(self) -> dict[str, Any]:
        names = {
            "id": "job_id",
            "status": "status",
            "chainStatus": "chain_status",
            "endReason": "end_reason",
            "provider": "provider",
            "resourceId": "resource_id",
            "imageCID": "image",
            "resultCID": "result",
            "startTime": "started_at",
            "endTime": "ended_at",
            "duration": "duration",
            "pricePerHour": "price_per_hour",
            "maxCost": "max_cost",
            "totalCost": "total_cost",
            "refunded": "refunded",
        }
        return {name: self.row.get(key) for key, name in names.items()}


@dataclass(frozen=True)
class Rental:
    """A job that was paid for: its id and the transaction that opened it."""

    job_id: JobId
    tx_hash: str
    block_number: int
    gas_used: int
    locked: int

    def as_row(self) -> dict[str, Any]:
        return {
            "job_id": self.job_id,
            "tx_hash": self.tx_hash,
            "block_number": self.block_number,
            "gas_used": self.gas_used,
            "locked": str(self.locked),
        }


@dataclass(frozen=True)
class Pulled:
    """Results that were fetched and verified. `files` counts what lies under `path`."""

    root: Cid
    path: str
    files: int
    bytes_fetched: int

    def as_row(self) -> dict[str, Any]:
        return {"root": str(self.root), "path": self.path, "files": self.files, "bytes_fetched": self.bytes_fetched}


@dataclass(frozen=True)
class Wallet:
    """What an account has. Token amounts in base units, native in wei."""

    address: Address
    symbol: str
    decimals: int
    wallet: int
    escrow: int
    allowance: int
    native: int

    def as_row(self) -> dict[str, Any]:
        return {
            "address": self.address,
            "symbol": self.symbol,
            "decimals": self.decimals,
            "wallet": str(self.wallet),
            "escrow": str(self.escrow),
            "allowance": str(self.allowance),
            "native": str(self.native),
        }


def accrual(job: Job, now: int) -> tuple[int, int]:
    """(accrued, refundable) base units if the job ended at `now`."""
    if job.status is not JobStatus.RUNNING:
        return 0, job.locked_amount
    billable = settlement.billable_seconds(job.started_at, now, job.outage_seconds, job.min_seconds, job.duration)
    owed = settlement.accrued(job.price_per_hour, billable, job.settled_seconds)
    return owed, job.locked_amount - owed


def decoded(receipt: Receipt | None, deployment: Deployment) -> list[Any]:
    """The market's events in a receipt."""
    if receipt is None:
        return []
    found = [events.decode(log, deployment.addresses) for log in receipt.logs]
    return [event for event in found if event is not None]


def result_root(job_id: str, digest: str) -> Cid:
    """The results' root from the digest on chain. Raises MarketError `not_found` when there is none."""
    if int(digest, 16) == 0:
        raise no_results(job_id)
    return Cid.dag_pb(bytes.fromhex(digest.removeprefix("0x")))


def no_results(job_id: str) -> MarketError:
    """The error for a job that left nothing."""
    return MarketError("not_found", f"job {job_id} has no results on chain", hint="results come when the job has ended")
