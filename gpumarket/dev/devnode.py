"""What only a development node can do: money from nowhere, blocks at will."""

from __future__ import annotations

from typing import Any

import httpx

from gpumarket.errors import MarketError

CHAIN_ID = 31337
ETHER = 10**18


class DevNode:
    """Administration of an anvil node over JSON-RPC."""

    def __init__(self, rpc_url: str, http: httpx.AsyncClient) -> None:
        self.rpc_url = rpc_url
        self._http = http

    async def ready(self) -> bool:
        try:
            return int(await self._ask("eth_chainId"), 16) == CHAIN_ID
        except (httpx.HTTPError, MarketError):
            return False

    async def give_coins(self, address: str, wei: int) -> None:
        """Native coin for gas."""
        await self._ask("anvil_setBalance", address, hex(wei))

    async def mine_every(self, seconds: int) -> None:
        """Leave instant mining; a block every `seconds` from now on."""
        await self._ask("evm_setAutomine", False)
        await self._ask("evm_setIntervalMining", seconds)

    async def _ask(self, method: str, *params: Any) -> Any:
        answer = await self._http.post(
            self.rpc_url, json={"jsonrpc": "2.0", "id": 1, "method": method, "params": list(params)}
        )
        body = answer.json()
        if "error" in body:
            raise MarketError("chain_unreachable", f"the node refuses {method}: {body['error'].get('message')}")
        return body["result"]
