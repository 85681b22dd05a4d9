"""Three members, each with its own memory, over HTTP without a network; one of them may lie, sleep or forget."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from gpumarket.chain import merkle, typed_data
from gpumarket.chain.types import Member as CommitteeMember
from gpumarket.chain.types import Outcome, OutcomeKind
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.log import Log
from gpumarket.rules.job_state import JobStatus
from oracle import evidence, server
from oracle.agents import Agents
from oracle.committee import Member
from oracle.heartbeats import Tracker
from oracle.journal import Journal
from oracle.market import Market
from oracle.possession import Transcript, conclude
from oracle.proposal import Proposal, SignedProposal, assemble
from oracle.reporter import Reporter
from oracle.verdict import Draft
from tests.fakes import FakeCommitteeChain, MemoryBlocks
from tests.unit.oracle.oracle_stage import (
    DEPLOYMENT,
    JOB_ID,
    NOW,
    PROVIDER,
    RHYTHM,
    SIGNERS,
    answer,
    beat,
    challenge,
    image,
    job,
    statement,
)

EPOCH_S = 600
START = NOW // EPOCH_S * EPOCH_S + EPOCH_S
"""The first second of an epoch."""


@dataclass
class Node:
    """One member and its parts."""

    member: Member
    tracker: Tracker
    journal: Journal
    store: MemoryBlocks
    market: Market
    reporter: Reporter


@dataclass
class Stage:
    chain: FakeCommitteeChain
    nodes: list[Node]
    image: Cid
    host_store: MemoryBlocks
    down: set[int]
    now: float = START

    def leader(self, epoch: int | None = None) -> int:
        return (self.epoch if epoch is None else epoch) % 3

    @property
    def epoch(self) -> int:
        return int(self.now) // EPOCH_S

    def go(self, now: float) -> None:
        self.now = self.chain.now = int(now)

    def proof(self, number: int, at: int, claim: bytes | None = None) -> Transcript:
        asked = challenge(self.image, number, at)
        return conclude(asked, answer(self.host_store, asked, claim=claim), at + 1, statement)

    def beats(self, nodes: list[int], *at: int) -> None:
        for index in nodes:
            for moment in at:
                self.nodes[index].tracker.accept(beat(moment), moment)

    def everyone_alive(self) -> None:
        self.beats([0, 1, 2], *range(NOW, int(self.now), 60))


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return build(tmp_path)


def build(tmp_path: Path) -> Stage:
    members = [CommitteeMember(SIGNERS[i].address, f"http://m{i}") for i in range(3)]
    chain = FakeCommitteeChain(DEPLOYMENT, members, 2, START)
    host_store = MemoryBlocks()
    root = image(host_store)
    chain.open_job(job(), root)
    stage = Stage(chain, [], root, host_store, set())
    apps: dict[int, Starlette] = {}

    class Wire(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            index = int(request.url.host[1:])
            if index in stage.down:
                raise httpx.ConnectError("down")
            return await httpx.ASGITransport(apps[index]).handle_async_request(request)

    for index in range(3):
        apps[index] = Starlette(
            routes=add_node(stage, index, tmp_path / f"{index}.db", httpx.AsyncClient(transport=Wire()))
        )
    return stage


def add_node(stage: Stage, index: int, path: Path, http: httpx.AsyncClient) -> list[Any]:
    log = Log("oracle", stream=io.StringIO())

    def clock() -> float:
        return stage.now

    journal, store, tracker = Journal(path), MemoryBlocks(), Tracker(RHYTHM)
    market = Market(stage.chain)
    member = Member(
        chain=stage.chain,
        market=market,
        tracker=tracker,
        journal=journal,
        store=store,
        signer=SIGNERS[index],
        http=http,
        epoch_s=EPOCH_S,
        clock=clock,
        log=log,
    )
    reporter = Reporter(stage.chain, stage.chain, journal, EPOCH_S, clock, log)
    stage.nodes.append(Node(member, tracker, journal, store, market, reporter))
    agents = Agents(tracker, DEPLOYMENT, journal, market.is_registered, clock, log)

    async def status() -> dict[str, Any]:
        return {}

    return server.routes(agents, member, status, log)


def propose(stage: Stage, drafts: list[Draft], seq: int | None = None) -> tuple[Proposal, bytes]:
    """A proposal and the signature of the leader of now, whatever that leader observed."""
    bundle = evidence.build(MemoryBlocks(), drafts)
    proposal = assemble(bundle, stage.chain.config_digest, seq or stage.epoch * EPOCH_S, stage.epoch)
    return proposal, sign(proposal, stage.leader())


def sign(proposal: Proposal, index: int) -> bytes:
    return SIGNERS[index].sign_typed(typed_data.report(DEPLOYMENT, proposal.report))


def validation(stage: Stage, number: int = 1) -> Draft:
    at = int(stage.now) - 100
    proof = stage.proof(number, at)
    return Draft(Outcome(OutcomeKind.VALIDATION, JOB_ID, PROVIDER.address, at, at, 1), (proof,))


async def refusal(stage: Stage, node: Node, proposal: Proposal, signature: bytes) -> MarketError:
    with pytest.raises(MarketError) as refused:
        await node.member.sign(proposal, signature)
    return refused.value


async def test_default_behavior_a_possession_success_becomes_a_report_of_k_on_chain(stage: Stage) -> None:
    stage.everyone_alive()
    leader = stage.nodes[stage.leader()]
    leader.journal.save_transcript(stage.proof(1, START - 100))
    signed = await leader.member.lead(stage.epoch)
    assert signed is not None
    assert len(signed.signatures) == 2
    assert await leader.reporter.submit(signed)
    (report,) = stage.chain.reports.values()
    assert report.seq == START
    root = evidence.root_cid(report.evidence_digest)
    pinned = [any(pin.cid == root for pin in node.store.pins()) for node in stage.nodes]
    assert sum(pinned) >= 2
    assert leader.journal.open_reports() == []


async def test_only_the_epochs_leader_proposes(stage: Stage) -> None:
    stage.everyone_alive()
    for index, node in enumerate(stage.nodes):
        node.journal.save_transcript(stage.proof(index, START - 100))
    led = [await node.member.lead(stage.epoch) is not None for node in stage.nodes]
    assert led == [index == stage.leader() for index in range(3)]


async def test_the_next_leader_takes_over_from_a_silent_one(stage: Stage) -> None:
    stage.everyone_alive()
    silent = stage.leader()
    stage.down.add(silent)
    stage.go(START + EPOCH_S)
    leader = stage.nodes[stage.leader()]
    leader.journal.save_transcript(stage.proof(1, START + 500))
    signed = await leader.member.lead(stage.epoch)
    assert signed is not None
    assert silent not in signed.signatures
    assert await leader.reporter.submit(signed)


async def test_one_member_alone_gets_no_report(stage: Stage) -> None:
    stage.everyone_alive()
    leader = stage.leader()
    stage.down |= {0, 1, 2} - {leader}
    stage.nodes[leader].journal.save_transcript(stage.proof(1, START - 100))
    assert await stage.nodes[leader].member.lead(stage.epoch) is None


async def test_an_outage_only_the_leader_saw_gets_no_signatures_but_the_rest_of_its_report_does(stage: Stage) -> None:
    leader = stage.leader()
    stage.beats([leader], NOW)
    stage.beats([i for i in range(3) if i != leader], *range(NOW, START, 60))
    stage.go(START + EPOCH_S * 3)
    stage.beats([i for i in range(3) if i != leader], *range(START, int(stage.now), 60))
    assert stage.leader() == leader
    node = stage.nodes[leader]
    node.journal.save_transcript(stage.proof(1, int(stage.now) - 100))
    drafts = [d.outcome.kind for d in await drafts_of(stage, node)]
    assert OutcomeKind.DOWNTIME in drafts
    signed = await node.member.lead(stage.epoch)
    assert signed is not None
    assert [o.kind for o in signed.proposal.outcomes] == [OutcomeKind.VALIDATION]
    assert signed.proposal.report.seq == stage.epoch * EPOCH_S + 1


async def test_an_outage_everybody_saw_is_applied(stage: Stage) -> None:
    stage.beats([0, 1, 2], NOW, NOW + 60)
    stage.go(START + EPOCH_S)
    node = stage.nodes[stage.leader()]
    signed = await node.member.lead(stage.epoch)
    assert signed is not None
    await node.reporter.submit(signed)
    (outcome,) = stage.chain.applied.values()
    assert (outcome.kind, outcome.from_, outcome.to) == (OutcomeKind.DOWNTIME, NOW + 60, int(stage.now))


async def test_an_outage_open_at_a_jobs_end_is_reported_at_once_also_after_the_epochs_report(stage: Stage) -> None:
    stage.everyone_alive()
    leader = stage.nodes[stage.leader()]
    leader.journal.save_transcript(stage.proof(1, START - 100))
    regular = await leader.member.lead(stage.epoch)
    assert regular is not None
    assert await leader.reporter.submit(regular)
    assert not leader.member.has_late_outage(int(stage.now))
    stage.go(START + 300)
    ended = int(stage.now) - 10
    stage.chain.jobs[JOB_ID] = job(JobStatus.COMPLETED, since=ended, ended_at=ended)
    await leader.market.refresh()
    assert leader.member.has_late_outage(int(stage.now))
    others = [node for node in stage.nodes if node is not leader]
    assert [await node.member.lead(stage.epoch, only_late=True) for node in others] == [None, None]
    late = await leader.member.lead(stage.epoch, only_late=True)
    assert late is not None
    assert [outcome.kind for outcome in late.proposal.outcomes] == [OutcomeKind.DOWNTIME]
    assert late.proposal.outcomes[0].to == ended
    assert await leader.reporter.submit(late)
    assert len(stage.chain.applied) == 1


async def test_a_lying_leader_gets_no_signature(stage: Stage) -> None:
    stage.everyone_alive()
    honest = stage.nodes[(stage.leader() + 1) % 3]
    bad_proof = stage.proof(5, START - 100)
    forged = replace(bad_proof, answer=replace(bad_proof.answer, signature=bytes(65)))  # type: ignore[type-var]
    who, at = PROVIDER.address, START - 100
    lies = [
        Draft(Outcome(OutcomeKind.DOWNTIME, JOB_ID, who, NOW + 60, START)),
        Draft(Outcome(OutcomeKind.DOWNTIME, JOB_ID, who, NOW + 60, 0)),
        Draft(Outcome(OutcomeKind.TIMEOUT, JOB_ID, who, at, at, 3)),
        Draft(Outcome(OutcomeKind.INVALID_SIGNATURE, JOB_ID, who, at, at, 3)),
        Draft(Outcome(OutcomeKind.INVALID_DATA, JOB_ID, who, at, at, 1), (bad_proof,)),
        Draft(Outcome(OutcomeKind.VALIDATION, JOB_ID, who, at, at, 1), (forged,)),
        Draft(Outcome(OutcomeKind.VALIDATION, JOB_ID, who, at, at, 1)),
        Draft(Outcome(OutcomeKind.VERDICT, JOB_ID, who, at, at, 0)),
        Draft(Outcome(OutcomeKind.METRICS, job().resource_id, who, NOW, START, 10_000)),
        Draft(Outcome(OutcomeKind.TIMEOUT, "0x" + "99" * 32, who, at, at, 3)),
    ]
    for number, lie in enumerate(lies):
        proposal, signature = propose(stage, [lie], START + number)
        assert (await refusal(stage, honest, proposal, signature)).code == "outcome_unsupported", lie


async def test_a_proven_fraud_is_signed_by_those_who_did_not_see_it(stage: Stage) -> None:
    stage.everyone_alive()
    at = START - 100
    proof = stage.proof(7, at, claim=b"made up")
    lie = Draft(Outcome(OutcomeKind.INVALID_DATA, JOB_ID, PROVIDER.address, at, at, 1), (proof,))
    proposal, signature = propose(stage, [lie])
    assert len(await stage.nodes[(stage.leader() + 1) % 3].member.sign(proposal, signature)) == 64


async def test_never_two_reports_under_one_number(stage: Stage) -> None:
    stage.everyone_alive()
    node = stage.nodes[(stage.leader() + 1) % 3]
    first, by_leader = propose(stage, [validation(stage, 1)])
    second, by_leader_too = propose(stage, [validation(stage, 2)])
    again = await node.member.sign(first, by_leader)
    assert await node.member.sign(first, by_leader) == again
    assert (await refusal(stage, node, second, by_leader_too)).code == "forbidden"


async def test_the_promise_survives_a_crash(stage: Stage, tmp_path: Path) -> None:
    stage.everyone_alive()
    index = (stage.leader() + 1) % 3
    first, by_leader = propose(stage, [validation(stage, 1)])
    await stage.nodes[index].member.sign(first, by_leader)
    stage.nodes[index].journal.close()
    reopened = Journal(tmp_path / f"{index}.db")
    digest = typed_data.digest(typed_data.report(DEPLOYMENT, first.report))
    reopened.promise(first.report.seq, digest, [])
    with pytest.raises(MarketError):
        reopened.promise(first.report.seq, bytes(32), [])


async def test_an_outcome_that_may_still_land_is_not_signed_again(stage: Stage) -> None:
    stage.beats([0, 1, 2], NOW)
    stage.go(START + EPOCH_S)
    node = stage.nodes[(stage.leader() + 1) % 3]
    outage = Draft(Outcome(OutcomeKind.DOWNTIME, JOB_ID, PROVIDER.address, NOW, int(stage.now)))
    first, signature = propose(stage, [outage], stage.epoch * EPOCH_S)
    await node.member.sign(first, signature)
    second, signature = propose(stage, [outage], stage.epoch * EPOCH_S + 1)
    error = await refusal(stage, node, second, signature)
    assert error.details["refused"] == {"0": "pending in another report"}
    stage.go(stage.now + 3 * EPOCH_S)
    third, signature = propose(stage, [outage])
    assert len(await node.member.sign(third, signature)) == 64


async def test_numbers_configuration_and_leader_are_checked(stage: Stage) -> None:
    stage.everyone_alive()
    node = stage.nodes[(stage.leader() + 1) % 3]
    good, signature = propose(stage, [validation(stage)])

    async def code(change: Callable[[Proposal], Proposal], by: int | None = None) -> str:
        changed = change(good)
        return (await refusal(stage, node, changed, sign(changed, stage.leader() if by is None else by))).code

    def report(**values: Any) -> Callable[[Proposal], Proposal]:
        return lambda p: Proposal(replace(p.report, **values), p.drafts)

    assert await code(report(config_digest=bytes(32))) == "invalid_argument"
    assert await code(report(seq=START + EPOCH_S)) == "invalid_argument"
    assert await code(report(seq=START - 2 * EPOCH_S, epoch=stage.epoch - 2)) == "invalid_argument"
    assert await code(report(outcomes_root=bytes(32))) == "invalid_argument"
    assert await code(report(count=2)) == "invalid_argument"
    assert await code(report(evidence_digest=bytes(32))) == "invalid_argument"
    assert await code(lambda p: p, by=(stage.leader() + 1) % 3) == "unauthorized"
    assert await code(lambda p: p, by=4) == "unauthorized"
    stage.chain.reports[START] = good.report
    assert (await refusal(stage, node, good, signature)).code == "invalid_argument"


async def test_a_key_that_is_no_members_neither_signs_nor_leads(stage: Stage) -> None:
    stage.chain.members = stage.chain.members[:2]
    with pytest.raises(MarketError) as refused:
        await stage.nodes[2].member.lead(stage.epoch)
    assert refused.value.code == "forbidden"


async def test_a_crashed_leaders_report_is_finished_when_it_comes_back(stage: Stage) -> None:
    stage.beats([0, 1, 2], NOW)
    stage.go(START + EPOCH_S)
    node = stage.nodes[stage.leader()]
    signed = await node.member.lead(stage.epoch)
    assert signed is not None
    stage.chain.refuse = "chain_unreachable"
    with pytest.raises(MarketError):
        await node.reporter.submit(signed)
    stage.chain.refuse = ""
    (stored,) = node.journal.open_reports()
    assert SignedProposal.from_dict(stored.payload).packed == signed.packed
    await node.reporter.finish_open()
    assert len(stage.chain.applied) == 1
    assert node.journal.open_reports() == []
    await node.reporter.finish_open()


async def test_a_member_that_signed_applies_what_a_crashed_leader_left(stage: Stage) -> None:
    stage.beats([0, 1, 2], NOW)
    stage.go(START + EPOCH_S)
    index = stage.leader()
    signed = await stage.nodes[index].member.lead(stage.epoch)
    assert signed is not None
    stage.chain._submit(calls_values(signed), signed.mask, signed.packed)
    other = stage.nodes[(index + 1) % 3]
    await other.reporter.finish_open()
    assert stage.chain.applied == {}
    stage.go(stage.now + EPOCH_S + 6)
    await other.reporter.finish_open()
    assert len(stage.chain.applied) == 1
    await stage.nodes[index].reporter.finish_open()
    assert len(stage.chain.applied) == 1


async def test_a_report_that_came_too_late_is_given_up(stage: Stage) -> None:
    stage.everyone_alive()
    leader = stage.nodes[stage.leader()]
    leader.journal.save_transcript(stage.proof(1, START - 100))
    signed = await leader.member.lead(stage.epoch)
    assert signed is not None
    stage.chain.reports[START + 5] = signed.proposal.report
    assert not await leader.reporter.submit(signed)
    assert leader.journal.open_reports() == []


async def test_a_dead_hosts_job_is_ended(stage: Stage) -> None:
    stage.beats([0, 1, 2], NOW)
    stage.go(START + 3 * EPOCH_S)
    node = stage.nodes[stage.leader()]
    signed = await node.member.lead(stage.epoch)
    assert signed is not None
    assert signed.proposal.outcomes[0].to == 0
    sent: list[str] = []
    execute = stage.chain.execute

    async def noted(key: str, call: Any, timeout_s: float = 60.0) -> Any:
        sent.append(call.label)
        stage.chain.jobs[JOB_ID] = job(JobStatus.RUNNING, dead_at=NOW)
        return await execute(key, call, timeout_s)

    stage.chain.execute = noted  # type: ignore[method-assign]
    await node.reporter.submit(signed)
    assert sent == ["submitValidationReport", "reportDowntime", "endJob"]


async def test_a_proposal_survives_its_json_and_hostile_json_is_refused(stage: Stage) -> None:
    proposal, _ = propose(stage, [validation(stage)])
    text = proposal.as_dict()
    assert Proposal.from_dict(text) == proposal
    assert Proposal.from_dict(proposal.as_dict(with_blocks=False)).outcomes == proposal.outcomes
    for change in (
        {"outcomes": []},
        {"outcomes": "x"},
        {"proofs": [[], []]},
        {"report": {**text["report"], "seq": -1}},
        {"report": {**text["report"], "seq": True}},
        {"report": {**text["report"], "outcomesRoot": "0x12"}},
        {"outcomes": [{**text["outcomes"][0], "kind": "BRIBE"}]},
        {"proofs": [[{**text["proofs"][0][0], "car": "!!"}]]},
    ):
        with pytest.raises(MarketError) as refused:
            Proposal.from_dict({**text, **change})
        assert refused.value.code == "invalid_argument"


async def test_a_bundle_is_the_same_wherever_it_is_built(stage: Stage) -> None:
    drafts = [validation(stage, 1), validation(stage, 2)]
    first, second = evidence.build(MemoryBlocks(), drafts), evidence.build(MemoryBlocks(), drafts)
    assert first == second
    assert merkle.verify(merkle.root(first.outcomes), 1, first.outcomes[1], merkle.proof(first.outcomes, 1))


async def test_old_evidence_is_let_go(stage: Stage) -> None:
    stage.everyone_alive()
    node = stage.nodes[(stage.leader() + 1) % 3]
    proposal, signature = propose(stage, [validation(stage)])
    await node.member.sign(proposal, signature)
    node.member.forget_evidence(START)
    assert node.store.pins() != ()
    node.member.forget_evidence(START + 1)
    assert (node.store.pins(), node.store.blocks) == ((), {})


async def drafts_of(stage: Stage, node: Node) -> list[Draft]:
    await node.market.refresh()
    return node.member.drafts(0, int(stage.now))


def calls_values(signed: SignedProposal) -> tuple[Any, ...]:
    report = signed.proposal.report
    return (
        report.config_digest,
        report.seq,
        report.epoch,
        report.outcomes_root,
        report.count,
        report.evidence_digest,
    )
