"""Every event has a handler, and the money handlers keep their sums."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from gpumarket.chain import events
from gpumarket.chain.codec import hex_of
from indexer.dispatch import HANDLERS, apply_event, owners, reach
from indexer.records import clean, index_log
from indexer.state import State
from tests.unit.indexer.story import ADDRESSES, PROVIDERS, RENTER, TOKEN, created, job_id, raw, registered, resource_id

A = PROVIDERS[0]
JOB = job_id(1)


def feed(state: State, *logs: dict[str, Any]) -> None:
    for index, log in enumerate(logs):
        placed = {
            **log,
            "blockNumber": "0x5",
            "blockHash": hex_of(bytes(32)),
            "transactionHash": hex_of(bytes(32)),
            "logIndex": hex(index),
        }
        event = events.decode(placed, ADDRESSES)
        assert event is not None
        apply_event(state, index_log(placed, event, 1_000))


def test_every_event_of_the_interfaces_has_a_handler() -> None:
    interfaces = (Path(__file__).parents[3] / "contracts/interfaces").glob("*.sol")
    names = {name for path in interfaces for name in re.findall(r"^\s*event (\w+)\(", path.read_text(), re.M)}
    assert {event.__name__ for event in HANDLERS} == names
    assert {spec.type for spec in events.EVENTS.values()} == set(HANDLERS)


def test_stake_follows_the_vault() -> None:
    state = State()
    feed(
        state,
        raw("StakeVault", "Staked", A, A, 100),
        raw("StakeVault", "UnstakeRequested", A, 30, 5_000),
        raw("StakeVault", "Slashed", A, RENTER, 50, 20, 10, bytes(32)),
        raw("StakeVault", "CompensationWithdrawn", RENTER, RENTER, 20),
        raw("StakeVault", "StakeWithdrawn", A, A, 20),
    )
    stake, harmed = state.get("stakes", A), state.get("stakes", RENTER)
    assert stake is not None
    assert harmed is not None
    assert (stake["active"], stake["pending"], stake["slashed"]) == (0, 0, 80)
    assert harmed["compensation"] == 30


def test_an_escrow_is_the_sum_of_its_events_whatever_comes_first() -> None:
    state = State()
    job_created, locked = created(JOB, resource_id(A, 1))
    feed(
        state,
        registered(A, 1),
        locked,
        job_created,
        raw("PaymentEscrow", "FundsLocked", JOB, RENTER, TOKEN, 50),
        raw("PaymentEscrow", "FundsReleased", JOB, A, 98, 2),
        raw("PaymentEscrow", "Refunded", JOB, RENTER, 500),
    )
    escrow = state.get("escrows", JOB)
    assert escrow is not None
    assert (escrow["locked"], escrow["released"], escrow["fee"], escrow["refunded"]) == (650, 98, 2, 500)


def test_the_clock_of_a_dead_host_stops_at_its_death() -> None:
    state = State()
    feed(state, registered(A, 1), *created(JOB, resource_id(A, 1)), raw("Marketplace", "JobAccepted", JOB, A))
    feed(state, raw("Marketplace", "JobStarted", JOB, 700), raw("Marketplace", "DeathRecorded", JOB, 750))
    feed(state, raw("Marketplace", "JobCompleted", JOB, 7, 50, 50, bytes(32)))
    job = state.get("jobs", JOB)
    assert job is not None
    assert (job["ended_at"], job["result_cid"], job["end_reason"]) == (750, None, 7)


def test_a_late_end_does_not_free_a_resource_that_another_job_has() -> None:
    state, other = State(), job_id(2)
    feed(state, registered(A, 1), *created(JOB, resource_id(A, 1)), *created(other, resource_id(A, 1)))
    feed(state, raw("Marketplace", "JobCancelled", JOB, 1))
    resource = state.get("resources", resource_id(A, 1))
    assert resource is not None
    assert resource["busy"] is True


def test_an_event_reaches_the_rows_it_names_and_those_of_its_job() -> None:
    (log, _) = created(JOB, resource_id(A, 1))
    placed = {**log, "blockNumber": "0x1", "blockHash": "0x", "transactionHash": "0x", "logIndex": "0x0"}
    reached = set(reach(events.decode(placed, ADDRESSES)))
    assert {("jobs", JOB), ("escrows", JOB), ("resources", resource_id(A, 1))} <= reached
    assert list(owners("jobs", {"resource_id": "r"})) == [("resources", "r")]


def test_strangers_text_is_made_safe() -> None:
    assert clean("a\x00b\ud800") == "a\ufffdb?"
