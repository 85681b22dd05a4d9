"""The money and reputation math of the contracts and of `gpumarket.rules`, side by side on a real EVM node."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from eth_abi.abi import decode, encode
from eth_utils.crypto import keccak
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpumarket.rules import reputation, settlement
from tests.parts.anvil import anvil

pytestmark = pytest.mark.anvil

ARTIFACT = Path(__file__).parents[2] / "out/SettlementHarness.sol/SettlementHarness.json"
DEPLOYER = "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266"  # an unlocked account of the node
Contract = Callable[..., tuple[int, ...]]

price = st.integers(0, 2**128 - 1)
seconds = st.integers(0, 2**40 - 1)
short = st.integers(0, 2**32 - 1)
amount = st.integers(0, 2**96 - 1)
bps = st.integers(0, 10_000)
points = st.integers(0, 2**32 - 1)

side_by_side = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def contract() -> Iterator[Contract]:
    """`contract("name", *uints)` runs a function of the harness and returns its words."""
    if not ARTIFACT.exists():
        pytest.skip("run `forge build` first")
    bytecode = json.loads(ARTIFACT.read_text())["bytecode"]["object"]
    with anvil() as node:
        sent = node.rpc("eth_sendTransaction", {"from": DEPLOYER, "data": bytecode, "gas": hex(5_000_000)})
        address = node.receipt(sent)["contractAddress"]

        def call(name: str, *arguments: int) -> tuple[int, ...]:
            types = ["uint256"] * len(arguments)
            selector = keccak(text=f"{name}({','.join(types)})")[:4]
            data = "0x" + (selector + encode(types, arguments)).hex()
            answer = bytes.fromhex(node.rpc("eth_call", {"to": address, "data": data}, "latest")[2:])
            words: tuple[int, ...] = decode(["uint256"] * (len(answer) // 32), answer)
            return words

        yield call


@given(price=price, duration=seconds)
@side_by_side
def test_lock_and_cost_are_the_same(contract: Contract, price: int, duration: int) -> None:
    assert contract("lockUp", price, duration) == (settlement.lock_up(price, duration),)
    assert contract("cost", price, duration) == (settlement.cost(price, duration),)


@given(amount=amount, fee_bps=bps)
@side_by_side
def test_fee_and_split_are_the_same(contract: Contract, amount: int, fee_bps: int) -> None:
    assert contract("fee", amount, fee_bps) == (settlement.fee(amount, fee_bps),)
    assert contract("split", amount) == settlement.split(amount)


@given(started_at=seconds, ran=seconds, outage=short, minimum=short, duration=seconds)
@side_by_side
def test_billable_seconds_are_the_same(
    contract: Contract, started_at: int, ran: int, outage: int, minimum: int, duration: int
) -> None:
    for ended_at in (started_at + ran, max(started_at - ran, 0)):
        expected = settlement.billable_seconds(started_at, ended_at, outage, minimum, duration)
        assert contract("billableSeconds", started_at, ended_at, outage, minimum, duration) == (expected,)


@given(price=price, billable=seconds, settled=seconds)
@side_by_side
def test_accrual_is_the_same(contract: Contract, price: int, billable: int, settled: int) -> None:
    assert contract("accrued", price, billable, settled) == (settlement.accrued(price, billable, settled),)


@given(count=points, total=points)
@side_by_side
def test_rates_are_the_same(contract: Contract, count: int, total: int) -> None:
    assert contract("rate", count, total) == (reputation.rate(count, total),)


@given(uptime=bps, response=bps, completion=bps, disputes=bps, penalty=points, bonus=points)
@side_by_side
def test_scores_are_the_same(
    contract: Contract, uptime: int, response: int, completion: int, disputes: int, penalty: int, bonus: int
) -> None:
    given_values = (uptime, response, completion, disputes, penalty, bonus)
    assert contract("score", *given_values) == (reputation.score(*given_values),)
