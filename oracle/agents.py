"""The hosts that are connected right now: heartbeats in, challenges out, over one WebSocket each.

Everything a host sends is hostile input: frames are bounded in size and rate, nobody speaks before a valid heartbeat of
a provider that has a resource on chain, and binary frames are taken only while an answer is awaited.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from gpumarket.chain import typed_data
from gpumarket.chain.deployments import Deployment
from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.units import Address, JobId, parse_job_id
from oracle.heartbeats import MAX_JOBS, Heartbeat, Tracker
from oracle.possession import (
    MAX_CAR_BYTES,
    Answer,
    Challenge,
    Finding,
    Statement,
    Transcript,
    conclude,
)

MAX_TEXT_BYTES = 64 << 10
MAX_CONNECTIONS = 1_024
FIRST_FRAME_S = 10
RATE_PER_S = 10
BURST = 40

Registered = Callable[[Address, float], Awaitable[bool]]
"""Whether a provider has a resource on chain, at `now`."""


class Memory(Protocol):
    """Where the last accepted heartbeat of a provider is kept; `Journal` is one."""

    def save_beat(self, provider: Address, seq: int, timestamp: int) -> None: ...


class _Pending:
    def __init__(self, challenge: Challenge) -> None:
        self.challenge = challenge
        self.claim: tuple[str, bytes] | None = None
        self.done: asyncio.Future[tuple[Answer | str, float]] = asyncio.get_running_loop().create_future()


class _Connection:
    def __init__(self, provider: Address, socket: WebSocket) -> None:
        self.provider = provider
        self.socket = socket
        self.pending: _Pending | None = None
        self.owed_cars = 0


class Agents:
    """All connected hosts. One challenge at a time per host."""

    def __init__(
        self,
        tracker: Tracker,
        deployment: Deployment,
        memory: Memory,
        registered: Registered,
        clock: Callable[[], float],
        log: Log,
    ) -> None:
        self._tracker, self._deployment, self._memory = tracker, deployment, memory
        self._registered, self._clock, self._log = registered, clock, log
        self._connections: dict[Address, _Connection] = {}
        self._sockets = 0

    def connected(self) -> list[Address]:
        return list(self._connections)

    def is_idle(self, provider: Address) -> bool:
        """Connected, and no challenge of ours is open."""
        connection = self._connections.get(provider)
        return connection is not None and connection.pending is None

    async def challenge(self, challenge: Challenge, statement: Statement) -> Transcript:
        """Ask and wait, at most until the challenge expires."""
        connection = self._connections.get(challenge.provider)
        if connection is None or connection.pending is not None:
            return Transcript(challenge, Finding.UNKNOWN, detail="not connected")
        pending = connection.pending = _Pending(challenge)
        try:
            connection.owed_cars += 1
            await connection.socket.send_text(json.dumps(challenge.frame()))
            left = challenge.expires_at - self._clock()
            answer, at = await asyncio.wait_for(pending.done, max(0.0, left))
        except TimeoutError:
            return Transcript(challenge, Finding.NO_ANSWER, detail="no answer in time")
        except (WebSocketDisconnect, RuntimeError):
            return Transcript(challenge, Finding.UNKNOWN, detail="disconnected")
        finally:
            connection.pending = None
        if isinstance(answer, str):
            gone = answer == "disconnected"
            return Transcript(challenge, Finding.UNKNOWN if gone else Finding.NO_ANSWER, detail=answer)
        return await asyncio.to_thread(conclude, challenge, answer, at, statement)

    async def serve(self, socket: WebSocket) -> None:
        """One host's connection from accept to close."""
        await socket.accept()
        if self._sockets >= MAX_CONNECTIONS:
            await socket.close(1013, "too many connections")
            return
        self._sockets += 1
        connection: _Connection | None = None
        try:
            connection = await self._enter(socket)
            await self._listen(connection)
        except WebSocketDisconnect:
            pass
        except (MarketError, TimeoutError) as error:
            code = error.code if isinstance(error, MarketError) else "deadline_passed"
            self._log.info("host connection refused", code=code, reason=str(error)[:200])
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await socket.close(1008, code)
        finally:
            self._sockets -= 1
            if connection is not None:
                self._leave(connection)

    async def _enter(self, socket: WebSocket) -> _Connection:
        message = await asyncio.wait_for(socket.receive(), FIRST_FRAME_S)
        beat, signature = parse_heartbeat(_text(message))
        now = self._clock()
        verify_heartbeat(self._deployment, beat, signature)
        if not await self._registered(beat.provider, now):
            raise MarketError("forbidden", "the provider has no resource on chain", provider=beat.provider)
        self._accept(beat)
        connection = _Connection(beat.provider, socket)
        before = self._connections.get(beat.provider)
        self._connections[beat.provider] = connection
        if before is not None and before.socket.application_state is WebSocketState.CONNECTED:
            with contextlib.suppress(RuntimeError, WebSocketDisconnect):
                await before.socket.close(1001, "replaced by a newer connection")
        self._log.info("host connected", provider=beat.provider)
        return connection

    async def _listen(self, connection: _Connection) -> None:
        allowance, at = float(BURST), self._clock()
        while True:
            message = await connection.socket.receive()
            now = self._clock()
            allowance, at = min(BURST, allowance + max(0.0, now - at) * RATE_PER_S) - 1, now
            if allowance < 0:
                raise MarketError("rate_limited", "too many frames", provider=connection.provider)
            data = message.get("bytes")
            if message["type"] == "websocket.receive" and data is not None:
                _take_car(connection, data, now)
                continue
            frame = _text(message)
            match frame.get("type"):
                case "heartbeat":
                    self._take_heartbeat(connection, frame)
                case "possession":
                    _take_claim(connection, frame)
                case "refusal":
                    _take_refusal(connection, frame, now)
                case _:
                    raise MarketError("invalid_argument", "unknown frame type")

    def _take_heartbeat(self, connection: _Connection, frame: dict[str, Any]) -> None:
        beat, signature = parse_heartbeat(frame)
        if beat.provider != connection.provider:
            raise MarketError("unauthorized", "the heartbeat is another provider's")
        verify_heartbeat(self._deployment, beat, signature)
        self._accept(beat)

    def _accept(self, beat: Heartbeat) -> None:
        silence = self._tracker.accept(beat, self._clock())
        self._memory.save_beat(beat.provider, beat.seq, beat.timestamp)
        if silence is not None:
            self._log.warning(
                "host was silent", provider=beat.provider, since=int(silence.start), until=int(silence.to or 0)
            )

    def _leave(self, connection: _Connection) -> None:
        if self._connections.get(connection.provider) is connection:
            del self._connections[connection.provider]
            self._log.info("host disconnected", provider=connection.provider)
        _settle(connection.pending, "disconnected", self._clock())


