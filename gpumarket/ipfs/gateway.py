"""The trustless HTTP face of a store: `GET|HEAD /ipfs/{cid}[/{path}]` as raw block or CAR, nothing that needs trust.

After the trustless gateway specification of IPFS. It serves what the store has and never looks elsewhere. CARs are
streamed one block at a time, depth first, each block once.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from enum import Enum

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from gpumarket.errors import MarketError
from gpumarket.ipfs import car, dag
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.dag import Scope, Span
from gpumarket.ipfs.store import BlockStore

RAW_TYPE = "application/vnd.ipld.raw"
CAR_TYPE = "application/vnd.ipld.car"
_CAR_ANSWER = f"{CAR_TYPE}; version=1; order=dfs; dups=n"
_IMMUTABLE = "public, max-age=29030400, immutable"
# The empty identity CID, which clients ask for to learn whether a server is a trustless gateway.
_PROBE = "bafkqaaa"
_PROBE_BYTES = b"\x01\x55\x00\x00"


def routes(store: BlockStore) -> list[Route]:
    """The routes to mount into a Starlette application."""

    async def answer(request: Request) -> Response:
        try:
            return await _answer(store, request)
        except _Refused as error:
            return _problem(error.status, error.code, error.message)
        except MarketError as error:
            missing = error.code in ("image_block_missing", "not_found")
            return _problem(404 if missing else error.kind.http_status, error.code, error.message)

    return [
        Route("/ipfs/{cid}", answer, methods=["GET", "HEAD"]),
        Route("/ipfs/{cid}/{path:path}", answer, methods=["GET", "HEAD"]),
    ]


class _Format(Enum):
    RAW = "raw"
    CAR = "car"


@dataclass(frozen=True)
class _Question:
    """A request, understood. `negotiated`: the format came from the Accept header, so caches must know about it."""

    format: _Format
    negotiated: bool
    scope: Scope
    span: Span | None


class _Refused(Exception):
    def __init__(self, status: int, message: str, code: str = "invalid_argument") -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message


async def _answer(store: BlockStore, request: Request) -> Response:
    question = _understand(request)
    text, path = request.path_params["cid"], request.path_params.get("path", "").strip("/")
    if text == _PROBE and not path:
        return _probe(question)
    try:
        cid = Cid.parse(text)
    except MarketError as error:
        raise _Refused(400, error.message) from None
    if question.format is _Format.RAW and path:
        raise _Refused(400, "a raw block is asked for by its CID alone; ask for format=car to follow a path")
    headers = _headers(request, question, cid, path)
    if _is_cached(request, headers["etag"]):
        if not await asyncio.to_thread(store.has, cid):
            raise _Refused(404, f"block {cid} is not here", "not_found")
        return Response(status_code=304, headers={k: headers[k] for k in ("etag", "cache-control", "vary")})
    if question.format is _Format.RAW:
        block = await asyncio.to_thread(store.get, cid)
        if block is None:
            raise _absent(request, cid)
        return Response(
            b"" if request.method == "HEAD" else block, headers={**headers, "content-length": str(len(block))}
        )
    found = dag.blocks(store, cid, path, question.scope, question.span)
    # The first block comes only after root, path and span were found good; later only a child can be missing.
    try:
        first = await asyncio.to_thread(next, found, None)
    except MarketError as error:
        if error.code == "image_block_missing" and error.details.get("cid") == str(cid):
            raise _absent(request, cid) from None
        raise
    if request.method == "HEAD" or first is None:
        return Response(headers=headers)
    return StreamingResponse(_stream(cid, first, found), headers=headers)


async def _stream(cid: Cid, first: tuple[Cid, bytes], rest: Iterator[tuple[Cid, bytes]]) -> AsyncIterator[bytes]:
    yield car.header([cid])
    item: tuple[Cid, bytes] | None = first
    while item is not None:
        yield car.section(*item)
        try:
            item = await asyncio.to_thread(next, rest, None)
        except MarketError:
            # The status has been sent; the specification ends the stream here, and readers notice what is missing.
            return


def _understand(request: Request) -> _Question:
    query = request.query_params
    wanted = query.get("format")
    parameters: dict[str, str] = {}
    if wanted is None:
        wanted, parameters = _accepted(request.headers.get("accept"))
    if wanted not in ("raw", "car"):
        raise _Refused(406, f"format {wanted!r} is not served; ask for raw or car")
    if wanted == "car":
        for name, known in (("version", ("1",)), ("order", ("dfs", "unk")), ("dups", ("n",))):
            value = query.get(f"car-{name}", parameters.get(name))
            if value is not None and value not in known:
                raise _Refused(406, f"a CAR with {name}={value} is not served")
    try:
        scope = Scope(query.get("dag-scope", "all"))
    except ValueError:
        raise _Refused(400, "dag-scope is one of block, entity, all") from None
    span = _span(query["entity-bytes"]) if "entity-bytes" in query else None
    if span is not None and scope is Scope.ALL:
        scope = Scope.ENTITY
    return _Question(_Format(wanted), "format" not in query, scope, span)


def _accepted(header: str | None) -> tuple[str, dict[str, str]]:
    """The best format an Accept header asks for, with its parameters."""
    if not header:
        raise _Refused(400, "say what you want: ?format=raw, ?format=car, or an Accept header")
    best: tuple[float, str, dict[str, str]] = (0.0, "", {})
    for item in header.split(","):
        name, *rest = (part.strip() for part in item.split(";"))
        parameters = {
            key.strip().lower(): value.strip().strip('"') for key, _, value in (p.partition("=") for p in rest)
        }
        kind = {RAW_TYPE: "raw", CAR_TYPE: "car"}.get(name.lower())
        try:
            quality = float(parameters.get("q", "1"))
        except ValueError:
            quality = 0.0
        if kind and quality > best[0]:
            best = (quality, kind, parameters)
    if not best[1]:
        raise _Refused(406, f"only {RAW_TYPE} and {CAR_TYPE} are served")
    return best[1], best[2]


def _span(text: str) -> Span:
    first, colon, last = text.partition(":")
    try:
        if not colon or len(text) > 64:
            raise ValueError
        span = int(first), None if last == "*" else int(last)
    except ValueError:
        raise _Refused(400, "entity-bytes is from:to, e.g. 0:1023, 100:*, -1024:*") from None
    if span[1] is not None and (span[0] < 0) == (span[1] < 0) and span[0] > span[1]:
        raise _Refused(400, "entity-bytes ends before it begins")
    return span


def _headers(request: Request, question: _Question, cid: Cid, path: str) -> dict[str, str]:
    extension, kind = ("bin", RAW_TYPE) if question.format is _Format.RAW else ("car", _CAR_ANSWER)
    headers = {
        "content-type": kind,
        "content-disposition": f'attachment; filename="{cid}.{extension}"',
        "etag": _etag(question, cid, path),
        "cache-control": _IMMUTABLE,
        "vary": "Accept",
        "x-content-type-options": "nosniff",
        "x-ipfs-path": str(request.url.path),
        "accept-ranges": "none",
    }
    if question.negotiated:
        query = "&".join(part for part in (request.url.query, f"format={question.format.value}") if part)
        headers["content-location"] = f"{request.url.path}?{query}"
    return headers


def _etag(question: _Question, cid: Cid, path: str) -> str:
    if question.format is _Format.RAW:
        return f'"{cid}.raw"'
    shape = hashlib.sha256(f"{path}\n{question.span}".encode()).hexdigest()[:16]
    return f'W/"{cid}.car.{question.scope.value}.{shape}"'


def _is_cached(request: Request, etag: str) -> bool:
    known = [value.strip().removeprefix("W/") for value in request.headers.get("if-none-match", "").split(",")]
    return "*" in known or etag.removeprefix("W/") in known


def _probe(question: _Question) -> Response:
    if question.format is _Format.RAW:
        return Response(b"", media_type=RAW_TYPE, headers={"cache-control": _IMMUTABLE})
    return Response(car.raw_header([_PROBE_BYTES]), headers={"content-type": _CAR_ANSWER, "cache-control": _IMMUTABLE})


def _absent(request: Request, cid: Cid) -> _Refused:
    # A client that says only-if-cached asks whether we have it at hand; 412 is the specification's "no" to that.
    status = 412 if "only-if-cached" in request.headers.get("cache-control", "") else 404
    return _Refused(status, f"block {cid} is not here", "not_found")


def _problem(status: int, code: str, message: str) -> Response:
    body = MarketError(code, message).as_problem()
    return JSONResponse(
        {**body, "status": status},
        status_code=status,
        headers={"cache-control": "no-store"},
        media_type="application/problem+json",
    )
