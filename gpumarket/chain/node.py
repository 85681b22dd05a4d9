"""What sending needs from a node: nonces, fees, gas, broadcast, and why a transaction failed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gpumarket.chain.calls import Call
from gpumarket.chain.client import ChainClient
from gpumarket.chain.codec import hex_of
from gpumarket.chain.reverts import revert_error
from gpumarket.chain.rpc import RpcRefused
from gpumarket.chain.types import Receipt
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address

# The node has the transaction, or another one with its nonce, mined or waiting: only receipts tell which.
_HARMLESS = (
    *("already known", "already imported", "known transaction", "already exists", "alreadyknown"),
    *("nonce too low", "nonce is too low", "oldnonce", "nonce has already been used"),
    *("replacement transaction underpriced", "replacement fee too low"),
)
_PRIORITY_FALLBACK = 10**9


@dataclass(frozen=True)
class Fees:
    """EIP-1559 fees, wei per gas."""

    max_fee: int
    priority_fee: int

    def raised(self, asked: Fees, cap: int) -> Fees | None:
        """Fees of a replacement: an eighth more, or what the market asks now; None if `cap` leaves too little room.

        Nodes refuse a replacement that pays less than a tenth more.
        """
        raised = Fees(
            min(max(self.max_fee * 9 // 8 + 1, asked.max_fee), cap),
            min(max(self.priority_fee * 9 // 8 + 1, asked.priority_fee), cap),
        )
        return raised if raised.max_fee * 8 >= self.max_fee * 9 else None


class Node:
    """One node, asked on behalf of one account."""

    def __init__(self, client: ChainClient, account: Address) -> None:
        self._rpc = client.rpc
        self._account = account

    async def identity(self) -> str:
        """Names the account and the very chain: its id and the hash of its first block."""
        chain_id = int(await self._ask("eth_chainId", []), 16)
        genesis = await self._ask("eth_getBlockByNumber", ["0x0", False])
        return f"{self._account} on chain {chain_id} from {genesis['hash'] if genesis else 'an unknown first block'}"

    async def mined_nonces(self) -> int:
        """How many transactions of the account are mined. Never "pending": balanced nodes disagree on it."""
        return int(await self._ask("eth_getTransactionCount", [self._account, "latest"]), 16)

    async def head(self) -> int:
        """The newest block's number."""
        return int(await self._ask("eth_blockNumber", []), 16)

    async def fees(self, cap: int) -> Fees:
        """Fees that survive several full blocks, at most `cap` wei per gas."""
        block = await self._ask("eth_getBlockByNumber", ["latest", False])
        try:
            priority = int(await self._rpc.request("eth_maxPriorityFeePerGas", []), 16)
        except RpcRefused:
            priority = _PRIORITY_FALLBACK
        max_fee = min(2 * int(block.get("baseFeePerGas", "0x0"), 16) + priority, cap)
        return Fees(max_fee, min(priority, max_fee))

    async def estimate(self, call: Call) -> int:
        """Gas for `call` with a reserve of a quarter; the simulation that finds refusals before anything is signed.

        Raises:
            MarketError: the contract's refusal, see `reverts`.
        """
        try:
            gas = int(await self._rpc.request("eth_estimateGas", [self._request(call)]), 16)
        except RpcRefused as error:
            raise revert_error(error) from error
        return gas + gas // 4

    async def check_funds(self, wei: int) -> None:
        """Raises MarketError `insufficient_gas_funds` if the account holds less than `wei`."""
        held = int(await self._ask("eth_getBalance", [self._account, "latest"]), 16)
        if held < wei:
            raise MarketError(
                "insufficient_gas_funds",
                f"{self._account} holds {held} wei; the transaction may need {wei}",
                hint="send it some of the chain's native coin",
            )

    async def broadcast(self, raw: bytes) -> None:
        """Hand a signed transaction to the node; harmless to repeat.

        Raises:
            MarketError: `insufficient_gas_funds`; `transaction_not_mined`: the node does not take it as it is, now;
                `chain_unreachable`.
        """
        try:
            await self._rpc.request("eth_sendRawTransaction", [hex_of(raw)])
        except RpcRefused as error:
            message = error.message.lower()
            if any(text in message for text in _HARMLESS):
                return
            code = "insufficient_gas_funds" if "insufficient funds" in message else "transaction_not_mined"
            raise MarketError(code, f"the node does not take the transaction: {error.message[:200]}") from error

    async def reason(self, call: Call, receipt: Receipt) -> MarketError:
        """Why a mined transaction had no effect: the call again, on the state before its block, then after it."""
        for number in (receipt.block_number - 1, receipt.block_number):
            try:
                await self._rpc.request("eth_call", [self._request(call), hex(number)])
            except RpcRefused as error:
                return revert_error(error)
        return MarketError("transaction_reverted", f"transaction {receipt.tx_hash} was mined without effect")

    def _request(self, call: Call) -> dict[str, Any]:
        return {"from": self._account, "to": call.to, "data": hex_of(call.data), "value": hex(call.value)}

    async def _ask(self, method: str, params: list[Any]) -> Any:
        try:
            return await self._rpc.request(method, params)
        except RpcRefused as error:
            raise MarketError("chain_unreachable", f"the node refuses {method}: {error.message[:200]}") from error
