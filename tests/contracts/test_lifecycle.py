"""A rental from its first transaction to the last, as an operator sees it through Ape."""

from __future__ import annotations

from typing import Any

import ape

from scripts import deploy as script
from tests.contracts.conftest import PRICE, Market

IMAGE = b"\x11" * 32
HOUR = 3600


def create(market: Market, **kwargs: Any) -> tuple[bytes, Any]:
    request = (market.resource_id, IMAGE, HOUR, PRICE, market.GPUToken.address, b"")
    receipt = market.Marketplace.createJob(request, sender=market.renter, **kwargs)
    return market.Marketplace.activeJobOf(market.resource_id), receipt


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
