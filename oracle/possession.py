"""Proof that a host holds what it says: a challenge, an answer, and a judgement that anybody can repeat.

The host cannot know the position before it gets the nonce, and the verifier needs nothing but the CID. Five findings:
only `WRONG` is fraud, and it is called so only where the host's signature contradicts bytes that hash to the CID, which
no third party can forge. An answer that proves neither is contained and asked again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from gpumarket.chain.typed_data import TypedData, recover
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.proof import verify_proof
from gpumarket.rules.units import Address, JobId

DEADLINE_S = 30
LENGTH = 1024
MAX_CAR_BYTES = 4 << 20

Statement = Callable[["Challenge", str], TypedData]
"""What the host signs for a challenge and the hex of its data's sha2-256."""


class Finding(Enum):
    """What came of a challenge."""

    SUCCESS = "success"
    WRONG = "wrong"
    NO_ANSWER = "no_answer"
    CONTAINED = "contained"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Challenge:
    """One question. `challenge_id` and `nonce` are 32 bytes as 0x hex; times are unix seconds."""

    challenge_id: str
    job_id: JobId
    provider: Address
    cid: str
    nonce: str
    issued_at: int

    @property
    def expires_at(self) -> int:
        return self.issued_at + DEADLINE_S

    def frame(self) -> dict[str, Any]:
        """The text frame a host receives."""
        return {
            "type": "challenge",
            "challengeId": self.challenge_id,
            "jobId": self.job_id,
            "cid": self.cid,
            "nonce": self.nonce,
            "length": LENGTH,
            "expiresAt": self.expires_at,
        }


@dataclass(frozen=True)
class Answer:
    """What a host sent back: the claimed hash, its signature, and the CAR with the path to the bytes."""

    data_sha256: str
    signature: bytes
    car: bytes


@dataclass(frozen=True)
class Transcript:
    """A challenge, what came of it, and enough to judge it again. Without an answer `latency_s` is None."""

    challenge: Challenge
    finding: Finding
    answer: Answer | None = None
    latency_s: float | None = None
    detail: str = ""

    def as_dict(self) -> dict[str, Any]:
        """All of it but the CAR, as JSON."""
        c, a = self.challenge, self.answer
        return {
            "challengeId": c.challenge_id,
            "jobId": c.job_id,
            "provider": c.provider,
            "cid": c.cid,
            "nonce": c.nonce,
            "issuedAt": c.issued_at,
            "finding": self.finding.value,
            "dataSha256": a.data_sha256 if a else None,
            "signature": "0x" + a.signature.hex() if a else None,
            "latencyMs": None if self.latency_s is None else round(self.latency_s * 1000),
            "detail": self.detail,
        }

    @classmethod
    def from_dict(cls, value: dict[str, Any], car: bytes) -> Transcript:
        """The inverse of `as_dict` for an answered challenge.

        Raises:
            KeyError, TypeError, ValueError: malformed.
        """
        if not isinstance(value["issuedAt"], int):
            raise TypeError("issuedAt")
        challenge = Challenge(
            challenge_id=_hex32(value["challengeId"]),
            job_id=JobId(_hex32(value["jobId"])),
            provider=Address(str(value["provider"])),
            cid=str(value["cid"]),
            nonce=_hex32(value["nonce"]),
            issued_at=value["issuedAt"],
        )
        answer = Answer(_hex32(value["dataSha256"]), bytes.fromhex(str(value["signature"]).removeprefix("0x")), car)
        latency = value["latencyMs"]
        return cls(
            challenge,
            Finding(value["finding"]),
            answer,
            None if latency is None else latency / 1000,
            str(value["detail"])[:200],
        )


def judge(challenge: Challenge, answer: Answer, statement: Statement) -> tuple[Finding, str]:
    """What an answer in time proves: success, wrong or contained, with a reason. Pure and deterministic."""
    try:
        signer = recover(statement(challenge, answer.data_sha256), answer.signature)
    except (MarketError, ValueError, TypeError):
        return Finding.CONTAINED, "signature"
    if signer != challenge.provider:
        return Finding.CONTAINED, "signature"
    if len(answer.car) > MAX_CAR_BYTES:
        return Finding.CONTAINED, "car too large"
    nonce = bytes.fromhex(challenge.nonce[2:])
    try:
        data = verify_proof(Cid.parse(challenge.cid), nonce, answer.car, LENGTH)
    except (MarketError, ValueError) as error:
        return Finding.CONTAINED, f"car: {getattr(error, 'code', 'malformed')}"
    if "0x" + hashlib.sha256(data).hexdigest() != answer.data_sha256:
        return Finding.WRONG, "the signed hash is not that of the bytes under the CID"
    return Finding.SUCCESS, ""


def conclude(challenge: Challenge, answer: Answer, answered_at: float, statement: Statement) -> Transcript:
    """The transcript of an answer. Late answers count as none."""
    latency = max(0.0, answered_at - challenge.issued_at)
    if answered_at > challenge.expires_at:
        return Transcript(challenge, Finding.NO_ANSWER, latency_s=latency, detail="late")
    finding, detail = judge(challenge, answer, statement)
    return Transcript(challenge, finding, answer, latency, detail)


def _hex32(value: Any) -> str:
    text = str(value)
    if len(text) != 66 or not text.startswith("0x") or text != text.lower():
        raise ValueError("not 32 bytes of lower-case hex")
    bytes.fromhex(text[2:])
    return text
