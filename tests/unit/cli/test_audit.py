"""The demo's judgement: it must fail when a number is off by one base unit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gpumarket.chain import events
from gpumarket.chain.types import Escrow, Job, Reputation
from gpumarket.dev.audit import Audit, Balances, Money, audit_indexer, audit_money, audit_reputation, compute
from gpumarket.dev.image import Task
from gpumarket.dev.ledger import Entry, of_kind
from gpumarket.dev.leftovers import Leftovers
from gpumarket.dev.places import choose_places
from gpumarket.rules.job_state import EndReason, JobStatus
from gpumarket.rules.units import Address, JobId, ResourceId

RENTER = Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8")
PROVIDER = Address("0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC")
TOKEN = Address("0x5FbDB2315678afecb367f032d93F642f64180aa3")
ID = JobId("0x" + "11" * 32)
RESOURCE = ResourceId("0x" + "22" * 32)
JOB = Job(ID, RENTER, PROVIDER, RESOURCE, TOKEN, JobStatus.COMPLETED, 20, 10, 20, 60, 0, 5, 10, 0, 3_601, 0)
MONEY = Money(locked=61, billable_seconds=10, cost=10, fee=0, to_provider=10, refund=51)
AT = (1, "0x", "0x", 0, TOKEN)
EVENTS = (
    events.JobCreated(*AT, ID, RENTER, RESOURCE, "0x", 3_601, 60, 61, b""),
    events.FundsLocked(*AT, ID, RENTER, TOKEN, 61),
    events.JobCompleted(*AT, ID, EndReason.PROVIDER_COMPLETED, 10, 10, "0x"),
    events.Refunded(*AT, ID, RENTER, 51),
    events.FundsReleased(*AT, ID, PROVIDER, 10, 0),
)
BEFORE = Balances(1_000, 0, 5, 0, 0)
AFTER = Balances(939, 51, 5, 10, 61)


def judged(caused: tuple[object, ...] = EVENTS, job: Job = JOB, after: Balances = AFTER) -> Audit:
    audit = Audit()
    escrow = Escrow(ID, RENTER, PROVIDER, TOKEN, 0, 200, True)
    ledger = (Entry("0x", 1, "renter", "all", 1, 1, caused),)
    audit_money(audit, job, escrow, compute(job, 200), ledger, BEFORE, after)
    return audit


def test_default_behavior() -> None:
    assert compute(JOB, 200) == MONEY
    assert judged().failures() == []


@pytest.mark.parametrize("name", ["renter_wallet", "renter_escrow", "provider_wallet", "provider_escrow", "contract"])
def test_a_balance_off_by_one_is_found(name: str) -> None:
    assert not judged(after=replace(AFTER, **{name: getattr(AFTER, name) + 1})).ok


@pytest.mark.parametrize(
    ("place", "field"),
    [(0, "price_per_hour"), (1, "amount"), (2, "final_cost"), (2, "billable_seconds"), (3, "amount"), (4, "fee")],
)
def test_an_event_off_by_one_is_found(place: int, field: str) -> None:
    changed = list(EVENTS)
    changed[place] = replace(changed[place], **{field: getattr(changed[place], field) + 1})
    assert not judged(tuple(changed)).ok


def test_a_job_paid_twice_is_found() -> None:
    assert not judged((*EVENTS, EVENTS[-1])).ok


def test_an_unfinished_job_is_found() -> None:
    assert not judged(job=replace(JOB, status=JobStatus.RUNNING)).ok


def test_events_of_other_jobs_do_not_count() -> None:
    other = events.Refunded(*AT, JobId("0x" + "99" * 32), RENTER, 1)
    assert judged((*EVENTS, other)).ok
    assert len(of_kind((Entry("0x", 1, "a", "b", 1, 1, (other,)),), events.Refunded, job_id=ID)) == 0


def test_reputation_must_move_by_one_job_and_match_the_indexer() -> None:
    before, after = Reputation(0, True, 0, 0, 0, 0, 0, 0), Reputation(0, True, 1, 1, 0, 0, 0, 9)
    row = {"reputation": 0, "isNew": True, "totalJobs": 1, "successfulJobs": 1, "disputes": 0}

    def ok(left: Reputation, right: Reputation, indexed: dict[str, object]) -> bool:
        audit = Audit()
        audit_reputation(audit, left, right, indexed)
        return audit.ok

    assert ok(before, after, row)
    assert not ok(before, before, row)
    assert not ok(before, after, row | {"successfulJobs": 0})


def test_an_indexer_that_lags_is_found() -> None:
    audit = Audit()
    audit_indexer(audit, JOB, MONEY, "bafy", {"chainStatus": "RUNNING"})
    assert not audit.ok


def test_the_task_has_one_right_answer() -> None:
    answer = Task("seed", limit=100, parts=2, rounds=3).answer()
    assert answer["primes"] == 25
    assert answer["hash"] != Task("other", limit=100, parts=2, rounds=3).answer()["hash"]


def test_the_reapers_protocol_adds_and_forgets() -> None:
    left = Leftovers()
    for line in ("group 5", "group 6", "forget 5", "forget 7", "label a=b", "folder /tmp/x y", "nonsense"):
        left.apply(line + "\n")
    assert left == Leftovers(groups=[6], labels=["a=b"], folders=["/tmp/x y"])


def test_no_two_parts_share_a_port(tmp_path: Path) -> None:
    ports = choose_places(tmp_path).ports
    every = [ports.node, ports.indexer, ports.gateway, ports.store, ports.agent, ports.registry, *ports.oracles]
    assert len(set(every)) == len(every)
