"""Tells every oracle that this host is alive, over one outbound WebSocket each, and hears their challenges there."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from gpumarket.chain.deployments import Deployment
from gpumarket.chain.typed_data import heartbeat
from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.units import JobId
from provider_agent.challenges import Challenges
from provider_agent.ports import Chain, Clock, Signer

MAX_TEXT_BYTES = 64 << 10
COMMITTEE_S = 60.0
"""How often the committee is read from the chain."""

_MAX_PAUSE_S = 30.0
_OPEN_S = 10.0


class Pulse:
    """Makes signed heartbeats with rising numbers, also over restarts: the number is at least the time in 1/100 s."""

    def __init__(self, deployment: Deployment, signer: Signer, clock: Clock) -> None:
        self._deployment = deployment
        self._signer = signer
        self._clock = clock
        self._seq = 0

    def beat(self, jobs: list[JobId], metrics: Mapping[str, Any]) -> str:
        """The text frame of the next heartbeat."""
        now = self._clock()
        timestamp = int(now)
        self._seq = max(self._seq + 1, int(now * 100))
        text = json.dumps(metrics, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        digest = hashlib.sha256(text.encode()).digest()
        provider = self._signer.address
        message = heartbeat(self._deployment, provider, self._seq, timestamp, jobs, digest)
        return json.dumps(
            {
                "type": "heartbeat",
                "heartbeat": {
                    "provider": provider,
                    "seq": self._seq,
                    "timestamp": timestamp,
                    "jobs": jobs,
                    "metrics": metrics,
                },
                "signature": "0x" + self._signer.sign_typed(message).hex(),
            }
        )


@dataclass(frozen=True)
class Heartbeats:
    """Connections to the whole committee.

    Attributes:
        report: the jobs that run now, and measurements of this machine as JSON of whole numbers and text.
        challenges: makes one answerer per oracle.
    """

    chain: Chain
    pulse: Pulse
    report: Callable[[], Awaitable[tuple[list[JobId], dict[str, Any]]]]
    challenges: Callable[[], Challenges]
    interval_s: float
    log: Log

    async def run(self, stop: asyncio.Event) -> None:
        """Keep one connection per member until `stop`; members come and go with the chain's list."""
        members: dict[str, asyncio.Task[None]] = {}
        try:
            while not stop.is_set():
                wanted = await self._endpoints(set(members))
                for endpoint in set(members) - wanted:
                    members.pop(endpoint).cancel()
                for endpoint in wanted - set(members):
                    members[endpoint] = asyncio.create_task(self._keep(endpoint))
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(stop.wait(), COMMITTEE_S if members else self.interval_s)
        finally:
            for task in members.values():
                task.cancel()
            await asyncio.gather(*members.values(), return_exceptions=True)

    async def _endpoints(self, known: set[str]) -> set[str]:
        try:
            committee = await self.chain.committee()
        except MarketError as error:
            self.log.warning("committee unknown for now", code=error.code)
            return known
        return {member.endpoint for member in committee.members if member.endpoint.startswith(("http://", "https://"))}

    async def _keep(self, endpoint: str) -> None:
        pause = 1.0
        while True:
            began = asyncio.get_running_loop().time()
            try:
                await self._converse(endpoint)
            except (OSError, TimeoutError, WebSocketException, ValueError) as error:
                self.log.warning("oracle out of reach", endpoint=endpoint, reason=str(error)[:200])
            lasted = asyncio.get_running_loop().time() - began
            pause = 1.0 if lasted > _MAX_PAUSE_S else min(pause * 2, _MAX_PAUSE_S, self.interval_s)
            await asyncio.sleep(pause)

    async def _converse(self, endpoint: str) -> None:
        url = "ws" + endpoint.removeprefix("http").rstrip("/") + "/v1/agents"
        async with connect(
            url, open_timeout=_OPEN_S, close_timeout=2, max_size=MAX_TEXT_BYTES, compression=None, proxy=None
        ) as socket:
            self.log.info("oracle connected", endpoint=endpoint)
            beating = asyncio.create_task(self._beat(socket))
            answering = asyncio.create_task(self._answer(socket, endpoint))
            try:
                done, _ = await asyncio.wait({beating, answering}, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    await task
            finally:
                for task in (beating, answering):
                    task.cancel()
                await asyncio.gather(beating, answering, return_exceptions=True)

    async def _beat(self, socket: ClientConnection) -> None:
        while True:
            jobs, metrics = await self.report()
            await socket.send(self.pulse.beat(jobs, metrics))
            await asyncio.sleep(self.interval_s)

    async def _answer(self, socket: ClientConnection, endpoint: str) -> None:
        challenges = self.challenges()
        async for text in socket:
            frame = json.loads(text)
            if not isinstance(frame, dict) or frame.get("type") != "challenge":
                continue
            answer = await challenges.answer(frame)
            await socket.send(json.dumps(answer.frame))
            if answer.car is not None:
                await socket.send(answer.car)
            self.log.info("challenge answered", endpoint=endpoint, answer=str(answer.frame["type"]))
