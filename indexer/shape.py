"""How rows become the GraphQL types."""

from __future__ import annotations

from typing import Any

import strawberry

from gpumarket.ipfs.cid import Cid
from gpumarket.rules.job_state import EndReason, JobStatus, Verdict, api_status
from gpumarket.rules.reputation import MIN_SAMPLE
from gpumarket.rules.units import NO_ID
from indexer import api
from indexer.state import Row

_INT_MAX = 2**31 - 1  # GraphQL's Int
_PAID_IN = frozenset({"LOCKED", "DEPOSITED", "STAKED"})  # from the account to the contract; all others go the other way


def gpu_of(row: Row) -> api.GPUResource:
    total_jobs = row["total_jobs"] or 0
    return api.GPUResource(
        row=row,
        id=strawberry.ID(row["id"]),
        provider=row["provider"],
        gpu_model=row["gpu_model"],
        gpu_count=_int(row["gpu_count"]),
        vcpu=_int(row["vcpu"]),
        memory_gb=_int(row["memory_gb"]),
        storage_gb=_int(row["storage_gb"]),
        price_per_hour=str(row["price_per_hour"]),
        payment_token=row["payment_token"],
        available=row["available"],
        busy=row["busy"],
        reputation=_int(row["score"] or 0),
        is_new=total_jobs < MIN_SAMPLE,
        location=None,
        uptime=_ratio(row["uptime_bps"]),
        total_uptime=_int(row["total_uptime"]),
        min_seconds=_int(row["min_seconds"]),
        max_seconds=_int(row["max_seconds"]),
        endpoint=row["endpoint"],
        registered_at=_int(row["registered_at"]),
        metadata_cid=_cid(row["metadata_cid"]),
    )


def job_of(row: Row) -> api.Job:
    status = JobStatus(row["status"])
    reason = EndReason(row["end_reason"])
    return api.Job(
        row=row,
        id=strawberry.ID(row["id"]),
        user=row["user"],
        provider=row["provider"],
        resource_id=strawberry.ID(row["resource_id"]),
        image_cid=str(Cid.dag_pb(bytes.fromhex(row["image_cid"][2:]))),
        status=api.ApiStatus(api_status(status)),
        chain_status=status,
        end_reason=None if reason is EndReason.NONE else reason,
        created_at=_int(row["created_at"]),
        accepted_at=_maybe_int(row["accepted_at"]),
        start_time=_maybe_int(row["started_at"]),
        end_time=_maybe_int(row["ended_at"]),
        duration=_int(row["duration"]),
        outage_seconds=_int(row["outage_seconds"]),
        billable_seconds=_maybe_int(row["billable_seconds"]),
        price_per_hour=str(row["price_per_hour"]),
        payment_token=row["token"],
        max_cost=str(row["max_cost"]),
        total_cost=_total_cost(row, status),
        provider_amount=str(row["released"] or 0),
        fee=str(row["fee"] or 0),
        refunded=str(row["refunded"] or 0),
        result_cid=_cid(row["result_cid"]),
    )


def provider_of(row: Row) -> api.Provider:
    return api.Provider(
        address=row["id"],
        endpoint=row["endpoint"],
        registered_at=_int(row["registered_at"]),
        reputation=_int(row["score"]),
        is_new=row["total_jobs"] < MIN_SAMPLE,
        total_jobs=_int(row["total_jobs"]),
        successful_jobs=_int(row["successful_jobs"]),
        disputes=_int(row["disputes"]),
        penalty=_int(row["penalty"]),
        bonus=_int(row["bonus"]),
        uptime=_ratio(row["uptime_bps"]),
        response_rate=_ratio(row["response_bps"]),
        stake=str(row["active"] or 0),
        unbonding=str(row["pending"] or 0),
        slashed=str(row["slashed"] or 0),
    )


