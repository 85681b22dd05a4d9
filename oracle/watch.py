"""A member's loops: look at the chain, challenge hosts, and lead when it is this member's turn."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Awaitable, Callable
from functools import partial

from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address
from oracle.agents import Agents
from oracle.committee import Member
from oracle.heartbeats import Tracker
from oracle.journal import Journal
from oracle.market import Market, MarketJob
from oracle.possession import Challenge, Finding, Transcript
from oracle.reporter import Reporter

KEEP_BLOCKS_EPOCHS = 4
KEEP_EVIDENCE_S = 90 * 86_400
EPOCH_DELAY_S = 0.3

RESUME_S = 15.0
"""How often unfinished transactions are looked after."""

MAX_PER_MINUTE = 15
"""Challenges to one host; hosts refuse more than 20."""

Wait = Callable[[float], Awaitable[bool]]
"""Sleeps at most so many seconds; true if the service is stopping."""


class Watch:
    """One member's work, loop by loop. Chain trouble is logged and tried again."""

    def __init__(
        self,
        *,
        market: Market,
        tracker: Tracker,
        agents: Agents,
        member: Member,
        reporter: Reporter,
        journal: Journal,
        clock: Callable[[], float],
        wait: Wait,
        log: Log,
    ) -> None:
        self._market, self._tracker, self._agents = market, tracker, agents
        self._member, self._reporter, self._journal = member, reporter, journal
        self._clock, self._wait, self._log = clock, wait, log
        self._asked: dict[Address, list[float]] = {}
        self._leading = asyncio.Lock()
        self.transcripts: dict[Finding, int] = dict.fromkeys(Finding, 0)

    async def follow(self, period_s: float) -> None:
        """Keep the view of the chain fresh, and watch every host that has a running job."""
        while True:
            await self._tolerant("market not read", self.look)
            await self._tolerant("late outage not reported", self.report_late_outages)
            if await self._wait(period_s):
                return

    async def look(self) -> None:
        """One look at the chain."""
        await self._market.refresh()
        for found in self._market.jobs.values():
            if found.job.status is JobStatus.RUNNING:
                self._tracker.expect(found.job.provider, self._clock())

    async def report_late_outages(self) -> None:
        """An outage of a job that was completed in it is reported at once: the next epoch may be after the payout."""
        if self._member.has_late_outage(int(self._clock())):
            async with self._leading:
                signed = await self._member.lead(int(self._clock()) // self._member.epoch_s, only_late=True)
                if signed is not None:
                    await self._reporter.submit(signed)

    async def question(self, period_s: float) -> None:
        """Challenge a random host about a random job, again and again."""
        while not await self._wait(period_s):
            await self._tolerant("challenge failed", self.ask_one)

    async def ask_one(self) -> Transcript | None:
        """One challenge, if there is anybody to ask."""
        now = self._clock()
        self._asked = {p: recent for p, at in self._asked.items() if (recent := [t for t in at if t > now - 60])}
        hosts = [p for p in self._agents.connected() if self._agents.is_idle(p)]
        hosts = [p for p in hosts if len(self._asked.get(p, ())) < MAX_PER_MINUTE]
        jobs = [job for host in hosts for job in self._market.live(host)]
        if not jobs:
            return None
        chosen = random.SystemRandom().choice(jobs)
        self._asked.setdefault(chosen.job.provider, []).append(now)
        challenge = Challenge(
            challenge_id="0x" + secrets.token_hex(32),
            job_id=chosen.job.job_id,
            provider=chosen.job.provider,
            cid=chosen.image,
            nonce="0x" + secrets.token_hex(32),
            issued_at=int(now),
        )
        transcript = _excused(chosen, await self._agents.challenge(challenge, self._member.statement))
        self._journal.save_transcript(transcript)
        self.transcripts[transcript.finding] += 1
        self._log.info(
            "challenge ended",
            finding=transcript.finding.value,
            job_id=challenge.job_id,
            provider=challenge.provider,
            detail=transcript.detail,
            latency_ms=None if transcript.latency_s is None else round(transcript.latency_s * 1000),
        )
        return transcript

    async def lead(self) -> None:
        """At every epoch: finish what is open, and propose if it is this member's turn."""
        epoch_s = self._member.epoch_s
        done = int(self._clock()) // epoch_s
        await self._tolerant("open reports not finished", self._reporter.finish_open)
        while True:
            left = (done + 1) * epoch_s + EPOCH_DELAY_S - self._clock()
            if await self._wait(max(0.05, left)):
                return
            epoch = int(self._clock()) // epoch_s
            if epoch > done:
                done = epoch
                await self._tolerant("epoch failed", partial(self.turn, epoch))

    async def turn(self, epoch: int) -> None:
        """One epoch."""
        async with self._leading:
            await self._reporter.finish_open()
            signed = await self._member.lead(epoch)
            if signed is not None:
                await self._reporter.submit(signed)
        self._journal.forget_blocks(int(self._clock()) - max(600, KEEP_BLOCKS_EPOCHS * self._member.epoch_s))
        await asyncio.to_thread(self._member.forget_evidence, int(self._clock()) - KEEP_EVIDENCE_S)

    async def look_after(self, transactions: Callable[[], Awaitable[None]]) -> None:
        """Bring unfinished transactions on, again and again."""
        while not await self._wait(RESUME_S):
            await self._tolerant("transactions wait", transactions)

    async def _tolerant(self, message: str, step: Callable[[], Awaitable[object]]) -> None:
        try:
            await step()
        except MarketError as error:
            self._log.warning(message, error=str(error), code=error.code)


def _excused(chosen: MarketJob, transcript: Transcript) -> Transcript:
    """Before the job runs its image may still be on the way: no answer then says nothing."""
    if chosen.job.status is JobStatus.RUNNING or transcript.finding is not Finding.NO_ANSWER:
        return transcript
    return Transcript(transcript.challenge, Finding.UNKNOWN, None, transcript.latency_s, transcript.detail)
