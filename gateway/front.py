"""The outermost ASGI function: counts and times requests, answers unknown paths and methods as problems."""

from __future__ import annotations

import json
import time
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gpumarket.errors import MarketError
from gpumarket.metrics import Metrics


class Front:
    """Wraps the application; holds no request in memory."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app = app
        self._requests = metrics.counter("requests", "HTTP requests by status", ("status",))
        self._seconds = metrics.histogram("request_seconds", "Time to the first byte of the answer")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = time.perf_counter()
        swallowed = False

        async def watched(message: Message) -> None:
            nonlocal swallowed
            if message["type"] == "http.response.start":
                self._requests.labels(str(message["status"])).inc()
                self._seconds.observe(time.perf_counter() - began)
                if message["status"] in (404, 405) and not _is_problem(message):
                    swallowed = True
                    for part in _problem_messages(message["status"], scope["path"]):
                        await send(part)
                    return
            if not swallowed:
                await send(message)

        await self._app(scope, receive, watched)


def _is_problem(message: Message) -> bool:
    return any(name == b"content-type" and b"json" in value for name, value in message.get("headers", ()))


def _problem_messages(status: int, path: str) -> list[dict[str, Any]]:
    error = MarketError("not_found", f"nothing answers at {path[:200]}")
    if status == 405:
        error = MarketError("invalid_argument", f"{path[:200]} does not take this method")
    body = json.dumps({**error.as_problem(), "status": status}).encode()
    headers = [(b"content-type", b"application/problem+json"), (b"content-length", str(len(body)).encode())]
    return [
        {"type": "http.response.start", "status": status, "headers": headers},
        {"type": "http.response.body", "body": body},
    ]
