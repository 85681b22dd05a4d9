"""What each event of the market, registry, reputation system and committee means for the tables. Pure, a function each.

Money is in `handlers_money`.

A handler sees the event, when its block was made, and the `State`; events of several contracts arrive in log order.
"""

from __future__ import annotations

from typing import Any

from gpumarket.chain import events
from gpumarket.chain.codec import checksum
from gpumarket.rules.job_state import EndReason, JobStatus
from gpumarket.rules.reputation import JobOutcome
from gpumarket.rules.units import NO_ID, provider_of
from indexer.records import clean
from indexer.state import Row, State

FULL_BPS = 10_000
"""What the reputation system assumes of a provider that was not measured yet."""

THE = "the"
"""The id of the only row of a table that has one."""

# ------------------------------------------------------------------ Marketplace


def job_created(state: State, event: events.JobCreated, at: int) -> None:
    state.put(
        "jobs",
        {
            "id": event.job_id,
            "user": event.user,
            "provider": checksum(provider_of(event.resource_id)),
            "resource_id": event.resource_id,
            "image_cid": event.image_cid,
            "status": int(JobStatus.CREATED),
            "end_reason": int(EndReason.NONE),
            "created_at": at,
            "accepted_at": None,
            "started_at": None,
            "ended_at": None,
            "dead_at": None,
            "reclaim_at": None,
            "duration": event.duration,
            "outage_seconds": 0,
            "billable_seconds": None,
            "settled_seconds": 0,
            "price_per_hour": event.price_per_hour,
            "max_cost": event.max_cost,
            "final_cost": None,
            "result_cid": None,
        },
    )
    resource = state.need("resources", event.resource_id, event)
    state.put("resources", {**resource, "last_job": event.job_id, "busy": True})


def job_accepted(state: State, event: events.JobAccepted, at: int) -> None:
    _change_job(state, event, status=JobStatus.ACCEPTED, accepted_at=at)


def job_started(state: State, event: events.JobStarted, at: int) -> None:
    _change_job(state, event, status=JobStatus.RUNNING, started_at=event.start_time)


def job_extended(state: State, event: events.JobExtended, at: int) -> None:
    job = state.need("jobs", event.job_id, event)
    _change_job(state, event, duration=event.duration, max_cost=job["max_cost"] + event.amount)


def job_settled(state: State, event: events.JobSettled, at: int) -> None:
    _change_job(state, event, settled_seconds=event.settled_seconds)


def job_completed(state: State, event: events.JobCompleted, at: int) -> None:
    _change_job(
        state,
        event,
        status=JobStatus.COMPLETED,
        end_reason=int(event.reason),
        ended_at=_clock_at(state.need("jobs", event.job_id, event), at),
        billable_seconds=event.billable_seconds,
        final_cost=event.final_cost,
        result_cid=None if event.result_cid == NO_ID else event.result_cid,
    )
    _free(state, event)


def job_cancelled(state: State, event: events.JobCancelled, at: int) -> None:
    _change_job(state, event, status=JobStatus.CANCELLED, end_reason=int(event.reason), ended_at=at, final_cost=0)
    _free(state, event)


def job_disputed(state: State, event: events.JobDisputed, at: int) -> None:
    job = state.need("jobs", event.job_id, event)
    _change_job(
        state,
        event,
        status=JobStatus.DISPUTED,
        end_reason=job["end_reason"] or int(EndReason.DISPUTED),
        ended_at=job["ended_at"] or _clock_at(job, at),
    )
    _free(state, event)
    state.put(
        "disputes",
        {
            "id": event.job_id,
            "initiator": event.initiator,
            "reason": clean(event.reason),
            "contested_amount": event.contested_amount,
            "opened_at": at,
            "verdict": None,
            "by_timeout": None,
            "resolved_at": None,
            "evidence": [],
        },
    )


def job_resolved(state: State, event: events.JobResolved, at: int) -> None:
    _change_job(state, event, status=JobStatus.RESOLVED)
    dispute = state.need("disputes", event.job_id, event)
    state.put("disputes", {**dispute, "verdict": int(event.verdict), "by_timeout": event.by_timeout, "resolved_at": at})


def evidence_submitted(state: State, event: events.EvidenceSubmitted, at: int) -> None:
    dispute = state.need("disputes", event.job_id, event)
    evidence = {"party": event.party, "cid": event.evidence_cid, "timestamp": at}
    state.put("disputes", {**dispute, "evidence": [*dispute["evidence"], evidence]})


def outage_recorded(state: State, event: events.OutageRecorded, at: int) -> None:
    job = state.need("jobs", event.job_id, event)
    _change_job(state, event, outage_seconds=job["outage_seconds"] + event.to - event.from_)


def death_recorded(state: State, event: events.DeathRecorded, at: int) -> None:
    _change_job(state, event, dead_at=event.timestamp)


def reclaim_noticed(state: State, event: events.ReclaimNoticed, at: int) -> None:
    _change_job(state, event, reclaim_at=event.reclaim_at)


def fee_updated(state: State, event: events.FeeUpdated, at: int) -> None:
    state.put("market", {"id": THE, "fee_bps": event.fee_bps})


# ----------------------------------------------------------------- the registry


def provider_registered(state: State, event: events.ProviderRegistered, at: int) -> None:
    provider = _provider(state, event.provider)
    state.put(
        "providers", {**provider, "endpoint": clean(event.endpoint), "registered_at": provider["registered_at"] or at}
    )


