"""A member's HTTP face: hosts connect, members ask for signatures, anybody reads the status and the evidence."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route, WebSocketRoute

from gpumarket.errors import MarketError
from gpumarket.log import Log
from oracle.agents import Agents
from oracle.committee import Member
from oracle.proposal import MAX_BODY_BYTES, Proposal

MAX_PROPOSALS_AT_ONCE = 4

Status = Callable[[], Awaitable[dict[str, Any]]]


def routes(agents: Agents, member: Member, status: Status, log: Log) -> list[BaseRoute]:
    """All routes but health and the gateway's."""
    busy = 0

    async def sign(request: Request) -> Response:
        nonlocal busy
        if busy >= MAX_PROPOSALS_AT_ONCE:
            return _problem(MarketError("rate_limited", "too many proposals at once"))
        busy += 1
        try:
            value = _object(await _bounded_body(request))
            signature = _signature(value)
            signed = await member.sign(Proposal.from_dict(value), signature)
            return JSONResponse({"signature": "0x" + signed.hex()})
        except MarketError as error:
            log.info("proposal refused", code=error.code, reason=error.message, details=error.details)
            return _problem(error)
        finally:
            busy -= 1

    async def show(_: Request) -> Response:
        try:
            return JSONResponse(await status())
        except MarketError as error:
            return _problem(error)

    return [
        WebSocketRoute("/v1/agents", agents.serve),
        Route("/v1/committee/sign", sign, methods=["POST"]),
        Route("/v1/status", show),
    ]


def _problem(error: MarketError) -> Response:
    return JSONResponse(error.as_problem(), status_code=error.kind.http_status, media_type="application/problem+json")


def _object(body: bytes) -> dict[str, Any]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise MarketError("invalid_argument", "the body is not JSON") from error
    if not isinstance(value, dict):
        raise MarketError("invalid_argument", "the body is not a JSON object")
    return value


def _signature(value: dict[str, Any]) -> bytes:
    try:
        return bytes.fromhex(str(value["signature"]).removeprefix("0x"))
    except (KeyError, ValueError) as error:
        raise MarketError("unauthorized", "the proposal is not signed") from error


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise MarketError("invalid_argument", "the body is over the limit", maximum=MAX_BODY_BYTES)
    except ClientDisconnect as error:
        raise MarketError("invalid_argument", "the client went away") from error
    return bytes(body)
