"""From a contract's refusal to an error people understand: every custom error has a code."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import Any

from gpumarket.chain.codec import argument_types, bytes_of, checksum, decode, hex_of, selector
from gpumarket.chain.rpc import RpcRefused
from gpumarket.errors import MarketError
from gpumarket.rules.job_state import JobStatus

# Signature with parameter names, as in the interfaces; what is not named here is `transaction_reverted`.
CODES = MappingProxyType(
    {
        "JobStatusInvalid(bytes32 jobId,uint8 actual)": "job_status_invalid",
        "JobCallerUnauthorized(bytes32 jobId,address caller)": "forbidden",
        "JobDeadlineNotReached(bytes32 jobId,uint40 timestamp)": "deadline_not_reached",
        "JobDeadlinePassed(bytes32 jobId,uint40 timestamp)": "deadline_passed",
        "ResourceUnavailable(bytes32 resourceId)": "resource_unavailable",
        "ResourceBusy(bytes32 resourceId,bytes32 jobId)": "resource_busy",
        "ProviderStakeTooLow(address provider,uint256 stake,uint256 required)": "insufficient_stake",
        "PriceAboveMaximum(uint128 pricePerHour,uint128 maximum)": "price_too_high",
        "PaymentTokenMismatch(address expected,address given)": "payment_token_mismatch",
        "DurationOutOfRange(uint40 duration,uint40 minimum,uint40 maximum)": "invalid_argument",
        "SpecTooLarge(uint256 size,uint256 maximum)": "invalid_job_spec",
        "ReceiptSignatureInvalid(bytes32 jobId)": "unauthorized",
        "OutageInvalid(bytes32 jobId,uint40 from,uint40 to)": "invalid_argument",
        "NothingToSettle(bytes32 jobId)": "job_status_invalid",
        "FeeTooHigh(uint16 feeBps,uint16 maximum)": "invalid_argument",
        "DisputeReasonTooLong(uint256 size,uint256 maximum)": "invalid_argument",
        "RenewalNotAllowed(bytes32 jobId)": "forbidden",
        "ReclaimNotAllowed(bytes32 jobId)": "forbidden",
        "NothingToRecord(bytes32 jobId)": "not_found",
        "GasTooLow()": "transaction_reverted",
        "AccessDenied(bytes32 resourceId,address renter)": "forbidden",
        "OfferInvalid(string field)": "invalid_argument",
        "ConfigInvalid(string field)": "invalid_argument",
        "ConfigDigestMismatch(bytes32 expected,bytes32 given)": "invalid_argument",
        "ReportSequenceStale(uint64 latest,uint64 given)": "deadline_passed",
        "ReportSignaturesTooFew(uint256 given,uint256 required)": "unauthorized",
        "ReportSignatureInvalid(uint256 memberIndex)": "unauthorized",
        "ReportMissing(uint64 seq)": "not_found",
        "OutcomeProofInvalid(uint64 seq,uint32 index)": "proof_invalid",
        "OutcomeAlreadyApplied(uint64 seq,uint32 index)": "deadline_passed",
        "OutcomeKindMismatch(uint8 expected,uint8 given)": "invalid_argument",
        "OutcomeSubjectMismatch(bytes32 jobId,address provider)": "invalid_argument",
        "CallerNotMarketplace(address caller)": "forbidden",
        "TokenNotAllowed(address token)": "payment_token_mismatch",
        "TokenAmountMismatch(address token,uint256 expected,uint256 received)": "payment_token_mismatch",
        "TooManyTokens()": "invalid_argument",
        "EscrowExists(bytes32 jobId)": "job_status_invalid",
        "EscrowMissing(bytes32 jobId)": "not_found",
        "EscrowInsufficient(bytes32 jobId,uint96 locked,uint96 asked)": "transaction_reverted",
        "AmountTooLarge(uint256 amount)": "invalid_argument",
        "AmountZero()": "invalid_argument",
        "BalanceInsufficient(address account,address token,uint256 balance,uint256 asked)": "insufficient_balance",
        "FeeAboveCap(uint16 feeBps,uint16 maximum)": "invalid_argument",
        "RecipientZero()": "invalid_argument",
        "ReputationCallerUnauthorized(address caller)": "forbidden",
        "MetricsOutOfRange(uint16 value)": "invalid_argument",
        "ResourceMissing(bytes32 resourceId)": "not_found",
        "ResourceCallerUnauthorized(bytes32 resourceId,address caller)": "forbidden",
        "ResourceParamsInvalid(string field)": "invalid_argument",
        "ProviderNotRegistered(address provider)": "not_found",
        "EndpointInvalid(uint256 size)": "invalid_argument",
        "CallerNotCommittee(address caller)": "forbidden",
        "PaymentTokenNotAllowed(address token)": "payment_token_mismatch",
        "StakeAmountZero()": "invalid_argument",
        "StakeInsufficient(address account,uint256 active,uint256 asked)": "insufficient_stake",
        "StakeStillBonded(address account,uint40 until)": "deadline_not_reached",
        "StakeNothingPending(address account)": "not_found",
        "CallerNotSlasher(address caller)": "forbidden",
        "StakeTokenMismatch(uint256 expected,uint256 received)": "payment_token_mismatch",
        "StakeRecipientZero()": "invalid_argument",
        # OpenZeppelin
        "ERC20InsufficientBalance(address sender,uint256 balance,uint256 needed)": "insufficient_balance",
        "ERC20InsufficientAllowance(address spender,uint256 allowance,uint256 needed)": "insufficient_allowance",
        "ERC2612ExpiredSignature(uint256 deadline)": "deadline_passed",
        "ERC2612InvalidSigner(address signer,address owner)": "unauthorized",
        "AccessControlUnauthorizedAccount(address account,bytes32 neededRole)": "forbidden",
        "EnforcedPause()": "market_paused",
        "SafeERC20FailedOperation(address token)": "transaction_reverted",
    }
)

_HINTS = MappingProxyType(
    {
        "resource_busy": "wait for it or choose another resource",
        "insufficient_allowance": "approve the escrow for the amount",
        "price_too_high": "raise the maximum price or choose another resource",
    }
)

_PANIC = "Panic(uint256)"
_ERROR = "Error(string)"


def revert_error(refused: RpcRefused) -> MarketError:
    """The error of a refused `eth_call` or `eth_estimateGas`, with the contract's values in its message."""
    data = _revert_data(refused.data)
    if data is not None:
        return decode_revert(data)
    message = refused.message[:200]
    if "insufficient funds" in message.lower():
        return MarketError("insufficient_gas_funds", message)
    if "revert" in message.lower():
        return MarketError("transaction_reverted", f"the contract refused: {message}")
    return MarketError("chain_unreachable", f"the chain's node refused: {message}")


