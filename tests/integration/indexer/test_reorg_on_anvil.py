"""The real contracts on a real node, reorganized 1 to 10 blocks deep, indexed into SQLite and PostgreSQL."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from gpumarket.chain.client import ChainClient
from gpumarket.errors import MarketError
from gpumarket.rules.job_state import JobStatus
from indexer import tables
from indexer.database import make_engine
from tests.integration.indexer.market_play import Play
from tests.parts.anvil import Anvil, anvil
from tests.parts.postgres import postgres_server
from tests.unit.indexer.parts import Indexer, contents

QUESTIONS = (
    """{ gpus { id provider gpuModel gpuCount vcpu memoryGB storageGB pricePerHour paymentToken available busy
        reputation isNew uptime endpoint registeredAt minSeconds maxSeconds activeJob { id }
        host { address resources { id } } } }""",
    """{ gpus(filters: {gpuModel: "nvidia", busy: false}, sort: {field: MEMORY_GB, direction: DESC}, limit: 2,
        offset: 1) { id } gpusCount }""",
    """{ jobs { id user provider resourceId imageCID status chainStatus endReason createdAt startTime endTime duration
        maxCost totalCost providerAmount fee refunded resultCID pricePerHour billableSeconds
        dispute { reason openedAt } transactions { hash block event } } }""",
    """{ jobsConnection(status: PENDING, first: 3) { edges { cursor node { id } } pageInfo { hasNextPage endCursor }
        totalCount } }""",
    "{ providers { address stake totalJobs reputation isNew } market { feeBps paymentTokens } }",
    "{ _meta { block { number hash timestamp } } }",
)


@pytest.fixture
def cluster() -> Iterator[str]:
    with postgres_server() as url:
        yield url


@pytest.fixture
async def engines(tmp_path: Path, cluster: str) -> AsyncIterator[tuple[AsyncEngine, AsyncEngine]]:
    sqlite, postgres = make_engine(f"sqlite+aiosqlite:///{tmp_path}/index.db"), make_engine(cluster)
    yield sqlite, postgres
    await sqlite.dispose()
    await postgres.dispose()


@pytest.mark.anvil
@pytest.mark.postgres
async def test_reorganizations_one_to_ten_deep_on_both_databases(
    node: Anvil, engines: tuple[AsyncEngine, AsyncEngine], tmp_path: Path
) -> None:
    play, random = Play(node), Random(7)
    client = await ChainClient.connect(node.url, play.deployment)
    try:
        both = [_index(client, engine) for engine in engines]
        for depth in range(1, 11):
            for _ in range(depth + 2):
                await play.move(client, random)
            for index in both:
                await index.catch_up()
            node.rpc("anvil_reorg", depth, [])
            for _ in range(3):
                await play.move(client, random)
            for index in both:
                await index.catch_up()
                assert index.follower.rollbacks == depth
            answers = [[await index.ask(question) for question in QUESTIONS] for index in both]
            assert answers[0] == answers[1]
            fresh_engine = make_engine(f"sqlite+aiosqlite:///{tmp_path}/fresh-{depth}.db")
            fresh = _index(client, fresh_engine)
            await fresh.catch_up()
            expected = await contents(fresh_engine)
            await fresh_engine.dispose()
            assert await contents(engines[0]) == expected
            assert await contents(engines[1]) == expected
            await _check_against_the_contracts(client, both[0], play)
    finally:
        await client.close()


async def _check_against_the_contracts(client: ChainClient, index: Indexer, play: Play) -> None:
    jobs = (await index.ask(QUESTIONS[2]))["jobs"]
    for shown in jobs:
        job = await client.job(shown["id"])
        escrow = await client.escrow(shown["id"])
        assert shown["chainStatus"] == job.status.name
        assert (shown["startTime"] or 0) == job.started_at
        if job.status is not JobStatus.CANCELLED:
            assert (shown["endTime"] or 0) == job.ended_at
        assert (shown["duration"], int(shown["pricePerHour"])) == (job.duration, job.price_per_hour)
        paid_out = sum(int(shown[name]) for name in ("providerAmount", "fee", "refunded"))
        assert int(shown["maxCost"]) - paid_out == escrow.locked_amount
    for shown in (await index.ask(QUESTIONS[0]))["gpus"]:
        active = await client.active_job_of(shown["id"])
        assert (shown["activeJob"] or {}).get("id") == active
        assert shown["busy"] is (active is not None)
        assert int(shown["pricePerHour"]) == (await client.resource(shown["id"])).price_per_hour
        reputation = await client.reputation(shown["provider"])
        assert (shown["reputation"], shown["isNew"]) == (reputation.score, reputation.is_new)


@pytest.mark.anvil
async def test_beyond_finality_the_real_node_gets_a_clear_error(tmp_path: Path) -> None:
    with anvil(slots=1) as node:
        play = Play(node)
        client = await ChainClient.connect(node.url, play.deployment)
        engine = make_engine(f"sqlite+aiosqlite:///{tmp_path}/index.db")
        try:
            index = _index(client, engine)
            await index.catch_up()
            node.rpc("anvil_reorg", 5, [])
            with pytest.raises(MarketError) as caught:
                await index.catch_up()
            assert caught.value.code == "chain_reorganized"
        finally:
            await engine.dispose()
            await client.close()


@pytest.mark.postgres
async def test_postgres_takes_the_widest_numbers_and_strangers_text(cluster: str) -> None:
    engine = create_async_engine(cluster)
    try:
        async with engine.begin() as connection:
            await connection.run_sync(tables.metadata.create_all)
            row: dict[str, Any] = {
                "id": "1",
                "seq": 2**64 - 1,
                "epoch": 0,
                "outcomes_root": "0x",
                "count": 1,
                "applied": 0,
            }
            row |= {"evidence_digest": "0x", "signers_mask": 2**256 - 1, "timestamp": 2**40, "tx_hash": "0x"}
            await connection.execute(tables.reports.insert(), [row])
            found = (await connection.execute(tables.reports.select())).mappings().one()
        assert dict(found) == row
    finally:
        await engine.dispose()


def _index(client: ChainClient, engine: AsyncEngine) -> Indexer:
    deployment = client.deployment
    return Indexer(client, engine, addresses=deployment.addresses, start_block=deployment.block_number)
