"""From a signed report to its effects on chain. Every step can be repeated, by this member after a crash or by another.

The leader submits and applies. A member that only signed waits a while and then finishes what a crashed leader left; a
contract that says "already applied" is as good as success.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gpumarket.chain import calls, merkle
from gpumarket.chain.calls import Call
from gpumarket.chain.types import Outcome, OutcomeKind, Receipt
from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.job_state import JobStatus
from oracle.journal import Journal, StoredReport
from oracle.market import Chain
from oracle.proposal import Proposal, SignedProposal

CONFIRM_S = 60.0
TAKE_OVER_EPOCHS = 1
GIVE_UP_EPOCHS = 30
_RETRY = frozenset({"chain_unreachable", "transaction_not_mined", "insufficient_gas_funds"})


class Executor(Protocol):
    """Sends a call once per key; `Sender` is one."""

    async def execute(self, key: str, call: Call, timeout_s: float = ..., /) -> Receipt: ...


class Reporter:
    """Brings this member's reports onto the chain."""

    def __init__(
        self,
        chain: Chain,
        sender: Executor,
        journal: Journal,
        epoch_s: int,
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        self._chain, self._sender, self._journal = chain, sender, journal
        self._epoch_s, self._clock, self._log = epoch_s, clock, log

    async def submit(self, signed: SignedProposal) -> bool:
        """Put a report on chain and apply its outcomes.

        Returns:
            Whether the report is on chain. False if a later one made its number stale.

        Raises:
            MarketError: `chain_unreachable`, `transaction_not_mined`, `insufficient_gas_funds`; try again later.
        """
        report = signed.proposal.report
        if not await self._landed(report.seq, report.outcomes_root):
            call = calls.submit_report(self._chain.deployment, report, signed.mask, signed.packed)
            try:
                receipt = await self._sender.execute(f"report:{report.seq}", call, CONFIRM_S)
            except MarketError as error:
                if error.code in _RETRY:
                    raise
                if not await self._landed(report.seq, report.outcomes_root):
                    self._log.warning("report refused", seq=report.seq, error=error)
                    self._journal.finish_report(report.seq)
                    return False
            else:
                self._log.info(
                    "report on chain",
                    seq=report.seq,
                    outcomes=report.count,
                    signatures=len(signed.signatures),
                    tx=receipt.tx_hash,
                    gas=receipt.gas_used,
                )
        await self._apply(signed.proposal)
        return True

    async def finish_open(self) -> None:
        """Go on with every report of which something is left.

        Raises:
            MarketError: as `submit`.
        """
        now = self._clock()
        for stored in self._journal.open_reports():
            age = now - stored.seq
            if stored.state == "complete":
                await self.submit(SignedProposal.from_dict(stored.payload))
            elif age > TAKE_OVER_EPOCHS * self._epoch_s + 5:
                await self._take_over(stored, age)

    async def _take_over(self, stored: StoredReport, age: float) -> None:
        proposal = Proposal.from_dict(stored.payload)
        if await self._landed(stored.seq, proposal.report.outcomes_root):
            await self._apply(proposal)
        elif age > GIVE_UP_EPOCHS * self._epoch_s:
            self._journal.finish_report(stored.seq)

    async def _apply(self, proposal: Proposal) -> None:
        seq, outcomes = proposal.report.seq, proposal.outcomes
        for index, outcome in enumerate(outcomes):
            if outcome.kind is OutcomeKind.VALIDATION or await self._chain.is_applied(seq, index):
                continue
            proof = merkle.proof(outcomes, index)
            call = calls.apply_outcome(self._chain.deployment, seq, index, outcome, proof)
            try:
                receipt = await self._sender.execute(f"outcome:{seq}:{index}", call, CONFIRM_S)
            except MarketError as error:
                if error.code in _RETRY:
                    raise
                # Somebody was faster, or the job moved on: either way there is nothing left to do here.
                self._log.info("outcome not applied", seq=seq, index=index, kind=outcome.kind.name, code=error.code)
                continue
            self._log.info(
                "outcome applied",
                seq=seq,
                index=index,
                kind=outcome.kind.name,
                job_id=outcome.job_id,
                tx=receipt.tx_hash,
            )
        for outcome in outcomes:
            if outcome.kind is OutcomeKind.DOWNTIME and outcome.to == 0:
                await self._end(outcome)
        self._journal.finish_report(seq)

    async def _end(self, outcome: Outcome) -> None:
        """A dead host's job ends at once, so that its renter has the rest of the money back."""
        job = await self._chain.job(outcome.job_id)
        if job.status is not JobStatus.RUNNING or not job.dead_at:
            return
        try:
            await self._sender.execute(
                f"end:{outcome.job_id}", calls.end_job(self._chain.deployment, outcome.job_id), CONFIRM_S
            )
        except MarketError as error:
            if error.code in _RETRY:
                raise
            self._log.info("job not ended", job_id=outcome.job_id, code=error.code)

    async def _landed(self, seq: int, root: bytes) -> bool:
        return await self._chain.outcomes_root(seq) == root
