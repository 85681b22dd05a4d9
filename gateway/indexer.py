"""The gateway's one upstream for data: the indexer's GraphQL."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import httpx

from gpumarket.errors import MarketError

TIMEOUT_S = 15.0
MAX_RESPONSE_BYTES = 16 << 20


@dataclass(frozen=True)
class Answer:
    """An HTTP answer of the indexer, as is."""

    status: int
    body: bytes
    content_type: str


class Indexer:
    """Talks to the indexer at `url` (its base, without /graphql)."""

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self.url = url.rstrip("/")
        self._http = http

    @property
    def websocket_url(self) -> str:
        scheme, _, rest = self.url.partition("://")
        return f"{'wss' if scheme == 'https' else 'ws'}://{rest}/graphql"

    async def query(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The `data` of a query.

        Raises:
            MarketError: `indexer_unreachable`; or the indexer's own code where its first error carries one.
        """
        answer = await self.send("POST", json={"query": document, "variables": dict(variables)})
        try:
            reply = httpx.Response(answer.status, content=answer.body).json()
        except ValueError as error:
            raise _unreachable("the indexer's answer is not JSON", answered=answer.status) from error
        if not isinstance(reply, dict):
            raise _unreachable("the indexer's answer is not GraphQL", answered=answer.status)
        for problem in reply.get("errors") or []:
            code = (problem.get("extensions") or {}).get("code", "")
            message = str(problem.get("message", "the indexer refused the query"))
            try:
                raise MarketError(str(code), message)
            except KeyError:
                raise MarketError("invalid_argument", message) from None
        data = reply.get("data")
        if not isinstance(data, dict):
            raise _unreachable("the indexer's answer carries no data", answered=answer.status)
        return data

    async def send(
        self,
        method: str,
        *,
        content: bytes | None = None,
        json: Any = None,
        query: bytes = b"",
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """One request to /graphql, answer bounded in size and time.

        Raises:
            MarketError: `indexer_unreachable`.
        """
        url = httpx.URL(f"{self.url}/graphql", query=query) if query else httpx.URL(f"{self.url}/graphql")
        try:
            async with asyncio.timeout(TIMEOUT_S):
                async with self._http.stream(
                    method, url, content=content, json=json, headers=dict(headers or {})
                ) as reply:
                    body = bytearray()
                    async for chunk in reply.aiter_bytes():
                        body += chunk
                        if len(body) > MAX_RESPONSE_BYTES:
                            raise _unreachable("the indexer's answer is over the limit", maximum=MAX_RESPONSE_BYTES)
                    return Answer(reply.status_code, bytes(body), reply.headers.get("content-type", "application/json"))
        except (httpx.HTTPError, TimeoutError) as error:
            raise _unreachable("the indexer does not answer") from error


def _unreachable(message: str, **details: Any) -> MarketError:
    return MarketError("indexer_unreachable", message, hint="try again in a moment", **details)
