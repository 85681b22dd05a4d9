"""Live streams: only for the job's parties, resumable, readable after the end; and which sources may be asked."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient, WebSocketTestSession

from gpumarket.chain.sender import Signer
from gpumarket.chain.typed_data import access_grant
from gpumarket.rules.units import JobId
from provider_agent.runtime import LogLine
from provider_agent.server import JobStreams
from provider_agent.sources import public_sources
from provider_agent.state import JobState
from tests.unit.agent.world import World, signer


@pytest.fixture
async def scene(tmp_path: Path) -> tuple[World, JobId]:
    world = World(tmp_path)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())
    await world.life(resource).tick()
    for number in range(3):
        world.logs.append(job_id, LogLine(f"2026-01-01T00:00:0{number}Z", "stdout", f"line {number}"))
    world.journal.move(job_id, JobState.REFUSED, 1, reason="too large", code="image_too_large")
    return world, job_id


def client(world: World) -> TestClient:
    async def no_gpus() -> list[dict[str, Any]]:
        return []

    streams = JobStreams(
        journal=world.journal,
        logs=world.logs,
        runtime=world.runtime,
        market=world.market,
        deployment=world.chain.deployment,
        provider=world.provider.address,
        clock=lambda: float(world.chain.now),
        stopping=asyncio.Event(),
        gpu_metrics=no_gpus,
        patience_s=0,
    )
    return TestClient(Starlette(routes=streams.routes()))


def grant(world: World, job_id: str, who: Signer, *, scope: str = "logs", lasts: int = 60, after: int = 0) -> Any:
    expires = world.chain.now + lasts
    statement = access_grant(world.chain.deployment, job_id, who.address, scope, expires)
    return {
        "type": "auth",
        "grant": {"jobId": job_id, "account": who.address, "scope": scope, "expiresAt": expires},
        "signature": "0x" + who.sign_typed(statement).hex(),
        "after": after,
    }


def until_end(socket: WebSocketTestSession) -> list[dict[str, Any]]:
    frames: list[dict[str, Any]] = []
    while not frames or frames[-1]["type"] not in ("end", "error"):
        frames.append(socket.receive_json())
    return frames


def ask(world: World, job_id: str, frame: Any, stream: str = "logs") -> list[dict[str, Any]]:
    with client(world).websocket_connect(f"/v1/jobs/{job_id}/{stream}") as socket:
        socket.send_json(frame)
        return until_end(socket)


@pytest.mark.parametrize("who", ["renter", "provider"])
async def test_parties_read_everything_and_why_it_ended(scene: tuple[World, JobId], who: str) -> None:
    world, job_id = scene
    frames = ask(world, job_id, grant(world, job_id, getattr(world, who)))
    assert [f["line"] for f in frames if f["type"] == "log"] == ["line 0", "line 1", "line 2"]
    assert frames[-1]["type"] == "end"
    assert (frames[-1]["exitCode"], frames[-1]["code"]) == (None, "image_too_large")


async def test_reading_resumes_after_the_last_number(scene: tuple[World, JobId]) -> None:
    world, job_id = scene
    frames = ask(world, job_id, grant(world, job_id, world.renter, after=2))
    assert [f["seq"] for f in frames if f["type"] == "log"] == [3]


async def test_metrics_end_with_the_job(scene: tuple[World, JobId]) -> None:
    world, job_id = scene
    frames = ask(world, job_id, grant(world, job_id, world.renter, scope="metrics"), "metrics")
    assert [f["type"] for f in frames] == ["end"]


async def test_everybody_else_is_refused(scene: tuple[World, JobId]) -> None:
    world, job_id = scene
    stranger = signer(3)
    other = "0x" + "9" * 64
    forged = {**grant(world, job_id, stranger), "grant": grant(world, job_id, world.renter)["grant"]}
    cases = [
        (job_id, grant(world, job_id, stranger), "forbidden"),
        (other, {**grant(world, other, stranger), "grant": grant(world, other, world.renter)["grant"]}, "unauthorized"),
        (other, {"type": "auth"}, "invalid_argument"),
        (job_id, forged, "unauthorized"),
        (job_id, grant(world, other, world.renter), "unauthorized"),
        (job_id, grant(world, job_id, world.renter, scope="metrics"), "unauthorized"),
        (job_id, grant(world, job_id, world.renter, lasts=0), "unauthorized"),
        (job_id, grant(world, job_id, world.renter, lasts=10**6), "unauthorized"),
        (job_id, {"type": "auth"}, "invalid_argument"),
        (job_id, [], "invalid_argument"),
        (job_id, grant(world, job_id, world.renter, after=-1), "invalid_argument"),
        ("nonsense", grant(world, job_id, world.renter), "invalid_argument"),
    ]
    for job, frame, code in cases:
        (error,) = ask(world, job, frame)
        assert (error["type"], error["error"]["code"]) == ("error", code)


async def test_a_job_that_is_not_here_yet_may_be_asked_for_again(scene: tuple[World, JobId]) -> None:
    world, _ = scene
    other = "0x" + "9" * 64
    (error,) = ask(world, other, grant(world, other, world.renter))
    assert (error["error"]["code"], "not seen" in error["error"]["hint"]) == ("not_found", True)


async def test_sources_in_the_hosts_own_network_are_left_out() -> None:
    known = {
        "public.example": ["93.184.216.34"],
        "inside.example": ["10.0.0.7"],
        "both.example": ["93.184.216.34", "127.0.0.1"],
        "six.example": ["fd00::1"],
    }

    async def resolve(host: str) -> list[str]:
        return known.get(host, [host] if host.startswith("169.") else [])

    asked = [f"http://{host}/x" for host in (*known, "169.254.169.254", "unknown.example")]
    assert await public_sources(asked, resolve) == ("http://public.example/x",)
