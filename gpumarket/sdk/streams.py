"""A job's live logs and metrics: frames over a WebSocket that survive a lost connection without a gap or a double."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from gpumarket.errors import ERROR_KINDS, MarketError

# A gateway that restarts, an indexer or an agent that has not seen the job yet: worth another attempt.
_PASSING = frozenset(
    {"provider_unreachable", "gateway_unreachable", "indexer_unreachable", "chain_unreachable", "not_found", "internal"}
)
_LONGEST_PAUSE_S = 2.0


@dataclass(frozen=True)
class Frame:
    """One message of a stream.

    Attributes:
        type: `log`, `metrics`, `status` or `end`.
        seq: position of a log line; None for the rest.
        data: the whole frame as sent.
    """

    type: str
    seq: int | None
    data: dict[str, Any]


class Socket(Protocol):
    """A WebSocket of text frames; raises `ConnectionError` when it is lost."""

    async def send(self, text: str) -> None: ...

    async def receive(self) -> str: ...


Connect = Callable[[], AbstractAsyncContextManager[Socket]]
"""Opens the stream; raises `ConnectionError` when nobody answers."""

Greeting = Callable[[int], dict[str, Any]]
"""The first frame, freshly signed, asking for what comes after a position."""


async def follow(
    connect: Connect,
    greeting: Greeting,
    sleep: Callable[[float], Awaitable[None]],
    *,
    after: int = 0,
    attempts: int = 60,
) -> AsyncIterator[Frame]:
    """Frames until `end`, reconnecting after the last position seen.

    Args:
        after: position of the last line already seen.
        attempts: connections in a row that bring nothing before it gives up.

    Raises:
        MarketError: what the other side says, or `gateway_unreachable`.
    """
    fruitless = 0
    last = MarketError("gateway_unreachable", "the stream could not be opened")
    while fruitless < attempts:
        try:
            async with connect() as socket:
                await socket.send(json.dumps(greeting(after)))
                while True:
                    frame = _parse(await socket.receive())
                    if frame.seq is not None:
                        if frame.seq <= after:
                            continue
                        after = frame.seq
                    if frame.type != "status":  # that one may come with every connection
                        fruitless = 0
                    yield frame
                    if frame.type == "end":
                        return
        except (ConnectionError, TimeoutError) as error:
            last = MarketError("gateway_unreachable", f"the stream broke off: {error}", hint="is the gateway running?")
        except MarketError as error:
            if error.code not in _PASSING:
                raise
            last = error
        fruitless += 1
        await sleep(min(0.25 * 2 ** min(fruitless, 3), _LONGEST_PAUSE_S))
    raise last


def _parse(text: str) -> Frame:
    try:
        data = json.loads(text)
        kind = str(data["type"])
    except (ValueError, TypeError, KeyError) as error:
        raise MarketError("internal", "the stream sent a frame that is no JSON object with a type") from error
    if kind == "error":
        detail = data.get("error") or {}
        code = detail.get("code")
        raise MarketError(
            code if code in ERROR_KINDS else "internal",
            str(detail.get("message") or detail.get("detail") or "the stream was refused"),
            hint=str(detail.get("hint") or ""),
        )
    seq = data.get("seq")
    return Frame(kind, seq if kind == "log" and isinstance(seq, int) else None, data)
