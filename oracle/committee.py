"""k of n: what this member puts its signature under, and how the leader of an epoch collects signatures.

Time is cut into epochs of `epoch_s` seconds; member `epoch % n` leads, so a silent leader costs one epoch. A report's
number is the second its epoch began, or the next free one, which keeps numbers rising through restarts and gives every
further proposal in one epoch a number of its own: nobody ever signs two reports under one. What a member is bound to is
on disk before its signature exists.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import httpx

from gpumarket.chain import merkle, typed_data
from gpumarket.chain.typed_data import TypedData
from gpumarket.chain.types import Committee, OutcomeKind, Report
from gpumarket.errors import MarketError
from gpumarket.ipfs.store import BlockStore
from gpumarket.log import Log
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address, JobId
from oracle import evidence
from oracle.heartbeats import Tracker
from oracle.journal import Journal, claim_keys
from oracle.market import Chain, Market
from oracle.possession import Challenge, Transcript, judge
from oracle.proposal import Proposal, SignedProposal, assemble
from oracle.verdict import Draft, Observation, objection, propose

ATTEMPTS = 2
PENDING_EPOCHS = 2
MEMBER_TIMEOUT_S = 15.0
MAX_CAR_BUDGET = 8 << 20
_MAX_ANSWER_BYTES = 64 << 10


class Signer(Protocol):
    """The member's key, seen from here: it signs and says whose it is."""

    @property
    def address(self) -> Address: ...
    def sign_typed(self, data: TypedData, /) -> bytes: ...


@dataclass(frozen=True)
class Refusal:
    """Why a member did not sign: outcome indexes with reasons, or one reason for the whole."""

    reasons: dict[int, str]
    whole: str = ""


