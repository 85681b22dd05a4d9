"""A rental from its first transaction to the last, as an operator sees it through Ape."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ape

from scripts import deploy as script
from tests.contracts.conftest import PRICE, Market

IMAGE = b"\x11" * 32
RESULT = b"\x22" * 32
HOUR = 3600
GAS_TABLE = Path(__file__).parent / "gas.json"
TOLERANCE = 1500  # addresses and times differ in their zero bytes from run to run


def create(market: Market, **kwargs: Any) -> tuple[bytes, Any]:
    request = (market.resource_id, IMAGE, HOUR, PRICE, market.GPUToken.address, b"")
    receipt = market.Marketplace.createJob(request, sender=market.renter, **kwargs)
    return market.Marketplace.activeJobOf(market.resource_id), receipt


def rent(market: Market, chain: Any) -> dict[str, int]:
    """One whole simple rental; gas by step, from the receipts."""
    job, created = create(market)
    accepted = market.Marketplace.acceptJob(job, sender=market.provider)
    started = market.Marketplace.startJob(job, sender=market.provider)
    chain.pending_timestamp += 1000
    completed = market.Marketplace.completeJob(job, RESULT, sender=market.provider)
    chain.pending_timestamp += 601
    settled = market.Marketplace.settleJob(job, sender=market.provider)
    steps = {"create": created, "accept": accepted, "start": started, "complete": completed, "settle": settled}
    return {name: receipt.gas_used for name, receipt in steps.items()}


def test_a_rental_pays_everybody(market: Market, chain: Any) -> None:
    job, _ = create(market)
    locked = PRICE
    market.Marketplace.acceptJob(job, sender=market.provider)
    market.Marketplace.startJob(job, sender=market.provider)
    chain.pending_timestamp += 1000
    market.Marketplace.stopJob(job, sender=market.renter)

    escrow, token = market.PaymentEscrow, market.GPUToken
    record = market.Marketplace.getJob(job)
    cost = PRICE * record.settledSeconds // 3600
    assert 1000 <= record.settledSeconds <= 1003
    assert escrow.feesOf(token) == cost * 200 // 10_000
    assert escrow.balanceOf(token, market.provider) == cost - cost * 200 // 10_000
    assert escrow.balanceOf(token, market.renter) == locked - cost
    assert token.balanceOf(escrow) == locked

    before = token.balanceOf(market.provider)
    share = escrow.balanceOf(token, market.provider)
    escrow.withdraw(token, share, market.provider, sender=market.provider)
    assert token.balanceOf(market.provider) == before + share


def test_errors_speak(market: Market) -> None:
    job, _ = create(market)
    with ape.reverts(market.Marketplace.JobCallerUnauthorized):
        market.Marketplace.acceptJob(job, sender=market.stranger)


def test_the_deployed_parts_know_each_other(market: Market) -> None:
    assert market.PaymentEscrow.marketplace() == market.Marketplace.address
    assert market.StakeVault.slasher() == market.OracleCommittee.address
    for name in ("escrow", "registry", "stakeVault", "reputationSystem", "committee"):
        assert market.Marketplace.call_view_method(name) in {c.address for c in market.contracts.values()}
    assert market.ReputationSystem.marketplace() == market.Marketplace.address
    assert market.ResourceRegistry.defaultToken() == market.GPUToken.address


def test_addresses_are_predicted_from_the_nonce(accounts: Any) -> None:
    # The well-known first three addresses of the development deployer.
    places = script.predict("0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266", 0)
    assert places["GPUToken"] == "0x5FbDB2315678afecb367f032d93F642f64180aa3"
    assert places["StakeVault"] == "0xe7f1725E7734CE288F8367e1Bb143E90bb3F0512"


def whole(steps: dict[str, int]) -> int:
    return sum(steps[step] for step in ("create", "accept", "start", "complete"))


def measure(market: Market, chain: Any) -> dict[str, int]:
    """Gas by step on warm balances, paid from the renter's wallet and from its balance in the escrow."""
    rent(market, chain)  # both parties are known to token and escrow from here on
    wallet = rent(market, chain)
    table = {f"{step}, from the wallet": used for step, used in wallet.items()}
    table["whole rental, from the wallet"] = whole(wallet)
    market.PaymentEscrow.deposit(market.GPUToken, 100 * script.UNIT, sender=market.renter)
    balance = rent(market, chain)
    table |= {f"{step}, from the balance": used for step, used in balance.items()}
    table["whole rental, from the balance"] = whole(balance)

    job, _ = create(market)
    market.Marketplace.acceptJob(job, sender=market.provider)
    market.Marketplace.startJob(job, sender=market.provider)
    table["extend"] = market.Marketplace.extendJob(job, HOUR, sender=market.renter).gas_used
    chain.pending_timestamp += 100
    table["settle while running"] = market.Marketplace.settleJob(job, sender=market.stranger).gas_used
    chain.pending_timestamp += 100
    table["stop"] = market.Marketplace.stopJob(job, sender=market.renter).gas_used
    return table


def test_gas_of_a_rental_is_the_committed_table(market: Market, chain: Any) -> None:
    measured = measure(market, chain)
    committed = json.loads(GAS_TABLE.read_text())
    drift = {
        step: (committed.get(step), used)
        for step, used in measured.items()
        if abs(used - committed.get(step, 0)) > TOLERANCE
    }
    assert drift == {}, f"committed and measured differ; if meant, write to {GAS_TABLE.name}: {json.dumps(measured)}"
    assert committed.keys() == measured.keys()
