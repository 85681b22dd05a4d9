"""What the agent asks of the chain and of its key: `ChainClient`, `Sender`, `Signer` in production, fakes in tests."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gpumarket.chain.calls import Call
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.typed_data import TypedData
from gpumarket.chain.types import Block, Committee, Job, RawLog, Receipt, Resource, Stake, Windows
from gpumarket.rules.units import Address, ResourceId

Clock = Callable[[], float]
"""Unix seconds now."""

Fault = Callable[[str], None]
"""Called with the name of each point a crash could fall on; does nothing outside tests."""


class Chain(Protocol):
    """Reads. Every method raises MarketError `chain_unreachable` while the node is silent."""

    deployment: Deployment
    chain_id: int

    async def block(self, which: int | str) -> Block: ...
    async def logs(self, from_block: int, to_block: int) -> list[RawLog]: ...
    async def job(self, job_id: str) -> Job: ...
    async def windows(self) -> Windows: ...
    async def resource(self, resource_id: str) -> Resource: ...
    async def provider_resources(self, provider: Address) -> list[ResourceId]: ...
    async def endpoint_of(self, provider: Address) -> str: ...
    async def stake_of(self, account: Address) -> Stake: ...
    async def required_stake(self, resources: int) -> int: ...
    async def token_balance(self, account: Address, token: Address | None = None) -> int: ...
    async def committee(self) -> Committee: ...


class Transactions(Protocol):
    """Writes, once per key."""

    async def execute(self, key: str, call: Call) -> Receipt:
        """Send and wait; raises what the contract said, `transaction_not_mined` or `chain_unreachable`."""
        ...


class Signer(Protocol):
    """The provider's key, which only the sender's module sees."""

    @property
    def address(self) -> Address: ...

    def sign_typed(self, data: TypedData) -> bytes:
        """65 bytes r, s, v."""
        ...
