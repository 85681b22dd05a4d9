"""Finds this provider's jobs in the chain's events and writes them into the journal. Seeing one again is harmless."""

from __future__ import annotations

from gpumarket.chain.events import JobCreated, decode
from gpumarket.chain.types import Block
from gpumarket.rules.units import Address, provider_of
from provider_agent.journal import Journal
from provider_agent.ports import Chain, Clock
from provider_agent.state import JobRow, JobState

OVERLAP_BLOCKS = 128
"""Blocks read again at every step: a reorganization may have put another job into them."""

RANGE_BLOCKS = 2_000


class Follower:
    """Reads `JobCreated` from where the journal says, to the newest block."""

    def __init__(self, chain: Chain, journal: Journal, provider: Address, clock: Clock) -> None:
        self._chain = chain
        self._journal = journal
        self._provider = provider.lower()
        self._clock = clock
        self._head = ""

    async def step(self, head: Block) -> list[JobRow]:
        """Catch up with `head`; the jobs not seen before. Raises MarketError `chain_unreachable`."""
        if head.hash == self._head:
            return []
        birth = self._chain.deployment.block_number
        cursor = min(int(self._journal.note("cursor") or birth), head.number)
        start, new = max(birth, cursor - OVERLAP_BLOCKS), []
        while start <= head.number:
            end = min(start + RANGE_BLOCKS - 1, head.number)
            rows = [
                self._row(event)
                for raw in await self._chain.logs(start, end)
                if isinstance(event := decode(raw, self._chain.deployment.addresses), JobCreated)
                and provider_of(event.resource_id) == self._provider
            ]
            new += self._journal.observe(rows, end)
            start = end + 1
        self._head = head.hash
        return new

    def _row(self, event: JobCreated) -> JobRow:
        return JobRow(
            job_id=event.job_id,
            resource_id=event.resource_id,
            user=event.user,
            image=event.image_cid,
            spec=event.spec,
            duration=event.duration,
            price_per_hour=event.price_per_hour,
            state=JobState.OFFERED,
            updated_at=int(self._clock()),
        )
