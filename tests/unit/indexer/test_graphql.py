"""What GraphQL answers: filters, pages, limits, codes, subscriptions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from gpumarket.rules.reputation import MIN_SAMPLE
from indexer.schema import make_schema
from tests.fakes import FakeNode
from tests.unit.indexer.parts import Indexer, count_statements, indexer
from tests.unit.indexer.story import (
    PROVIDERS,
    RENTER,
    TOKEN,
    created,
    job_id,
    provider_registered,
    raw,
    registered,
    resource_id,
)

A, B, _ = PROVIDERS
MODELS = ("NVIDIA H200", "NVIDIA A100", "CPU-only", "AMD MI300X")
HUGE = 10**30


@pytest.fixture
async def index(tmp_path: Path) -> AsyncIterator[Indexer]:
    """Two providers, eight machines at rising prices, one job."""
    node = FakeNode()
    node.add([provider_registered(A, "http://a"), provider_registered(B, "http://b")])
    for number in range(8):
        provider = (A, B)[number % 2]
        price = (number + 1) * HUGE
        node.add([registered(provider, number, model=MODELS[number % 4], price=price, memory=8 << number)])
    node.add(created(job_id(1), resource_id(A, 0)))
    async with indexer(node, tmp_path) as running:
        await running.catch_up()
        yield running


def node_of(index: Indexer) -> FakeNode:
    assert isinstance(index.chain, FakeNode)
    return index.chain


async def test_the_committed_schema_is_fresh() -> None:
    committed = Path(__file__).parents[3] / "indexer/schema.graphql"
    assert committed.read_text() == make_schema().as_str() + "\n", (
        "run: python -m indexer.app schema > indexer/schema.graphql"
    )


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"gpuModel": "nvidia"}, [0, 1, 4, 5]),
        ({"gpuModel": "100%"}, []),
        ({"minMemoryGB": 256}, [5, 6, 7]),
        ({"maxPricePerHour": str(2 * HUGE)}, [0, 1]),
        ({"maxPricePerHour": str(10 * HUGE)}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"busy": False, "available": True}, [1, 2, 3, 4, 5, 6, 7]),
        ({"provider": B.lower(), "gpuModel": "h200"}, []),
        ({"provider": A, "gpuModel": "h200", "minMemoryGB": 9}, [4]),
        ({"gpuCount": 2}, []),
        ({"minGpuCount": 1, "minVcpu": 16, "minStorageGB": 500, "paymentToken": TOKEN}, [0, 1, 2, 3, 4, 5, 6, 7]),
        ({"minReputation": 1}, []),
    ],
)
async def test_filters_compose(index: Indexer, filters: dict[str, Any], expected: list[int]) -> None:
    query = "query($f: GPUFilters) { gpus(filters: $f) { id } gpusCount(filters: $f) }"
    data = await index.ask(query, f=filters)
    assert [gpu["id"] for gpu in data["gpus"]] == [resource_id((A, B)[n % 2], n) for n in expected]
    assert data["gpusCount"] == len(expected)


async def test_sort_limit_and_offset(index: Indexer) -> None:
    query = "{ gpus(sort: {field: MEMORY_GB, direction: DESC}, limit: 3, offset: 1) { memoryGB } }"
    assert (await index.ask(query))["gpus"] == [{"memoryGB": 512}, {"memoryGB": 256}, {"memoryGB": 128}]


@pytest.mark.parametrize("field", ["PRICE_PER_HOUR", "REPUTATION", "GPU_COUNT", "UPTIME", "REGISTERED_AT"])
@pytest.mark.parametrize("direction", ["ASC", "DESC"])
async def test_a_connection_walks_every_row_once(index: Indexer, field: str, direction: str) -> None:
    query = """query($s: SortOptions, $after: String) { gpusConnection(sort: $s, first: 3, after: $after) {
        edges { node { id } } pageInfo { hasNextPage endCursor } totalCount } }"""
    seen, after = [], None
    for _ in range(3):
        page = (await index.ask(query, s={"field": field, "direction": direction}, after=after))["gpusConnection"]
        seen += [edge["node"]["id"] for edge in page["edges"]]
        after = page["pageInfo"]["endCursor"]
        assert page["totalCount"] == 8
    assert page["pageInfo"]["hasNextPage"] is False
    assert sorted(seen) == sorted(resource_id((A, B)[n % 2], n) for n in range(8))


async def test_a_job_tells_its_whole_life_and_its_receipt_adds_up(index: Indexer) -> None:
    node, job = node_of(index), job_id(1)
    node.add([raw("Marketplace", "JobAccepted", job, A)])
    started = node.add([raw("Marketplace", "JobStarted", job, node.blocks[-1].timestamp + 2)])
    for _ in range(50):
        node.add([])
    node.add(
        [
            raw("Marketplace", "JobCompleted", job, 3, 102, 102, "0x" + "0f" * 32),
            raw("PaymentEscrow", "Refunded", job, RENTER, 498),
            raw("Marketplace", "JobSettled", job, 102, 102),
            raw("PaymentEscrow", "FundsReleased", job, A, 100, 2),
        ]
    )
    await index.catch_up()
    data = await index.ask(
        """query($id: ID!) {
        job(id: $id) { status chainStatus endReason startTime endTime billableSeconds maxCost totalCost providerAmount
          fee refunded imageCID resultCID paymentToken transactions { hash event } resource { id busy } }
        receipt(jobId: $id) { locked providerAmount fee refunded inEscrow
          payments { kind from to amount fee transaction } }
        events(jobId: $id) { name arguments { name value } } }""",
        id=job,
    )
    shown, receipt = data["job"], data["receipt"]
    assert (shown["status"], shown["chainStatus"], shown["endReason"]) == (
        "COMPLETED",
        "COMPLETED",
        "PROVIDER_COMPLETED",
    )
    assert (shown["startTime"], shown["endTime"]) == (started.timestamp, started.timestamp + 102)
    assert shown["imageCID"].startswith("bafybei")
    assert shown["resource"]["busy"] is False
    assert [t["event"] for t in shown["transactions"]][:2] == ["JobCreated", "FundsLocked"]
    assert receipt["locked"] == "600"
    assert receipt["inEscrow"] == "0"
    assert sum(int(receipt[name]) for name in ("providerAmount", "fee", "refunded", "inEscrow")) == 600
    assert [(p["kind"], p["amount"]) for p in receipt["payments"]] == [
        ("LOCKED", "600"),
        ("REFUNDED", "498"),
        ("RELEASED", "100"),
    ]
    assert receipt["payments"][0]["from"] == RENTER
    assert receipt["payments"][2]["to"] == A
    assert data["events"][0]["name"] == "JobCreated"


async def test_a_dispute_before_the_start_has_no_end_time_and_a_verdict_closes_it(index: Indexer) -> None:
    node, job = node_of(index), job_id(1)
    node.add([raw("Marketplace", "JobAccepted", job, A), raw("Marketplace", "JobDisputed", job, RENTER, "x\x00y", 0)])
    node.add([raw("Marketplace", "EvidenceSubmitted", job, RENTER, "0x" + "0a" * 32)])
    await index.catch_up()
    query = """query($id: ID!) { job(id: $id) { status endTime totalCost
        dispute { reason verdict evidence { party } } resource { busy } } }"""
    data = await index.ask(query, id=job)
    assert data["job"]["status"] == "DISPUTED"
    assert (data["job"]["endTime"], data["job"]["totalCost"]) == (None, None)
    assert data["job"]["dispute"] == {"reason": "x\ufffdy", "verdict": None, "evidence": [{"party": RENTER}]}
    assert data["job"]["resource"]["busy"] is False
    node.add([raw("Marketplace", "JobResolved", job, 0, False), raw("PaymentEscrow", "Refunded", job, RENTER, 600)])
    await index.catch_up()
    data = await index.ask(query, id=job)
    assert (data["job"]["status"], data["job"]["totalCost"]) == ("COMPLETED", "0")
    assert data["job"]["dispute"]["verdict"] == "PROVIDER_FAULT"


async def test_a_provider_is_new_until_the_sample_is_large_enough(index: Indexer) -> None:
    node = node_of(index)
    query = """query($a: String!) { provider(address: $a) { isNew reputation totalJobs endpoint }
        gpus(limit: 1) { isNew reputation } }"""
    for _ in range(MIN_SAMPLE - 1):
        node.add([raw("ReputationSystem", "JobRecorded", A, 0), raw("ReputationSystem", "ReputationUpdated", A, 0)])
    await index.catch_up()
    assert (await index.ask(query, a=A))["provider"]["isNew"] is True
    node.add([raw("ReputationSystem", "JobRecorded", A, 0), raw("ReputationSystem", "ReputationUpdated", A, 987)])
    await index.catch_up()
    data = await index.ask(query, a=A.lower())
    assert data["provider"] == {"isNew": False, "reputation": 987, "totalJobs": MIN_SAMPLE, "endpoint": "http://a"}
    assert data["gpus"] == [{"isNew": False, "reputation": 987}]


async def test_jobs_are_found_by_user_provider_and_status(index: Indexer) -> None:
    data = await index.ask(
        """query($u: String!, $p: String!) { myJobs(address: $u) { id }
        mine: jobs(user: $u, provider: $p, status: PENDING) { id }
        none: jobs(provider: $p, status: RUNNING) { id } jobsCount(user: $u)
        jobsConnection(user: $u) { totalCount edges { node { id } } } }""",
        u=RENTER.lower(),
        p=A,
    )
    assert data["myJobs"] == data["mine"] == [{"id": job_id(1)}]
    assert data["none"] == []
    assert data["jobsCount"] == data["jobsConnection"]["totalCount"] == 1


async def test_nested_objects_cost_one_query_per_field_not_one_per_row(index: Indexer) -> None:
    node = node_of(index)
    for number in range(2, 9):
        node.add(created(job_id(number), resource_id((A, B)[(number - 1) % 2], number - 1)))
    await index.catch_up()
    statements: list[str] = []
    stop = count_statements(index.engine, statements.append)
    data = await index.ask(
        """{ jobs { id resource { id host { endpoint resources { id } } }
            transactions { hash } dispute { reason } } }"""
    )
    stop()
    assert len(data["jobs"]) == 8
    assert len([s for s in statements if s.startswith("SELECT")]) == 6


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("{ nothing }", "invalid_argument"),
        ("{ gpus(limit: 1001) { id } }", "request_too_complex"),
        ("{ gpus(limit: -1) { id } }", "invalid_argument"),
        ('{ gpu(id: "0x12") { id } }', "invalid_argument"),
        ('{ myJobs(address: "bob") { id } }', "invalid_argument"),
        ('{ gpus(filters: {maxPricePerHour: "1.5"}) { id } }', "invalid_argument"),
        ('{ gpusConnection(after: "rubbish") { totalCount } }', "invalid_argument"),
        ("{ gpus { " + "host { resources { " * 6 + "id" + " } }" * 6 + " } }", "request_too_complex"),
        ("{ " + " ".join(f"a{n}: gpusCount" for n in range(30)) + " }", "request_too_complex"),
        ("{ " + "gpusCount " * 500 + "}", "request_too_complex"),
        ("{ " + "gpusCount " * 3_000 + "}", "request_too_complex"),
        ("{" + "a{" * 900 + "a" + "}" * 901, "request_too_complex"),
        ("{ ...F } fragment F on Query { gpusCount ...F }", "invalid_argument"),
    ],
    ids=[f"query{number}" for number in range(13)],
)
async def test_refusals_carry_a_code(index: Indexer, query: str, code: str) -> None:
    assert await index.code(query) == code


async def test_fragments_cannot_hide_the_size_of_a_query(index: Indexer) -> None:
    doubling = "".join(f" fragment F{n} on Query {{ ...F{n + 1} ...F{n + 1} }}" for n in range(20))
    assert await index.code("{ ...F0 }" + doubling + " fragment F20 on Query { gpusCount }") == "request_too_complex"


async def test_a_defect_does_not_show_its_text(index: Indexer) -> None:
    async with index.engine.begin() as connection:
        await connection.exec_driver_sql("drop table jobs")
    result = await index.result("{ jobs { id } }")
    assert result.errors is not None
    assert result.errors[0].formatted["extensions"]["code"] == "internal"
    assert "jobs" not in result.errors[0].message.lower()


async def test_a_strangers_huge_number_does_not_fail_the_list(index: Indexer) -> None:
    big = 2**32 - 1
    params = (resource_id(B, 99), B, "nul\x00byte", 1, 1, big, big, 1, TOKEN, 1, big, "0x" + "00" * 32)
    node_of(index).add([raw("ResourceRegistry", "ResourceRegistered", *params)])
    await index.catch_up()
    data = await index.ask("{ gpus(limit: 1) { memoryGB maxSeconds gpuModel } }")
    assert data["gpus"] == [{"memoryGB": 2**31 - 1, "maxSeconds": 2**31 - 1, "gpuModel": "nul\ufffdbyte"}]


async def test_job_status_changed_pushes_the_present_and_then_each_change(index: Indexer) -> None:
    node, job = node_of(index), job_id(1)
    stream = await index.schema.subscribe(
        "subscription($id: ID!) { jobStatusChanged(jobId: $id) { chainStatus } }",
        variable_values={"id": job},
        context_value=index.context(),
    )
    assert not hasattr(stream, "errors")
    updates = stream.__aiter__()

    async def following() -> Any:
        result = await asyncio.wait_for(updates.__anext__(), 5)
        return result.data["jobStatusChanged"] and result.data["jobStatusChanged"]["chainStatus"]

    assert await following() == "CREATED"
    node.add([raw("Marketplace", "JobAccepted", job, A)])
    await index.catch_up()
    assert await following() == "ACCEPTED"
    node.drop(2)
    node.add([], salt="without the job")
    await index.catch_up()
    assert await following() is None
    await updates.aclose()
    assert not index.hub._listeners


async def test_new_gpu_available_pushes_what_became_rentable(index: Indexer) -> None:
    stream = await index.schema.subscribe("subscription { newGPUAvailable { id } }", context_value=index.context())
    updates = stream.__aiter__()
    waiting = asyncio.ensure_future(updates.__anext__())
    for _ in range(20):  # let it start listening
        await asyncio.sleep(0)
    assert index.hub._listeners
    node = node_of(index)
    node.add([registered(B, 50), raw("Marketplace", "JobCancelled", job_id(1), 1)])
    await index.catch_up()
    first = await asyncio.wait_for(waiting, 5)
    second = await asyncio.wait_for(updates.__anext__(), 5)
    ids = {result.data["newGPUAvailable"]["id"] for result in (first, second)}
    assert ids == {resource_id(A, 0), resource_id(B, 50)}
    await updates.aclose()


async def test_the_market_its_payments_and_reports_are_shown(index: Indexer) -> None:
    node = node_of(index)
    node.add(
        [
            raw("Marketplace", "FeeUpdated", 200),
            raw("PaymentEscrow", "TokenAllowed", TOKEN, 0),
            raw("OracleCommittee", "CommitteeConfigured", "0x" + "0c" * 32, 1, 1, [RENTER], ["http://o"]),
            raw("OracleCommittee", "ReportSubmitted", 2**64 - 1, 1, "0x" + "0d" * 32, 1, "0x" + "0e" * 32, 1),
            raw("OracleCommittee", "OutcomeApplied", 2**64 - 1, 0, 0, job_id(1), A),
            raw("PaymentEscrow", "Withdrawn", A, TOKEN, A, 5),
        ]
    )
    await index.catch_up()
    data = await index.ask(
        """query($a: String!) { market { feeBps paymentTokens committee { threshold signers } }
        payments(account: $a) { kind to amount }
        reports { seq applied } providers { address } }""",
        a=A,
    )
    assert data["market"] == {
        "feeBps": 200,
        "paymentTokens": [TOKEN],
        "committee": {"threshold": 1, "signers": [RENTER]},
    }
    assert data["payments"] == [{"kind": "WITHDRAWN", "to": A, "amount": "5"}]
    assert data["reports"] == [{"seq": str(2**64 - 1), "applied": 1}]
    assert {provider["address"] for provider in data["providers"]} == {A, B}
