"""What the oracle's unit tests share: a deployment, keys, an image, jobs and honest answers."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace
from typing import Any

from gpumarket.chain import typed_data
from gpumarket.chain.codec import checksum
from gpumarket.chain.deployments import CONTRACTS, Deployment, PaymentToken
from gpumarket.chain.sender import Signer, load_account
from gpumarket.chain.typed_data import TypedData
from gpumarket.chain.types import Job
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import add_directory, add_file
from gpumarket.ipfs.proof import make_proof
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import JobId, ResourceId
from oracle.heartbeats import Heartbeat, Rhythm, Tracker
from oracle.possession import LENGTH, Answer, Challenge, Finding, Transcript
from oracle.verdict import Observation
from tests.fakes import MemoryBlocks
from tests.parts.anvil import ANVIL_KEYS

NOW = 1_700_000_000
RHYTHM = Rhythm(interval_s=60, grace_s=60, dead_s=1_800)
SIGNERS: list[Signer] = [load_account(None, {"GPUMARKET_PRIVATE_KEY": key}) for key in ANVIL_KEYS]
PROVIDER = SIGNERS[4]
RENTER = SIGNERS[5]
ADDRESSES = {name: checksum(f"0x{number:040x}") for number, name in enumerate(CONTRACTS, 1)}
DEPLOYMENT = Deployment(31337, ADDRESSES, 1, PaymentToken(ADDRESSES["GPUToken"], "GPU", 18))
JOB_ID = JobId("0x" + "11" * 32)
RESOURCE_ID = ResourceId(PROVIDER.address.lower() + "0" * 24)


def image(store: MemoryBlocks) -> Cid:
    """A small image's root in `store`."""
    layer = add_file(store, io.BytesIO(bytes(range(256)) * 40))
    return add_directory(store, {"layer": layer, "note": add_file(store, io.BytesIO(b"note"))}).cid


def job(status: JobStatus = JobStatus.RUNNING, **changes: Any) -> Job:
    base = Job(
        job_id=JOB_ID,
        user=RENTER.address,
        provider=PROVIDER.address,
        resource_id=RESOURCE_ID,
        payment_token=ADDRESSES["GPUToken"],
        status=status,
        since=NOW,
        started_at=NOW,
        ended_at=0,
        duration=86_400,
        outage_seconds=0,
        min_seconds=0,
        settled_seconds=0,
        dead_at=0,
        price_per_hour=3_600,
        locked_amount=86_400,
    )
    return replace(base, **changes)


def challenge(cid: Cid, number: int = 1, at: int = NOW + 10) -> Challenge:
    digest = hashlib.sha256(str(number).encode()).hexdigest()
    return Challenge("0x" + digest, JOB_ID, PROVIDER.address, str(cid), "0x" + digest[::-1], at)


def statement(asked: Challenge, data_sha256: str) -> TypedData:
    return typed_data.possession(DEPLOYMENT, asked.challenge_id, asked.job_id, asked.cid, asked.nonce, data_sha256)


def answer(store: MemoryBlocks, asked: Challenge, signer: Signer = PROVIDER, claim: bytes | None = None) -> Answer:
    """What a host sends: honest, unless another signer or another claimed text to hash is given."""
    proof = make_proof(store, Cid.parse(asked.cid), bytes.fromhex(asked.nonce[2:]), LENGTH)
    digest = "0x" + hashlib.sha256(proof.data if claim is None else claim).hexdigest()
    return Answer(digest, signer.sign_typed(statement(asked, digest)), proof.car)


def transcript(finding: Finding, number: int, at: int, latency_s: float | None = 1.0, detail: str = "") -> Transcript:
    """A transcript of this member's own challenges; successes and frauds carry some answer."""
    cid = Cid.dag_pb(bytes(32))
    held = Answer("0x" + "00" * 32, b"", b"car") if finding in (Finding.SUCCESS, Finding.WRONG) else None
    return Transcript(challenge(cid, number, at), finding, held, latency_s, detail)


def beat(at: int, seq: int | None = None, signer: Signer = PROVIDER) -> Heartbeat:
    return Heartbeat(signer.address, at if seq is None else seq, at, (), "0x" + "00" * 32)


def tracker_with(*beats: int, rhythm: Rhythm = RHYTHM) -> Tracker:
    tracker = Tracker(rhythm)
    for at in beats:
        tracker.accept(beat(at), at)
    return tracker


def steady(start: int, to: int) -> list[int]:
    return list(range(start, to + 1, 60))


def seen(tracker: Tracker, *transcripts: Transcript, **changes: Any) -> Observation:
    values: dict[str, Any] = {"job": job(), "image": str(Cid.dag_pb(bytes(32))), "head_time": NOW + 10**6}
    return Observation(tracker=tracker, transcripts=tuple(transcripts), **{**values, **changes})