def decode_revert(data: bytes) -> MarketError:
    """The error named by revert data: a custom error, a reason string, a panic, or nothing known."""
    found = _by_selector().get(data[:4])
    if found is not None:
        signature, types, names = found
        decoded = zip(types, names, decode(types, data[4:]), strict=True)
        values = [_spell(kind, key, value) for kind, key, value in decoded]
        name = signature[: signature.index("(")]
        text = ", ".join(f"{key} {value}" for key, value in zip(names, values, strict=True))
        code = CODES[signature]
        return MarketError(
            code,
            f"{name}: {text}" if text else name,
            hint=_HINTS.get(code, ""),
            contract_error=name,
            **dict(zip(names, values, strict=True)),
        )
    if data[:4] == selector(_ERROR):
        (reason,) = decode(("string",), data[4:])
        return MarketError("transaction_reverted", f"the contract refused: {reason}")
    if data[:4] == selector(_PANIC):
        (number,) = decode(("uint256",), data[4:])
        return MarketError("transaction_reverted", f"the contract panicked with code {number:#x}")
    shown = hex_of(data[:68]) if data else "no reason"
    return MarketError("transaction_reverted", f"the contract refused with {shown}")


def canonical(signature: str) -> str:
    """A signature without parameter names."""
    name = signature[: signature.index("(")]
    return f"{name}({','.join(part.split(' ')[0] for part in argument_types(signature))})"


@cache
def _by_selector() -> dict[bytes, tuple[str, tuple[str, ...], tuple[str, ...]]]:
    table = {}
    for signature in CODES:
        pairs = [part.split(" ") for part in argument_types(signature)]
        table[selector(canonical(signature))] = (signature, tuple(p[0] for p in pairs), tuple(p[1] for p in pairs))
    return table


def _spell(kind: str, name: str, value: Any) -> Any:
    """A value as people and JSON take it: numbers that JavaScript would round become text."""
    if name == "actual":
        return JobStatus(value).name
    if kind == "address":
        return checksum(value)
    if isinstance(value, bytes):
        return hex_of(value)
    return str(value) if isinstance(value, int) and value >= 1 << 53 else value


def _revert_data(data: Any) -> bytes | None:
    """Revert data, wherever the node put it: text, or an object with `data`."""
    while isinstance(data, dict):
        data = data.get("data", data.get("result"))
    if isinstance(data, str) and data.startswith("0x"):
        return bytes_of(data)
    return None
