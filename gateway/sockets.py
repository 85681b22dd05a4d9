"""WebSocket proxies: frames pass unchanged in both directions, the client's first one included.

The gateway holds no key and reads no frame; who may see what is settled between the client and the other end.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from prometheus_client import Gauge
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.typing import Subprotocol

from gateway.addresses import Resolver, Target, target
from gateway.indexer import Indexer
from gateway.problems import close_code
from gpumarket.errors import MarketError
from gpumarket.rules.units import parse_job_id

GRAPHQL_SUBPROTOCOL = "graphql-transport-ws"
MAX_FRAME_BYTES = 4 << 20
OPEN_TIMEOUT_S = 10
CLOSE_TIMEOUT_S = 3

JOB_ENDPOINT = "query($id: ID!) { job(id: $id) { provider } }"
PROVIDER_ENDPOINT = "query($address: String!) { provider(address: $address) { endpoint } }"

SocketHandler = Callable[[WebSocket], Awaitable[None]]


class Turnstile:
    """At most `maximum` sockets at once over the whole gateway."""

    def __init__(self, maximum: int, gauge: Gauge) -> None:
        self._maximum, self._gauge, self._open = maximum, gauge, 0

    def __enter__(self) -> None:
        if self._open >= self._maximum:
            raise MarketError("rate_limited", "too many open sockets", maximum=self._maximum)
        self._open += 1
        self._gauge.set(self._open)

    def __exit__(self, *_: object) -> None:
        self._open -= 1
        self._gauge.set(self._open)


def graphql_socket(indexer: Indexer, turnstile: Turnstile) -> SocketHandler:
    """Subscriptions: graphql-transport-ws to the indexer."""

    async def handle(client: WebSocket) -> None:
        offered = client.scope.get("subprotocols") or []
        if GRAPHQL_SUBPROTOCOL not in offered:
            await client.close(4406, "subprotocol graphql-transport-ws is needed")
            return
        try:
            with turnstile:
                await _bridge(
                    client, indexer.websocket_url, None, [Subprotocol(GRAPHQL_SUBPROTOCOL)], "indexer_unreachable"
                )
        except MarketError as error:
            await _refuse(client, error, subprotocol=GRAPHQL_SUBPROTOCOL)

    return handle


def instance_socket(
    indexer: Indexer, turnstile: Turnstile, stream: str, *, allow_private: bool, resolver: Resolver
) -> SocketHandler:
    """A job's `logs` or `metrics`, from the agent of the job's provider."""

    async def handle(client: WebSocket) -> None:
        try:
            with turnstile:
                job_id = _job_id(client.path_params["id"])
                endpoint = await provider_endpoint(indexer, job_id)
                place = await target(
                    endpoint, f"/v1/jobs/{job_id}/{stream}", allow_private=allow_private, resolver=resolver
                )
                await _bridge(client, place.url, place, [], "provider_unreachable")
        except MarketError as error:
            await _refuse(client, error)

    return handle


async def provider_endpoint(indexer: Indexer, job_id: str) -> str:
    """The public URL of the agent that runs a job.

    Raises:
        MarketError: `not_found`, `indexer_unreachable`, or `provider_unreachable` when none is known.
    """
    job = (await indexer.query(JOB_ENDPOINT, {"id": job_id})).get("job")
    if job is None:
        raise MarketError("not_found", f"no job {job_id}")
    provider = (await indexer.query(PROVIDER_ENDPOINT, {"address": job["provider"]})).get("provider")
    if provider is None or not provider.get("endpoint"):
        raise MarketError("provider_unreachable", "the provider has no endpoint")
    return str(provider["endpoint"])


def _job_id(text: str) -> str:
    try:
        return parse_job_id(text)
    except ValueError as error:
        raise MarketError("invalid_argument", str(error)) from error


async def _bridge(
    client: WebSocket, url: str, place: Target | None, subprotocols: Sequence[Subprotocol], unreachable: str
) -> None:
    # The address is the one that was checked; `url` still names the host for the Host header and for TLS.
    pinned: dict[str, Any] = {} if place is None else {"host": place.address, "port": place.port}
    try:
        upstream = await connect(
            url,
            subprotocols=list(subprotocols) or None,
            open_timeout=OPEN_TIMEOUT_S,
            close_timeout=CLOSE_TIMEOUT_S,
            max_size=MAX_FRAME_BYTES,
            compression=None,
            proxy=None,
            **pinned,
        )
    except (OSError, TimeoutError, WebSocketException, ValueError) as error:
        raise MarketError(unreachable, "the other end does not answer") from error
    try:
        await client.accept(subprotocol=upstream.subprotocol)
        directions = {asyncio.create_task(_up(client, upstream)), asyncio.create_task(_down(upstream, client))}
        try:
            await asyncio.wait(directions, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in directions:
                task.cancel()
            await asyncio.gather(*directions, return_exceptions=True)
    finally:
        await upstream.close()
    await _close(client, upstream.close_code, upstream.close_reason)


async def _up(client: WebSocket, upstream: ClientConnection) -> None:
    with contextlib.suppress(ConnectionClosed, WebSocketDisconnect):
        while True:
            message = await client.receive()
            if message["type"] == "websocket.disconnect":
                return
            text, data = message.get("text"), message.get("bytes")
            frame = text if text is not None else data
            if frame is None or len(frame) > MAX_FRAME_BYTES:
                return
            await upstream.send(frame)


async def _down(upstream: ClientConnection, client: WebSocket) -> None:
    with contextlib.suppress(ConnectionClosed, WebSocketDisconnect):
        async for frame in upstream:
            if isinstance(frame, str):
                await client.send_text(frame)
            else:
                await client.send_bytes(frame)


async def _refuse(client: WebSocket, error: MarketError, subprotocol: str | None = None) -> None:
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        if client.client_state is WebSocketState.CONNECTING:
            await client.accept(subprotocol=subprotocol)
        if subprotocol is None:
            await client.send_json({"type": "error", "error": error.as_dict()})
        await client.close(close_code(error), error.code)


async def _close(client: WebSocket, code: int | None, reason: str | None) -> None:
    """Pass the upstream's close on; codes that may not be sent become a plain end."""
    if client.client_state is not WebSocketState.CONNECTED or client.application_state is not WebSocketState.CONNECTED:
        return
    passable = code is not None and (code in (1000, 1001, 1008, 1009, 1011, 1013) or 3000 <= code < 5000)
    with contextlib.suppress(RuntimeError, WebSocketDisconnect):
        await client.close(code if passable and code is not None else 1011, (reason or "")[:100])
