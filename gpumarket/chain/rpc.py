"""JSON-RPC over HTTP: bounded, with few retries, and errors of our own.

Answers stay plain JSON: web3's result formatters cost 270 us per log, plain JSON 7.
"""

from __future__ import annotations

import asyncio
from typing import Any

import aiohttp
from web3 import AsyncHTTPProvider
from web3.exceptions import Web3Exception
from web3.types import RPCEndpoint

from gpumarket.errors import MarketError

REQUEST_TIMEOUT_S = 20.0
RETRY_DELAYS_S = (0.1, 0.4, 1.0)
_BUSY_STATUS = frozenset({429, 500, 502, 503, 504})


class RpcRefused(Exception):
    """The node answered with an error: no network trouble, so no retry. `data` is revert data where there is any."""

    def __init__(self, code: int, message: str, data: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data


class Rpc:
    """One node. Usable again as soon as the node is, however long it was away."""

    def __init__(self, url: str, *, timeout_s: float = REQUEST_TIMEOUT_S) -> None:
        self.url = url
        self._provider = AsyncHTTPProvider(
            url,
            request_kwargs={"timeout": aiohttp.ClientTimeout(total=timeout_s)},
            exception_retry_configuration=None,
        )

    async def request(self, method: str, params: list[Any]) -> Any:
        """The result of one call. Every method is safe to repeat: a transaction's bytes name it.

        Raises:
            RpcRefused: the node refused.
            MarketError: `chain_unreachable` after all retries.
        """
        for delay in (*RETRY_DELAYS_S, None):
            try:
                answer: Any = await self._provider.make_request(RPCEndpoint(method), params)
                if not isinstance(answer, dict):
                    raise ValueError("the answer is no JSON object")
            except (aiohttp.ClientError, TimeoutError, OSError, ValueError, Web3Exception) as error:
                if delay is None or not _passes(error):
                    raise MarketError(
                        "chain_unreachable",
                        f"{method} at the chain's node failed: {type(error).__name__}",
                        hint="is the node running and rpc_url right?",
                    ) from error
                await asyncio.sleep(delay)
                continue
            error_object = answer.get("error")
            if error_object is not None:
                raise _refused(error_object)
            return answer.get("result")
        raise AssertionError("unreachable: the last attempt returns or raises")

    async def close(self) -> None:
        """Give the connections back."""
        await self._provider.disconnect()


def _passes(error: BaseException) -> bool:
    """Whether a repeat may help. A node that hangs has had its time: waiting for it is the caller's choice."""
    if isinstance(error, TimeoutError):
        return False
    if isinstance(error, aiohttp.ClientResponseError):
        return error.status in _BUSY_STATUS
    return not isinstance(error, aiohttp.InvalidURL)


def _refused(error: Any) -> RpcRefused:
    if not isinstance(error, dict):
        return RpcRefused(0, str(error), None)
    return RpcRefused(int(error.get("code", 0)), str(error.get("message", "")), error.get("data"))
