"""The REST face: GPUs, offers and instances, read from the indexer; and /graphql, passed through."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from gateway import queries
from gateway.indexer import Indexer
from gateway.problems import guarded
from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules import settlement
from gpumarket.rules.units import parse_duration, parse_job_id, parse_resource_id

MAX_BODY_BYTES = 1 << 20
MAX_PAGE = 100
DEFAULT_PAGE = 50
MAX_OFFSET = 1_000_000

T = TypeVar("T")

_PASSED_HEADERS = ("accept", "content-type")


def routes(indexer: Indexer, log: Log) -> list[BaseRoute]:
    """All HTTP routes of the gateway but health."""

    async def graphql(request: Request) -> Response:
        body = await _bounded_body(request) if request.method == "POST" else None
        headers = {name: request.headers[name] for name in _PASSED_HEADERS if name in request.headers}
        query = request.scope["query_string"]
        answer = await indexer.send(request.method, content=body, query=query, headers=headers)
        return Response(answer.body, answer.status, media_type=answer.content_type)

    async def gpus(request: Request) -> Response:
        limit, offset = _page(request)
        found = await indexer.query(queries.GPUS, {"filters": _filters(request), "limit": limit + 1, "offset": offset})
        return _tagged(request, _listing(found["gpus"], limit, offset))

    async def gpu(request: Request) -> Response:
        resource_id = _parsed(parse_resource_id, request.path_params["id"])
        found = (await indexer.query(queries.GPU, {"id": resource_id}))["gpu"]
        if found is None:
            raise MarketError("not_found", f"no resource {resource_id}")
        return _tagged(request, found)

    async def offers(request: Request) -> Response:
        limit, offset = _page(request)
        text = request.query_params.get("seconds", "3600")
        seconds = _parsed(parse_duration, text)
        filters = {**_filters(request), "available": True, "busy": False}
        found = await indexer.query(queries.GPUS, {"filters": filters, "limit": limit + 1, "offset": offset})
        page = _listing(found["gpus"], limit, offset)
        page["items"] = [_offer(gpu, seconds) for gpu in page["items"] if _rentable(gpu, seconds)]
        return _tagged(request, {**page, "seconds": seconds})

    async def instances(request: Request) -> Response:
        limit, offset = _page(request)
        user = request.query_params.get("user")
        if not user:
            raise MarketError("invalid_argument", "user is needed", hint="/api/v1/instances?user=0x...")
        found = await indexer.query(queries.JOBS, {"user": user, "limit": limit + 1, "offset": offset})
        return _tagged(request, _listing(found["jobs"], limit, offset))

    async def instance(request: Request) -> Response:
        job_id = _parsed(parse_job_id, request.path_params["id"])
        found = (await indexer.query(queries.JOB, {"id": job_id}))["job"]
        if found is None:
            raise MarketError("not_found", f"no job {job_id}")
        return _tagged(request, found)

    return [
        Route("/graphql", guarded(graphql, log), methods=["GET", "POST"]),
        Route("/api/v1/gpus", guarded(gpus, log)),
        Route("/api/v1/gpus/{id}", guarded(gpu, log)),
        Route("/api/v1/offers", guarded(offers, log)),
        Route("/api/v1/instances", guarded(instances, log)),
        Route("/api/v1/instances/{id}", guarded(instance, log)),
    ]


def encode_cursor(offset: int) -> str:
    """An opaque place in a list."""
    return base64.urlsafe_b64encode(f"o{offset}".encode()).decode().rstrip("=")


def decode_cursor(text: str) -> int:
    """The inverse of `encode_cursor`.

    Raises:
        MarketError: `invalid_argument`.
    """
    try:
        plain = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True).decode()
        offset = int(plain.removeprefix("o"))
    except ValueError:
        offset, plain = -1, ""
    if not plain.startswith("o") or not 0 <= offset <= MAX_OFFSET:
        raise MarketError("invalid_argument", "the cursor is not one of ours", hint="pass `next` of the last answer")
    return offset


def _page(request: Request) -> tuple[int, int]:
    limit = _number("limit", request.query_params.get("limit", str(DEFAULT_PAGE)))
    if not 1 <= limit <= MAX_PAGE:
        raise MarketError("invalid_argument", f"limit must be 1..{MAX_PAGE}", limit=limit)
    cursor = request.query_params.get("cursor")
    return limit, 0 if cursor is None else decode_cursor(cursor)


def _listing(rows: list[Any], limit: int, offset: int) -> dict[str, Any]:
    following = encode_cursor(offset + limit) if len(rows) > limit else None
    return {"items": rows[:limit], "next": following}


def _filters(request: Request) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, kind in queries.FILTERS.items():
        text = request.query_params.get(name)
        if text is None:
            continue
        if kind == "int":
            found[name] = _number(name, text)
        elif kind == "amount":
            found[name] = str(_number(name, text))
        elif kind == "bool":
            if text not in ("true", "false"):
                raise MarketError("invalid_argument", f"{name} must be true or false", given=text[:40])
            found[name] = text == "true"
        else:
            found[name] = text[:200]
    return found


def _number(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= 39):
        raise MarketError("invalid_argument", f"{name} must be a whole number", given=text[:40])
    return int(text)


def _parsed(parse: Callable[[str], T], text: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        raise MarketError("invalid_argument", str(error)[:300]) from error


def _rentable(gpu: Mapping[str, Any], seconds: int) -> bool:
    return bool(gpu["available"]) and not gpu["busy"] and int(gpu["minSeconds"]) <= seconds <= int(gpu["maxSeconds"])


def _offer(gpu: Mapping[str, Any], seconds: int) -> dict[str, Any]:
    """A resource with what `seconds` of it lock up at most, base units: everything a renter pays, fee included."""
    return {**gpu, "totalPrice": str(settlement.lock_up(int(gpu["pricePerHour"]), seconds))}


def _tagged(request: Request, value: Any) -> Response:
    body = json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
    tag = '"' + hashlib.sha256(body).hexdigest()[:32] + '"'
    headers = {"etag": tag, "cache-control": "no-cache"}
    known = [t.strip().removeprefix("W/") for t in request.headers.get("if-none-match", "").split(",")]
    if tag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type="application/json", headers=headers)


async def _bounded_body(request: Request) -> bytes:
    body = bytearray()
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY_BYTES:
                raise MarketError("request_too_complex", "the request body is over the limit", maximum=MAX_BODY_BYTES)
    except ClientDisconnect as error:
        raise MarketError("invalid_argument", "the client went away") from error
    return bytes(body)
