"""GraphQL over HTTP: the renter's searchable view of the chain, through the gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import httpx

from gpumarket.errors import ERROR_KINDS, MarketError


class Queries(Protocol):
    """Answers GraphQL queries."""

    async def query(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]: ...


class GraphQL:
    """A GraphQL endpoint.

    Args:
        url: the gateway's address; `/graphql` is added.
    """

    def __init__(self, url: str, http: httpx.AsyncClient) -> None:
        self._url = url.rstrip("/") + "/graphql"
        self._http = http

    async def query(self, document: str, variables: Mapping[str, Any]) -> dict[str, Any]:
        """The `data` of the answer.

        Raises:
            MarketError: `gateway_unreachable`, or the code that the answer names.
        """
        try:
            answer = await self._http.post(self._url, json={"query": document, "variables": dict(variables)})
            body = answer.json()
        except (httpx.HTTPError, ValueError) as error:
            raise MarketError(
                "gateway_unreachable",
                f"{self._url} does not answer: {type(error).__name__}",
                hint="is gateway_url right, and the gateway running?",
            ) from error
        if not isinstance(body, dict):
            raise MarketError("gateway_unreachable", f"{self._url} answered something that is no GraphQL")
        if body.get("errors"):
            raise _graphql_error(body["errors"][0])
        if answer.status_code >= 400:
            code = body.get("code")
            known = code if code in ERROR_KINDS else "gateway_unreachable"
            raise MarketError(
                known, str(body.get("detail") or f"HTTP {answer.status_code}"), hint=str(body.get("hint") or "")
            )
        data = body.get("data")
        return data if isinstance(data, dict) else {}


def _graphql_error(error: Mapping[str, Any]) -> MarketError:
    code = (error.get("extensions") or {}).get("code")
    return MarketError(code if code in ERROR_KINDS else "internal", str(error.get("message")))
