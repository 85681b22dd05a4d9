"""What a member remembers, and what it reads of the chain."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from gpumarket.chain.types import Member, Outcome, OutcomeKind
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules.job_state import JobStatus
from oracle.agents import parse_heartbeat, verify_heartbeat
from oracle.journal import Journal, claim_keys
from oracle.market import FORGET_ENDED_S, REGISTRATION_CACHE_S, Market
from oracle.possession import Finding
from oracle.verdict import Draft
from provider_agent.heartbeats import Pulse
from tests.fakes import FakeCommitteeChain
from tests.unit.oracle.oracle_stage import (
    DEPLOYMENT,
    JOB_ID,
    NOW,
    PROVIDER,
    RENTER,
    RESOURCE_ID,
    SIGNERS,
    job,
    transcript,
)

IMAGE = Cid.dag_pb(b"\x05" * 32)


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


@pytest.fixture
def chain() -> FakeCommitteeChain:
    return FakeCommitteeChain(DEPLOYMENT, [Member(SIGNERS[0].address, "")], 1, NOW)


def test_default_behavior_everything_survives_a_restart(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.db")
    kept = [transcript(Finding.SUCCESS, 1, NOW), transcript(Finding.NO_ANSWER, 2, NOW + 1, None, "late")]
    for each in reversed(kept):
        journal.save_transcript(each)
    journal.save_beat(PROVIDER.address, 7, NOW)
    journal.save_beat(PROVIDER.address, 8, NOW + 1)
    journal.save_report(5, {"a": 1}, "complete")
    journal.promise(5, b"digest", ["key"])
    journal.close()
    again = Journal(tmp_path / "j.db")
    assert again.transcripts(JOB_ID) == tuple(kept)
    assert again.beats() == [(PROVIDER.address, 8, NOW + 1)]
    assert [(r.seq, r.payload, r.state) for r in again.open_reports()] == [(5, {"a": 1}, "complete")]
    assert again.claimed("key", 4) == [5]
    assert again.last_promised() == 5


def test_a_number_is_promised_once(journal: Journal) -> None:
    journal.promise(5, b"one", ["a"])
    journal.promise(5, b"one", ["a"])
    with pytest.raises(MarketError) as refused:
        journal.promise(5, b"two", ["b"])
    assert refused.value.code == "forbidden"
    assert journal.claimed("b", 0) == []


def test_claims_count_above_what_has_landed(journal: Journal) -> None:
    journal.promise(5, b"one", ["a"])
    journal.promise(9, b"two", ["a"])
    assert journal.claimed("a", 5) == [9]
    assert journal.claimed("a", 9) == []


def test_proofs_count_once_their_report_can_no_longer_change(journal: Journal) -> None:
    journal.count(["x", "y"], 5)
    journal.count(["x"], 9)
    assert journal.counted(4) == frozenset()
    assert journal.counted(5) == {"x", "y"}


def test_a_finished_report_stays_finished(journal: Journal) -> None:
    journal.save_report(5, {}, "complete")
    journal.finish_report(5)
    journal.save_report(5, {}, "signed")
    assert journal.open_reports() == []


def test_old_blocks_are_dropped_but_not_proof_of_fraud(journal: Journal) -> None:
    for finding, number in ((Finding.SUCCESS, 1), (Finding.WRONG, 2)):
        journal.save_transcript(transcript(finding, number, NOW))
    journal.forget_blocks(NOW)
    assert all(t.answer and t.answer.car for t in journal.transcripts(JOB_ID))
    journal.forget_blocks(NOW + 1)
    good, wrong = journal.transcripts(JOB_ID)
    assert good.answer is not None
    assert wrong.answer is not None
    assert (good.answer.car, wrong.answer.car) == (b"", b"car")


def test_everything_but_validations_is_claimed_once() -> None:
    def keys(kind: OutcomeKind, **values: int) -> list[str]:
        return claim_keys([Draft(Outcome(kind, "0x1", PROVIDER.address, **values))])

    assert keys(OutcomeKind.VALIDATION) == []
    assert keys(OutcomeKind.DOWNTIME, to=0) != keys(OutcomeKind.DOWNTIME, to=1)
    assert keys(OutcomeKind.METRICS, from_=1) != keys(OutcomeKind.METRICS, from_=2)
    assert keys(OutcomeKind.TIMEOUT, from_=1) == keys(OutcomeKind.TIMEOUT, from_=2)


async def test_live_jobs_are_known_with_their_image(chain: FakeCommitteeChain) -> None:
    chain.open_job(job(), IMAGE)
    market = Market(chain)
    await market.refresh()
    assert market.jobs[JOB_ID].image == str(IMAGE)
    assert [m.job.job_id for m in market.live(PROVIDER.address)] == [JOB_ID]
    assert market.live(RENTER.address) == []
    chain.jobs[JOB_ID] = job(JobStatus.DISPUTED)
    await market.refresh()
    assert market.live(PROVIDER.address) == []
    assert JOB_ID in market.jobs


@pytest.mark.parametrize(
    ("state", "kept"),
    [
        (job(JobStatus.CREATED, started_at=0), True),
        (job(JobStatus.CANCELLED, started_at=0), False),
        (job(JobStatus.COMPLETED, ended_at=NOW), True),
        (job(JobStatus.COMPLETED, ended_at=NOW, since=NOW - FORGET_ENDED_S - 1), False),
    ],
)
async def test_a_job_is_dropped_when_nothing_is_left_to_say(
    state: object, kept: bool, chain: FakeCommitteeChain
) -> None:
    chain.open_job(job(), IMAGE)
    chain.jobs[JOB_ID] = state  # type: ignore[assignment]
    market = Market(chain)
    await market.refresh()
    assert (JOB_ID in market.jobs) is kept


async def test_a_job_that_a_reorganization_took_away_is_dropped(chain: FakeCommitteeChain) -> None:
    chain.open_job(job(), IMAGE)
    del chain.jobs[JOB_ID]
    market = Market(chain)
    await market.refresh()
    assert market.jobs == {}


async def test_metrics_name_their_job_by_machine_and_start(chain: FakeCommitteeChain) -> None:
    chain.open_job(job(), IMAGE)
    market = Market(chain)
    await market.refresh()
    metrics = Outcome(OutcomeKind.METRICS, RESOURCE_ID, PROVIDER.address, NOW, NOW + 5)
    assert market.subject(metrics) == JOB_ID
    assert market.subject(replace(metrics, from_=NOW + 1)) is None


async def test_a_yes_to_registration_is_remembered_and_a_no_is_not(chain: FakeCommitteeChain) -> None:
    market = Market(chain)
    assert not await market.is_registered(PROVIDER.address, NOW)
    chain.open_job(job(), IMAGE)
    assert await market.is_registered(PROVIDER.address, NOW)
    chain.jobs.clear()
    assert await market.is_registered(PROVIDER.address, NOW + REGISTRATION_CACHE_S - 1)
    assert not await market.is_registered(PROVIDER.address, NOW + REGISTRATION_CACHE_S)


def test_the_agents_own_heartbeat_is_understood() -> None:
    frame = json.loads(Pulse(DEPLOYMENT, PROVIDER, lambda: NOW).beat([JOB_ID], {"engine": "도커", "load": 3}))
    beat, signature = parse_heartbeat(frame)
    verify_heartbeat(DEPLOYMENT, beat, signature)
    assert (beat.provider, beat.timestamp, beat.jobs) == (PROVIDER.address, NOW, (JOB_ID,))
    frame["heartbeat"]["metrics"]["load"] = 4
    with pytest.raises(MarketError):
        verify_heartbeat(DEPLOYMENT, *parse_heartbeat(frame))
