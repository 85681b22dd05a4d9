"""One host's WebSocket, spoken over Starlette's own client: no network, real frames."""

from __future__ import annotations

import io
import json
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.routing import WebSocketRoute
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

from gpumarket.chain import typed_data
from gpumarket.chain.sender import Signer
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.log import Log
from gpumarket.rules.units import Address
from oracle.agents import BURST, Agents, metrics_hash, parse_heartbeat
from oracle.heartbeats import Phase, Tracker
from oracle.possession import Challenge, Finding, Transcript
from tests.fakes import MemoryBlocks
from tests.unit.oracle.oracle_stage import (
    DEPLOYMENT,
    NOW,
    PROVIDER,
    RENTER,
    RHYTHM,
    answer,
    challenge,
    image,
    statement,
)


class Memory:
    def __init__(self) -> None:
        self.beats: list[tuple[Address, int, int]] = []

    def save_beat(self, provider: Address, seq: int, timestamp: int) -> None:
        self.beats.append((provider, seq, timestamp))


class Rig:
    def __init__(self) -> None:
        self.now = float(NOW)
        self.tracker, self.memory = Tracker(RHYTHM), Memory()
        log = Log("oracle", stream=io.StringIO())
        self.agents = Agents(self.tracker, DEPLOYMENT, self.memory, self.registered, lambda: self.now, log)
        self.store = MemoryBlocks()
        self.image: Cid = image(self.store)
        self.client = TestClient(Starlette(routes=[WebSocketRoute("/v1/agents", self.agents.serve)]))

    async def registered(self, provider: Address, now: float) -> bool:
        return provider == PROVIDER.address

    def ask(self, asked: Challenge) -> list[Transcript]:
        """Ask on the server's own loop; the transcript appears in the list."""
        found: list[Transcript] = []
        assert self.client.portal is not None

        async def go() -> None:
            found.append(await self.agents.challenge(asked, statement))

        self.client.portal.start_task_soon(go)
        return found


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    with rig.client:
        yield rig


def heartbeat(seq: int = 1, signer: Signer = PROVIDER, at: int = NOW, claim: Address | None = None) -> dict[str, Any]:
    provider = claim or signer.address
    metrics = {"cpu": 3, "name": "그래픽"}
    data = typed_data.heartbeat(DEPLOYMENT, provider, seq, at, [], metrics_hash(metrics))
    body = {"provider": provider, "seq": seq, "timestamp": at, "jobs": [], "metrics": metrics}
    return {"type": "heartbeat", "heartbeat": body, "signature": "0x" + signer.sign_typed(data).hex()}


def wait_for(check: Any) -> None:
    deadline = time.monotonic() + 5
    while not check() and time.monotonic() < deadline:
        threading.Event().wait(0.01)
    assert check()


def test_default_behavior_a_host_beats_and_answers(rig: Rig) -> None:
    with rig.client.websocket_connect("/v1/agents") as socket:
        socket.send_json(heartbeat())
        wait_for(lambda: rig.agents.is_idle(PROVIDER.address))
        assert rig.tracker.phase(PROVIDER.address, NOW) is Phase.ALIVE
        assert rig.memory.beats == [(PROVIDER.address, 1, NOW)]
        asked = challenge(rig.image, at=NOW)
        found = rig.ask(asked)
        assert socket.receive_json() == asked.frame()
        given = answer(rig.store, asked)
        claim = {"type": "possession", "challengeId": asked.challenge_id, "dataSha256": given.data_sha256}
        socket.send_json({**claim, "signature": "0x" + given.signature.hex()})
        socket.send_bytes(given.car)
        wait_for(lambda: found)
        assert found[0].finding is Finding.SUCCESS
    wait_for(lambda: not rig.agents.connected())


def test_a_refusal_is_no_answer(rig: Rig) -> None:
    with rig.client.websocket_connect("/v1/agents") as socket:
        socket.send_json(heartbeat())
        wait_for(lambda: rig.agents.is_idle(PROVIDER.address))
        asked = challenge(rig.image, at=NOW)
        found = rig.ask(asked)
        socket.receive_json()
        socket.send_json({"type": "refusal", "challengeId": asked.challenge_id, "code": "not_found"})
        wait_for(lambda: found)
        assert (found[0].finding, found[0].detail) == (Finding.NO_ANSWER, "refused: not_found")