def parse_heartbeat(frame: dict[str, Any]) -> tuple[Heartbeat, bytes]:
    """A heartbeat frame's content and its signature, checked for shape only.

    Raises:
        MarketError: `invalid_argument`.
    """
    try:
        body = frame["heartbeat"]
        jobs, seq, timestamp = body["jobs"], body["seq"], body["timestamp"]
        if frame.get("type") != "heartbeat" or not isinstance(jobs, list) or len(jobs) > MAX_JOBS:
            raise ValueError("not a heartbeat")
        if not all(type(n) is int and 0 <= n < 1 << 40 for n in (seq, timestamp)):
            raise ValueError("seq and timestamp must be whole numbers")
        beat = Heartbeat(
            provider=Address(str(body["provider"])),
            seq=seq,
            timestamp=timestamp,
            jobs=tuple(JobId(parse_job_id(job)) for job in jobs),
            metrics_hash=metrics_hash(body.get("metrics", {})),
        )
        return beat, bytes.fromhex(str(frame["signature"]).removeprefix("0x"))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise MarketError("invalid_argument", f"malformed heartbeat: {str(error)[:100]}") from error


def metrics_hash(metrics: Any) -> str:
    """sha2-256 of the metrics as canonical JSON (sorted keys, no spaces), as 0x hex."""
    text = json.dumps(metrics, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return "0x" + hashlib.sha256(text.encode()).hexdigest()


def verify_heartbeat(deployment: Deployment, beat: Heartbeat, signature: bytes) -> None:
    """Raises MarketError `unauthorized` unless the provider itself signed."""
    statement = typed_data.heartbeat(deployment, beat.provider, beat.seq, beat.timestamp, beat.jobs, beat.metrics_hash)
    if typed_data.recover(statement, signature) != beat.provider:
        raise MarketError("unauthorized", "the heartbeat is not signed by its provider")


def _text(message: Any) -> dict[str, Any]:
    if message["type"] == "websocket.disconnect":
        raise WebSocketDisconnect(message.get("code", 1005))
    text = message.get("text")
    if text is None or len(text) > MAX_TEXT_BYTES or len(text.encode()) > MAX_TEXT_BYTES:
        raise MarketError("invalid_argument", "a text frame of at most 64 KiB is expected")
    try:
        frame = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise MarketError("invalid_argument", "a frame is not JSON") from error
    if not isinstance(frame, dict):
        raise MarketError("invalid_argument", "a frame is not a JSON object")
    return frame


def _take_claim(connection: _Connection, frame: dict[str, Any]) -> None:
    pending = connection.pending
    if pending is None or frame.get("challengeId") != pending.challenge.challenge_id:
        return  # late or stray: the deadline has already spoken
    try:
        signature = bytes.fromhex(str(frame["signature"]).removeprefix("0x"))
        digest = bytes.fromhex(str(frame["dataSha256"]).removeprefix("0x"))
        if len(digest) != 32:
            raise ValueError("dataSha256")
    except (KeyError, ValueError) as error:
        raise MarketError("invalid_argument", "malformed possession answer") from error
    pending.claim = ("0x" + digest.hex(), signature)


def _take_car(connection: _Connection, data: bytes, now: float) -> None:
    if connection.owed_cars == 0 or len(data) > MAX_CAR_BYTES:
        raise MarketError("invalid_argument", "a binary frame that is too large or was not asked for")
    connection.owed_cars -= 1
    pending = connection.pending
    if pending is not None and pending.claim is not None:
        _settle(pending, Answer(*pending.claim, data), now)


def _take_refusal(connection: _Connection, frame: dict[str, Any], now: float) -> None:
    pending = connection.pending
    if pending is not None and frame.get("challengeId") == pending.challenge.challenge_id:
        _settle(pending, f"refused: {str(frame.get('code', ''))[:60]}", now)


def _settle(pending: _Pending | None, answer: Answer | str, now: float) -> None:
    if pending is not None and not pending.done.done():
        pending.done.set_result((answer, now))
