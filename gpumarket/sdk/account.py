"""The renter's key, behind two doors: what it signs and what it sends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gpumarket.chain.calls import Call
from gpumarket.chain.typed_data import TypedData
from gpumarket.chain.types import Receipt
from gpumarket.rules.units import Address


class Signing(Protocol):
    """Signs typed data with a key that nobody else sees."""

    @property
    def address(self) -> Address: ...

    def sign_typed(self, data: TypedData) -> bytes:
        """65 bytes: r, s, v."""


class Sending(Protocol):
    """Sends a call once per key, however often it is asked to."""

    async def execute(self, key: str, call: Call) -> Receipt: ...


@dataclass(frozen=True)
class Account:
    signer: Signing
    sender: Sending

    @property
    def address(self) -> Address:
        return self.signer.address
