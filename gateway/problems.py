"""Errors as RFC 9457 problem documents, with the stable codes of `gpumarket.errors`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from gpumarket.errors import MarketError
from gpumarket.log import Log

Handler = Callable[[Request], Awaitable[Response]]

_WEBSOCKET_CODE_BASE = 4_000


def problem(error: MarketError) -> Response:
    """The error as `application/problem+json` with its HTTP status."""
    headers = {"retry-after": "1"} if error.kind.http_status in (429, 503) else None
    return JSONResponse(
        error.as_problem(), status_code=error.kind.http_status, headers=headers, media_type="application/problem+json"
    )


def guarded(handler: Handler, log: Log) -> Handler:
    """`handler`, with expected errors as problems and defects as one `internal` problem that tells nothing."""

    async def handle(request: Request) -> Response:
        try:
            return await handler(request)
        except MarketError as error:
            return problem(error)
        except Exception as error:
            log.error("request failed", error=error, path=request.url.path)
            return problem(MarketError("internal", "the gateway failed to answer this request"))

    return handle


def close_code(error: MarketError) -> int:
    """The WebSocket close code of an error: 4000 plus its HTTP status."""
    return _WEBSOCKET_CODE_BASE + error.kind.http_status
