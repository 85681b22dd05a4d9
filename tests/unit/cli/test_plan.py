"""The plan of a rental: all of the price, and all that the contract would refuse, before any money moves."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gpumarket.chain.deployments import PaymentToken
from gpumarket.chain.types import Resource, Windows
from gpumarket.errors import MarketError
from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.units import Address, JobId, ResourceId
from gpumarket.sdk.plan import RENT_GAS, Funds, Plan, machine_text, make_plan

TOKEN = PaymentToken(Address("0x5FbDB2315678afecb367f032d93F642f64180aa3"), "GPU", 18)
HOUR = 3_600
RESOURCE = Resource(
    resource_id=ResourceId("0x" + "11" * 32),
    provider=Address("0x70997970C51812dc3A010C7d01b50e0d17dc79C8"),
    gpu_model="NVIDIA H200",
    gpu_count=2,
    vcpu=16,
    memory_gb=128,
    storage_gb=1_000,
    price_per_hour=10**18 + 1,
    payment_token=TOKEN.address,
    min_seconds=60,
    max_seconds=HOUR,
    available=True,
    total_uptime=0,
    reputation=0,
    registered_at=1,
    metadata_cid=bytes(32),
)
FUNDS = Funds(wallet=10**19, escrow=0, allowance=0, native=10**18)


def plan(**changes: Any) -> Plan:
    arguments: dict[str, Any] = {
        "key": "rent:1",
        "resource": RESOURCE,
        "busy_job": None,
        "image": "bafy",
        "duration": 61,
        "spec": JobSpec(),
        "token": TOKEN,
        "fee_bps": 200,
        "windows": Windows(120, 300, 4, 60),
        "funds": FUNDS,
        "gas_price": 10**9,
    }
    return make_plan(**arguments | changes)


def code(**changes: Any) -> str:
    with pytest.raises(MarketError) as caught:
        plan(**changes)
    return caught.value.code


def test_default_behavior() -> None:
    found = plan()
    assert found.locked == -(-(10**18 + 1) * 61 // HOUR)
    assert found.minimum == (10**18 + 1) * 60 // HOUR
    assert found.fee_at_most == found.locked * 200 // 10_000
    assert (found.from_escrow, found.from_wallet, found.permit) == (0, found.locked, True)
    assert found.machine == "2 x NVIDIA H200, 16 vCPU, 128 GB"


def test_the_escrow_balance_is_spent_before_the_wallet() -> None:
    found = plan(funds=replace(FUNDS, escrow=5))
    assert (found.from_escrow, found.from_wallet) == (5, found.locked - 5)


def test_no_permit_when_the_escrow_balance_covers_all() -> None:
    assert not plan(funds=replace(FUNDS, escrow=10**19)).permit


def test_no_permit_when_the_allowance_is_enough() -> None:
    assert not plan(funds=replace(FUNDS, allowance=10**19)).permit


def test_a_permit_when_the_allowance_is_one_unit_short() -> None:
    short = plan().locked - 1
    assert plan(funds=replace(FUNDS, allowance=short)).permit


def test_exactly_the_lock_is_enough() -> None:
    locked = plan().locked
    assert plan(funds=replace(FUNDS, wallet=locked)).from_wallet == locked
    assert code(funds=replace(FUNDS, wallet=locked - 1)) == "insufficient_balance"


def test_too_little_coin_for_gas_is_refused() -> None:
    gas = RENT_GAS * 10**9
    assert plan(funds=replace(FUNDS, native=gas)).gas == gas
    assert code(funds=replace(FUNDS, native=gas - 1)) == "insufficient_gas_funds"


def test_a_busy_resource_is_refused() -> None:
    assert code(busy_job=JobId("0x" + "22" * 32)) == "resource_busy"


def test_a_drained_resource_is_refused() -> None:
    assert code(resource=replace(RESOURCE, available=False)) == "resource_unavailable"


def test_another_payment_token_is_refused() -> None:
    other = Address("0x0000000000000000000000000000000000000001")
    assert code(resource=replace(RESOURCE, payment_token=other)) == "payment_token_mismatch"


@pytest.mark.parametrize("duration", [59, HOUR + 1])
def test_a_duration_outside_the_limits_is_refused(duration: int) -> None:
    assert code(duration=duration) == "invalid_argument"


def test_a_price_above_the_ceiling_is_refused() -> None:
    assert code(max_price_per_hour=10**18) == "price_too_high"
    assert plan(max_price_per_hour=10**18 + 1).price_per_hour == 10**18 + 1


def test_amounts_for_programs_are_texts_of_base_units() -> None:
    row = plan().as_row()
    amounts = ("price_per_hour", "locked", "minimum", "fee_at_most", "wallet")
    assert all(isinstance(row[name], str) and row[name].isdigit() for name in amounts)


def test_a_machine_without_a_gpu_says_so() -> None:
    assert machine_text("CPU-only", 0, 2, 4) == "no GPU (CPU-only), 2 vCPU, 4 GB"
