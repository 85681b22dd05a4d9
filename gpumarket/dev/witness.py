"""An outsider's look at the committee's work: a report on chain, its evidence by CID, the proof of possession in it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx

from gpumarket.chain import merkle, typed_data
from gpumarket.chain.client import ChainClient
from gpumarket.chain.events import ReportSubmitted
from gpumarket.chain.types import Job, Outcome, OutcomeKind
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.fetch import fetch
from gpumarket.ipfs.proof import verify_proof
from gpumarket.ipfs.reader import export_path
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.rules.units import Address

_MAX_EVIDENCE_BYTES = 64 << 20


@dataclass(frozen=True)
class Witnessed:
    """A report that says: this host proved that it has the image of this job.

    Attributes:
        signers: how many members signed.
        possessions: challenges whose proof verifies here too, from the image's CID alone.
    """

    report: ReportSubmitted
    evidence: str
    signers: int
    possessions: int

    def as_row(self) -> dict[str, Any]:
        return {
            "seq": self.report.seq,
            "epoch": self.report.epoch,
            "tx_hash": self.report.tx_hash,
            "signers": self.signers,
            "evidence": self.evidence,
            "possessions_verified": self.possessions,
        }


async def examine(
    chain: ChainClient,
    report: ReportSubmitted,
    job: Job,
    image: Cid,
    sources: Sequence[str],
    folder: Path,
    http: httpx.AsyncClient,
) -> Witnessed | None:
    """Fetch a report's evidence and check it against the chain; None if it shows no possession by this job's host.

    Raises:
        MarketError: `content_malformed` if the evidence is not what the report says, `proof_invalid`, and what
            `fetch` raises.
    """
    root = Cid.dag_pb(bytes.fromhex(report.evidence_digest.removeprefix("0x")))
    store = EmbeddedStore(folder / "blocks")
    await fetch(root, store, list(sources), max_bytes=_MAX_EVIDENCE_BYTES, http=http)
    bundle = folder / str(root)
    if not bundle.exists():
        export_path(store, root, bundle)
    outcomes = [_outcome(row) for row in json.loads((bundle / "outcomes.json").read_text())]
    if merkle.root(outcomes).hex() != report.outcomes_root.removeprefix("0x"):
        raise MarketError("content_malformed", f"the evidence {root} has other outcomes than the report {report.seq}")
    proven = 0
    for index, outcome in enumerate(outcomes):
        if outcome.kind is OutcomeKind.VALIDATION and outcome.job_id == job.job_id:
            proven += sum(
                _possession_holds(chain, job.provider, image, path)
                for path in sorted((bundle / str(index)).glob("0x*.json"))
            )
    return Witnessed(report, str(root), report.signers_mask.bit_count(), proven) if proven else None


def report_signer(chain: ChainClient, job_id: str, results: Path) -> Address:
    """Who signed the job's report among its results: exit code, times, hashes of the output."""
    signed = json.loads((results / "report.json").read_text())
    text = json.dumps(signed["report"], sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode()).digest()
    return typed_data.recover(
        typed_data.job_report(chain.deployment, job_id, digest), bytes.fromhex(signed["signature"][2:])
    )


def _possession_holds(chain: ChainClient, provider: Address, image: Cid, transcript: Path) -> bool:
    """The blocks hash up to the image's CID, and the provider signed the hash of the challenged bytes."""
    row = json.loads(transcript.read_text())
    if row["finding"] != "success" or row["cid"] != str(image):
        return False
    data = verify_proof(image, bytes.fromhex(row["nonce"][2:]), transcript.with_suffix(".car").read_bytes())
    digest = hashlib.sha256(data).digest()
    signed = typed_data.possession(chain.deployment, row["challengeId"], row["jobId"], row["cid"], row["nonce"], digest)
    return typed_data.recover(signed, bytes.fromhex(row["signature"][2:])) == provider


def _outcome(row: dict[str, Any]) -> Outcome:
    return Outcome(
        kind=OutcomeKind[row["kind"]],
        job_id=row["jobId"],
        provider=row["provider"],
        from_=row["from"],
        to=row["to"],
        value=int(row["value"]),
        evidence=bytes.fromhex(row["evidence"][2:]),
    )
