"""Brings the chain's entry of this machine in line with the configuration: endpoint, stake, resource, price.

Looks first and acts only on a difference, so any number of starts lists the machine once. A provider's key belongs to
one machine: of its resources the one with this machine's hardware is adopted, any other is switched off.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumarket.chain import calls
from gpumarket.chain.types import Resource, ResourceParams
from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.rules.units import Address, ResourceId, format_amount
from provider_agent.journal import Journal
from provider_agent.ports import Chain, Transactions


@dataclass(frozen=True)
class Listing:
    """What the provider wants listed. `params.metadata_cid` and the limits are those of a new entry."""

    endpoint: str
    params: ResourceParams
    available: bool = True


class Lister:
    """Keeps the listing."""

    def __init__(self, chain: Chain, transactions: Transactions, journal: Journal, provider: Address, log: Log) -> None:
        self._chain = chain
        self._transactions = transactions
        self._journal = journal
        self._provider = provider
        self._log = log

    async def ensure(self, listing: Listing) -> ResourceId:
        """The resource that stands for this machine, listed as wanted.

        Raises:
            MarketError: `insufficient_balance` for the stake, what the contracts refuse, `chain_unreachable`.
        """
        await self._ensure_endpoint(listing.endpoint)
        owned = [await self._chain.resource(i) for i in await self._chain.provider_resources(self._provider)]
        mine = next((r for r in owned if _same_machine(r, listing.params)), None)
        if mine is None:
            mine = await self._register(listing.params, len(owned))
        else:
            self._journal.fulfil("register resource")
        for other in owned:
            if other.resource_id != mine.resource_id and other.available:
                self._log.info("switching off an entry for other hardware", resource_id=other.resource_id)
                await self._set_available(other, False)
        if mine.price_per_hour != listing.params.price_per_hour:
            call = calls.update_pricing(self._chain.deployment, mine.resource_id, listing.params.price_per_hour)
            await self._once(f"price {mine.resource_id}", call)
            self._log.info("price changed", before=mine.price_per_hour, now=listing.params.price_per_hour)
        if mine.available != listing.available:
            await self._set_available(mine, listing.available)
        return mine.resource_id

    async def _ensure_endpoint(self, endpoint: str) -> None:
        known = await self._chain.endpoint_of(self._provider)
        if known == endpoint:
            self._journal.fulfil("register provider")
            return
        await self._once("register provider", calls.register_provider(self._chain.deployment, endpoint))
        self._log.info("provider registered", provider=self._provider, endpoint=endpoint, before=known)

    async def _register(self, params: ResourceParams, owned: int) -> Resource:
        await self._ensure_stake(owned + 1)
        await self._once("register resource", calls.register_resource(self._chain.deployment, params))
        for resource_id in reversed(await self._chain.provider_resources(self._provider)):
            resource = await self._chain.resource(resource_id)
            if _same_machine(resource, params):
                kind = f"{params.gpu_count} x {params.gpu_model}" if params.gpu_count else "CPU-only: no GPU here"
                self._log.info("machine listed", resource_id=resource_id, hardware=kind, price=params.price_per_hour)
                return resource
        raise MarketError("internal", "the resource just registered is not listed")

    async def _ensure_stake(self, resources: int) -> None:
        required = await self._chain.required_stake(resources)
        stake = await self._chain.stake_of(self._provider)
        missing = required - stake.active
        if missing <= 0:
            return
        deployment = self._chain.deployment
        token = deployment.addresses["GPUToken"]
        balance = await self._chain.token_balance(self._provider, token)
        if balance < missing:
            text = format_amount(missing, 18)
            raise MarketError(
                "insufficient_balance",
                f"staking for {resources} machine(s) takes {text} more tokens than are staked; {self._provider} has "
                f"{format_amount(balance, 18)}",
                hint=f"send the provider's account {token} tokens",
            )
        vault = deployment.addresses["StakeVault"]
        await self._once(f"approve stake {missing}", calls.approve(deployment, vault, missing, token))
        await self._once(f"stake {missing}", calls.stake(deployment, missing))
        self._log.info("staked", amount=missing, total=required)

    async def _set_available(self, resource: Resource, available: bool) -> None:
        call = calls.update_availability(self._chain.deployment, resource.resource_id, available)
        await self._once(f"availability {resource.resource_id} {available}", call)

    async def _once(self, name: str, call: calls.Call) -> None:
        """Send under a key that survives a crash and is not used again after success."""
        await self._transactions.execute(self._journal.intent(name), call)
        self._journal.fulfil(name)


def _same_machine(resource: Resource, params: ResourceParams) -> bool:
    return (
        resource.gpu_model,
        resource.gpu_count,
        resource.vcpu,
        resource.memory_gb,
        resource.payment_token,
        resource.min_seconds,
        resource.max_seconds,
    ) == (
        params.gpu_model,
        params.gpu_count,
        params.vcpu,
        params.memory_gb,
        params.payment_token,
        params.min_seconds,
        params.max_seconds,
    )