def resource_registered(state: State, event: events.ResourceRegistered, at: int) -> None:
    state.put(
        "resources",
        {
            "id": event.resource_id,
            "provider": event.provider,
            "gpu_model": clean(event.gpu_model),
            "gpu_model_folded": clean(event.gpu_model).casefold(),
            "gpu_count": event.gpu_count,
            "vcpu": event.vcpu,
            "memory_gb": event.memory_gb,
            "storage_gb": event.storage_gb,
            "price_per_hour": event.price_per_hour,
            "payment_token": event.payment_token,
            "min_seconds": event.min_seconds,
            "max_seconds": event.max_seconds,
            "metadata_cid": event.metadata_cid,
            "available": True,
            "last_job": None,
            "busy": False,
            "total_uptime": 0,
            "registered_at": at,
        },
    )


def availability_updated(state: State, event: events.AvailabilityUpdated, at: int) -> None:
    _change_resource(state, event, available=event.available)


def pricing_updated(state: State, event: events.PricingUpdated, at: int) -> None:
    _change_resource(state, event, price_per_hour=event.new_price)


def uptime_updated(state: State, event: events.UptimeUpdated, at: int) -> None:
    _change_resource(state, event, total_uptime=event.total_uptime)


# ------------------------------------------------------------------- reputation


def job_recorded(state: State, event: events.JobRecorded, at: int) -> None:
    provider = _provider(state, event.provider)
    outcome = JobOutcome(event.outcome)
    provider["total_jobs"] += 1
    provider["successful_jobs"] += outcome is JobOutcome.COMPLETED
    provider["disputes"] += outcome in (JobOutcome.DISPUTE_LOST, JobOutcome.DISPUTE_SPLIT)
    state.put("providers", provider)


def metrics_updated(state: State, event: events.MetricsUpdated, at: int) -> None:
    provider = _provider(state, event.provider)
    state.put("providers", {**provider, "uptime_bps": event.uptime_percent, "response_bps": event.response_rate})


def reputation_updated(state: State, event: events.ReputationUpdated, at: int) -> None:
    state.put("providers", {**_provider(state, event.provider), "score": event.new_score})


def penalty_applied(state: State, event: events.PenaltyApplied, at: int) -> None:
    provider = _provider(state, event.provider)
    state.put("providers", {**provider, "penalty": provider["penalty"] + event.amount})


def reward_issued(state: State, event: events.RewardIssued, at: int) -> None:
    provider = _provider(state, event.provider)
    state.put("providers", {**provider, "bonus": provider["bonus"] + event.amount})


# ---------------------------------------------------------------- the committee


def committee_configured(state: State, event: events.CommitteeConfigured, at: int) -> None:
    state.put(
        "committee",
        {
            "id": THE,
            "config_digest": event.config_digest,
            "threshold": event.threshold,
            "signers": list(event.signers),
            "endpoints": [clean(endpoint) for endpoint in event.endpoints],
        },
    )


def report_submitted(state: State, event: events.ReportSubmitted, at: int) -> None:
    state.put(
        "reports",
        {
            "id": str(event.seq),
            "seq": event.seq,
            "epoch": event.epoch,
            "outcomes_root": event.outcomes_root,
            "count": event.count,
            "applied": 0,
            "evidence_digest": event.evidence_digest,
            "signers_mask": event.signers_mask,
            "timestamp": at,
            "tx_hash": event.tx_hash,
        },
    )


def outcome_applied(state: State, event: events.OutcomeApplied, at: int) -> None:
    report = state.need("reports", str(event.seq), event)
    state.put("reports", {**report, "applied": report["applied"] + 1})


def unstored(
    state: State,
    event: events.AutoRenewSet
    | events.ReputationUnrecorded
    | events.AccessPolicyUpdated
    | events.ReclaimNoticeUpdated
    | events.OffersCancelled
    | events.DisputeBondUpdated,
    at: int,
) -> None:
    """Kept as an event of its job or resource, and in no column."""


def _change_job(state: State, event: Any, **values: Any) -> None:
    if "status" in values:
        values["status"] = int(values["status"])
    state.put("jobs", {**state.need("jobs", event.job_id, event), **values})


def _clock_at(job: Row, at: int) -> int | None:
    """When the clock of a job that ends in a block made `at` stood still; none if it never ran. As the market's own."""
    if job["started_at"] is None:
        return None
    stops = (at, job["started_at"] + job["duration"], job["reclaim_at"], job["dead_at"])
    return min(int(stop) for stop in stops if stop is not None)


def _free(state: State, event: Any) -> None:
    """The job's clock has ended: its resource can be rented again, unless a later job already has it."""
    job = state.need("jobs", event.job_id, event)
    resource = state.need("resources", job["resource_id"], event)
    if resource["last_job"] == event.job_id:
        state.put("resources", {**resource, "busy": False})


def _change_resource(state: State, event: Any, **values: Any) -> None:
    state.put("resources", {**state.need("resources", event.resource_id, event), **values})


def _provider(state: State, address: str) -> Row:
    return state.get("providers", address) or {
        "id": address,
        "endpoint": None,
        "registered_at": None,
        "score": 0,
        "total_jobs": 0,
        "successful_jobs": 0,
        "disputes": 0,
        "penalty": 0,
        "bonus": 0,
        "uptime_bps": FULL_BPS,
        "response_bps": FULL_BPS,
    }
