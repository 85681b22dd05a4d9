"""What a rental will cost and what may happen to the money: known before any money moves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumarket.chain.deployments import PaymentToken
from gpumarket.chain.types import Resource, Windows
from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.rules import settlement
from gpumarket.rules.job_spec import JobSpec, encode
from gpumarket.rules.units import JobId, ResourceId, format_amount

RENT_GAS = 260_000
"""Gas of a first rental with its permit; later ones take less."""


@dataclass(frozen=True)
class Funds:
    """A renter's money. All token amounts in base units, `native` in wei.

    Attributes:
        escrow: already inside the escrow, spendable on a rental without a transfer.
        allowance: what the escrow may take from the wallet.
    """

    wallet: int
    escrow: int
    allowance: int
    native: int


@dataclass(frozen=True)
class Plan:
    """One rental, priced. Money in base units of `token`.

    Attributes:
        key: idempotency key: the same plan is paid at most once.
        image: root CID of the image.
        locked: leaves the renter at once and waits in escrow; the most this rental can cost.
        minimum: the least it costs once the job has started.
        fee_bps: the platform's part of what the provider earns; inside the price, never on top.
        from_escrow, from_wallet: where `locked` comes from.
        permit: an allowance is missing and will be signed into the same transaction.
        gas: about what the transaction costs, wei; never part of `locked`.
    """

    key: str
    resource_id: ResourceId
    provider: str
    machine: str
    image: str
    duration: int
    spec: JobSpec
    token: PaymentToken
    price_per_hour: int
    locked: int
    minimum: int
    fee_bps: int
    from_escrow: int
    from_wallet: int
    permit: bool
    gas: int
    funds: Funds
    windows: Windows

    @property
    def fee_at_most(self) -> int:
        return settlement.fee(self.locked, self.fee_bps)

    @property
    def refund_rules(self) -> tuple[str, ...]:
        """What comes back, and when."""
        w = self.windows
        least = self.amount(self.minimum)
        return (
            f"not accepted within {w.accept} s, or then not started within {w.start} s: everything comes back",
            "cancelled before it is accepted: everything comes back",
            f"it ends early, by itself or by `stop`: the seconds used are paid (at least {least}), the rest comes back",
            "the host dies: seconds without proof of life are never paid",
            f"you object within {w.dispute} s after the end: the oracle committee decides",
        )

    def amount(self, base_units: int) -> str:
        return f"{format_amount(base_units, self.token.decimals)} {self.token.symbol}"

    def as_row(self) -> dict[str, Any]:
        """The plan for programs: amounts as decimal texts of base units."""
        return {
            "resource_id": self.resource_id,
            "provider": self.provider,
            "machine": self.machine,
            "image": self.image,
            "duration": self.duration,
            "token": {"address": self.token.address, "symbol": self.token.symbol, "decimals": self.token.decimals},
            "price_per_hour": str(self.price_per_hour),
            "locked": str(self.locked),
            "minimum": str(self.minimum),
            "fee_bps": self.fee_bps,
            "fee_at_most": str(self.fee_at_most),
            "from_escrow": str(self.from_escrow),
            "from_wallet": str(self.from_wallet),
            "wallet": str(self.funds.wallet),
            "allowance": str(self.funds.allowance),
            "permit": self.permit,
            "gas_wei_about": str(self.gas),
            "refund_rules": list(self.refund_rules),
        }


def make_plan(
    *,
    key: str,
    resource: Resource,
    busy_job: JobId | None,
    image: str,
    duration: int,
    spec: JobSpec,
    token: PaymentToken,
    fee_bps: int,
    windows: Windows,
    funds: Funds,
    gas_price: int,
    max_price_per_hour: int | None = None,
) -> Plan:
    """Price a rental and check all that the contract would refuse.

    Raises:
        MarketError: `resource_unavailable`, `resource_busy`, `payment_token_mismatch`, `price_too_high`,
            `invalid_argument` (duration), `insufficient_balance`, `insufficient_gas_funds`.
    """
    _check_resource(resource, busy_job, token, max_price_per_hour)
    if not resource.min_seconds <= duration <= resource.max_seconds:
        raise MarketError(
            "invalid_argument",
            f"{duration} s is outside what this resource rents: {resource.min_seconds} to {resource.max_seconds} s",
            minimum=resource.min_seconds,
            maximum=resource.max_seconds,
        )
    locked = settlement.lock_up(resource.price_per_hour, duration)
    from_escrow = min(funds.escrow, locked)
    from_wallet = locked - from_escrow
    if funds.wallet < from_wallet:
        need, have = (format_amount(each, token.decimals) for each in (locked, funds.wallet + funds.escrow))
        raise MarketError(
            "insufficient_balance",
            f"this rental locks {need} {token.symbol}; the account holds {have} {token.symbol}",
            hint="rent for a shorter time, or add tokens to the account",
            locked=str(locked),
            wallet=str(funds.wallet),
            escrow=str(funds.escrow),
        )
    gas = RENT_GAS * gas_price
    if funds.native < gas:
        raise MarketError(
            "insufficient_gas_funds",
            f"gas costs about {format_amount(gas, 18)} coin; the account holds {format_amount(funds.native, 18)}",
            gas=str(gas),
            native=str(funds.native),
        )
    return Plan(
        key=key,
        resource_id=resource.resource_id,
        provider=resource.provider,
        machine=machine_text(resource.gpu_model, resource.gpu_count, resource.vcpu, resource.memory_gb),
        image=image,
        duration=duration,
        spec=spec,
        token=token,
        price_per_hour=resource.price_per_hour,
        locked=locked,
        minimum=settlement.cost(resource.price_per_hour, min(resource.min_seconds, duration)),
        fee_bps=fee_bps,
        from_escrow=from_escrow,
        from_wallet=from_wallet,
        permit=funds.allowance < from_wallet,
        gas=gas,
        funds=funds,
        windows=windows,
    )


def image_cid(text: str) -> Cid:
    """The CID of an image that somebody typed. Raises MarketError `invalid_argument`."""
    try:
        cid = Cid.parse(text)
    except MarketError as error:
        raise MarketError("invalid_argument", f"{text!r} is not the CID of an image: {error.message}") from error
    if cid != Cid.dag_pb(cid.digest):
        raise MarketError("invalid_argument", f"{text} is not the CID of an image: an image is a directory (dag-pb)")
    return cid


def with_source(spec: JobSpec, url: str) -> JobSpec:
    """The spec with one more source of the image, if there is one."""
    if not url or url in spec.sources:
        return spec
    return JobSpec(spec.command, spec.entrypoint, spec.env, (*spec.sources, url), spec.manifest, spec.workdir)


def check_spec(spec: JobSpec) -> None:
    """Raises MarketError `invalid_job_spec` for a spec that no host would take."""
    try:
        encode(spec)
    except ValueError as error:
        raise MarketError("invalid_job_spec", str(error)) from error


def machine_text(gpu_model: str, gpu_count: int, vcpu: int, memory_gb: int) -> str:
    """A machine in a few words; one without GPUs says so."""
    hardware = f"{gpu_count} x {gpu_model}" if gpu_count else "no GPU (CPU-only)"
    return f"{hardware}, {vcpu} vCPU, {memory_gb} GB"


def _check_resource(resource: Resource, busy_job: JobId | None, token: PaymentToken, max_price: int | None) -> None:
    facts: Mapping[str, Any] = {"resource_id": resource.resource_id}
    if not resource.available:
        raise MarketError("resource_unavailable", "the provider does not rent this resource out at present", **facts)
    if busy_job is not None:
        raise MarketError(
            "resource_busy", "the resource is rented to somebody else right now", job_id=busy_job, **facts
        )
    if resource.payment_token != token.address:
        raise MarketError(
            "payment_token_mismatch",
            f"this resource is paid in {resource.payment_token}, not in {token.symbol}",
            **facts,
        )
    if max_price is not None and resource.price_per_hour > max_price:
        raise MarketError(
            "price_too_high",
            f"the resource asks {resource.price_per_hour} base units per hour, more than {max_price}",
            **facts,
        )
