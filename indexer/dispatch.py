"""Which handler an event goes to, and which rows it can reach. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType
from typing import Any

from gpumarket.chain import events
from indexer import handlers, handlers_money
from indexer.records import Indexed
from indexer.state import Key, Row, State

HANDLERS: Mapping[type[Any], Callable[[State, Any, int], None]] = MappingProxyType(
    {
        events.JobCreated: handlers.job_created,
        events.JobAccepted: handlers.job_accepted,
        events.JobStarted: handlers.job_started,
        events.JobExtended: handlers.job_extended,
        events.JobSettled: handlers.job_settled,
        events.JobCompleted: handlers.job_completed,
        events.JobCancelled: handlers.job_cancelled,
        events.JobDisputed: handlers.job_disputed,
        events.JobResolved: handlers.job_resolved,
        events.EvidenceSubmitted: handlers.evidence_submitted,
        events.OutageRecorded: handlers.outage_recorded,
        events.DeathRecorded: handlers.death_recorded,
        events.ReclaimNoticed: handlers.reclaim_noticed,
        events.AutoRenewSet: handlers.unstored,
        events.ReputationUnrecorded: handlers.unstored,
        events.AccessPolicyUpdated: handlers.unstored,
        events.ReclaimNoticeUpdated: handlers.unstored,
        events.OffersCancelled: handlers.unstored,
        events.DisputeBondUpdated: handlers.unstored,
        events.FeeUpdated: handlers.fee_updated,
        events.TokenAllowed: handlers_money.token_allowed,
        events.TokenRemoved: handlers_money.token_removed,
        events.Deposited: handlers_money.deposited,
        events.Withdrawn: handlers_money.withdrawn,
        events.FundsLocked: handlers_money.funds_locked,
        events.FundsReleased: handlers_money.funds_released,
        events.Refunded: handlers_money.refunded,
        events.FeesWithdrawn: handlers_money.fees_withdrawn,
        events.ProviderRegistered: handlers.provider_registered,
        events.ResourceRegistered: handlers.resource_registered,
        events.AvailabilityUpdated: handlers.availability_updated,
        events.PricingUpdated: handlers.pricing_updated,
        events.UptimeUpdated: handlers.uptime_updated,
        events.JobRecorded: handlers.job_recorded,
        events.MetricsUpdated: handlers.metrics_updated,
        events.ReputationUpdated: handlers.reputation_updated,
        events.PenaltyApplied: handlers.penalty_applied,
        events.RewardIssued: handlers.reward_issued,
        events.Staked: handlers_money.staked,
        events.UnstakeRequested: handlers_money.unstake_requested,
        events.StakeWithdrawn: handlers_money.stake_withdrawn,
        events.Slashed: handlers_money.slashed,
        events.CompensationWithdrawn: handlers_money.compensation_withdrawn,
        events.CommitteeConfigured: handlers.committee_configured,
        events.ReportSubmitted: handlers.report_submitted,
        events.OutcomeApplied: handlers.outcome_applied,
    }
)
"""Every event of the interfaces."""

_REACHED_BY = {
    "job_id": ("jobs", "escrows", "disputes"),
    "resource_id": ("resources",),
    "provider": ("providers",),
    "account": ("stakes",),
    "harmed": ("stakes",),
    "token": ("tokens",),
    "seq": ("reports",),
}


def apply_event(state: State, log: Indexed) -> None:
    """Let the event's handler change `state`."""
    handler = HANDLERS.get(type(log.event))
    if handler is not None:
        handler(state, log.event, log.timestamp)


def reach(event: Any) -> Iterator[Key]:
    """The rows an event names, whether they exist or not."""
    for field, names in _REACHED_BY.items():
        value = getattr(event, field, None)
        if value is not None:
            yield from ((name, str(value)) for name in names)
    if isinstance(event, events.FeeUpdated):
        yield ("market", handlers.THE)
    if isinstance(event, events.CommitteeConfigured):
        yield ("committee", handlers.THE)


def owners(table: str, row: Row) -> Iterator[Key]:
    """The rows a loaded row points to that its events may change."""
    if table == "jobs":
        yield ("resources", row["resource_id"])
