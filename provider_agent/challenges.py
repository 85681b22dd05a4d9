"""Answers an oracle's possession challenges: proof, from the CID alone, that this host has its job's bytes.

Only for what this host's own jobs oblige it to have, and not more often than a disk can bear.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumarket.chain.deployments import Deployment
from gpumarket.chain.typed_data import possession
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.proof import make_proof
from gpumarket.ipfs.store import BlockStore
from gpumarket.rules.units import JobId, parse_job_id
from provider_agent.container import image_root
from provider_agent.journal import Journal
from provider_agent.ports import Clock, Signer

MAX_CAR_BYTES = 4 << 20
MAX_PER_MINUTE = 20
"""Answers to one oracle."""


@dataclass(frozen=True)
class Answer:
    """The text frame, and the CAR that follows it as a binary frame; None after a refusal."""

    frame: Mapping[str, Any]
    car: bytes | None


@dataclass(frozen=True)
class _Challenge:
    id: str
    job_id: JobId
    cid: Cid
    nonce: bytes
    length: int
    expires_at: float


class Challenges:
    """Answers the challenges of one oracle."""

    def __init__(
        self, store: BlockStore, journal: Journal, signer: Signer, deployment: Deployment, clock: Clock
    ) -> None:
        self._store = store
        self._journal = journal
        self._signer = signer
        self._deployment = deployment
        self._clock = clock
        self._answered: list[float] = []

    async def answer(self, frame: Mapping[str, Any]) -> Answer:
        """The answer to a challenge frame; a refusal with an error code if there is none to give."""
        challenge_id = str(frame.get("challengeId", ""))[:128]
        try:
            return await self._prove(_parse(frame))
        except MarketError as error:
            return Answer({"type": "refusal", "challengeId": challenge_id, "code": error.code}, None)

    async def _prove(self, challenge: _Challenge) -> Answer:
        now = self._clock()
        self._answered = [at for at in self._answered if at > now - 60]
        if len(self._answered) >= MAX_PER_MINUTE:
            raise MarketError("rate_limited", "too many challenges")
        if now > challenge.expires_at:
            raise MarketError("deadline_passed", "the challenge has expired")
        row = self._journal.get(challenge.job_id)
        held = set() if row is None else {image_root(row).digest, bytes.fromhex(row.result[2:])}
        if challenge.cid.digest not in held:
            raise MarketError("not_found", "this content is not of a job of this host")
        self._answered.append(now)
        proof = await asyncio.to_thread(make_proof, self._store, challenge.cid, challenge.nonce, challenge.length)
        if len(proof.car) > MAX_CAR_BYTES:
            raise MarketError("image_too_large", "the proof is over the size of a frame")
        digest = hashlib.sha256(proof.data).digest()
        statement = possession(
            self._deployment, challenge.id, challenge.job_id, str(challenge.cid), challenge.nonce, digest
        )
        return Answer(
            {
                "type": "possession",
                "challengeId": challenge.id,
                "dataSha256": "0x" + digest.hex(),
                "signature": "0x" + self._signer.sign_typed(statement).hex(),
            },
            proof.car,
        )


def _parse(frame: Mapping[str, Any]) -> _Challenge:
    try:
        nonce = bytes.fromhex(str(frame["nonce"]).removeprefix("0x"))
        length = int(frame["length"])
        if len(nonce) != 32 or not 0 < length <= 4096:
            raise ValueError
        return _Challenge(
            str(frame["challengeId"])[:128],
            parse_job_id(str(frame["jobId"])),
            Cid.parse(str(frame["cid"])),
            nonce,
            length,
            float(frame["expiresAt"]),
        )
    except (KeyError, TypeError, ValueError):
        raise MarketError("invalid_argument", "malformed challenge") from None
