"""A provider's host as the oracles see it: signed heartbeats and honest proofs over real WebSockets."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import time
from dataclasses import dataclass, field
from typing import Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from gpumarket.chain import typed_data
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.sender import Signer
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.proof import make_proof
from gpumarket.ipfs.store import BlockStore
from oracle.agents import metrics_hash


@dataclass
class Host:
    """Speaks to every endpoint once a second while `alive`."""

    deployment: Deployment
    signer: Signer
    store: BlockStore
    endpoints: tuple[str, ...]
    alive: bool = True
    deaf_to: set[str] = field(default_factory=set)
    answered: int = 0

    def heartbeat(self, seq: int) -> str:
        now = int(time.time())
        metrics = {"cpu": 1}
        statement = typed_data.heartbeat(self.deployment, self.signer.address, seq, now, [], metrics_hash(metrics))
        body = {"provider": self.signer.address, "seq": seq, "timestamp": now, "jobs": [], "metrics": metrics}
        signature = "0x" + self.signer.sign_typed(statement).hex()
        return json.dumps({"type": "heartbeat", "heartbeat": body, "signature": signature})

    def prove(self, frame: dict[str, Any]) -> tuple[str, bytes]:
        root, nonce = Cid.parse(frame["cid"]), bytes.fromhex(frame["nonce"][2:])
        proof = make_proof(self.store, root, nonce, frame["length"])
        digest = "0x" + hashlib.sha256(proof.data).hexdigest()
        statement = typed_data.possession(
            self.deployment, frame["challengeId"], frame["jobId"], frame["cid"], frame["nonce"], digest
        )
        signature = "0x" + self.signer.sign_typed(statement).hex()
        text = {"type": "possession", "challengeId": frame["challengeId"]}
        return json.dumps({**text, "dataSha256": digest, "signature": signature}), proof.car

    async def run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for endpoint in self.endpoints:
                group.create_task(self._keep(endpoint))

    async def _keep(self, endpoint: str) -> None:
        while True:
            if self.alive and endpoint not in self.deaf_to:
                with contextlib.suppress(OSError, TimeoutError, WebSocketException):
                    async with connect("ws" + endpoint.removeprefix("http") + "/v1/agents", proxy=None) as socket:
                        await self._talk(socket, endpoint)
            await asyncio.sleep(0.3)

    async def _talk(self, socket: ClientConnection, endpoint: str) -> None:
        due, seq = 0.0, int(time.time())
        while self.alive and endpoint not in self.deaf_to:
            if time.monotonic() >= due:
                seq, due = seq + 1, time.monotonic() + 1
                await socket.send(self.heartbeat(seq))
            try:
                frame = json.loads(await asyncio.wait_for(socket.recv(), 0.2))
            except TimeoutError:
                continue
            text, car = self.prove(frame)
            await socket.send(text)
            await socket.send(car)
            self.answered += 1
