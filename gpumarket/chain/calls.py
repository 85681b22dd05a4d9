"""What can be asked of the market: one pure builder per entry point, for the sender to send."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpumarket.chain.codec import bytes32, encode_call
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.types import JobRequest, Outcome, OutcomeKind, Report, ResourceParams
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address

JOB_REQUEST = "(bytes32,bytes32,uint40,uint128,address,bytes)"
PERMIT = "(uint256,uint256,uint8,bytes32,bytes32)"
RESOURCE_PARAMS = "(string,uint16,uint16,uint32,uint32,uint128,address,uint32,uint32,bytes32)"
REPORT = "(bytes32,uint64,uint64,bytes32,uint32,bytes32)"
OUTCOME = "(uint8,bytes32,address,uint40,uint40,uint256,bytes32)"

OUTCOME_ENTRY_POINTS = {
    OutcomeKind.DOWNTIME: "reportDowntime",
    OutcomeKind.TIMEOUT: "reportTimeout",
    OutcomeKind.INVALID_DATA: "reportInvalidData",
    OutcomeKind.INVALID_SIGNATURE: "reportInvalidSignature",
    OutcomeKind.VERDICT: "resolveDispute",
    OutcomeKind.METRICS: "reportMetrics",
}


@dataclass(frozen=True)
class Call:
    """A transaction to be: where to, calldata, wei along with it, and a name for people."""

    to: Address
    data: bytes
    value: int = 0
    label: str = ""


# -------------------------------------------------------------------- renter


def create_job(deployment: Deployment, request: JobRequest) -> Call:
    return _call(deployment, "Marketplace", f"createJob({JOB_REQUEST})", job_request_values(request))


def create_job_with_permit(
    deployment: Deployment, request: JobRequest, value: int, deadline: int, signature: bytes
) -> Call:
    """`signature` is the 65 bytes of `typed_data.permit` for the escrow, for `value` base units."""
    r, s, v = _rsv(signature)
    return _call(
        deployment,
        "Marketplace",
        f"createJobWithPermit({JOB_REQUEST},{PERMIT})",
        job_request_values(request),
        (value, deadline, v, r, s),
    )


def cancel_job(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "cancelJob", job_id)


def stop_job(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "stopJob", job_id)


def extend_job(deployment: Deployment, job_id: str, extra_seconds: int) -> Call:
    return _call(deployment, "Marketplace", "extendJob(bytes32,uint40)", bytes32(job_id), extra_seconds)


# ------------------------------------------------------------------ provider


def accept_job(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "acceptJob", job_id)


def start_job(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "startJob", job_id)


def complete_job(deployment: Deployment, job_id: str, result_cid: bytes = bytes(32)) -> Call:
    """`result_cid` is the sha2-256 digest of the results' root CID, zero for none."""
    return _call(deployment, "Marketplace", "completeJob(bytes32,bytes32)", bytes32(job_id), bytes32(result_cid))


def complete_job_with_receipt(
    deployment: Deployment, job_id: str, result_cid: bytes, max_seconds: int, signature: bytes
) -> Call:
    """`signature` is the renter's, of `typed_data.receipt`."""
    return _call(
        deployment,
        "Marketplace",
        "completeJobWithReceipt(bytes32,bytes32,uint40,bytes)",
        bytes32(job_id),
        bytes32(result_cid),
        max_seconds,
        signature,
    )


def register_provider(deployment: Deployment, endpoint: str) -> Call:
    return _call(deployment, "ResourceRegistry", "registerProvider(string)", endpoint)


def register_resource(deployment: Deployment, params: ResourceParams) -> Call:
    values = (
        params.gpu_model,
        params.gpu_count,
        params.vcpu,
        params.memory_gb,
        params.storage_gb,
        params.price_per_hour,
        params.payment_token,
        params.min_seconds,
        params.max_seconds,
        bytes32(params.metadata_cid),
    )
    return _call(deployment, "ResourceRegistry", f"registerResource({RESOURCE_PARAMS})", values)


def update_availability(deployment: Deployment, resource_id: str, available: bool) -> Call:
    return _call(deployment, "ResourceRegistry", "updateAvailability(bytes32,bool)", bytes32(resource_id), available)


def update_pricing(deployment: Deployment, resource_id: str, price_per_hour: int) -> Call:
    return _call(deployment, "ResourceRegistry", "updatePricing(bytes32,uint256)", bytes32(resource_id), price_per_hour)


def stake(deployment: Deployment, amount: int) -> Call:
    return _call(deployment, "StakeVault", "stake(uint256)", amount)


def request_unstake(deployment: Deployment, amount: int) -> Call:
    return _call(deployment, "StakeVault", "requestUnstake(uint256)", amount)


