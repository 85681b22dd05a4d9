"""Fetching a whole piece of content from sources nobody has to trust.

Blocks are asked for one by one over plain HTTP (`GET <source>/ipfs/<cid>?format=raw`), many at a time, and hashed
before they are kept. What the store already has is not asked for again: an interrupted fetch resumes by starting again.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import httpx

from gpumarket.errors import MarketError
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import RAW, Cid
from gpumarket.ipfs.dagpb import malformed
from gpumarket.ipfs.reader import deeper
from gpumarket.ipfs.store import BlockStore
from gpumarket.ipfs.unixfs import MAX_BLOCK, Kind, Node

CONCURRENCY = 16
_ROUNDS = 3
_CONNECT_S = 5.0
# Per source, in a row; a hiccup may fail all requests in flight at once, twice.
_FAILURES_ALLOWED = 2 * CONCURRENCY + 1
_HEADERS = {"accept": "application/vnd.ipld.raw", "accept-encoding": "identity"}


@dataclass(frozen=True)
class Fetched:
    """What a fetch did.

    Attributes:
        bytes_new: bytes of blocks that came over the network.
        bytes_total: bytes of all distinct blocks of the content.
        blocks: how many distinct blocks those are.
        sources_used: the sources that gave at least one good block.
        banned: the sources that gave a wrong one.
    """

    bytes_new: int
    bytes_total: int
    blocks: int
    sources_used: tuple[str, ...]
    banned: tuple[str, ...]


async def fetch(
    cid: Cid,
    store: BlockStore,
    sources: Sequence[str],
    *,
    max_bytes: int,
    http: httpx.AsyncClient,
    progress: Callable[[int, int | None], None] | None = None,
    timeout: float = 30.0,
    retry_delay: float = 0.3,
) -> Fetched:
    """Bring everything under `cid` into the store. Nothing is pinned.

    Args:
        sources: base URLs of trustless gateways, best first.
        max_bytes: the content may not be larger, neither by what it declares nor by what arrives.
        progress: called with bytes of blocks at hand and in all; the total counts repeated blocks as often as they
            occur, and is None until the root is read.
        timeout: seconds for one block from one source.
        retry_delay: seconds before a block is asked for a second time; doubles.

    Raises:
        MarketError: `image_too_large`, `content_malformed`, `disk_full`; when no source has a good copy of a block:
            `image_block_corrupt` if one gave wrong bytes, else `image_block_missing` if one said it lacks it, else
            `source_unreachable`.
    """
    run = _Fetch(store, [_Source(_base(url)) for url in dict.fromkeys(sources)], max_bytes, http, progress, timeout)
    run.retry_delay = retry_delay
    await run.all(cid)
    return Fetched(
        run.bytes_new,
        run.bytes_total,
        len(run.expected),
        tuple(source.url for source in run.sources if source.used),
        tuple(source.url for source in run.sources if source.banned),
    )


@dataclass
class _Source:
    url: str
    used: bool = False
    banned: bool = False
    failures: int = 0
    """In a row; a source that keeps failing is not asked any more."""

    @property
    def usable(self) -> bool:
        return not self.banned and self.failures < _FAILURES_ALLOWED


@dataclass(frozen=True)
class _Want:
    """A block and what its parent promised about it: bytes of blocks from it down, file bytes (None in a directory)."""

    cid: Cid
    tsize: int | None
    size: int | None
    files: int = 0
    directories: int = 0


class _Bad(Exception):
    """A source gave bytes that are not the block."""


class _Absent(Exception):
    """A source says it does not have the block."""


class _Failed(Exception):
    """A source did not answer, or not properly."""


@dataclass
class _Fetch:
    store: BlockStore
    sources: list[_Source]
    max_bytes: int
    http: httpx.AsyncClient
    progress: Callable[[int, int | None], None] | None
    timeout: float
    retry_delay: float = 0.0
    bytes_new: int = 0
    bytes_total: int = 0
    declared: int | None = None
    expected: dict[Cid, tuple[int | None, int | None]] = field(default_factory=dict)
    """Every block ever wanted, with what was promised about it: two parents must promise the same."""
    turn: int = 0

    async def all(self, root: Cid) -> None:
        # Last in, first out: whole files are finished before others are begun, and the list of open work stays short.
        work: asyncio.LifoQueue[_Want] = asyncio.LifoQueue()
        self.expected[root] = (None, None)
        work.put_nowait(_Want(root, None, None))

        async def worker() -> None:
            while True:
                want = await work.get()
                for child in await self._one(want):
                    work.put_nowait(child)
                work.task_done()

        workers = [asyncio.create_task(worker()) for _ in range(CONCURRENCY)]
        done = asyncio.create_task(work.join())
        try:
            await asyncio.wait({done, *workers}, return_when=asyncio.FIRST_COMPLETED)
            for task in workers:
                if task.done():
                    task.result()
        finally:
            for task in (done, *workers):
                task.cancel()
            await asyncio.gather(done, *workers, return_exceptions=True)

    async def _one(self, want: _Want) -> list[_Want]:
        """Get one block, check it against its parent's promises, and return what it makes us want."""
        limit = self._limit(want)
        block = await asyncio.to_thread(self._held, want.cid)
        if block is None:
            block = await self._download(want.cid, limit)
            self.bytes_new += len(block)
        self.bytes_total += len(block)
        if self.bytes_total > self.max_bytes:
            raise _too_large(want.cid, self.bytes_total, self.max_bytes)
        node = unixfs.parse(want.cid, block)
        if want.tsize is None:
            self.declared = node.tsize
            if node.tsize > self.max_bytes:
                raise _too_large(want.cid, node.tsize, self.max_bytes)
        elif node.tsize != want.tsize or (want.size is not None and (node.kind, node.size) != (Kind.FILE, want.size)):
            raise malformed(f"{want.cid} is not what its parent says it is")
        if self.progress:
            self.progress(self.bytes_total, self.declared)
        return self._children(node, want)

    def _children(self, node: Node, want: _Want) -> list[_Want]:
        wants = []
        files, directories = deeper(node, want.files, want.directories) if node.links else (0, 0)
        for index, link in enumerate(node.links):
            size = node.blocksizes[index] if node.blocksizes else None
            tsize, known = self.expected.get(link.cid, (None, None))
            if (tsize is not None and tsize != link.tsize) or (None not in (known, size) and known != size):
                raise malformed(f"{link.cid} cannot have two sizes")
            if link.cid not in self.expected:
                wants.append(_Want(link.cid, link.tsize, size, files, directories))
            self.expected[link.cid] = (link.tsize, size if known is None else known)
        wants.reverse()
        return wants

    def _limit(self, want: _Want) -> int:
        """The most bytes this block can have: a raw leaf is exactly as long as its parent says."""
        if want.tsize is None:
            return MAX_BLOCK
        return want.tsize if want.cid.codec == RAW else min(MAX_BLOCK, want.tsize)

    def _held(self, cid: Cid) -> bytes | None:
        try:
            return self.store.get(cid)
        except MarketError as error:
            if error.code == "image_block_corrupt":
                return None
            raise

    async def _download(self, cid: Cid, limit: int) -> bytes:
        absent: set[str] = set()
        wrong = False
        delay = self.retry_delay
        for attempt in range(_ROUNDS):
            if attempt:
                await asyncio.sleep(delay)
                delay *= 2
            for source in self._order():
                if not source.usable or source.url in absent:
                    continue
                try:
                    block = await self._from(source, cid, limit)
                    await asyncio.to_thread(self._keep, cid, block)
                    source.used, source.failures = True, 0
                    return block
                except _Absent:
                    absent.add(source.url)
                except _Bad:
                    source.banned = wrong = True
                except _Failed:
                    source.failures += 1
            if all(not source.usable or source.url in absent for source in self.sources):
                break
        raise self._no_source(cid, wrong, absent)

    def _order(self) -> list[_Source]:
        """Good sources take turns, so that several are used at once."""
        self.turn += 1
        usable = [source for source in self.sources if source.usable]
        at = self.turn % len(usable) if usable else 0
        return usable[at:] + usable[:at]

    def _keep(self, cid: Cid, block: bytes) -> None:
        if hashlib.sha256(block).digest() != cid.digest:
            raise _Bad
        self.store.put(cid, block)

    async def _from(self, source: _Source, cid: Cid, limit: int) -> bytes:
        url = f"{source.url}/ipfs/{cid}?format=raw"
        limits = httpx.Timeout(self.timeout, connect=min(self.timeout, _CONNECT_S))
        try:
            async with (
                asyncio.timeout(self.timeout),
                self.http.stream("GET", url, headers=_HEADERS, follow_redirects=False, timeout=limits) as response,
            ):
                if response.status_code in (404, 410):
                    raise _Absent
                if response.status_code != 200:
                    raise _Failed
                parts, size = [], 0
                async for part in response.aiter_raw():
                    size += len(part)
                    if size > limit:
                        raise _Bad
                    parts.append(part)
                return b"".join(parts)
        except (TimeoutError, httpx.HTTPError, httpx.InvalidURL) as error:
            raise _Failed from error

    def _no_source(self, cid: Cid, wrong: bool, absent: set[str]) -> MarketError:
        sources = [source.url for source in self.sources]
        if wrong or (not absent and any(source.banned for source in self.sources)):
            message = f"no honest source has block {cid}"
            return MarketError("image_block_corrupt", message, cid=str(cid), sources=sources)
        if absent:
            return MarketError("image_block_missing", f"no source has block {cid}", cid=str(cid), sources=sources)
        return MarketError(
            "source_unreachable",
            f"no source answers for block {cid}",
            hint="keep the image served, e.g. with `gpumarket ipfs serve`, until the job runs",
            cid=str(cid),
            sources=sources,
        )


def _base(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise MarketError("invalid_argument", f"a source is an http or https URL, not {url[:80]!r}")
    return url.rstrip("/")


def _too_large(cid: Cid, size: int, limit: int) -> MarketError:
    return MarketError(
        "image_too_large",
        f"the content has at least {size} bytes, the limit is {limit}",
        cid=str(cid),
        size=size,
        limit=limit,
    )
