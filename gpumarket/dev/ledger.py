"""Every transaction of a range of blocks: who sent it, what it did, what gas it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from gpumarket.chain import calls, events
from gpumarket.chain.client import ChainClient
from gpumarket.rules.units import Address

E = TypeVar("E")


@dataclass(frozen=True)
class Entry:
    """One transaction.

    Attributes:
        who: the sender's role, or its address.
        what: the events it caused, or the call if it caused none.
        gas_price: wei per gas.
    """

    tx_hash: str
    block_number: int
    who: str
    what: str
    gas_used: int
    gas_price: int
    events: tuple[Any, ...]

    def as_row(self) -> dict[str, Any]:
        return {
            "tx_hash": self.tx_hash,
            "block": self.block_number,
            "from": self.who,
            "what": self.what,
            "gas_used": self.gas_used,
            "gas_cost_wei": str(self.gas_used * self.gas_price),
        }


async def read_ledger(chain: ChainClient, first: int, last: int, roles: Mapping[Address, str]) -> tuple[Entry, ...]:
    """All transactions from block `first` to `last`, in chain order.

    Raises:
        MarketError: `chain_unreachable`.
    """
    approve = "0x" + calls.approve(chain.deployment, next(iter(roles)), 0).data[:4].hex()
    found: list[Entry] = []
    for number in range(first, last + 1):
        block = await chain.rpc.request("eth_getBlockByNumber", [hex(number), True])
        for transaction in block["transactions"]:
            receipt = await chain.receipt(transaction["hash"])
            if receipt is None:
                continue
            decoded = [events.decode(log, chain.deployment.addresses) for log in receipt.logs]
            caused = tuple(event for event in decoded if event is not None)
            names = list(dict.fromkeys(type(event).__name__ for event in caused))
            plain = "approve" if str(transaction["input"]).startswith(approve) else "transfer"
            found.append(
                Entry(
                    tx_hash=receipt.tx_hash,
                    block_number=number,
                    who=roles.get(receipt.from_, receipt.from_),
                    what=", ".join(names) or plain,
                    gas_used=receipt.gas_used,
                    gas_price=receipt.effective_gas_price,
                    events=caused,
                )
            )
    return tuple(found)


def of_kind(ledger: tuple[Entry, ...], kind: type[E], **wanted: Any) -> list[E]:
    """Events of one class whose fields have these values."""
    return [
        event
        for entry in ledger
        for event in entry.events
        if isinstance(event, kind) and all(getattr(event, name) == value for name, value in wanted.items())
    ]
