"""Three member processes, a real node, the real contracts, and a host that answers, falls silent and dies."""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from gpumarket.chain import calls, events
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.sender import Sender, load_account
from gpumarket.chain.types import JobRequest, OutcomeKind, ResourceParams
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import add_directory, add_file
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.rules.job_state import EndReason, JobStatus
from gpumarket.rules.units import JobId
from tests.integration.oracle.host import Host
from tests.parts.anvil import ANVIL_KEYS, Anvil, anvil, free_port
from tests.parts.market import UNIT, deploy_market, write_deployment

pytestmark = [pytest.mark.anvil, pytest.mark.timeout(240)]

SIGNERS = [load_account(None, {"GPUMARKET_PRIVATE_KEY": key}) for key in ANVIL_KEYS]
ADMIN, PROVIDER, RENTER = SIGNERS[0], SIGNERS[1], SIGNERS[2]
MEMBERS = (3, 4, 5)
ROOT = Path(__file__).resolve().parents[3]
PRICE = 3600 * 10**12


@dataclass
class Stage:
    node: Anvil
    deployment: Deployment
    client: ChainClient
    senders: dict[str, Sender]
    host: Host
    endpoints: tuple[str, ...]
    processes: list[subprocess.Popen[bytes]]
    image: Cid

    async def events(self) -> list[Any]:
        head = await self.client.block("latest")
        raw = await self.client.logs(self.deployment.block_number, head.number)
        return [events.decode(log, self.deployment.addresses) for log in raw]

    async def rent(self, name: str, seconds: int) -> JobId:
        """A running job on the provider's one resource."""
        (resource,) = await self.client.provider_resources(PROVIDER.address)
        request = JobRequest(resource, self.image.digest, seconds, PRICE, self.deployment.payment_token.address)
        await self.senders["renter"].execute(f"create:{name}", calls.create_job(self.deployment, request))
        job_id = await self.client.active_job_of(resource)
        assert job_id is not None
        await self.senders["provider"].execute(f"accept:{name}", calls.accept_job(self.deployment, job_id))
        await self.senders["provider"].execute(f"start:{name}", calls.start_job(self.deployment, job_id))
        return job_id


async def until(what: str, check: Callable[[], Awaitable[Any]], timeout_s: float) -> Any:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        found = await check()
        if found:
            return found
        await asyncio.sleep(0.5)
    raise AssertionError(f"not in {timeout_s} s: {what}")


@pytest.fixture
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    ports = [free_port() for _ in MEMBERS]
    endpoints = tuple(f"http://127.0.0.1:{port}" for port in ports)
    with anvil(block_time=1) as node:
        node.rpc("evm_setAutomine", True)
        members = tuple((SIGNERS[i].address, url) for i, url in zip(MEMBERS, endpoints, strict=True))
        deployment = deploy_market(node, members, 2)
        file = write_deployment(tmp_path, deployment)
        processes = [start_member(tmp_path, node.url, file, i, port) for i, port in zip(MEMBERS, ports, strict=True)]
        client = await ChainClient.connect(node.url, deployment)
        senders = {
            name: Sender(client, signer, tmp_path / f"{name}.db", poll_s=0.1)
            for name, signer in (("admin", ADMIN), ("provider", PROVIDER), ("renter", RENTER))
        }
        store = EmbeddedStore(tmp_path / "host")
        layer = add_file(store, io.BytesIO(os.urandom(300_000)))
        image = add_directory(store, {"layer": layer, "note": add_file(store, io.BytesIO(b"hello"))}).cid
        host = Host(deployment, PROVIDER, store, endpoints)
        try:
            await list_machine(deployment, senders)
            await until("members ready", lambda: all_ready(endpoints), 60)
            running = asyncio.create_task(host.run())
            yield Stage(node, deployment, client, senders, host, endpoints, processes, image)
            running.cancel()
        finally:
            for process in processes:
                process.send_signal(signal.SIGTERM)
            for process in processes:
                try:
                    process.wait(10)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            await client.close()


