"""Whether a rental's numbers add up: each one is computed again from the rules and compared with the chain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpumarket.chain import events
from gpumarket.chain.types import Escrow, Job, Reputation
from gpumarket.dev.ledger import Entry, of_kind
from gpumarket.rules import settlement
from gpumarket.rules.job_state import JobStatus


@dataclass(frozen=True)
class Check:
    """One comparison."""

    name: str
    expected: Any
    actual: Any

    @property
    def ok(self) -> bool:
        return bool(self.expected == self.actual)

    def as_row(self) -> dict[str, Any]:
        expected, actual = str(self.expected), str(self.actual)
        return {"name": self.name, "expected": expected, "actual": actual, "ok": self.ok}


@dataclass(frozen=True)
class Balances:
    """Token base units at one moment."""

    renter_wallet: int
    renter_escrow: int
    provider_wallet: int
    provider_escrow: int
    contract: int


@dataclass(frozen=True)
class Money:
    """What a job cost whom, computed from its times and its price alone."""

    locked: int
    billable_seconds: int
    cost: int
    fee: int
    to_provider: int
    refund: int


@dataclass
class Audit:
    """Checks in the order they were made."""

    checks: list[Check] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        return all(check.ok for check in self.checks)

    def same(self, name: str, expected: Any, actual: Any) -> None:
        self.checks.append(Check(name, expected, actual))

    def failures(self) -> list[Check]:
        return [check for check in self.checks if not check.ok]


def compute(job: Job, fee_bps: int) -> Money:
    """The rules applied to a job that has ended."""
    seconds = settlement.billable_seconds(
        job.started_at, job.ended_at, job.outage_seconds, job.min_seconds, job.duration
    )
    locked = settlement.lock_up(job.price_per_hour, job.duration)
    cost = settlement.cost(job.price_per_hour, seconds)
    fee = settlement.fee(cost, fee_bps)
    return Money(locked, seconds, cost, fee, cost - fee, locked - cost)


def audit_money(
    audit: Audit, job: Job, escrow: Escrow, money: Money, ledger: tuple[Entry, ...], before: Balances, after: Balances
) -> None:
    """The settlement against events, escrow and balances."""
    of_job = {"job_id": job.job_id}
    created = of_kind(ledger, events.JobCreated, **of_job)
    completed = of_kind(ledger, events.JobCompleted, **of_job)
    released = of_kind(ledger, events.FundsReleased, **of_job)
    refunded = of_kind(ledger, events.Refunded, **of_job)
    locked = of_kind(ledger, events.FundsLocked, **of_job)
    audit.same("the job is completed", JobStatus.COMPLETED, job.status)
    audit.same("opened once", 1, len(created))
    audit.same("completed once", 1, len(completed))
    audit.same("price is the one agreed to", [job.price_per_hour], [e.price_per_hour for e in created])
    audit.same("locked = price x time, rounded up", money.locked, sum(e.amount for e in locked))
    audit.same("billable seconds", money.billable_seconds, sum(e.billable_seconds for e in completed))
    audit.same("cost = price x billable seconds, rounded down", money.cost, sum(e.final_cost for e in completed))
    audit.same("fee", money.fee, sum(e.fee for e in released))
    audit.same("provider is paid the cost less the fee", money.to_provider, sum(e.amount for e in released))
    audit.same("the rest comes back", money.refund, sum(e.amount for e in refunded))
    audit.same("what went in = what came out", money.locked, money.to_provider + money.fee + money.refund)
    audit.same("nothing is locked any more", (True, 0), (escrow.completed, escrow.locked_amount))
    audit.same("renter's wallet paid the lock", before.renter_wallet - money.locked, after.renter_wallet)
    audit.same("renter can withdraw the refund", before.renter_escrow + money.refund, after.renter_escrow)
    audit.same("provider can withdraw its pay", before.provider_escrow + money.to_provider, after.provider_escrow)
    audit.same("provider's wallet is untouched", before.provider_wallet, after.provider_wallet)
    audit.same("escrow contract holds all of it", before.contract + money.locked, after.contract)


def audit_reputation(audit: Audit, before: Reputation, after: Reputation, indexed: Mapping[str, Any]) -> None:
    """A completed job counts once, and the indexer agrees with the contract."""
    audit.same("reputation counts the job", before.total_jobs + 1, after.total_jobs)
    audit.same("and its success", before.successful_jobs + 1, after.successful_jobs)
    names = ("reputation", "isNew", "totalJobs", "successfulJobs", "disputes")
    on_chain = (after.score, after.is_new, after.total_jobs, after.successful_jobs, after.disputes)
    audit.same("indexer has the same reputation", on_chain, tuple(indexed.get(name) for name in names))


def audit_indexer(audit: Audit, job: Job, money: Money, result: str, row: Mapping[str, Any]) -> None:
    """The indexer's job against the chain's."""
    expected = {
        "chainStatus": job.status.name,
        "status": "COMPLETED",
        "user": job.user,
        "provider": job.provider,
        "resourceId": job.resource_id,
        "startTime": job.started_at,
        "endTime": job.ended_at,
        "duration": job.duration,
        "pricePerHour": str(job.price_per_hour),
        "maxCost": str(money.locked),
        "totalCost": str(money.cost),
        "providerAmount": str(money.to_provider),
        "fee": str(money.fee),
        "refunded": str(money.refund),
        "resultCID": result,
    }
    for name, value in expected.items():
        audit.same(f"indexer: {name}", value, row.get(name))
