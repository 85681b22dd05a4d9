"""The JSON-RPC path against a server that misbehaves in every way a node's front door does."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gpumarket.chain.rpc import Rpc, RpcRefused
from gpumarket.errors import MarketError

GOOD = (200, json.dumps({"jsonrpc": "2.0", "id": 1, "result": "0x7"}))


class Door:
    """Answers each request with the next of `answers`, the last one for ever."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, str]] = [GOOD]
        self.requests = 0
        door = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                status, body = door.answers[min(door.requests, len(door.answers) - 1)]
                door.requests += 1
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body.encode())

            def log_message(self, format: str, *args: object) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/secret-api-key"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


@pytest.fixture
def door() -> Iterator[Door]:
    door = Door()
    yield door
    door.server.shutdown()
    door.server.server_close()


async def test_default_behavior(door: Door) -> None:
    rpc = Rpc(door.url)
    assert await rpc.request("eth_chainId", []) == "0x7"
    await rpc.close()


@pytest.mark.parametrize("trouble", [(503, ""), (429, "slow down"), (200, "<html>"), (200, ""), (200, "[]")])
async def test_trouble_that_passes_is_not_noticed(door: Door, trouble: tuple[int, str]) -> None:
    door.answers = [trouble, trouble, GOOD]
    rpc = Rpc(door.url)
    assert await rpc.request("eth_chainId", []) == "0x7"
    assert door.requests == 3
    await rpc.close()


async def test_trouble_that_stays_is_unreachable_and_tells_no_secret(door: Door) -> None:
    door.answers = [(503, "")]
    rpc = Rpc(door.url)
    with pytest.raises(MarketError) as trouble:
        await rpc.request("eth_chainId", [])
    assert trouble.value.code == "chain_unreachable"
    assert "secret" not in str(trouble.value.as_dict())
    assert door.requests == 4
    door.answers = [GOOD]
    assert await rpc.request("eth_chainId", []) == "0x7"
    await rpc.close()


async def test_a_refused_key_is_not_tried_again(door: Door) -> None:
    door.answers = [(401, "")]
    rpc = Rpc(door.url)
    with pytest.raises(MarketError) as refused:
        await rpc.request("eth_chainId", [])
    assert (refused.value.code, door.requests) == ("chain_unreachable", 1)
    await rpc.close()


async def test_the_nodes_own_error_is_not_tried_again(door: Door) -> None:
    error = {"code": 3, "message": "execution reverted", "data": "0x1234"}
    door.answers = [(200, json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}))]
    rpc = Rpc(door.url)
    with pytest.raises(RpcRefused) as refused:
        await rpc.request("eth_call", [])
    assert (refused.value.code, refused.value.message, refused.value.data) == (3, "execution reverted", "0x1234")
    assert door.requests == 1
    await rpc.close()