def start_member(base: Path, rpc_url: str, deployments: Path, index: int, port: int) -> subprocess.Popen[bytes]:
    config = base / f"member-{index}.toml"
    settings = {"rpc_url": rpc_url, "deployments": str(deployments), "data_dir": str(base / f"member-{index}")}
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    lines += [f"port = {port}", "heartbeat_s = 1.0", "epoch_s = 4", "challenge_s = 1.0", "dead_beats = 14"]
    config.write_text("[oracle]\n" + "\n".join(lines) + "\n")
    program = "from oracle.app import cli; cli()"
    command = [sys.executable, "-c", program, "run", "--config", str(config)]
    environ = {**os.environ, "GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[index]}
    log = (base / f"member-{index}.log").open("wb")
    return subprocess.Popen(command, cwd=ROOT, env=environ, stderr=log, stdout=log)


async def all_ready(endpoints: tuple[str, ...]) -> bool:
    async with httpx.AsyncClient(trust_env=False) as http:
        try:
            answers = [await http.get(url + "/readyz") for url in endpoints]
        except httpx.HTTPError:
            return False
        return all(answer.status_code == 200 for answer in answers)


async def list_machine(deployment: Deployment, senders: dict[str, Sender]) -> None:
    vault, escrow = deployment.addresses["StakeVault"], deployment.addresses["PaymentEscrow"]
    admin, provider, renter = senders["admin"], senders["provider"], senders["renter"]
    for account in (PROVIDER.address, RENTER.address):
        await admin.execute(f"fund:{account}", calls.transfer(deployment, account, 1_000 * UNIT))
    await provider.execute("approve", calls.approve(deployment, vault, 200 * UNIT))
    await provider.execute("stake", calls.stake(deployment, 200 * UNIT))
    await provider.execute("register", calls.register_provider(deployment, "http://127.0.0.1:1"))
    token = deployment.payment_token.address
    params = ResourceParams("CPU-only", 0, 2, 4, 10, PRICE, token, 1, 3600)
    await provider.execute("list", calls.register_resource(deployment, params))
    await renter.execute("approve", calls.approve(deployment, escrow, 1_000 * UNIT))


async def test_default_behavior_a_report_lands_an_outage_is_not_billed_and_a_death_ends_the_job(stage: Stage) -> None:
    job_id = await stage.rent("first", 600)

    async def report() -> Any:
        return next((e for e in await stage.events() if isinstance(e, events.ReportSubmitted)), None)

    landed = await until("a report", report, 40)
    assert bin(landed.signers_mask).count("1") >= 2
    assert landed.count >= 1
    await evidence_is_served(stage, landed)

    # One member alone hears nothing: no outage may come of it.
    stage.host.deaf_to = {stage.endpoints[0]}
    await asyncio.sleep(10)
    stage.host.deaf_to = set()
    assert not [e for e in await stage.events() if isinstance(e, events.OutageRecorded)]

    # Everybody hears nothing for a while: unpaid.
    stage.host.alive = False
    await asyncio.sleep(8)
    stage.host.alive = True

    async def outage() -> Any:
        found = await stage.client.job(job_id)
        return found if found.outage_seconds >= 3 else None  # it may come in parts, one each epoch

    job = await until("the outage on chain", outage, 30)
    now = (await stage.client.block("latest")).timestamp
    assert await stage.client.billable_seconds(job_id, now) <= now - job.started_at - job.outage_seconds + 1

    # And for good: dead, ended by whoever noticed, the renter has the rest back.
    stage.host.alive = False
    silent_since = int(time.time())

    async def ended() -> Any:
        return (await stage.client.job(job_id)).status is JobStatus.COMPLETED

    await until("the dead host's job ended", ended, 60)
    reasons = [e.reason for e in await stage.events() if isinstance(e, events.JobCompleted)]
    assert reasons == [EndReason.PROVIDER_DEAD]
    job = await stage.client.job(job_id)
    assert abs(job.dead_at - silent_since) <= 8
    assert await stage.client.escrow_balance(RENTER.address) > 0


async def test_two_of_three_are_enough_and_metrics_follow_a_job(stage: Stage) -> None:
    stage.processes[2].kill()
    job_id = await stage.rent("second", 600)

    async def validated() -> Any:
        return [e for e in await stage.events() if isinstance(e, events.ReportSubmitted)]

    await until("a report of two", validated, 40)
    await stage.senders["provider"].execute("done", calls.complete_job(stage.deployment, job_id))

    async def measured() -> Any:
        applied = [e for e in await stage.events() if isinstance(e, events.OutcomeApplied)]
        return [e for e in applied if e.kind is OutcomeKind.METRICS]

    await until("metrics on chain", measured, 40)
    found = [e for e in await stage.events() if isinstance(e, events.MetricsUpdated)]
    assert found[0].uptime_percent >= 9_000


async def test_an_outage_still_open_at_the_jobs_end_is_taken_off_the_bill_before_it_is_paid_out(stage: Stage) -> None:
    job_id = await stage.rent("third", 600)
    await asyncio.sleep(4)
    stage.host.alive = False
    await asyncio.sleep(5)
    await stage.senders["provider"].execute("done", calls.complete_job(stage.deployment, job_id))
    job = await stage.client.job(job_id)

    async def taken_off() -> Any:
        return [e for e in await stage.events() if isinstance(e, events.OutageRecorded) and e.to == job.ended_at]

    await until("the outage up to the end on chain", taken_off, 8)
    assert (await stage.client.job(job_id)).outage_seconds >= 4


async def evidence_is_served(stage: Stage, landed: events.ReportSubmitted) -> None:
    root = Cid.dag_pb(bytes.fromhex(landed.evidence_digest.removeprefix("0x")))
    served = []
    async with httpx.AsyncClient(trust_env=False) as http:
        for url in stage.endpoints:
            answer = await http.get(f"{url}/ipfs/{root}?format=raw", headers={"accept": "application/vnd.ipld.raw"})
            served.append(answer.status_code)
            assert answer.status_code != 200 or root.matches(answer.content)
    assert served.count(200) >= 2
