"""Readiness, metrics, and GraphQL over HTTP and WebSocket."""

from __future__ import annotations

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gpumarket.chain.types import Block
from gpumarket.errors import MarketError
from gpumarket.metrics import Metrics
from indexer.database import make_engine
from indexer.follow import Progress
from indexer.hub import Hub
from indexer.queries import Reader
from indexer.schema import make_schema
from indexer.server import MAX_BODY_BYTES, READY_LAG_BLOCKS, READY_SILENCE_S, add_metrics, readiness, routes
from indexer.store import Cursor, Store
from tests.fakes import FakeNode
from tests.unit.indexer.parts import indexer


def progress(lag: int = 0) -> Progress:
    return Progress(Cursor(100 - lag, "0x1", 990, 50), Block(100, "0x2", "0x1", 1_000), 10.0)


def test_default_behavior() -> None:
    details = readiness(progress(), clock=10.5, now=1_004.0)
    assert details == {"head_block": 100, "head_age_s": 4.0, "indexed_block": 100, "lag_blocks": 0}


def test_it_is_not_ready_before_the_node_was_seen() -> None:
    with pytest.raises(MarketError) as caught:
        readiness(None, clock=0, now=0)
    assert caught.value.code == "chain_unreachable"


def test_it_is_not_ready_when_the_node_has_been_silent_too_long() -> None:
    readiness(progress(), clock=10 + READY_SILENCE_S, now=1_000)
    with pytest.raises(MarketError) as caught:
        readiness(progress(), clock=10 + READY_SILENCE_S + 1, now=1_000)
    assert caught.value.code == "chain_unreachable"


def test_it_is_not_ready_while_it_lags() -> None:
    readiness(progress(READY_LAG_BLOCKS), clock=10, now=1_000)
    with pytest.raises(MarketError) as caught:
        readiness(progress(READY_LAG_BLOCKS + 1), clock=10, now=1_000)
    assert caught.value.details["lag_blocks"] == READY_LAG_BLOCKS + 1


def test_it_is_not_ready_while_the_node_is_far_behind_the_index() -> None:
    with pytest.raises(MarketError) as caught:
        readiness(progress(-READY_LAG_BLOCKS - 1), clock=10, now=1_000)
    assert caught.value.code == "chain_unreachable"


async def test_metrics_tell_head_lag_and_age(tmp_path: Path) -> None:
    node = FakeNode()
    node.add([])
    async with indexer(node, tmp_path) as index:
        metrics = Metrics("indexer")
        add_metrics(metrics, index.follower, lambda: node.blocks[-1].timestamp + 3.0)
        assert b"gpumarket_indexer_head_block 0.0" in metrics.render()[0]
        await index.catch_up()
        text = metrics.render()[0]
    assert b"gpumarket_indexer_indexed_block 1.0" in text
    assert b"gpumarket_indexer_head_age_seconds 3.0" in text
    assert b"gpumarket_indexer_lag_blocks 0.0" in text


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncEngine:
    engine = make_engine(f"sqlite+aiosqlite:///{tmp_path}/index.db")
    await Store(engine, "test").open(Block(0, "0x0", "0x", 5))
    await engine.dispose()
    return make_engine(f"sqlite+aiosqlite:///{tmp_path}/index.db")


def test_http_answers_post_get_and_socket(engine: AsyncEngine) -> None:
    app = Starlette(routes=routes(make_schema(), Reader(engine), Hub(), lambda: None))
    with TestClient(app) as client:
        question = {"query": "{ _meta { block { number } synced } }"}
        expected = {"_meta": {"block": {"number": 0}, "synced": False}}
        assert client.post("/graphql", json=question).json()["data"] == expected
        assert client.get("/graphql", params=question).json()["data"] == expected
        large = client.post("/graphql", json={"query": " " * MAX_BODY_BYTES})
        assert (large.status_code, large.json()["errors"][0]["extensions"]["code"]) == (413, "request_too_complex")
        error = client.post("/graphql", json={"query": "{ nope }"}).json()["errors"][0]
        assert error["extensions"]["code"] == "invalid_argument"
        with client.websocket_connect("/graphql", subprotocols=["graphql-transport-ws"]) as socket:
            socket.send_json({"type": "connection_init"})
            assert socket.receive_json()["type"] == "connection_ack"
            job = "0x" + "00" * 32
            query = 'subscription { jobStatusChanged(jobId: "' + job + '") { id } }'
            socket.send_json({"id": "1", "type": "subscribe", "payload": {"query": query}})
            assert socket.receive_json() == {"id": "1", "type": "next", "payload": {"data": {"jobStatusChanged": None}}}
            bad = 'subscription { jobStatusChanged(jobId: "7") { id } }'
            socket.send_json({"id": "2", "type": "subscribe", "payload": {"query": bad}})
            assert "invalid_argument" in str(socket.receive_json())


@pytest.mark.parametrize("url", ["mysql://x/y", "nonsense", "sqlite:///x"])
def test_a_database_we_cannot_use_is_refused(url: str) -> None:
    with pytest.raises(MarketError) as caught:
        make_engine(url)
    assert caught.value.code == "invalid_config"