def dispute_of(row: Row) -> api.Dispute:
    return api.Dispute(
        initiator=row["initiator"],
        reason=row["reason"],
        contested_amount=str(row["contested_amount"]),
        opened_at=_int(row["opened_at"]),
        verdict=None if row["verdict"] is None else Verdict(row["verdict"]),
        by_timeout=row["by_timeout"],
        resolved_at=_maybe_int(row["resolved_at"]),
        evidence=[
            api.Evidence(party=e["party"], cid=_cid(e["cid"]) or "", timestamp=_int(e["timestamp"]))
            for e in row["evidence"]
        ],
    )


def transaction_of(row: Row) -> api.Transaction:
    return api.Transaction(
        hash=row["tx_hash"], block=_int(row["block_number"]), timestamp=_int(row["timestamp"]), event=row["event"]
    )


def event_of(row: Row) -> api.Event:
    return api.Event(
        name=row["event"],
        block=_int(row["block_number"]),
        timestamp=_int(row["timestamp"]),
        transaction=row["tx_hash"],
        log_index=_int(row["log_index"]),
        contract=row["address"],
        arguments=[api.EventArgument(name=name, value=_text(value)) for name, value in row["args"].items()],
    )


def payment_of(row: Row) -> api.Payment:
    ends = (row["account"], row["contract"]) if row["kind"] in _PAID_IN else (row["contract"], row["account"])
    return api.Payment(
        kind=row["kind"],
        from_=ends[0],
        to=ends[1],
        amount=str(row["amount"]),
        fee=str(row["fee"]),
        token=row["token"],
        job_id=None if row["job_id"] is None else strawberry.ID(row["job_id"]),
        transaction=row["tx_hash"],
        block=_int(row["block_number"]),
        timestamp=_int(row["timestamp"]),
    )


def receipt_of(job: Row, payments: list[Row]) -> api.Receipt:
    locked, released, fee, refunded = (job[name] or 0 for name in ("locked", "released", "fee", "refunded"))
    return api.Receipt(
        job_id=strawberry.ID(job["id"]),
        user=job["user"],
        provider=job["provider"],
        chain_status=JobStatus(job["status"]),
        payment_token=job["token"],
        locked=str(locked),
        provider_amount=str(released),
        fee=str(fee),
        refunded=str(refunded),
        in_escrow=str(locked - released - fee - refunded),
        billable_seconds=_maybe_int(job["billable_seconds"]),
        payments=[payment_of(row) for row in payments],
    )


def market_of(fee_bps: int | None, tokens: list[str], committee: Row | None) -> api.Market:
    shown = None
    if committee is not None:
        shown = api.Committee(
            **{name: committee[name] for name in ("config_digest", "threshold", "signers", "endpoints")}
        )
    return api.Market(fee_bps=fee_bps, payment_tokens=tokens, committee=shown)


def report_of(row: Row) -> api.Report:
    return api.Report(
        seq=str(row["seq"]),
        epoch=str(row["epoch"]),
        outcomes_root=row["outcomes_root"],
        count=_int(row["count"]),
        applied=_int(row["applied"]),
        evidence=_cid(row["evidence_digest"]),
        timestamp=_int(row["timestamp"]),
        transaction=row["tx_hash"],
    )


def _total_cost(row: Row, status: JobStatus) -> str | None:
    """What the renter pays: known at the end, unless a dispute is open; a verdict's outcome is what the escrow paid."""
    if status is JobStatus.RESOLVED:
        return str((row["released"] or 0) + (row["fee"] or 0))
    if status is JobStatus.DISPUTED or row["final_cost"] is None:
        return None
    return str(row["final_cost"])


def _cid(digest: str | None) -> str | None:
    """A root's CID from its sha2-256 digest in hex; zero is none."""
    return None if digest is None or digest == NO_ID else str(Cid.dag_pb(bytes.fromhex(digest[2:])))


def _int(value: int) -> int:
    """At most what GraphQL's Int holds: strangers choose some numbers, and one must not fail a whole list."""
    return min(int(value), _INT_MAX)


def _maybe_int(value: int | None) -> int | None:
    return None if value is None else _int(value)


def _ratio(basis_points: int | None) -> float:
    return 1.0 if basis_points is None else basis_points / 10_000


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return ",".join(str(item) for item in value) if isinstance(value, list) else str(value)
