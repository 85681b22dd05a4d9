"""Everything anybody signs that is no transaction: EIP-712, one builder per message.

`permit` is the token's, `report` the committee contract's; the rest is checked off-chain or by the market,
under the market's domain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eth_account import Account
from eth_account.messages import SignableMessage, encode_typed_data
from eth_keys.exceptions import BadSignature
from eth_utils.exceptions import ValidationError

from gpumarket.chain.codec import bytes32, checksum, keccak
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.types import Report
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address

_HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0


@dataclass(frozen=True)
class TypedData:
    """A message and its types, without the domain's own type."""

    domain: Mapping[str, Any]
    primary_type: str
    types: Mapping[str, Sequence[Mapping[str, str]]]
    message: Mapping[str, Any]


def permit(
    deployment: Deployment,
    owner: Address,
    spender: Address,
    value: int,
    nonce: int,
    deadline: int,
    *,
    token_name: str,
    token: Address | None = None,
) -> TypedData:
    """ERC-2612: `spender` may take `value` base units until `deadline`; `token_name` from `ChainClient.token_name`."""
    contract = token or deployment.payment_token.address
    return _typed(
        _domain(token_name, deployment.chain_id, contract),
        "Permit(address owner,address spender,uint256 value,uint256 nonce,uint256 deadline)",
        (owner, spender, value, nonce, deadline),
    )


def receipt(deployment: Deployment, job_id: str, result_cid: str | bytes, max_seconds: int) -> TypedData:
    """The renter accepts these results and pays for at most `max_seconds`; see IMarketplace.completeJobWithReceipt."""
    return _typed(
        _market_domain(deployment),
        "Receipt(bytes32 jobId,bytes32 resultCid,uint40 maxSeconds)",
        (bytes32(job_id), bytes32(result_cid), max_seconds),
    )


def report(deployment: Deployment, report: Report) -> TypedData:
    """A member's signature under an epoch's outcomes; see IOracleCommittee."""
    return _typed(
        _domain("gpumarket OracleCommittee", deployment.chain_id, deployment.addresses["OracleCommittee"]),
        "Report(bytes32 configDigest,uint64 seq,uint64 epoch,bytes32 outcomesRoot,uint32 count,bytes32 evidenceDigest)",
        (
            bytes32(report.config_digest),
            report.seq,
            report.epoch,
            bytes32(report.outcomes_root),
            report.count,
            bytes32(report.evidence_digest),
        ),
    )


def heartbeat(
    deployment: Deployment,
    provider: Address,
    seq: int,
    timestamp: int,
    jobs: Sequence[str],
    metrics_hash: str | bytes,
) -> TypedData:
    """A provider's sign of life: the jobs it runs and the hash of its metrics."""
    return _typed(
        _market_domain(deployment),
        "Heartbeat(address provider,uint64 seq,uint40 timestamp,bytes32[] jobs,bytes32 metricsHash)",
        (provider, seq, timestamp, [bytes32(job) for job in jobs], bytes32(metrics_hash)),
    )


def possession(
    deployment: Deployment,
    challenge_id: str,
    job_id: str,
    cid: str,
    nonce: str | bytes,
    data_sha256: str | bytes,
) -> TypedData:
    """A provider's answer to a possession challenge. `cid` is the text of the root CID."""
    return _typed(
        _market_domain(deployment),
        "Possession(string challengeId,bytes32 jobId,string cid,bytes32 nonce,bytes32 dataSha256)",
        (challenge_id, bytes32(job_id), cid, bytes32(nonce), bytes32(data_sha256)),
    )


def access_grant(deployment: Deployment, job_id: str, account: Address, scope: str, expires_at: int) -> TypedData:
    """A party's pass to a job's logs or metrics (`scope`) until `expires_at`."""
    return _typed(
        _market_domain(deployment),
        "AccessGrant(bytes32 jobId,address account,string scope,uint40 expiresAt)",
        (bytes32(job_id), account, scope, expires_at),
    )


def job_report(deployment: Deployment, job_id: str, report_sha256: str | bytes) -> TypedData:
    """A provider stands by its report of a job; `report_sha256` is the hash of the report's canonical JSON."""
    return _typed(
        _market_domain(deployment),
        "JobReport(bytes32 jobId,bytes32 reportSha256)",
        (bytes32(job_id), bytes32(report_sha256)),
    )


def digest(data: TypedData) -> bytes:
    """The 32 bytes that are signed."""
    message = signable(data)
    return keccak(b"\x19" + message.version + message.header + message.body)


def recover(data: TypedData, signature: bytes) -> Address:
    """Who signed: 65 bytes (r, s, v) or 64 (EIP-2098).

    Raises:
        MarketError: `unauthorized`: the signature is malformed or malleable.
    """
    full = _expand(signature)
    if int.from_bytes(full[32:64], "big") > _HALF_ORDER:
        raise MarketError("unauthorized", "the signature is not in its low-s form")
    try:
        return checksum(Account.recover_message(signable(data), signature=full))
    except (BadSignature, ValidationError, ValueError) as error:
        raise MarketError("unauthorized", "the signature does not verify") from error


def compact_signature(signature: bytes) -> bytes:
    """The 64-byte EIP-2098 form (r, vs) of a 65-byte signature."""
    parity = (signature[64] - 27) & 1 if signature[64] >= 27 else signature[64] & 1
    s = int.from_bytes(signature[32:64], "big") | parity << 255
    return signature[:32] + s.to_bytes(32, "big")


def signable(data: TypedData) -> SignableMessage:
    """The message in the form that eth_account signs.

    Raises:
        MarketError: `invalid_argument`: a value does not fit its type.
    """
    try:
        return encode_typed_data(
            domain_data=dict(data.domain),
            message_types={name: [dict(field) for field in fields] for name, fields in data.types.items()},
            message_data=dict(data.message),
        )
    except Exception as error:  # eth_account raises many kinds, all of them for values that do not fit
        raise MarketError("invalid_argument", f"{data.primary_type}: {error}") from error


def _typed(domain: dict[str, Any], type_text: str, values: tuple[Any, ...]) -> TypedData:
    name, _, rest = type_text.partition("(")
    fields = [dict(zip(("type", "name"), part.split(" "), strict=True)) for part in rest[:-1].split(",")]
    message = {field["name"]: value for field, value in zip(fields, values, strict=True)}
    return TypedData(domain, name, {name: fields}, message)


def _domain(name: str, chain_id: int, contract: Address) -> dict[str, Any]:
    return {"name": name, "version": "1", "chainId": chain_id, "verifyingContract": contract}


def _market_domain(deployment: Deployment) -> dict[str, Any]:
    return _domain("gpumarket", deployment.chain_id, deployment.addresses["Marketplace"])


def _expand(signature: bytes) -> bytes:
    if len(signature) == 64:
        vs = int.from_bytes(signature[32:], "big")
        s = vs & ((1 << 255) - 1)
        return signature[:32] + s.to_bytes(32, "big") + bytes([27 + (vs >> 255)])
    if len(signature) != 65:
        raise MarketError("unauthorized", f"a signature has 65 or 64 bytes, not {len(signature)}")
    return signature
