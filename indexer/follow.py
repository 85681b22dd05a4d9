"""Following the chain: poll, compare hashes, commit. Polling is the truth; nothing here needs a subscription.

Final stretches come in large ranges of logs; above the finalized block every header is read and logs are
asked for by block hash, so that a chain that changes while it is read cannot mix two histories.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpumarket.chain import events
from gpumarket.chain.types import Block, RawLog
from gpumarket.errors import MarketError
from gpumarket.log import Log
from indexer.records import Indexed, index_log
from indexer.reorg import Link, common_ancestor, link
from indexer.store import Changes, Cursor, Store, beyond_finality

FIRST_RANGE = 500
LARGEST_RANGE = 4_000
HEAD_RANGE = 64  # blocks per commit above the finalized one
SLOWEST_POLL_S = 5.0
_AT_ONCE = 8  # requests in flight
_PASSING = frozenset({"chain_unreachable", "database_unreachable"})


class Chain(Protocol):
    """What following needs of a node; `gpumarket.chain.client.ChainClient` is the real one."""

    async def block(self, which: int | str) -> Block: ...
    async def logs(self, from_block: int, to_block: int) -> list[RawLog]: ...
    async def logs_of_block(self, block_hash: str) -> list[RawLog]: ...


@dataclass(frozen=True)
class Progress:
    """Where the index is: the cursor, the node's newest block as last seen, and when (the caller's clock) that was."""

    cursor: Cursor
    head: Block
    seen_at: float

    @property
    def lag(self) -> int:
        """Blocks not indexed yet."""
        return max(0, self.head.number - self.cursor.number)


class Follower:
    """Brings the store to the node's head, one commit at a time.

    Args:
        addresses: of the market's contracts, by name, as `events.decode` takes them.
        publish: told what each commit changed, after it.
        clock: seconds, for `Progress.seen_at`.
    """

    def __init__(
        self,
        chain: Chain,
        store: Store,
        addresses: Mapping[str, Any],
        start_block: int,
        *,
        publish: Callable[[Changes], None],
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        self._chain = chain
        self._store = store
        self._addresses = addresses
        self._start = max(start_block, 1)
        self._publish = publish
        self._clock = clock
        self._log = log
        self._range = FIRST_RANGE
        self._cursor: Cursor | None = None
        self.progress: Progress | None = None
        self.events_indexed = 0
        self.rollbacks = 0

    async def run(self, wait: Callable[[float], Awaitable[bool]], poll_s: float) -> None:
        """Follow until `wait` says that the service stops. A node or a database that does not answer is asked again.

        Raises:
            MarketError: as `step`, except `chain_unreachable` and `database_unreachable`.
        """
        delay = poll_s
        while not await wait(delay):
            try:
                delay = 0.0 if await self.step() else poll_s
            except MarketError as error:
                if error.code not in _PASSING:
                    raise
                delay = min(max(delay * 2, poll_s), SLOWEST_POLL_S)
                self._log.warning("following waits", retry_s=delay, code=error.code, reason=error.message)

    async def step(self) -> bool:
        """Do one piece of work; true if there is more to do at once.

        Raises:
            MarketError: `chain_unreachable` and `database_unreachable` (try again), `chain_reorganized`,
                `chain_mismatch`, `already_running`.
        """
        if self._cursor is None:  # at the start, and after a failure that may or may not have reached the database
            self._cursor = await self._store.open(await self._chain.block(self._start - 1))
        head = await self._chain.block("latest")
        cursor, self._cursor = self._cursor, None
        try:
            cursor, more = await self._towards(cursor, head)
        except MarketError as error:
            if error.code != "not_found":
                raise
            return False  # the chain got shorter while it was read; the next poll sees it as it is
        self._cursor = cursor
        self.progress = Progress(cursor, head, self._clock())
        return more

    async def _towards(self, cursor: Cursor, head: Block) -> tuple[Cursor, bool]:
        if head.hash == cursor.hash:
            return cursor, False
        if head.number <= cursor.number:
            # A node that lags behind has our block at its height; a reorganized one has another.
            ours = (await self._store.known_blocks()).get(head.number)
            if ours is None or ours == head.hash:
                return cursor, False
            return await self._roll_back(cursor, head.number), True
        finalized = (await self._chain.block("finalized")).number
        if cursor.number < finalized:
            return await self._read_final(cursor, finalized), True
        return await self._read_head(cursor, head, finalized)

    async def _read_final(self, cursor: Cursor, finalized: int) -> Cursor:
        first, last = cursor.number + 1, min(cursor.number + self._range, finalized)
        edges = await self._headers(sorted({first, last}))
        if link(cursor.hash, edges[:1]) is Link.REORGANIZED:
            return await self._roll_back(cursor, cursor.number)
        try:
            raw_logs = await self._chain.logs(first, last)
        except MarketError:
            if self._range == 1:
                raise
            self._range = max(1, self._range // 4)  # perhaps the node refuses so many
            return cursor
        self._range = min(self._range * 2, LARGEST_RANGE)
        timestamps = await self._timestamps(raw_logs)
        return await self._commit(cursor, edges[-1:], self._decode(raw_logs, timestamps), finalized)

    async def _read_head(self, cursor: Cursor, head: Block, finalized: int) -> tuple[Cursor, bool]:
        last = min(cursor.number + HEAD_RANGE, head.number)
        headers = await self._headers(range(cursor.number + 1, min(last + 1, head.number)))
        if last == head.number:
            headers.append(head)
        match link(cursor.hash, headers):
            case Link.TORN:
                return cursor, True
            case Link.REORGANIZED:
                return await self._roll_back(cursor, cursor.number), True
        found = await _gather([self._chain.logs_of_block(header.hash) for header in headers])
        timestamps = {header.number: header.timestamp for header in headers}
        logs = self._decode([raw for logs in found for raw in logs], timestamps)
        return await self._commit(cursor, headers, logs, finalized), last < head.number

    async def _commit(self, cursor: Cursor, blocks: Sequence[Block], logs: Sequence[Indexed], finalized: int) -> Cursor:
        moved, changes = await self._store.apply(cursor, blocks, logs, finalized)
        self.events_indexed += len(logs)
        self._publish(changes)
        return moved

    async def _roll_back(self, cursor: Cursor, from_number: int) -> Cursor:
        ours = await self._store.known_blocks()
        shared = None
        numbers = sorted((number for number in ours if number <= from_number), reverse=True)
        for start in range(0, len(numbers), HEAD_RANGE):
            theirs = await self._headers(numbers[start : start + HEAD_RANGE])
            shared = common_ancestor(ours, theirs)
            if shared is not None:
                break
        if shared is None or shared < cursor.finalized:
            raise beyond_finality(cursor, shared)
        self._log.info("chain reorganized", indexed_block=cursor.number, common_block=shared)
        moved, changes = await self._store.rollback_to(cursor, shared)
        self.rollbacks += 1
        self._publish(changes)
        return moved

    async def _headers(self, numbers: Sequence[int]) -> list[Block]:
        return await _gather([self._chain.block(number) for number in numbers])

    async def _timestamps(self, raw_logs: Sequence[RawLog]) -> dict[int, int]:
        """When each block that has logs was made: from the logs where the node says it, else from headers."""
        known = {int(raw["blockNumber"], 16): int(raw.get("blockTimestamp") or "0x0", 16) for raw in raw_logs}
        headers = await self._headers([number for number, timestamp in known.items() if timestamp == 0])
        return known | {header.number: header.timestamp for header in headers}

    def _decode(self, raw_logs: Sequence[RawLog], timestamps: Mapping[int, int]) -> list[Indexed]:
        decoded = ((raw, events.decode(raw, self._addresses)) for raw in raw_logs)
        return [index_log(raw, event, timestamps[event.block_number]) for raw, event in decoded if event is not None]


async def _gather(requests: Sequence[Any]) -> list[Any]:
    """Await all, a few at a time, in order."""
    gate = asyncio.Semaphore(_AT_ONCE)

    async def one(request: Any) -> Any:
        async with gate:
            return await request

    return list(await asyncio.gather(*(one(request) for request in requests)))
