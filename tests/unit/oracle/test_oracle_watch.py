from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gpumarket.chain.types import Member as CommitteeMember
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.log import Log
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address
from oracle.heartbeats import Tracker
from oracle.journal import Journal
from oracle.market import Market
from oracle.possession import Challenge, Finding, Statement, Transcript
from oracle.watch import MAX_PER_MINUTE, RESUME_S, Watch
from tests.fakes import FakeCommitteeChain
from tests.unit.oracle.oracle_stage import DEPLOYMENT, JOB_ID, NOW, PROVIDER, RHYTHM, SIGNERS, job


class OneHost:
    """Connected hosts of which every challenge ends as told."""

    def __init__(self, finding: Finding) -> None:
        self.finding, self.idle = finding, True

    def connected(self) -> list[Address]:
        return [PROVIDER.address]

    def is_idle(self, provider: Address) -> bool:
        return self.idle

    async def challenge(self, challenge: Challenge, statement: Statement) -> Transcript:
        return Transcript(challenge, self.finding)


class Turns:
    """A member and a reporter that only note that they were called."""

    epoch_s = 600
    statement = None

    def __init__(self) -> None:
        self.led: list[int] = []
        self.late = False
        self.trouble = ""

    def has_late_outage(self, now: int) -> bool:
        return self.late

    async def lead(self, epoch: int, *, only_late: bool = False) -> None:
        assert only_late is self.late
        self.led.append(epoch)
        if self.trouble:
            raise MarketError(self.trouble, "trouble")

    async def finish_open(self) -> None:
        return None

    def forget_evidence(self, before: int) -> None:
        return None


class Rig:
    def __init__(self, path: Path, finding: Finding) -> None:
        self.now, self.waits = float(NOW), 0
        self.chain = FakeCommitteeChain(DEPLOYMENT, [CommitteeMember(SIGNERS[0].address, "")], 1, NOW)
        self.chain.open_job(job(), Cid.dag_pb(bytes(32)))
        self.tracker, self.journal = Tracker(RHYTHM), Journal(path)
        self.market, self.host, self.turns = Market(self.chain), OneHost(finding), Turns()
        parts: dict[str, Any] = {"agents": self.host, "member": self.turns, "reporter": self.turns}
        self.watch = Watch(
            market=self.market,
            tracker=self.tracker,
            journal=self.journal,
            clock=lambda: self.now,
            wait=self.wait,
            log=Log("oracle", stream=io.StringIO()),
            **parts,
        )

    async def wait(self, seconds: float) -> bool:
        self.now += seconds
        self.waits -= 1
        return self.waits < 0


def rig_of(tmp_path: Path, finding: Finding = Finding.SUCCESS) -> Rig:
    return Rig(tmp_path / "j.db", finding)


async def test_default_behavior_a_connected_hosts_job_is_challenged_and_remembered(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    await rig.watch.look()
    first, second = await rig.watch.ask_one(), await rig.watch.ask_one()
    assert first is not None
    assert second is not None
    assert first.challenge.nonce != second.challenge.nonce
    assert first.challenge.challenge_id != second.challenge.challenge_id
    assert len(rig.journal.transcripts(JOB_ID)) == 2
    assert rig.watch.transcripts[Finding.SUCCESS] == 2


async def test_a_running_jobs_host_is_watched_from_the_first_look(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    await rig.watch.look()
    assert rig.tracker.watched_since(PROVIDER.address) == NOW


@pytest.mark.parametrize(
    ("status", "finding"), [(JobStatus.RUNNING, Finding.NO_ANSWER), (JobStatus.ACCEPTED, Finding.UNKNOWN)]
)
async def test_before_a_job_runs_no_answer_says_nothing(tmp_path: Path, status: JobStatus, finding: Finding) -> None:
    rig = rig_of(tmp_path, Finding.NO_ANSWER)
    rig.chain.jobs[JOB_ID] = job(status)
    await rig.watch.look()
    found = await rig.watch.ask_one()
    assert found is not None
    assert found.finding is finding


async def test_a_host_is_not_asked_more_often_than_it_must_answer(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    await rig.watch.look()
    asked = [await rig.watch.ask_one() for _ in range(MAX_PER_MINUTE + 1)]
    assert [a is None for a in asked] == [False] * MAX_PER_MINUTE + [True]
    rig.now += 61
    assert await rig.watch.ask_one() is not None


async def test_nobody_idle_or_no_live_job_is_nobody_to_ask(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    assert await rig.watch.ask_one() is None
    await rig.watch.look()
    rig.host.idle = False
    assert await rig.watch.ask_one() is None
    rig.host.idle = True
    rig.chain.jobs[JOB_ID] = replace(job(), status=JobStatus.COMPLETED)
    await rig.watch.look()
    assert await rig.watch.ask_one() is None


async def test_every_epoch_has_one_turn_and_trouble_does_not_end_the_loop(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    rig.turns.trouble = "chain_unreachable"
    rig.waits = 3
    await rig.watch.lead()
    first = NOW // 600 + 1
    assert rig.turns.led == [first, first + 1, first + 2]


async def test_a_late_outage_does_not_wait_for_the_next_epoch(tmp_path: Path) -> None:
    rig = rig_of(tmp_path)
    await rig.watch.report_late_outages()
    assert rig.turns.led == []
    rig.turns.late = True
    await rig.watch.follow(1.0)
    assert rig.turns.led == [NOW // 600]


async def test_unfinished_transactions_are_looked_after_again_and_again(tmp_path: Path) -> None:
    rig, calls = rig_of(tmp_path), []

    async def resume() -> None:
        calls.append(rig.now)
        raise MarketError("chain_unreachable", "trouble")

    rig.waits = 3
    await rig.watch.look_after(resume)
    assert [at - NOW for at in calls] == [RESUME_S, 2 * RESUME_S, 3 * RESUME_S]
