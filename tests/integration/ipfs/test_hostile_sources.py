"""Fetching from real HTTP servers that lie, stall, cut, repeat, redirect and overflow."""

from __future__ import annotations

import asyncio
import errno
import io
import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette

from gpumarket.errors import MarketError
from gpumarket.ipfs import store as store_module
from gpumarket.ipfs import unixfs
from gpumarket.ipfs.cid import DAG_PB, RAW, Cid
from gpumarket.ipfs.dagpb import Link
from gpumarket.ipfs.fetch import Fetched, fetch
from gpumarket.ipfs.gateway import routes
from gpumarket.ipfs.importer import UNIXFS_V0_2015, Added, Profile, add_directory, add_file
from gpumarket.ipfs.reader import load, read_file, resolve
from gpumarket.ipfs.store import EmbeddedStore
from tests.fakes import MemoryBlocks

DATA = os.urandom(5_000_000)
LIMIT = 50_000_000
Answer = Callable[[Cid, asyncio.StreamWriter], Awaitable[None]]


def content(data: bytes = DATA) -> tuple[MemoryBlocks, Added]:
    store = MemoryBlocks()
    file = add_file(store, io.BytesIO(data))
    return store, add_directory(store, {"file": file, "empty": add_directory(store, {})})


class Server:
    """A source that answers each block as it is told, and remembers what it was asked."""

    def __init__(self, answer: Answer) -> None:
        self.asked: list[Cid] = []
        self.url = ""
        self._answer = answer

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            line = (await reader.readuntil(b"\r\n\r\n")).split(b" ")[1].decode()
            cid = Cid.parse(line.removeprefix("/ipfs/").partition("?")[0])
            self.asked.append(cid)
            await self._answer(cid, writer)
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def serving(answer: Answer) -> AsyncIterator[Server]:
    server = Server(answer)
    listener = await asyncio.start_server(server.handle, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listener.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listener.close()


def head(status: str, length: int | None) -> bytes:
    size = "" if length is None else f"content-length: {length}\r\n"
    return f"HTTP/1.1 {status}\r\n{size}connection: close\r\n\r\n".encode()


def honest(store: MemoryBlocks) -> Answer:
    async def answer(cid: Cid, out: asyncio.StreamWriter) -> None:
        block = store.blocks.get(cid.digest)
        out.write(head("404 Not Found", 0) if block is None else head("200 OK", len(block)) + block)
        await out.drain()

    return answer


def status(line: str, extra: str = "") -> Answer:
    async def answer(cid: Cid, out: asyncio.StreamWriter) -> None:
        out.write(f"HTTP/1.1 {line}\r\n{extra}content-length: 0\r\nconnection: close\r\n\r\n".encode())
        await out.drain()

    return answer


async def wrong_bytes(cid: Cid, out: asyncio.StreamWriter) -> None:
    out.write(head("200 OK", 5) + b"wrong")
    await out.drain()


async def endless(cid: Cid, out: asyncio.StreamWriter) -> None:
    out.write(head("200 OK", None))
    while True:
        out.write(bytes(1 << 16))
        await out.drain()


async def slow_loris(cid: Cid, out: asyncio.StreamWriter) -> None:
    out.write(head("200 OK", 1 << 20))
    for _ in range(600):
        out.write(b"x")
        await out.drain()
        await asyncio.sleep(0.05)


def cut(store: MemoryBlocks, times: int) -> Answer:
    """Cuts the connection in the middle of a block the first `times` times."""
    left = [times]

    async def answer(cid: Cid, out: asyncio.StreamWriter) -> None:
        block = store.blocks[cid.digest]
        if left[0] and len(block) > 1000:
            left[0] -= 1
            out.write(head("200 OK", len(block)) + block[: len(block) // 2])
        else:
            out.write(head("200 OK", len(block)) + block)
        await out.drain()

    return answer


async def get(
    cid: Cid, store: store_module.BlockStore, *sources: str, max_bytes: int = LIMIT, timeout: float = 5.0
) -> Fetched:
    async with httpx.AsyncClient() as http:
        return await fetch(cid, store, sources, max_bytes=max_bytes, http=http, timeout=timeout, retry_delay=0.01)


async def refused(cid: Cid, *sources: str, max_bytes: int = LIMIT, timeout: float = 5.0) -> MarketError:
    with pytest.raises(MarketError) as caught:
        await get(cid, MemoryBlocks(), *sources, max_bytes=max_bytes, timeout=timeout)
    return caught.value


@asynccontextmanager
async def running(app: Starlette) -> AsyncIterator[str]:
    """The application on a real port; yields its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", lifespan="off"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            server.should_exit = True
            await task


async def test_default_behavior(tmp_path: Path) -> None:
    origin, root = content()
    target, seen = EmbeddedStore(tmp_path), list[tuple[int, int | None]]()
    async with serving(honest(origin)) as server, httpx.AsyncClient() as http:
        done = await fetch(
            root.cid,
            target,
            [server.url + "/"],
            max_bytes=root.tsize,
            http=http,
            progress=lambda have, total: seen.append((have, total)),
        )
    assert done == Fetched(root.tsize, root.tsize, 8, (server.url,), ())
    assert seen[-1] == (root.tsize, root.tsize)
    assert read_file(target, resolve(target, root.cid, "file")) == DATA
    target.pin(root.cid)


async def test_content_of_the_older_profile() -> None:
    origin, target = MemoryBlocks(), MemoryBlocks()
    root = add_file(origin, io.BytesIO(DATA), profile=UNIXFS_V0_2015)
    async with serving(honest(origin)) as server:
        await get(root.cid, target, server.url)
    assert read_file(target, root.cid) == DATA


async def test_nothing_is_asked_for_twice_and_a_second_fetch_asks_for_nothing() -> None:
    origin, target = MemoryBlocks(), MemoryBlocks()
    one = add_file(origin, io.BytesIO(bytes(5 << 20)))  # five equal leaves
    root = add_directory(origin, {"a": one, "b": one})
    async with serving(honest(origin)) as server:
        first = await get(root.cid, target, server.url)
        assert len(server.asked) == len(set(server.asked)) == first.blocks == 3
        second = await get(root.cid, target, server.url)
        assert (second.bytes_new, second.bytes_total) == (0, first.bytes_total)
        assert len(server.asked) == 3
    assert (await get(root.cid, target)).bytes_new == 0


async def test_a_fetch_resumes_after_its_source_went_away() -> None:
    origin, root = content()
    target, partial = MemoryBlocks(), MemoryBlocks()
    partial.blocks = dict(list(origin.blocks.items())[-4:])
    async with serving(honest(partial)) as half:
        with pytest.raises(MarketError) as caught:
            await get(root.cid, target, half.url)
    assert caught.value.code == "image_block_missing"
    had = len(target.blocks)
    assert had > 0
    async with serving(honest(origin)) as server:
        await get(root.cid, target, server.url)
        assert len(server.asked) == len(origin.blocks) - had


async def test_a_liar_is_banned_and_the_honest_source_wins() -> None:
    origin, root = content()
    target = MemoryBlocks()
    async with serving(wrong_bytes) as liar, serving(honest(origin)) as server:
        done = await get(root.cid, target, liar.url, server.url)
        assert len(liar.asked) <= 16
    assert (done.banned, done.sources_used) == ((liar.url,), (server.url,))
    assert target.blocks == origin.blocks


async def test_only_liars() -> None:
    _, root = content()
    async with serving(wrong_bytes) as liar:
        error = await refused(root.cid, liar.url)
        assert len(liar.asked) == 1
    assert error.code == "image_block_corrupt"
    assert error.details["cid"] == str(root.cid)


async def test_an_endless_answer_is_cut_at_the_size_of_a_block() -> None:
    _, root = content()
    started = time.monotonic()
    async with serving(endless) as server:
        assert (await refused(root.cid, server.url)).code == "image_block_corrupt"
    assert time.monotonic() - started < 4


async def test_a_slow_loris_costs_its_timeout() -> None:
    origin, root = content(b"small")
    async with serving(slow_loris) as slow, serving(honest(origin)) as server:
        assert (await refused(root.cid, slow.url, timeout=0.5)).code == "source_unreachable"
        done = await get(root.cid, MemoryBlocks(), slow.url, server.url, timeout=0.5)
    assert done.sources_used == (server.url,)


async def test_missing_everywhere() -> None:
    _, root = content()
    async with serving(status("404 Not Found")) as one, serving(status("410 Gone")) as two:
        error = await refused(root.cid, one.url, two.url)
        assert len(one.asked) + len(two.asked) == 2
    assert error.code == "image_block_missing"


async def test_two_halves_make_a_whole() -> None:
    origin, root = content()
    one, two = MemoryBlocks(), MemoryBlocks()
    for index, (digest, block) in enumerate(origin.blocks.items()):
        (one, two)[index % 2].blocks[digest] = block
    async with serving(honest(one)) as first, serving(honest(two)) as second:
        done = await get(root.cid, MemoryBlocks(), first.url, second.url)
    assert set(done.sources_used) == {first.url, second.url}


async def test_a_connection_cut_in_a_block_is_tried_again() -> None:
    origin, root = content()
    target = MemoryBlocks()
    async with serving(cut(origin, 2)) as server:
        done = await get(root.cid, target, server.url)
    assert done.banned == ()
    assert target.blocks == origin.blocks


async def test_a_connection_that_is_always_cut() -> None:
    origin, root = content()
    async with serving(cut(origin, 10**9)) as server:
        assert (await refused(root.cid, server.url)).code == "source_unreachable"


async def test_nobody_listens() -> None:
    _, root = content()
    assert (await refused(root.cid, "http://127.0.0.1:1")).code == "source_unreachable"
    assert (await refused(root.cid)).code == "source_unreachable"


@pytest.mark.parametrize("line", ["302 Found", "500 Internal Server Error", "429 Too Many Requests", "204 No Content"])
async def test_other_answers_are_no_block(line: str) -> None:
    _, root = content()
    async with serving(status(line, "location: http://127.0.0.1:1/\r\n")) as server:
        assert (await refused(root.cid, server.url)).code == "source_unreachable"


async def test_a_redirect_is_not_followed() -> None:
    origin, root = content()
    async with serving(honest(origin)) as server:
        target = f"location: {server.url}/ipfs/{root.cid}?format=raw\r\n"
        async with serving(status("302 Found", target)) as redirecting:
            assert (await refused(root.cid, redirecting.url)).code == "source_unreachable"
        assert server.asked == []


@pytest.mark.parametrize("url", ["ftp://x", "file:///etc/passwd", "127.0.0.1:80", ""])
async def test_a_source_is_http(url: str) -> None:
    _, root = content()
    assert (await refused(root.cid, url)).code == "invalid_argument"


async def test_declared_size_over_the_limit_is_refused_at_the_root() -> None:
    origin, root = content()
    async with serving(honest(origin)) as server:
        assert (await refused(root.cid, server.url, max_bytes=root.tsize - 1)).code == "image_too_large"
        assert len(server.asked) == 1


async def test_a_bomb_of_links_is_refused_at_the_root() -> None:
    """A few blocks that unfold to terabytes: every level repeats the one below a thousand times."""
    origin = MemoryBlocks()
    added = add_file(origin, io.BytesIO(bytes(1 << 20)))
    for _ in range(3):
        block = unixfs.encode_file([Link(added.cid, "", added.tsize)] * 1024, [added.size] * 1024)
        added = Added(Cid.of(DAG_PB, block), added.size * 1024, added.tsize * 1024 + len(block))
        origin.put(added.cid, block)
    async with serving(honest(origin)) as server:
        assert (await refused(added.cid, server.url, max_bytes=1 << 40)).code == "image_too_large"
        assert len(server.asked) == 1


async def test_sizes_that_lie_are_refused() -> None:
    origin = MemoryBlocks()
    big = add_file(origin, io.BytesIO(os.urandom(3 << 20)))
    tiny = Link(big.cid, "f", 10)
    block = unixfs.encode_directory([tiny])
    root = Cid.of(DAG_PB, block)
    origin.put(root, block)
    async with serving(honest(origin)) as server:
        # The inner node is longer than the ten bytes its parent grants, so the answer is cut.
        assert (await refused(root, server.url, max_bytes=1000)).code == "image_block_corrupt"
    node = load(origin, big.cid)
    parts = [Link(link.cid, "", link.tsize) for link in node.links]
    block = unixfs.encode_directory([Link(big.cid, "f", big.tsize - 1)])
    root = Cid.of(DAG_PB, block)
    origin.put(root, block)
    async with serving(honest(origin)) as server:
        assert (await refused(root, server.url)).code == "content_malformed"
    block = unixfs.encode_directory([Link(parts[0].cid, "a", 1 << 20), Link(parts[0].cid, "b", 2 << 20)])
    root = Cid.of(DAG_PB, block)
    origin.put(root, block)
    async with serving(honest(origin)) as server:
        assert (await refused(root, server.url)).code == "content_malformed"


async def test_deep_nesting_is_refused() -> None:
    origin = MemoryBlocks()
    added = add_file(origin, io.BytesIO(b"x"))
    for _ in range(unixfs.MAX_DIRECTORY_DEPTH + 1):
        added = add_directory(origin, {"d": added})
    async with serving(honest(origin)) as server:
        assert (await refused(added.cid, server.url)).code == "content_malformed"
        assert len(server.asked) <= unixfs.MAX_DIRECTORY_DEPTH + 1


async def test_a_block_that_is_no_unixfs_is_refused() -> None:
    origin = MemoryBlocks()
    cid = Cid.of(DAG_PB, b"garbage")
    origin.put(cid, b"garbage")
    async with serving(honest(origin)) as server:
        assert (await refused(cid, server.url)).code == "content_malformed"


async def test_a_raw_root_over_the_block_limit() -> None:
    origin = MemoryBlocks()
    cid = Cid.of(RAW, bytes(unixfs.MAX_BLOCK + 1))
    origin.put(cid, bytes(unixfs.MAX_BLOCK + 1))
    async with serving(honest(origin)) as server:
        assert (await refused(cid, server.url)).code == "image_block_corrupt"


async def test_a_damaged_block_of_the_store_is_fetched_again(tmp_path: Path) -> None:
    origin, root = content()
    target = EmbeddedStore(tmp_path)
    async with serving(honest(origin)) as server:
        await get(root.cid, target, server.url)
        leaf = load(target, load(target, root.cid).links[1].cid).links[0].cid.digest.hex()
        (tmp_path / "blocks" / leaf[:2] / leaf).write_bytes(b"damaged")
        done = await get(root.cid, target, server.url)
    assert done.bytes_new == 1 << 20
    assert read_file(target, resolve(target, root.cid, "file")) == DATA


async def test_a_full_disk_ends_the_fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    origin, root = content()
    target = EmbeddedStore(tmp_path)
    async with serving(honest(origin)) as server:
        monkeypatch.setattr(store_module.os, "fdatasync", full)
        with pytest.raises(MarketError) as caught:
            await get(root.cid, target, server.url)
    assert caught.value.code == "disk_full"
    assert list((tmp_path / "tmp").iterdir()) == []


async def test_cancelling_leaves_no_task_behind() -> None:
    _, root = content()
    async with serving(slow_loris) as server:
        before = asyncio.all_tasks()
        fetching = asyncio.create_task(get(root.cid, MemoryBlocks(), server.url))
        await asyncio.sleep(0.2)
        fetching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await fetching
        left = {task for task in asyncio.all_tasks() - before if "handle" not in repr(task)}
    assert left == set()


async def test_many_small_files() -> None:
    origin, target = MemoryBlocks(), MemoryBlocks()
    files = {
        f"{i:04}": add_file(origin, io.BytesIO(os.urandom(20)), profile=Profile("t", 8, 3, True, 1)) for i in range(300)
    }
    root = add_directory(origin, files)
    async with serving(honest(origin)) as server:
        done = await get(root.cid, target, server.url)
    assert target.blocks == origin.blocks
    assert done.blocks == len(origin.blocks)


async def test_our_own_gateway_is_a_source(tmp_path: Path) -> None:
    gateway = EmbeddedStore(tmp_path / "origin")
    root = add_directory(gateway, {"file": add_file(gateway, io.BytesIO(DATA))})
    async with running(Starlette(routes=[*routes(gateway)])) as url:
        target = EmbeddedStore(tmp_path / "target")
        done = await get(root.cid, target, url)
    assert done.bytes_total == root.tsize
    assert read_file(target, resolve(target, root.cid, "file")) == DATA
