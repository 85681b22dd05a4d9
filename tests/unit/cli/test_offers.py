"""Finding machines: what fits, and why the rest does not."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from gpumarket.errors import MarketError
from gpumarket.sdk.graphql import GraphQL
from gpumarket.sdk.offers import Filters, Listing, find, parse_offer


def row(number: int, **changes: Any) -> dict[str, Any]:
    return {
        "id": f"0x{number:064x}",
        "provider": "0x70997970C51812dc3A010C7d01b50e0d17dc79C8",
        "gpuModel": "NVIDIA H200",
        "gpuCount": 1,
        "vcpu": 8,
        "memoryGB": 64,
        "storageGB": 100,
        "pricePerHour": str(number * 10**18),
        "paymentToken": "0x5FbDB2315678afecb367f032d93F642f64180aa3",
        "available": True,
        "busy": False,
        "reputation": 0,
        "isNew": True,
        "location": None,
        "uptime": 1.0,
        "minSeconds": 60,
        "maxSeconds": 3600,
        "endpoint": "https://host.example",
    } | changes


async def listing(rows: list[dict[str, Any]], filters: Filters) -> Listing:
    def answer(request: httpx.Request) -> httpx.Response:
        variables = json.loads(request.content)["variables"]
        begin = variables["offset"]
        return httpx.Response(200, json={"data": {"gpus": rows[begin : begin + variables["limit"]]}})

    async with httpx.AsyncClient(transport=httpx.MockTransport(answer)) as http:
        return await find(GraphQL("http://gateway.test", http), filters)


async def test_default_behavior() -> None:
    found = await listing([row(3), row(1), row(2, busy=True), row(4, available=False)], Filters())
    assert [offer.price_per_hour for offer in found.offers] == [10**18, 3 * 10**18]
    assert found.excluded == {"busy": 1, "unavailable": 1}


async def test_all_pages_are_read() -> None:
    assert len((await listing([row(n) for n in range(1, 251)], Filters())).offers) == 250


@pytest.mark.parametrize(
    ("filters", "reason"),
    [
        (Filters(gpu_model="a100"), "gpu_model"),
        (Filters(min_gpu_count=2), "gpu_count"),
        (Filters(min_memory_gb=65), "memory_gb"),
        (Filters(min_vcpu=9), "vcpu"),
        (Filters(max_price_per_hour=10**18 - 1), "price_per_hour"),
        (Filters(min_reputation=1), "reputation"),
        (Filters(provider="0x" + "ab" * 20), "provider"),
    ],
)
async def test_a_demand_that_is_missed_is_named(filters: Filters, reason: str) -> None:
    found = await listing([row(1)], filters)
    assert (found.offers, found.excluded) == ((), {reason: 1})


async def test_limits_themselves_fit() -> None:
    filters = Filters("h200", 1, 64, 8, 10**18, None, "0x70997970c51812DC3A010C7d01b50e0d17dc79c8")
    assert len((await listing([row(1)], filters)).offers) == 1


def test_a_new_provider_has_no_reputation_rather_than_zero() -> None:
    assert parse_offer(row(1)).reputation is None
    assert parse_offer(row(1, isNew=False, reputation=870)).reputation == 870


async def query_code(response: httpx.Response) -> str:
    transport = httpx.MockTransport(lambda _: response)
    async with httpx.AsyncClient(transport=transport) as http:
        with pytest.raises(MarketError) as caught:
            await GraphQL("http://gateway.test", http).query("{ x }", {})
    return caught.value.code


async def test_errors_keep_the_code_that_the_other_side_names() -> None:
    named = {"message": "no", "extensions": {"code": "request_too_complex"}}
    assert await query_code(httpx.Response(200, json={"errors": [named]})) == "request_too_complex"
    assert await query_code(httpx.Response(200, json={"errors": [{"message": "no"}]})) == "internal"
    problem = {"code": "indexer_unreachable", "detail": "no answer"}
    assert await query_code(httpx.Response(503, json=problem)) == "indexer_unreachable"


async def test_an_answer_that_is_no_json_is_an_unreachable_gateway() -> None:
    assert await query_code(httpx.Response(502, text="<html>")) == "gateway_unreachable"
    assert await query_code(httpx.Response(200, json=[])) == "gateway_unreachable"


async def test_a_gateway_that_is_down_is_an_unreachable_gateway() -> None:
    def down(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with httpx.AsyncClient(transport=httpx.MockTransport(down)) as http:
        with pytest.raises(MarketError) as caught:
            await GraphQL("http://gateway.test", http).query("{ x }", {})
    assert caught.value.code == "gateway_unreachable"