class Member:
    """This member of the committee."""

    def __init__(
        self,
        *,
        chain: Chain,
        market: Market,
        tracker: Tracker,
        journal: Journal,
        store: BlockStore,
        signer: Signer,
        http: httpx.AsyncClient,
        epoch_s: int,
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        self._chain, self._market, self._tracker = chain, market, tracker
        self._journal, self._store, self._signer, self._http = journal, store, signer, http
        self.epoch_s, self._clock, self._log = epoch_s, clock, log
        self._signing = asyncio.Lock()

    def statement(self, challenge: Challenge, data_sha256: str) -> TypedData:
        """What a host signs when it answers."""
        return typed_data.possession(
            self._chain.deployment,
            challenge.challenge_id,
            challenge.job_id,
            challenge.cid,
            challenge.nonce,
            data_sha256,
        )

    async def index(self) -> int:
        """This member's place in the committee.

        Raises:
            MarketError: `forbidden` if its key is no member's.
        """
        return index_of(await self._chain.committee(), self._signer.address)

    # ---------------------------------------------------------------- checking

    async def sign(self, proposal: Proposal, leader_signature: bytes) -> bytes:
        """This member's 64-byte signature under a leader's report.

        Raises:
            MarketError: `unauthorized`: not from the epoch's leader; `forbidden`: another report has this number, or
                an outcome may already land by another; `invalid_argument`: wrong numbers, roots or evidence;
                `outcome_unsupported`, with `refused`: this member's observations do not carry it.
        """
        async with self._signing:
            committee = await self._chain.committee()
            index_of(committee, self._signer.address)
            report = proposal.report
            now = int(self._clock())
            _check_numbers(report, committee, self.epoch_s, now)
            leader = committee.members[report.epoch % len(committee.members)].signer
            statement = typed_data.report(self._chain.deployment, report)
            if typed_data.recover(statement, leader_signature) != leader:
                raise MarketError("unauthorized", "the proposal is not from the epoch's leader", leader=leader)
            await self._market.refresh()
            judged = await asyncio.to_thread(self._judged, proposal.drafts)
            refused = self._objections(judged, committee.latest_seq, report.seq, now)
            if refused:
                raise MarketError(
                    "outcome_unsupported",
                    "this member did not observe what the report says",
                    refused={str(index): reason for index, reason in refused.items()},
                )
            await asyncio.to_thread(self._check_evidence, proposal)
            return self._bind(proposal, statement)

    def _bind(self, proposal: Proposal, statement: TypedData) -> bytes:
        report = proposal.report
        self._journal.promise(report.seq, typed_data.digest(statement), claim_keys(proposal.drafts))
        self._journal.count((t.challenge.challenge_id for d in proposal.drafts for t in d.transcripts), report.seq)
        self._journal.save_report(report.seq, proposal.as_dict(with_blocks=False), "signed")
        return typed_data.compact_signature(self._signer.sign_typed(statement))

    def _judged(self, drafts: Sequence[Draft]) -> list[Draft]:
        """The drafts with every transcript's finding replaced by what it proves here."""
        return [replace(d, transcripts=tuple(self._judge(t) for t in d.transcripts)) for d in drafts]

    def _judge(self, transcript: Transcript) -> Transcript:
        if transcript.answer is None:
            return transcript
        finding, detail = judge(transcript.challenge, transcript.answer, self.statement)
        return replace(transcript, finding=finding, detail=detail)

    def _objections(self, drafts: Sequence[Draft], latest_seq: int, seq: int, now: int) -> dict[int, str]:
        found: dict[int, str] = {}
        keys: set[str] = set()
        for index, draft in enumerate(drafts):
            job_id = self._market.subject(draft.outcome)
            seen = None if job_id is None else self.observation(job_id, latest_seq)
            reason = (
                "the job is not known here" if seen is None else objection(draft.outcome, draft.transcripts, seen, now)
            )
            if reason is None and any(t.challenge.issued_at < now - self._oldest_s for t in draft.transcripts):
                reason = "a proof is too old"
            for key in claim_keys([draft]):
                # An earlier report with this outcome could still land, or this one says it twice.
                if key in keys or any(s != seq for s in self._pending(key, latest_seq, now)):
                    reason = reason or "pending in another report"
                keys.add(key)
            if reason is not None:
                found[index] = reason
        return found

    def _pending(self, key: str, latest_seq: int, now: int) -> list[int]:
        # A report that did not land blocks only for a while, or one lost signature would silence a finding for good.
        return self._journal.claimed(key, max(latest_seq, now - PENDING_EPOCHS * self.epoch_s))

    @property
    def _oldest_s(self) -> int:
        return 3_600 + 4 * self.epoch_s

    def _check_evidence(self, proposal: Proposal) -> None:
        rebuilt = evidence.build(self._store, proposal.drafts)
        given = proposal.report
        if rebuilt.outcomes != proposal.outcomes or rebuilt.root.digest != given.evidence_digest:
            raise MarketError("invalid_argument", "the evidence digest is not that of the evidence")
        if merkle.root(proposal.outcomes) != given.outcomes_root or given.count != len(proposal.outcomes):
            raise MarketError("invalid_argument", "the outcomes root is not that of the outcomes")
        self._store.pin(rebuilt.root, f"report {given.seq}")

    def forget_evidence(self, before: int) -> None:
        """Let go of the bundles of reports older than `before`, unix seconds. Blocking."""
        old = [pin.cid for pin in self._store.pins() if _report_time(pin.name) < before]
        for cid in old:
            self._store.unpin(cid)
        if old:
            self._store.gc(self._clock())

    # ----------------------------------------------------------------- leading

    def observation(self, job_id: JobId, landed_seq: int) -> Observation | None:
        """What this member knows of a job, None if it is not one of those that matter."""
        found = self._market.jobs.get(job_id)
        if found is None:
            return None
        return Observation(
            job=found.job,
            image=found.image,
            tracker=self._tracker,
            transcripts=self._journal.transcripts(job_id),
            reported=self._journal.counted(landed_seq),
            recorded_until=found.recorded_until,
            applied=found.applied,
            head_time=self._market.head.timestamp if self._market.head else 0,
        )

    def drafts(self, latest_seq: int, now: int) -> list[Draft]:
        """All this member has to say, within the size of one proposal."""
        found: list[Draft] = []
        budget = MAX_CAR_BUDGET
        for job_id in list(self._market.jobs):
            seen = self.observation(job_id, latest_seq)
            for draft in propose(seen, now) if seen is not None else []:
                cost = sum(len(t.answer.car) for t in draft.transcripts if t.answer)
                pending = any(self._pending(key, latest_seq, now) for key in claim_keys([draft]))
                if cost <= budget and not pending and len(found) < 64:
                    budget -= cost
                    found.append(draft)
        return found

    def has_late_outage(self, now: int) -> bool:
        """Whether a job was completed during an outage and waits to be paid out: that outage must not wait."""
        late = [i for i, found in self._market.jobs.items() if found.job.status is JobStatus.COMPLETED]
        views = [seen for job_id in late if (seen := self.observation(job_id, 0)) is not None]
        return any(self._is_late_outage(draft) for seen in views for draft in propose(seen, now))

    async def lead(self, epoch: int, *, only_late: bool = False) -> SignedProposal | None:
        """If this member leads `epoch`: propose, collect, and return a report with enough signatures, if there is one.

        Args:
            only_late: nothing but outages of completed jobs.

        Raises:
            MarketError: `chain_unreachable`, `forbidden`.
        """
        committee = await self._chain.committee()
        me = index_of(committee, self._signer.address)
        if epoch % len(committee.members) != me:
            return None
        await self._market.refresh()
        now = int(self._clock())
        drafts = self.drafts(committee.latest_seq, now)
        if only_late:
            drafts = [draft for draft in drafts if self._is_late_outage(draft)]
        for _ in range(ATTEMPTS):
            seq = max(epoch * self.epoch_s, committee.latest_seq + 1, self._journal.last_promised() + 1)
            if not drafts or seq >= (epoch + 1) * self.epoch_s:
                return None
            bundle = await asyncio.to_thread(evidence.build, self._store, drafts)
            proposal = assemble(bundle, committee.config_digest, seq, epoch)
            signed, refusals = await self._collect(proposal, committee, me)
            if signed is not None:
                return signed
            drafts = _without_refused(drafts, refusals, committee)
        return None

    def _is_late_outage(self, draft: Draft) -> bool:
        found = self._market.jobs.get(JobId(draft.outcome.job_id))
        completed = found is not None and found.job.status is JobStatus.COMPLETED
        return completed and draft.outcome.kind is OutcomeKind.DOWNTIME

    async def _collect(
        self, proposal: Proposal, committee: Committee, me: int
    ) -> tuple[SignedProposal | None, list[Refusal]]:
        statement = typed_data.report(self._chain.deployment, proposal.report)
        await asyncio.to_thread(
            self._store.pin, evidence.root_cid(proposal.report.evidence_digest), f"report {proposal.report.seq}"
        )
        own = self._bind(proposal, statement)
        body = {**proposal.as_dict(), "signature": "0x" + own.hex()}
        others = [i for i in range(len(committee.members)) if i != me]
        answers = await asyncio.gather(*(self._ask(committee, i, body, statement) for i in others))
        signatures = {me: own}
        refusals: list[Refusal] = []
        for index, answer in zip(others, answers, strict=True):
            if isinstance(answer, Refusal):
                refusals.append(answer)
                self._log.info("member refused", member=index, reasons=answer.reasons, whole=answer.whole)
            elif len(signatures) < committee.threshold:
                signatures[index] = answer
        if len(signatures) < committee.threshold:
            return None, refusals
        signed = SignedProposal(proposal, signatures)
        self._journal.save_report(proposal.report.seq, signed.as_dict(), "complete")
        return signed, refusals

    async def _ask(
        self, committee: Committee, index: int, body: dict[str, Any], statement: TypedData
    ) -> bytes | Refusal:
        member = committee.members[index]
        url = member.endpoint.rstrip("/") + "/v1/committee/sign"
        try:
            async with asyncio.timeout(min(MEMBER_TIMEOUT_S, max(2.0, self.epoch_s * 0.8))):
                async with self._http.stream("POST", url, json=body) as reply:
                    raw = bytearray()
                    async for chunk in reply.aiter_bytes():
                        raw += chunk
                        if len(raw) > _MAX_ANSWER_BYTES:
                            return Refusal({}, "answer too large")
            answer = httpx.Response(reply.status_code, content=bytes(raw)).json()
            if reply.status_code != 200:
                refused = {int(i): str(reason)[:200] for i, reason in (answer.get("refused") or {}).items()}
                return Refusal(refused, "" if refused else str(answer.get("detail", ""))[:200])
            signature = bytes.fromhex(str(answer["signature"]).removeprefix("0x"))
            if len(signature) != 64 or typed_data.recover(statement, signature) != member.signer:
                return Refusal({}, "signature does not verify")
            return signature
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as error:
            return Refusal({}, f"unreachable: {type(error).__name__}")
        except (MarketError, ValueError, KeyError, TypeError, AttributeError) as error:
            return Refusal({}, f"malformed answer: {type(error).__name__}")


def index_of(committee: Committee, signer: Address) -> int:
    """A signer's place.

    Raises:
        MarketError: `forbidden`.
    """
    for index, member in enumerate(committee.members):
        if member.signer == signer:
            return index
    raise MarketError("forbidden", "this key is no member of the committee", signer=signer)


def _report_time(pin_name: str) -> float:
    word, _, number = pin_name.partition(" ")
    return int(number) if word == "report" and number.isdigit() else float("inf")


def _check_numbers(report: Report, committee: Committee, epoch_s: int, now: int) -> None:
    if report.config_digest != committee.config_digest:
        raise MarketError("invalid_argument", "the report is for another committee configuration")
    if report.seq <= committee.latest_seq:
        raise MarketError("invalid_argument", "the report's number is not above the last", latest=committee.latest_seq)
    if report.seq // epoch_s != report.epoch or abs(report.epoch - now // epoch_s) > 1:
        raise MarketError("invalid_argument", "the report is not of this epoch", epoch=report.epoch)


def _without_refused(drafts: Sequence[Draft], refusals: Sequence[Refusal], committee: Committee) -> list[Draft]:
    """The drafts that enough members did not object to; empty if asking again cannot help."""
    objectors = [0] * len(drafts)
    for refusal in refusals:
        for index in refusal.reasons:
            if 0 <= index < len(drafts):
                objectors[index] += 1
    present = len(committee.members) - sum(1 for r in refusals if not r.reasons)
    kept = [d for d, against in zip(drafts, objectors, strict=True) if present - against >= committee.threshold]
    return kept if len(kept) < len(drafts) else []
