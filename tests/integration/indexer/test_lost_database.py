"""A PostgreSQL server that goes away under a running indexer, and comes back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpumarket.chain import calls
from tests.integration.indexer.market_play import Play
from tests.integration.indexer.process import service, until_ready
from tests.parts.anvil import Anvil, free_port
from tests.parts.market import UNIT, write_deployment
from tests.parts.postgres import postgres_cluster

PRICES = {"query": "{ gpus { id pricePerHour } }"}


async def until_unready(http: httpx.AsyncClient, code: str) -> None:
    deadline = time.monotonic() + 20
    while True:
        answer = await http.get("/readyz")
        if answer.status_code == 503 and answer.json()["error"]["code"] == code:
            return
        assert time.monotonic() < deadline, answer.text
        await asyncio.sleep(0.1)


@pytest.mark.anvil
@pytest.mark.postgres
async def test_a_database_that_goes_away_and_comes_back_is_survived(node: Anvil, tmp_path: Path) -> None:
    play, port = Play(node), free_port()
    d, resource = play.deployment, play.resources[0]
    write_deployment(tmp_path / "deployments", d)

    async def ask(http: httpx.AsyncClient) -> dict[str, Any]:
        return dict((await http.post("/graphql", json=PRICES)).json())

    with postgres_cluster() as cluster:
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            with service(node, tmp_path, port, cluster.url) as process:
                await until_ready(http)
                cluster.stop()
                play.send(play.providers[0], calls.update_pricing(d, resource, 7 * UNIT))
                await until_unready(http, "database_unreachable")
                assert (await ask(http))["errors"][0]["extensions"]["code"] == "database_unreachable"
                assert (await http.get("/livez")).status_code == 200
                assert process.poll() is None
                cluster.start()
                ready = await until_ready(http)
                deadline = time.monotonic() + 20
                while {"id": resource, "pricePerHour": str(7 * UNIT)} not in (await ask(http))["data"]["gpus"]:
                    assert time.monotonic() < deadline, ready
                    await asyncio.sleep(0.1)
                assert process.poll() is None


@pytest.mark.anvil
@pytest.mark.postgres
async def test_a_database_that_is_not_there_at_the_start_is_waited_for(node: Anvil, tmp_path: Path) -> None:
    play, port = Play(node), free_port()
    write_deployment(tmp_path / "deployments", play.deployment)
    with postgres_cluster() as cluster:
        cluster.stop()
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=10) as http:
            with service(node, tmp_path, port, cluster.url) as process:
                deadline = time.monotonic() + 30
                while True:
                    try:
                        answer = await http.get("/readyz")
                        break
                    except httpx.TransportError:
                        assert time.monotonic() < deadline, "nobody listens"
                        await asyncio.sleep(0.1)
                assert answer.json()["error"]["code"] == "database_unreachable"
                cluster.start()
                await until_ready(http)
                assert process.poll() is None


@pytest.mark.anvil
@pytest.mark.postgres
async def test_a_server_that_does_not_have_the_database_ends_the_indexer_with_clear_words(
    node: Anvil, tmp_path: Path
) -> None:
    play = Play(node)
    write_deployment(tmp_path / "deployments", play.deployment)
    with postgres_cluster() as cluster:
        wrong = cluster.url.replace("/postgres?", "/nowhere?")
        with service(node, tmp_path, free_port(), wrong) as process:
            assert await asyncio.to_thread(process.wait, 60) == 2
    assert '"invalid_config"' in (tmp_path / "log").read_text()