def withdraw_stake(deployment: Deployment, to: Address) -> Call:
    return _call(deployment, "StakeVault", "withdrawStake(address)", to)


# -------------------------------------------------------- either party, anyone


def dispute_job(deployment: Deployment, job_id: str, reason: str) -> Call:
    return _call(deployment, "Marketplace", "disputeJob(bytes32,string)", bytes32(job_id), reason)


def submit_evidence(deployment: Deployment, job_id: str, evidence_cid: bytes) -> Call:
    return _call(deployment, "Marketplace", "submitEvidence(bytes32,bytes32)", bytes32(job_id), bytes32(evidence_cid))


def expire_job(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "expireJob", job_id)


def end_job(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "endJob", job_id)


def settle_job(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "settleJob", job_id)


def resolve_by_timeout(deployment: Deployment, job_id: str) -> Call:
    return _job_call(deployment, "resolveByTimeout", job_id)


# --------------------------------------------------------------------- money


def approve(deployment: Deployment, spender: Address, amount: int, token: Address | None = None) -> Call:
    """`token` is the market's payment token unless given."""
    to = token or deployment.payment_token.address
    return Call(to, encode_call("approve(address,uint256)", spender, amount), label="approve")


def transfer(deployment: Deployment, to: Address, amount: int, token: Address | None = None) -> Call:
    """`token` is the market's payment token unless given."""
    contract = token or deployment.payment_token.address
    return Call(contract, encode_call("transfer(address,uint256)", to, amount), label="transfer")


def deposit(deployment: Deployment, amount: int, token: Address | None = None) -> Call:
    """Into the sender's escrow balance; needs an allowance for the escrow."""
    chosen = token or deployment.payment_token.address
    return _call(deployment, "PaymentEscrow", "deposit(address,uint256)", chosen, amount)


def withdraw(deployment: Deployment, amount: int, to: Address, token: Address | None = None) -> Call:
    """From the sender's escrow balance."""
    chosen = token or deployment.payment_token.address
    return _call(deployment, "PaymentEscrow", "withdraw(address,uint256,address)", chosen, amount, to)


# ----------------------------------------------------------------- committee


def submit_report(deployment: Deployment, report: Report, signers_mask: int, signatures: bytes) -> Call:
    """`signatures`: 64-byte (r, vs) pairs in rising member order; see `typed_data.compact_signature`."""
    return _call(
        deployment,
        "OracleCommittee",
        f"submitValidationReport({REPORT},uint256,bytes)",
        report_values(report),
        signers_mask,
        signatures,
    )


def apply_outcome(deployment: Deployment, seq: int, index: int, outcome: Outcome, proof: list[bytes]) -> Call:
    """The entry point of the outcome's kind.

    Raises:
        MarketError: `invalid_argument`: a validation needs no application.
    """
    name = OUTCOME_ENTRY_POINTS.get(outcome.kind)
    if name is None:
        raise MarketError("invalid_argument", f"an outcome of kind {outcome.kind.name} is not applied")
    signature = f"{name}(uint64,uint32,{OUTCOME},bytes32[])"
    return _call(deployment, "OracleCommittee", signature, seq, index, outcome_values(outcome), proof)


# ----------------------------------------------------------------- ABI values


def job_request_values(request: JobRequest) -> tuple[Any, ...]:
    return (
        bytes32(request.resource_id),
        bytes32(request.image_cid),
        request.duration,
        request.max_price_per_hour,
        request.payment_token,
        request.spec,
    )


def report_values(report: Report) -> tuple[Any, ...]:
    return (
        bytes32(report.config_digest),
        report.seq,
        report.epoch,
        bytes32(report.outcomes_root),
        report.count,
        bytes32(report.evidence_digest),
    )


def outcome_values(outcome: Outcome) -> tuple[Any, ...]:
    return (
        int(outcome.kind),
        bytes32(outcome.job_id),
        outcome.provider,
        outcome.from_,
        outcome.to,
        outcome.value,
        bytes32(outcome.evidence),
    )


def _job_call(deployment: Deployment, name: str, job_id: str) -> Call:
    return _call(deployment, "Marketplace", f"{name}(bytes32)", bytes32(job_id))


def _call(deployment: Deployment, contract: str, signature: str, *arguments: Any) -> Call:
    label = signature[: signature.index("(")]
    return Call(deployment.addresses[contract], encode_call(signature, *arguments), label=label)


def _rsv(signature: bytes) -> tuple[bytes, bytes, int]:
    if len(signature) != 65:
        raise MarketError("invalid_argument", f"a signature has 65 bytes, not {len(signature)}")
    return signature[:32], signature[32:64], signature[64]
