"""Proxies between real servers on loopback: an indexer's and an agent's stand-ins, the gateway, a client."""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.websockets import WebSocket, WebSocketDisconnect
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
from websockets.typing import Subprotocol

from gateway.app import Settings, build
from gateway.sockets import GRAPHQL_SUBPROTOCOL
from gpumarket.log import Log
from gpumarket.metrics import Metrics
from gpumarket.service import Service
from tests.parts.anvil import free_port

JOB_ID = "0x" + "cd" * 32
PROVIDER = "0x" + "11" * 20
ENDLESS = "0x" + "ee" * 32


@contextlib.asynccontextmanager
async def serving(app: Any) -> AsyncIterator[int]:
    """`app` on a free loopback port."""
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error", ws_max_size=8 << 20)
    server = uvicorn.Server(config)
    server.capture_signals = contextlib.nullcontext  # type: ignore[method-assign,assignment]
    task = asyncio.create_task(server.serve())
    while not server.started and not task.done():  # noqa: ASYNC110  # uvicorn sets a flag, no event
        await asyncio.sleep(0.01)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        await task


@dataclass
class World:
    """What the stand-ins say and heard."""

    endpoint: str = ""
    names: dict[str, str] = field(default_factory=dict)
    resolved: list[str] = field(default_factory=list)
    heard: list[Any] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    async def resolver(self, host: str, port: int) -> list[str]:
        self.resolved.append(host)
        return [self.names.get(host, host)]

    async def graphql(self, request: Request) -> Response:
        asked = await request.json()
        if "_meta" in asked["query"]:
            return JSONResponse({"data": {"_meta": {"synced": True, "block": {"number": 7}}}})
        if "provider(" in asked["query"]:
            return JSONResponse({"data": {"provider": {"endpoint": self.endpoint}}})
        known = asked["variables"]["id"] in (JOB_ID, ENDLESS)
        return JSONResponse({"data": {"job": {"provider": PROVIDER} if known else None}})

    async def subscription(self, socket: WebSocket) -> None:
        await socket.accept(subprotocol=GRAPHQL_SUBPROTOCOL)
        with contextlib.suppress(WebSocketDisconnect):
            assert (await socket.receive_json())["type"] == "connection_init"
            await socket.send_json({"type": "connection_ack"})
            await socket.close(4400, "done")

    async def logs(self, socket: WebSocket) -> None:
        await socket.accept()
        self.hosts.append(socket.headers["host"])
        try:
            self.heard.append(await socket.receive_json())
            if socket.path_params["id"] == ENDLESS:
                while True:
                    await socket.send_text("x" * 1000)
                    await asyncio.sleep(0.01)
            await socket.send_text('{"type":"log","line":"안녕"}')
            await socket.send_bytes(b"\x00\xff")
            self.heard.append((await socket.receive())["bytes"])
            await socket.close(4001, "finished")
        except (WebSocketDisconnect, RuntimeError):
            pass
        finally:
            self.closed.set()


@dataclass
class Stage:
    world: World
    port: int

    def url(self, path: str) -> str:
        return f"ws://127.0.0.1:{self.port}{path}"


@contextlib.asynccontextmanager
async def stage_of(**settings: Any) -> AsyncIterator[Stage]:
    world = World()
    agent = Starlette(routes=[WebSocketRoute(f"/v1/jobs/{{id}}/{s}", world.logs) for s in ("logs", "metrics")])
    indexer = Starlette(
        routes=[Route("/graphql", world.graphql, methods=["POST"]), WebSocketRoute("/graphql", world.subscription)]
    )
    async with serving(agent) as agent_port, serving(indexer) as indexer_port:
        world.endpoint = f"http://agent.example:{agent_port}"
        world.names["agent.example"] = "127.0.0.1"
        service = Service("gateway", Log("gateway", stream=io.StringIO()), Metrics("gateway"))
        values = {"allow_private_endpoints": True, **settings}
        chosen = Settings(f"http://127.0.0.1:{values.pop('indexer_port', indexer_port)}", **values)
        async with serving(build(service, chosen, world.resolver)) as port:
            yield Stage(world, port)


@pytest.fixture
async def stage() -> AsyncIterator[Stage]:
    async with stage_of() as found:
        yield found


async def refused(url: str) -> tuple[dict[str, Any], int | None]:
    """The error frame and the close code a client gets."""
    async with connect(url, proxy=None) as socket:
        error = json.loads(await asyncio.wait_for(socket.recv(), 10))
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 10)
        return error["error"], socket.close_code


