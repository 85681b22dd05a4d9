"""Possession challenges: proofs for this host's own jobs, refusals for all else; and the heartbeat's numbers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpumarket.chain.typed_data import possession, recover
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.proof import verify_proof
from gpumarket.rules.units import JobId
from oracle.agents import parse_heartbeat, verify_heartbeat
from provider_agent.challenges import MAX_PER_MINUTE, Challenges
from provider_agent.heartbeats import Pulse
from tests.unit.agent.world import World

NONCE = "0x" + "ab" * 32


async def scene(folder: Path) -> tuple[World, Cid, JobId, Challenges]:
    world = World(folder)
    resource, image = await world.list_machine(), world.image()
    job_id = await world.rent(resource, image)
    await world.life(resource).tick()
    found = Challenges(world.store, world.journal, world.provider, world.chain.deployment, lambda: world.chain.now)
    return world, image, job_id, found


def challenge(world: World, job_id: str, root: Cid, **changes: Any) -> dict[str, Any]:
    return {
        "type": "challenge",
        "challengeId": "c1",
        "jobId": job_id,
        "cid": str(root),
        "nonce": NONCE,
        "length": 1024,
        "expiresAt": world.chain.now + 30,
        **changes,
    }


async def test_default_answer_is_a_signed_proof_from_the_cid_alone(tmp_path: Path) -> None:
    world, image, job_id, challenges = await scene(tmp_path)
    answer = await challenges.answer(challenge(world, job_id, image))
    assert answer.car is not None
    nonce = bytes.fromhex(NONCE[2:])
    verify_proof(image, nonce, answer.car, 1024)
    digest = answer.frame["dataSha256"]
    statement = possession(world.chain.deployment, "c1", job_id, str(image), nonce, digest)
    assert recover(statement, bytes.fromhex(answer.frame["signature"][2:])) == world.provider.address


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"jobId": "0x" + "9" * 64}, "not_found"),
        ({"cid": str(Cid.dag_pb(bytes(32)))}, "not_found"),
        ({"cid": "nonsense"}, "invalid_argument"),
        ({"nonce": "0x12"}, "invalid_argument"),
        ({"length": 10**9}, "invalid_argument"),
        ({"expiresAt": 5}, "deadline_passed"),
        ({"expiresAt": None}, "invalid_argument"),
    ],
)
async def test_anything_else_is_refused(tmp_path: Path, changes: dict[str, Any], code: str) -> None:
    world, image, job_id, challenges = await scene(tmp_path)
    answer = await challenges.answer(challenge(world, job_id, image, **changes))
    assert answer.car is None
    assert answer.frame == {"type": "refusal", "challengeId": "c1", "code": code}


async def test_too_many_challenges_are_refused_for_a_minute(tmp_path: Path) -> None:
    world, image, job_id, challenges = await scene(tmp_path)
    for _ in range(MAX_PER_MINUTE):
        assert (await challenges.answer(challenge(world, job_id, image))).car is not None
    assert (await challenges.answer(challenge(world, job_id, image))).frame["code"] == "rate_limited"
    world.chain.now += 61
    assert (await challenges.answer(challenge(world, job_id, image))).car is not None


async def test_heartbeats_verify_at_the_oracle_and_their_numbers_rise_over_restarts(tmp_path: Path) -> None:
    world, _, job_id, _ = await scene(tmp_path)
    seen, clock = [], [1_800_000_000.0]
    for _ in range(2):
        pulse = Pulse(world.chain.deployment, world.provider, lambda: clock[0])
        for _ in range(3):
            frame = json.loads(pulse.beat([job_id], {"gpus": [{"power": 1.5}], "note": "é"}))
            beat, signature = parse_heartbeat(frame)
            verify_heartbeat(world.chain.deployment, beat, signature)
            assert beat.jobs == (job_id,)
            seen.append(beat.seq)
        clock[0] += 1
    assert seen == sorted(set(seen))
