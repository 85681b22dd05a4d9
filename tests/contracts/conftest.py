"""A deployed market on Ape's own development node."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ape
import pytest

from scripts import deploy as script

STAKE = 100 * script.UNIT
PRICE = 3_600 * 10**15  # 0.001 token a second


@dataclass
class Market:
    """The contracts by name, and who plays in the tests."""

    contracts: dict[str, Any]
    admin: Any
    renter: Any
    provider: Any
    stranger: Any
    resource_id: bytes = b""

    def __getattr__(self, name: str) -> Any:
        return self.contracts[name]


def parameters(owner: str, dispute: int = 600) -> script.Parameters:
    return script.Parameters(
        accept=120,
        start=300,
        dispute=dispute,
        verdict=900,
        fee_bps=200,
        stake_per_resource=STAKE,
        unbonding=86_400,
        slash_amount=STAKE // 2,
        inconvenience=STAKE // 20,
        members=((owner, "http://oracle.example"),),
        threshold=1,
    )


@pytest.fixture
def market(accounts: Any) -> Market:
    """Deployed by the deploy script's own function; the provider has one machine listed."""
    admin, renter, provider, stranger = accounts[:4]
    made, _ = script.deploy(admin, admin.address, parameters(admin.address))
    token = made["GPUToken"]
    made["PaymentEscrow"].allowToken(token, sender=admin)
    for account in (renter, provider, stranger):
        token.transfer(account, 1_000_000 * script.UNIT, sender=admin)
        token.approve(made["PaymentEscrow"], 2**256 - 1, sender=account)
        token.approve(made["StakeVault"], 2**256 - 1, sender=account)
    # A proxy's own interface is not the one to speak: use the implementation's.
    contracts = {
        name: ape.Contract(made[name].address, contract_type=made[f"{name}.implementation"].contract_type)
        if f"{name}.implementation" in made
        else made[name]
        for name in script.ORDER
        if "." not in name
    }
    market = Market(contracts, admin, renter, provider, stranger)
    contracts["StakeVault"].stake(STAKE, sender=provider)
    contracts["ResourceRegistry"].registerProvider("https://provider.example", sender=provider)
    contracts["ResourceRegistry"].registerResource("NVIDIA H200", 16, 128, 64, PRICE, sender=provider)
    market.resource_id = contracts["ResourceRegistry"].getProviderResources(provider)[0]
    return market