def test_a_host_that_goes_away_in_the_middle_leaves_it_unknown(rig: Rig) -> None:
    with rig.client.websocket_connect("/v1/agents") as socket:
        socket.send_json(heartbeat())
        wait_for(lambda: rig.agents.is_idle(PROVIDER.address))
        found = rig.ask(challenge(rig.image, at=NOW))
        socket.receive_json()
    wait_for(lambda: found)
    assert found[0].finding is Finding.UNKNOWN


def test_silence_until_the_deadline_is_no_answer(rig: Rig) -> None:
    with rig.client.websocket_connect("/v1/agents") as socket:
        socket.send_json(heartbeat())
        wait_for(lambda: rig.agents.is_idle(PROVIDER.address))
        rig.now = NOW + 30
        found = rig.ask(challenge(rig.image, at=NOW))
        wait_for(lambda: found)
        assert found[0].finding is Finding.NO_ANSWER


def test_nobody_connected_is_unknown(rig: Rig) -> None:
    found = rig.ask(challenge(rig.image, at=NOW))
    wait_for(lambda: found)
    assert found[0].finding is Finding.UNKNOWN


@pytest.mark.parametrize(
    ("frame", "code"),
    [
        (heartbeat(signer=RENTER), "forbidden"),
        (heartbeat(signer=RENTER, claim=PROVIDER.address), "unauthorized"),
        ({**heartbeat(), "signature": "0x" + "00" * 65}, "unauthorized"),
        ({**heartbeat(), "signature": "zz"}, "invalid_argument"),
        (heartbeat(at=NOW + 1_000), "invalid_argument"),
        ({"type": "heartbeat"}, "invalid_argument"),
        ({"type": "possession"}, "invalid_argument"),
        ([], "invalid_argument"),
    ],
    ids=["no resource", "stolen name", "zero signature", "no hex", "future", "empty", "wrong first", "not an object"],
)
def test_a_bad_first_frame_ends_the_connection(rig: Rig, frame: Any, code: str) -> None:
    with rig.client.websocket_connect("/v1/agents") as socket:
        socket.send_json(frame)
        with pytest.raises(WebSocketDisconnect) as closed:
            socket.receive_json()
    assert (closed.value.code, closed.value.reason) == (1008, code)
    assert rig.agents.connected() == []
    assert rig.memory.beats == []


def test_oversized_text_unasked_binary_strange_types_and_floods_end_the_connection(rig: Rig) -> None:
    def too_large(socket: Any) -> None:
        socket.send_text(json.dumps({"type": "x" * (64 << 10)}))

    def binary(socket: Any) -> None:
        socket.send_bytes(b"car")

    def strange(socket: Any) -> None:
        socket.send_json({"type": "shell"})

    def not_json(socket: Any) -> None:
        socket.send_text("{")

    def flood(socket: Any) -> None:
        for _ in range(BURST + 1):
            socket.send_json({"type": "refusal", "challengeId": "none"})

    def foreign(socket: Any) -> None:
        socket.send_json(heartbeat(9, RENTER))

    def replay(socket: Any) -> None:
        socket.send_json(heartbeat(seq))

    for seq, attack in enumerate((too_large, binary, strange, not_json, flood, foreign, replay), 1):
        with rig.client.websocket_connect("/v1/agents") as socket:
            socket.send_json(heartbeat(seq))
            wait_for(lambda: rig.agents.is_idle(PROVIDER.address))
            attack(socket)
            with pytest.raises(WebSocketDisconnect):
                socket.receive_json()
        wait_for(lambda: not rig.agents.connected())


def test_a_newer_connection_replaces_the_older(rig: Rig) -> None:
    with rig.client.websocket_connect("/v1/agents") as old:
        old.send_json(heartbeat(1))
        wait_for(lambda: rig.agents.connected())
        with rig.client.websocket_connect("/v1/agents") as new:
            new.send_json(heartbeat(2))
            with pytest.raises(WebSocketDisconnect) as closed:
                old.receive_json()
            assert closed.value.code == 1001
            assert rig.agents.is_idle(PROVIDER.address)


@pytest.mark.parametrize(
    "change",
    [{"seq": -1}, {"seq": True}, {"seq": "1"}, {"timestamp": 1.5}, {"jobs": "x"}, {"jobs": ["0x12"]}, {"jobs": [1]}],
)
def test_a_malformed_heartbeat_is_refused(change: dict[str, Any]) -> None:
    frame = heartbeat()
    frame["heartbeat"] |= change
    with pytest.raises(MarketError) as refused:
        parse_heartbeat(frame)
    assert refused.value.code == "invalid_argument"