@pytest.mark.parametrize("stream", ["logs", "metrics"])
async def test_default_behavior_frames_pass_unchanged_both_ways(stage: Stage, stream: str) -> None:
    async with connect(stage.url(f"/api/v1/instances/{JOB_ID}/{stream}"), proxy=None) as socket:
        await socket.send('{"type":"auth","signature":"0x12"}')
        assert await socket.recv() == '{"type":"log","line":"안녕"}'
        assert await socket.recv() == b"\x00\xff"
        await socket.send(b"\x01\x02")
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert (socket.close_code, socket.close_reason) == (4001, "finished")
    assert stage.world.heard == [{"type": "auth", "signature": "0x12"}, b"\x01\x02"]


async def test_a_name_is_resolved_once_and_still_named_to_the_agent(stage: Stage) -> None:
    async with connect(stage.url(f"/api/v1/instances/{JOB_ID}/logs"), proxy=None) as socket:
        await socket.send("{}")
        await socket.recv()
    assert stage.world.resolved == ["agent.example"]
    assert stage.world.hosts[0].startswith("agent.example:")


async def test_a_client_that_leaves_frees_the_agent(stage: Stage) -> None:
    async with connect(stage.url(f"/api/v1/instances/{ENDLESS}/logs"), proxy=None) as socket:
        await socket.send("{}")
        await socket.recv()
    await asyncio.wait_for(stage.world.closed.wait(), 10)


async def test_private_endpoints_are_refused_unless_allowed() -> None:
    async with stage_of(allow_private_endpoints=False) as stage:
        error, code = await refused(stage.url(f"/api/v1/instances/{JOB_ID}/logs"))
    assert (error["code"], code) == ("provider_unreachable", 4502)
    assert stage.world.hosts == []


async def test_an_unknown_job_a_bad_id_and_an_agent_gone_are_told_apart(stage: Stage) -> None:
    error, code = await refused(stage.url(f"/api/v1/instances/0x{'00' * 32}/logs"))
    assert (error["code"], code) == ("not_found", 4404)
    error, code = await refused(stage.url("/api/v1/instances/12/logs"))
    assert (error["code"], code) == ("invalid_argument", 4400)
    stage.world.endpoint = f"http://127.0.0.1:{free_port()}"
    error, code = await refused(stage.url(f"/api/v1/instances/{JOB_ID}/logs"))
    assert (error["code"], code) == ("provider_unreachable", 4502)
    stage.world.endpoint = ""
    error, code = await refused(stage.url(f"/api/v1/instances/{JOB_ID}/logs"))
    assert (error["code"], code) == ("provider_unreachable", 4502)


async def test_the_indexer_down_is_its_own_error() -> None:
    async with stage_of(indexer_port=free_port()) as stage:
        error, code = await refused(stage.url(f"/api/v1/instances/{JOB_ID}/logs"))
        assert (error["code"], code) == ("indexer_unreachable", 4503)
        async with httpx.AsyncClient(trust_env=False) as http:
            ready = await http.get(f"http://127.0.0.1:{stage.port}/readyz")
        assert (ready.status_code, ready.json()["error"]["code"]) == (503, "indexer_unreachable")


async def test_subscriptions_pass_through_with_their_protocol(stage: Stage) -> None:
    protocols = [Subprotocol(GRAPHQL_SUBPROTOCOL)]
    async with connect(stage.url("/graphql"), subprotocols=protocols, proxy=None) as socket:
        assert socket.subprotocol == GRAPHQL_SUBPROTOCOL
        await socket.send('{"type":"connection_init"}')
        assert json.loads(await socket.recv()) == {"type": "connection_ack"}
        with pytest.raises(ConnectionClosed):
            await socket.recv()
        assert socket.close_code == 4400


async def test_sockets_are_limited_and_given_back() -> None:
    async with stage_of(max_sockets=1) as stage:
        path = stage.url(f"/api/v1/instances/{ENDLESS}/logs")
        async with connect(path, proxy=None) as socket:
            await socket.send("{}")
            await socket.recv()
            error, code = await refused(path)
            assert (error["code"], code) == ("rate_limited", 4429)
        await asyncio.wait_for(stage.world.closed.wait(), 10)
        await asyncio.sleep(0.2)
        async with connect(path, proxy=None) as socket:
            await socket.send("{}")
            await socket.recv()


async def test_readiness_and_metrics_tell_of_the_indexer_and_the_requests(stage: Stage) -> None:
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{stage.port}", trust_env=False) as http:
        ready = await http.get("/readyz")
        assert ready.json()["indexer"] == {"block": 7, "synced": True}
        assert (await http.get("/livez")).status_code == 200
        text = (await http.get("/metrics")).text
    assert 'gpumarket_gateway_requests_total{status="200"}' in text
    assert "gpumarket_gateway_open_sockets" in text
