"""Heartbeats and challenges over real WebSockets to oracles that come, go and misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from websockets.asyncio.server import ServerConnection, serve

from gpumarket.chain.types import Member
from gpumarket.rules.units import JobId
from oracle.agents import parse_heartbeat, verify_heartbeat
from provider_agent.challenges import Challenges
from provider_agent.heartbeats import Heartbeats, Pulse
from tests.parts.anvil import free_port
from tests.unit.agent.world import World


@dataclass
class Oracle:
    """Keeps what it hears; sends `challenge` after the first heartbeat."""

    port: int
    challenge: dict[str, Any] | None = None
    beats: list[dict[str, Any]] = field(default_factory=list)
    answers: list[Any] = field(default_factory=list)

    @contextlib.asynccontextmanager
    async def up(self) -> AsyncIterator[None]:
        async with serve(self._hear, "127.0.0.1", self.port, compression=None):
            yield

    async def _hear(self, socket: ServerConnection) -> None:
        async for text in socket:
            if isinstance(text, bytes) or json.loads(text)["type"] != "heartbeat":
                self.answers.append(text)
                continue
            self.beats.append(json.loads(text))
            if self.challenge is not None:
                await socket.send(json.dumps(self.challenge))
                self.challenge = None


async def until(check: Any, seconds: float = 15) -> None:
    deadline = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.05)


async def test_every_oracle_hears_signed_beats_and_is_found_again_after_it_was_away(tmp_path: Path) -> None:
    world = World(tmp_path)
    resource, image = await world.list_machine(), world.image()
    job_id = await world.rent(resource, image)
    await world.life(resource).tick()
    question = {
        "type": "challenge", "challengeId": "c", "jobId": job_id, "cid": str(image), "nonce": "0x" + "01" * 32,
        "length": 1024, "expiresAt": time.time() + 60,
    }  # fmt: skip
    steady, shaky = Oracle(free_port(), question), Oracle(free_port())
    endpoints = [f"http://127.0.0.1:{oracle.port}" for oracle in (steady, shaky)]
    members = tuple(Member(world.renter.address, endpoint) for endpoint in (*endpoints, "ftp://nonsense"))
    world.chain.members = replace(world.chain.members, members=members)

    async def report() -> tuple[list[JobId], dict[str, Any]]:
        return [job_id], {"gpus": []}

    deployment = world.chain.deployment
    heartbeats = Heartbeats(
        chain=world.chain,
        pulse=Pulse(deployment, world.provider, time.time),
        report=report,
        challenges=lambda: Challenges(world.store, world.journal, world.provider, deployment, time.time),
        interval_s=0.1,
        log=world.log,
    )
    stop = asyncio.Event()
    async with steady.up():
        async with shaky.up():
            running = asyncio.create_task(heartbeats.run(stop))
            await until(lambda: len(steady.beats) > 2 and len(shaky.beats) > 2 and len(steady.answers) == 2)
        before = len(shaky.beats)
        async with shaky.up():
            await until(lambda: len(shaky.beats) > before + 1)
        stop.set()
        await asyncio.wait_for(running, 5)
    assert json.loads(steady.answers[0])["type"] == "possession"
    assert isinstance(steady.answers[1], bytes)
    for oracle in (steady, shaky):
        seen = [parse_heartbeat(frame) for frame in oracle.beats]
        for beat, signature in seen:
            verify_heartbeat(deployment, beat, signature)
        assert [beat.seq for beat, _ in seen] == sorted({beat.seq for beat, _ in seen})
