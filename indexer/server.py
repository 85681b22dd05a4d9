"""GraphQL over HTTP and graphql-transport-ws, and what the service tells of itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute
from starlette.types import Message, Receive, Scope, Send
from starlette.websockets import WebSocket
from strawberry.asgi import GraphQL
from strawberry.subscriptions import GRAPHQL_TRANSPORT_WS_PROTOCOL

from gpumarket.errors import MarketError
from gpumarket.metrics import Metrics
from indexer.follow import Follower, Progress
from indexer.hub import Hub
from indexer.loaders import Context, Loaders
from indexer.queries import Reader
from indexer.schema import Schema

READY_LAG_BLOCKS = 10
READY_SILENCE_S = 10.0
MAX_BODY_BYTES = 128 * 1024


def routes(schema: Schema, reader: Reader, hub: Hub, progress: Callable[[], Progress | None]) -> list[BaseRoute]:
    """POST, GET and WebSocket at /graphql."""
    app = _GraphQLApp(schema, reader, hub, progress)
    return [Route("/graphql", app), WebSocketRoute("/graphql", app)]


def readiness(progress: Progress | None, *, clock: float, now: float) -> dict[str, Any]:
    """What /readyz says.

    Args:
        clock: the follower's clock; now: unix seconds.

    Raises:
        MarketError: `chain_unreachable`: the node was not seen lately; `indexer_unreachable`: still catching up.
    """
    if progress is None:
        raise MarketError("chain_unreachable", "the chain's node has not answered yet")
    details: dict[str, Any] = {
        "head_block": progress.head.number,
        "head_age_s": round(max(0.0, now - progress.head.timestamp), 1),
        "indexed_block": progress.cursor.number,
        "lag_blocks": progress.lag,
    }
    silence = clock - progress.seen_at
    if silence > READY_SILENCE_S:
        raise MarketError("chain_unreachable", f"the chain's node has been silent for {silence:.0f} s", **details)
    if progress.cursor.number - progress.head.number > READY_LAG_BLOCKS:
        raise MarketError("chain_unreachable", "the chain's node is far behind what is indexed already", **details)
    if progress.lag > READY_LAG_BLOCKS:
        raise MarketError("indexer_unreachable", f"still {progress.lag} blocks behind", hint="wait", **details)
    return details


def add_metrics(metrics: Metrics, follower: Follower, now: Callable[[], float]) -> None:
    """Head, lag, age and counts, read from the follower when they are asked for."""

    def of_progress(read: Callable[[Progress], float]) -> Callable[[], float]:
        return lambda: 0.0 if follower.progress is None else read(follower.progress)

    gauges: tuple[tuple[str, str, Callable[[], float]], ...] = (
        ("head_block", "The node's newest block.", of_progress(lambda p: p.head.number)),
        ("head_age_seconds", "Age of the node's newest block.", of_progress(lambda p: now() - p.head.timestamp)),
        ("indexed_block", "The last indexed block.", of_progress(lambda p: p.cursor.number)),
        ("finalized_block", "The highest block known to be final.", of_progress(lambda p: p.cursor.finalized)),
        ("lag_blocks", "Blocks not indexed yet.", of_progress(lambda p: p.lag)),
        ("events_indexed", "Events indexed since the start.", lambda: float(follower.events_indexed)),
        ("rollbacks", "Reorganizations followed since the start.", lambda: float(follower.rollbacks)),
    )
    for name, help_text, read in gauges:
        metrics.gauge(name, help_text).set_function(read)


class _GraphQLApp(GraphQL[Context, None]):
    def __init__(self, schema: Schema, reader: Reader, hub: Hub, progress: Callable[[], Progress | None]) -> None:
        super().__init__(schema, graphql_ide=None, subscription_protocols=(GRAPHQL_TRANSPORT_WS_PROTOCOL,))
        self._reader = reader
        self._hub = hub
        self._progress = progress

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        read = 0

        async def bounded() -> Message:
            nonlocal read
            message = await receive()
            if message["type"] == "http.request":
                read += len(message.get("body", b""))
                if read > MAX_BODY_BYTES:
                    raise MarketError("request_too_complex", f"a request has at most {MAX_BODY_BYTES} bytes")
            return message

        try:
            await super().__call__(scope, bounded, send)
        except MarketError as error:
            shown = {"message": error.message, "extensions": {"code": error.code}}
            await JSONResponse({"errors": [shown]}, status_code=413)(scope, receive, send)

    async def get_context(self, request: Request | WebSocket, response: Response | WebSocket) -> Context:
        return Context(self._reader, Loaders(self._reader), self._hub, self._progress, request, response)
