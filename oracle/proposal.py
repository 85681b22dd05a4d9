"""A report on its way: what the leader sends to the members, and what they keep of it."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumarket.chain import merkle
from gpumarket.chain.types import Outcome, OutcomeKind, Report
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address, parse_job_id
from oracle.evidence import Bundle, outcome_dict
from oracle.possession import MAX_CAR_BYTES, Transcript
from oracle.verdict import Draft

MAX_OUTCOMES = 256
MAX_BODY_BYTES = 16 << 20


@dataclass(frozen=True)
class Proposal:
    """A report, and the drafts under its root with their proofs."""

    report: Report
    drafts: tuple[Draft, ...]

    @property
    def outcomes(self) -> tuple[Outcome, ...]:
        return tuple(draft.outcome for draft in self.drafts)

    def as_dict(self, *, with_blocks: bool = True) -> dict[str, Any]:
        """JSON; without blocks it is what a member keeps to apply the outcomes later."""
        r = self.report
        return {
            "report": {
                "configDigest": "0x" + r.config_digest.hex(),
                "seq": r.seq,
                "epoch": r.epoch,
                "outcomesRoot": "0x" + r.outcomes_root.hex(),
                "count": r.count,
                "evidenceDigest": "0x" + r.evidence_digest.hex(),
            },
            "outcomes": [outcome_dict(outcome) for outcome in self.outcomes],
            "proofs": [[_proof_dict(t) for t in d.transcripts] for d in self.drafts] if with_blocks else [],
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Proposal:
        """The inverse of `as_dict`, for hostile input: shape and sizes are checked, truth is not.

        Raises:
            MarketError: `invalid_argument`.
        """
        try:
            outcomes = [_outcome(item) for item in value["outcomes"]]
            proofs = [[_proof(item) for item in group] for group in value["proofs"]] or [[] for _ in outcomes]
            if not 1 <= len(outcomes) <= MAX_OUTCOMES or len(proofs) != len(outcomes):
                raise ValueError("counts")
            drafts = tuple(Draft(o, tuple(p)) for o, p in zip(outcomes, proofs, strict=True))
            return cls(_report(value["report"]), drafts)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise MarketError("invalid_argument", f"malformed proposal: {str(error)[:100]}") from error


@dataclass(frozen=True)
class SignedProposal:
    """A proposal with at least the threshold of signatures, 64 bytes each, by member index."""

    proposal: Proposal
    signatures: dict[int, bytes]

    @property
    def mask(self) -> int:
        return sum(1 << index for index in self.signatures)

    @property
    def packed(self) -> bytes:
        return b"".join(self.signatures[index] for index in sorted(self.signatures))

    def as_dict(self) -> dict[str, Any]:
        signatures = {str(index): "0x" + signature.hex() for index, signature in self.signatures.items()}
        return {**self.proposal.as_dict(with_blocks=False), "signatures": signatures}

    @classmethod
    def from_dict(cls, value: dict[str, Any]) -> SignedProposal:
        signatures = {int(index): bytes.fromhex(text[2:]) for index, text in value["signatures"].items()}
        return cls(Proposal.from_dict(value), signatures)


def assemble(bundle: Bundle, config_digest: bytes, seq: int, epoch: int) -> Proposal:
    """The proposal of a bundle."""
    outcomes = bundle.outcomes
    root = merkle.root(outcomes)
    return Proposal(Report(config_digest, seq, epoch, root, len(outcomes), bundle.root.digest), bundle.drafts)


def _proof_dict(transcript: Transcript) -> dict[str, Any]:
    car = transcript.answer.car if transcript.answer else b""
    return {**transcript.as_dict(), "car": base64.b64encode(car).decode()}


def _proof(value: Mapping[str, Any]) -> Transcript:
    if len(value["car"]) > 2 * MAX_CAR_BYTES:
        raise ValueError("car")
    return Transcript.from_dict(dict(value), base64.b64decode(value["car"], validate=True))


def _outcome(value: Mapping[str, Any]) -> Outcome:
    return Outcome(
        kind=OutcomeKind[value["kind"]],
        job_id=parse_job_id(value["jobId"]),
        provider=Address(str(value["provider"])),
        from_=_number(value["from"], 40),
        to=_number(value["to"], 40),
        value=_number(int(str(value["value"])), 256),
        evidence=_bytes32(value["evidence"]),
    )


def _report(value: Mapping[str, Any]) -> Report:
    return Report(
        config_digest=_bytes32(value["configDigest"]),
        seq=_number(value["seq"], 62),
        epoch=_number(value["epoch"], 62),
        outcomes_root=_bytes32(value["outcomesRoot"]),
        count=_number(value["count"], 32),
        evidence_digest=_bytes32(value["evidenceDigest"]),
    )


def _number(value: Any, bits: int) -> int:
    if type(value) is not int or not 0 <= value < 1 << bits:
        raise ValueError("number out of range")
    return value


def _bytes32(value: Any) -> bytes:
    data = bytes.fromhex(str(value).removeprefix("0x"))
    if len(data) != 32:
        raise ValueError("not 32 bytes")
    return data
