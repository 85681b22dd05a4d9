"""The REST face over an indexer that answers from a table."""

from __future__ import annotations

import io
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import httpx
import pytest
from graphql import build_schema, parse, validate
from starlette.applications import Starlette

from gateway import queries, sockets
from gateway.front import Front
from gateway.indexer import MAX_RESPONSE_BYTES, Indexer
from gateway.routes import MAX_BODY_BYTES, decode_cursor, encode_cursor, routes
from gpumarket.errors import MarketError
from gpumarket.log import Log
from gpumarket.metrics import Metrics
from tests.test_tidy import ROOT

GPU_ID = "0x" + "ab" * 20 + "00" * 12
JOB_ID = "0x" + "cd" * 32
GPU = {
    "id": GPU_ID,
    "pricePerHour": "3601",
    "available": True,
    "busy": False,
    "minSeconds": 60,
    "maxSeconds": 3600,
}

Answer = Callable[[httpx.Request], httpx.Response]


class Upstream:
    """An indexer that answers with `reply` and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[httpx.Request] = []
        self.reply: Answer = lambda _: data({})

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        return self.reply(request)

    @property
    def variables(self) -> dict[str, Any]:
        value: dict[str, Any] = json.loads(self.asked[-1].content)["variables"]
        return value


def data(value: Any) -> httpx.Response:
    return httpx.Response(200, json={"data": value})


@pytest.fixture
def upstream() -> Upstream:
    return Upstream()


@pytest.fixture
async def gateway(upstream: Upstream) -> AsyncIterator[httpx.AsyncClient]:
    http = httpx.AsyncClient(transport=httpx.MockTransport(upstream))
    log = Log("gateway", stream=io.StringIO())
    app = Front(Starlette(routes=routes(Indexer("http://indexer/", http), log)), Metrics("gateway"))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://gateway") as client:
        yield client


def problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    assert answer.headers["content-type"] == "application/problem+json"
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
    return body


async def test_default_behavior_gpus_are_listed_with_filters(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    upstream.reply = lambda _: data({"gpus": [GPU]})
    answer = await gateway.get("/api/v1/gpus?gpuModel=H200&minVcpu=4&maxPricePerHour=5000&available=true")
    assert answer.json() == {"items": [GPU], "next": None}
    filters = {"gpuModel": "H200", "minVcpu": 4, "maxPricePerHour": "5000", "available": True}
    assert upstream.variables == {"filters": filters, "limit": 51, "offset": 0}


async def test_pages_follow_the_cursor_to_the_end(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    rows = [{**GPU, "id": str(n)} for n in range(5)]

    def reply(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)["variables"]
        return data({"gpus": rows[asked["offset"] : asked["offset"] + asked["limit"]]})

    upstream.reply = reply
    found, url = [], "/api/v1/gpus?limit=2"
    for _ in range(3):
        page = (await gateway.get(url)).json()
        found += [row["id"] for row in page["items"]]
        url = f"/api/v1/gpus?limit=2&cursor={page['next']}"
    assert found == ["0", "1", "2", "3", "4"]
    assert page["next"] is None


async def test_an_unchanged_answer_is_not_sent_again(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    upstream.reply = lambda _: data({"gpus": [GPU]})
    tag = (await gateway.get("/api/v1/gpus")).headers["etag"]
    again = await gateway.get("/api/v1/gpus", headers={"if-none-match": f'"other", W/{tag}'})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    upstream.reply = lambda _: data({"gpus": []})
    assert (await gateway.get("/api/v1/gpus", headers={"if-none-match": tag})).status_code == 200


async def test_offers_name_the_whole_price_rounded_up(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    short = {**GPU, "id": "short", "maxSeconds": 100}
    busy = {**GPU, "id": "busy", "busy": True}
    upstream.reply = lambda _: data({"gpus": [GPU, short, busy]})
    body = (await gateway.get("/api/v1/offers?seconds=600")).json()
    assert [offer["id"] for offer in body["items"]] == [GPU_ID]
    assert body["items"][0]["totalPrice"] == "601"
    assert body["seconds"] == 600
    assert upstream.variables["filters"] == {"available": True, "busy": False}
    assert (await gateway.get("/api/v1/offers?seconds=10m")).json()["seconds"] == 600


async def test_one_gpu_and_one_instance(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    upstream.reply = lambda _: data({"gpu": GPU, "job": {"id": JOB_ID}})
    assert (await gateway.get(f"/api/v1/gpus/{GPU_ID}")).json() == GPU
    assert (await gateway.get(f"/api/v1/instances/{JOB_ID}")).json() == {"id": JOB_ID}
    upstream.reply = lambda _: data({"gpu": None, "job": None})
    problem(await gateway.get(f"/api/v1/gpus/{GPU_ID}"), 404, "not_found")
    problem(await gateway.get(f"/api/v1/instances/{JOB_ID}"), 404, "not_found")


async def test_instances_belong_to_a_user(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    upstream.reply = lambda _: data({"jobs": [{"id": JOB_ID}]})
    assert (await gateway.get("/api/v1/instances?user=0xabc")).json()["items"] == [{"id": JOB_ID}]
    assert upstream.variables["user"] == "0xabc"
    problem(await gateway.get("/api/v1/instances"), 400, "invalid_argument")


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1/gpus?limit=0",
        "/api/v1/gpus?limit=101",
        "/api/v1/gpus?limit=x",
        "/api/v1/gpus?limit=%D9%A3",
        "/api/v1/gpus?minVcpu=-1",
        "/api/v1/gpus?available=maybe",
        "/api/v1/gpus?cursor=zz",
        "/api/v1/gpus?cursor=%00",
        "/api/v1/gpus/12",
        "/api/v1/instances/0x12",
        "/api/v1/offers?seconds=soon",
    ],
)
async def test_bad_input_is_a_problem_and_never_reaches_the_indexer(
    path: str, upstream: Upstream, gateway: httpx.AsyncClient
) -> None:
    problem(await gateway.get(path), 400, "invalid_argument")
    assert upstream.asked == []


def test_a_cursor_is_opaque_and_checked() -> None:
    assert decode_cursor(encode_cursor(150)) == 150
    for bad in ("", "b3g", encode_cursor(-1), encode_cursor(10**7)):
        with pytest.raises(MarketError):
            decode_cursor(bad)


async def test_the_indexer_down_is_503_with_its_code(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    def down(_: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    upstream.reply = down
    for path in ("/api/v1/gpus", "/graphql?query={x}"):
        answer = await gateway.get(path)
        problem(answer, 503, "indexer_unreachable")
        assert answer.headers["retry-after"] == "1"


@pytest.mark.parametrize(
    "reply",
    [
        httpx.Response(200, content=b"<html>"),
        httpx.Response(200, json=[]),
        httpx.Response(200, json={"data": None}),
        httpx.Response(200, content=b"x" * (MAX_RESPONSE_BYTES + 1)),
    ],
    ids=["no json", "no object", "no data", "endless"],
)
async def test_a_broken_indexer_is_unreachable(
    reply: httpx.Response, upstream: Upstream, gateway: httpx.AsyncClient
) -> None:
    upstream.reply = lambda _: reply
    problem(await gateway.get("/api/v1/gpus"), 503, "indexer_unreachable")


async def test_the_indexers_own_codes_pass_and_its_words_for_the_rest(
    upstream: Upstream, gateway: httpx.AsyncClient
) -> None:
    for extensions, status, code in (
        ({"code": "request_too_complex"}, 400, "request_too_complex"),
        ({"code": "strange"}, 400, "invalid_argument"),
        (None, 400, "invalid_argument"),
    ):
        error = {"message": "too deep", "extensions": extensions}
        upstream.reply = lambda _, error=error: httpx.Response(200, json={"errors": [error]})  # type: ignore[misc]
        assert problem(await gateway.get("/api/v1/gpus"), status, code)["detail"] == "too deep"


async def test_graphql_passes_through_unchanged(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    upstream.reply = lambda _: httpx.Response(418, content=b"raw", headers={"content-type": "application/graphql"})
    answer = await gateway.post(
        "/graphql?a=1", content=b'{"query":"{x}"}', headers={"content-type": "application/json"}
    )
    assert (answer.status_code, answer.content) == (418, b"raw")
    assert answer.headers["content-type"].startswith("application/graphql")
    asked = upstream.asked[-1]
    assert (asked.method, str(asked.url), asked.content) == ("POST", "http://indexer/graphql?a=1", b'{"query":"{x}"}')
    assert asked.headers["content-type"] == "application/json"


async def test_no_credential_of_the_client_reaches_the_indexer(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    await gateway.post("/graphql", content=b"{}", headers={"authorization": "Bearer x", "cookie": "a=b"})
    assert "authorization" not in upstream.asked[-1].headers
    assert "cookie" not in upstream.asked[-1].headers


async def test_a_body_over_the_limit_is_refused(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    problem(await gateway.post("/graphql", content=b"x" * (MAX_BODY_BYTES + 1)), 400, "request_too_complex")
    assert upstream.asked == []


async def test_unknown_paths_and_methods_are_problems(gateway: httpx.AsyncClient) -> None:
    problem(await gateway.get("/nowhere"), 404, "not_found")
    problem(await gateway.delete("/api/v1/gpus"), 405, "invalid_argument")


async def test_a_defect_tells_nothing(upstream: Upstream, gateway: httpx.AsyncClient) -> None:
    upstream.reply = lambda _: data({})
    body = problem(await gateway.get("/api/v1/gpus"), 500, "internal")
    assert "gpus" not in body["detail"]


def test_every_document_fits_the_indexers_schema() -> None:
    schema = build_schema((ROOT / "indexer/schema.graphql").read_text())
    documents = [queries.GPUS, queries.GPU, queries.JOBS, queries.JOB, queries.META]
    documents += [sockets.JOB_ENDPOINT, sockets.PROVIDER_ENDPOINT]
    for document in documents:
        assert validate(schema, parse(document)) == []
    known = schema.type_map["GPUFilters"].fields  # type: ignore[attr-defined]
    assert set(queries.FILTERS) <= set(known)
