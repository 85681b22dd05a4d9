"""The indexer as its own process: ready, quick, unharmed by a kill, stopped by SIGTERM."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
import websockets

from gpumarket.chain import calls
from gpumarket.chain.client import ChainClient
from gpumarket.chain.types import JobRequest
from tests.integration.indexer.market_play import Play
from tests.integration.indexer.process import service, until_ready
from tests.parts.anvil import Anvil, free_port
from tests.parts.market import write_deployment

UNIT = 10**18


@pytest.mark.anvil
async def test_a_change_is_visible_and_pushed_within_a_second_and_a_kill_loses_nothing(
    node: Anvil, tmp_path: Path
) -> None:
    play, port = Play(node), free_port()
    d, resource = play.deployment, play.resources[0]
    write_deployment(tmp_path / "deployments", d)
    client = await ChainClient.connect(node.url, d)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=5) as http:

        async def ask(query: str) -> dict[str, Any]:
            answer = (await http.post("/graphql", json={"query": query})).json()
            assert "errors" not in answer, answer
            return dict(answer["data"])

        async def seconds_until(query: str, expected: dict[str, Any]) -> float:
            start = time.monotonic()
            while await ask(query) != expected:
                assert time.monotonic() - start < 10, await ask(query)
                await asyncio.sleep(0.01)
            return time.monotonic() - start

        with service(node, tmp_path, port) as process:
            ready = await until_ready(http)
            assert ready["lag_blocks"] == 0
            assert "head_age_s" in ready
            request = JobRequest(resource, bytes([1]) * 32, 3_600, 100 * UNIT, d.payment_token.address)
            play.send(play.renter, calls.create_job(d, request))
            job = await client.active_job_of(resource)
            assert job is not None
            pending = {"job": {"chainStatus": "CREATED"}}
            question = f'{{ job(id: "{job}") {{ chainStatus }} }}'
            assert await seconds_until(question, pending) < 1
            async with websockets.connect(
                f"ws://127.0.0.1:{port}/graphql", subprotocols=[websockets.Subprotocol("graphql-transport-ws")]
            ) as socket:
                await socket.send(json.dumps({"type": "connection_init"}))
                await socket.recv()
                subscription = f'subscription {{ jobStatusChanged(jobId: "{job}") {{ chainStatus }} }}'
                await socket.send(json.dumps({"id": "1", "type": "subscribe", "payload": {"query": subscription}}))
                assert "CREATED" in str(await asyncio.wait_for(socket.recv(), 5))
                start = time.monotonic()
                play.send(play.providers[0], calls.accept_job(d, job))
                assert "ACCEPTED" in str(await asyncio.wait_for(socket.recv(), 5))
                assert time.monotonic() - start < 1
            process.kill()
            process.wait()
        play.send(play.providers[0], calls.start_job(d, job))
        with service(node, tmp_path, port) as process:
            await until_ready(http)
            assert (await ask(question)) == {"job": {"chainStatus": "RUNNING"}}
            events = (await ask(f'{{ events(jobId: "{job}") {{ name }} }}'))["events"]
            names = [event["name"] for event in events]
            assert sorted(names) == ["FundsLocked", "JobAccepted", "JobCreated", "JobStarted"]
            metrics = (await http.get("/metrics")).text
            assert "gpumarket_indexer_lag_blocks 0.0" in metrics
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0
    await client.close()


@pytest.mark.anvil
async def test_a_second_indexer_on_the_same_data_is_refused(node: Anvil, tmp_path: Path) -> None:
    play, port = Play(node), free_port()
    write_deployment(tmp_path / "deployments", play.deployment)
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as http:
        with service(node, tmp_path, port):
            await until_ready(http)
            with service(node, tmp_path, free_port()) as second:
                assert second.wait(60) == 9
    assert '"already_running"' in (tmp_path / "log").read_text()
