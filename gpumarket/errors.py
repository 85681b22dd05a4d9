"""Every error a user can meet: one stable code, one HTTP status, one exit code.

The CLI, REST and GraphQL show the same codes. A code never changes its meaning; docs/errors.md lists them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class ErrorKind:
    """What a code means everywhere: HTTP status, process exit code, and one line for people."""

    http_status: int
    exit_code: int
    summary: str


# Exit codes: 2 bad input, 3 not found, 4 not allowed, 5 money, 6 state or timing, 7 content not trustworthy,
# 8 a needed part is out of reach, 9 this machine lacks something, 1 anything else.
ERROR_KINDS: dict[str, ErrorKind] = {
    "internal": ErrorKind(500, 1, "A defect in gpumarket; please report it."),
    "invalid_argument": ErrorKind(400, 2, "A value is malformed or out of range."),
    "invalid_config": ErrorKind(400, 2, "The configuration is incomplete or contradicts itself."),
    "invalid_job_spec": ErrorKind(400, 2, "The job spec is malformed or over its limits."),
    "not_found": ErrorKind(404, 3, "No such job, resource, provider or content."),
    "unauthorized": ErrorKind(401, 4, "The request is not signed by somebody who may do this."),
    "forbidden": ErrorKind(403, 4, "This account may not do this."),
    "development_key_refused": ErrorKind(
        403, 4, "A publicly known development key is used outside a development chain."
    ),
    "insufficient_balance": ErrorKind(402, 5, "The account does not hold enough of the payment token."),
    "insufficient_allowance": ErrorKind(402, 5, "The escrow may not take enough of the payment token."),
    "insufficient_gas_funds": ErrorKind(402, 5, "The account does not hold enough native coin to pay for gas."),
    "insufficient_stake": ErrorKind(402, 5, "The provider's stake is below the minimum."),
    "price_too_high": ErrorKind(409, 5, "The price is above the maximum that was agreed to."),
    "payment_token_mismatch": ErrorKind(409, 5, "The resource is rented for another payment token."),
    "resource_busy": ErrorKind(409, 6, "The resource is rented to somebody else right now."),
    "resource_unavailable": ErrorKind(409, 6, "The provider does not rent this resource out at present."),
    "job_status_invalid": ErrorKind(409, 6, "The job is not in a state that allows this."),
    "deadline_not_reached": ErrorKind(409, 6, "It is too early for this."),
    "deadline_passed": ErrorKind(409, 6, "It is too late for this."),
    "market_paused": ErrorKind(409, 6, "New jobs are paused; everything already owed stays payable."),
    "transaction_reverted": ErrorKind(409, 6, "The contract refused the transaction."),
    "transaction_not_mined": ErrorKind(504, 6, "The transaction was sent and not mined in time; it may still be."),
    "image_block_corrupt": ErrorKind(502, 7, "A block does not hash to its CID."),
    "image_block_missing": ErrorKind(502, 7, "No source has a block of this content."),
    "image_too_large": ErrorKind(413, 7, "The content is over the size limit."),
    "image_policy_violation": ErrorKind(422, 7, "The image manifest breaks the host's policy."),
    "image_unreadable": ErrorKind(422, 7, "This is not an image the market can read."),
    "content_malformed": ErrorKind(422, 7, "The content is not valid UnixFS, dag-pb or CAR."),
    "proof_invalid": ErrorKind(422, 7, "A proof of possession does not verify."),
    "source_unreachable": ErrorKind(502, 8, "No source of the content answers."),
    "chain_unreachable": ErrorKind(503, 8, "The chain's node does not answer."),
    "chain_mismatch": ErrorKind(409, 8, "The node serves another chain than expected."),
    "chain_reorganized": ErrorKind(409, 8, "The chain was reorganized beyond finality."),
    "indexer_unreachable": ErrorKind(503, 8, "The indexer does not answer."),
    "database_unreachable": ErrorKind(503, 8, "The database does not answer."),
    "gateway_unreachable": ErrorKind(503, 8, "The gateway does not answer."),
    "provider_unreachable": ErrorKind(502, 8, "The provider's agent does not answer."),
    "ipfs_unreachable": ErrorKind(503, 8, "The IPFS daemon does not answer."),
    "docker_unreachable": ErrorKind(503, 8, "No Docker Engine answers."),
    "docker_failed": ErrorKind(502, 8, "The Docker Engine refused or failed."),
    "disk_full": ErrorKind(507, 9, "There is not enough free disk space."),
    "machine_unsuitable": ErrorKind(503, 9, "This machine lacks what the task needs."),
    "already_running": ErrorKind(409, 9, "Another process already works on this data directory."),
    "outcome_unsupported": ErrorKind(409, 6, "An oracle's own observations do not carry what it is asked to sign."),
    "rate_limited": ErrorKind(429, 6, "Too many requests; try again later."),
    "request_too_complex": ErrorKind(400, 2, "The query is deeper, larger or costlier than allowed."),
}


class MarketError(Exception):
    """An expected failure with a stable code.

    Args:
        code: a key of `ERROR_KINDS`.
        message: what was wrong, in one sentence, with the values that matter and no secret.
        hint: what to do about it.
        details: machine-readable values, JSON types only.
    """

    def __init__(self, code: str, message: str, *, hint: str = "", **details: Any) -> None:
        if code not in ERROR_KINDS:
            raise KeyError(f"unknown error code {code!r}")
        super().__init__(message)
        self.code = code
        self.message = message
        self.hint = hint
        self.details = details

    @property
    def kind(self) -> ErrorKind:
        return ERROR_KINDS[self.code]

    def as_dict(self) -> dict[str, Any]:
        """The error as JSON: `{"code", "message", "hint", "details"}`."""
        return {"code": self.code, "message": self.message, "hint": self.hint, "details": self.details}

    def as_problem(self) -> dict[str, Any]:
        """The error as an RFC 9457 problem document."""
        return {
            "type": f"urn:gpumarket:error:{self.code}",
            "title": self.kind.summary,
            "status": self.kind.http_status,
            "detail": self.message,
            "code": self.code,
            "hint": self.hint,
            **self.details,
        }
