"""A whole market around one real agent: a node, the contracts, a renter with an image in a store of its own."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import uvicorn
from docker.errors import APIError
from starlette.applications import Starlette

from gpumarket.chain import calls
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.events import JobCreated, decode
from gpumarket.chain.sender import Sender, Signer, load_account
from gpumarket.chain.types import Job, JobRequest, Receipt
from gpumarket.images.push import push_from_engine
from gpumarket.ipfs import gateway
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.reader import export_path
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.rules.job_spec import JobSpec, encode
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import JobId, ResourceId
from provider_agent import disks
from tests.parts.anvil import ANVIL_KEYS, Anvil, anvil, free_port
from tests.parts.docker import busybox_image, docker_engine, remove_images
from tests.parts.market import UNIT, accounts, deploy_market, transact, write_deployment

PRICE = "3.6"
ROOT = Path(__file__).resolve().parents[3]


class AgentProcess:
    """One life of the agent."""

    def __init__(self, config: Path, log: Path, die_at: str = "") -> None:
        command = [sys.executable, "-m", "tests.integration.agent.child", str(config), *([die_at] if die_at else [])]
        self.log = log
        environment = {**os.environ, "GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[1]}
        with log.open("ab") as file:
            self.process = subprocess.Popen(command, cwd=ROOT, env=environment, stderr=file)

    def stop(self, timeout: float = 12) -> int:
        """SIGTERM; the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


@dataclass
class Market:
    """What a test acts on. `renter` has tokens and an allowance."""

    node: Anvil
    deployment: Deployment
    chain: ChainClient
    renter: Sender
    renter_signer: Signer
    image: Cid
    store_url: str
    folder: Path
    config: Path
    agent_port: int

    def agent(self, die_at: str = "") -> AgentProcess:
        return AgentProcess(self.config, self.agent_log, die_at)

    @property
    def agent_log(self) -> Path:
        return self.folder / "agent.log"

    @property
    def provider(self) -> str:
        return accounts(self.node)[1]

    async def resource(self, timeout: float = 40) -> ResourceId:
        """The agent's resource, once the agent is ready."""
        deadline = time.monotonic() + timeout
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{self.agent_port}", timeout=3) as http:
            while time.monotonic() < deadline:
                with contextlib.suppress(httpx.HTTPError):
                    answer = await http.get("/readyz")
                    if answer.status_code == 200:
                        return ResourceId(answer.json()["resourceId"])
                await asyncio.sleep(0.3)
        raise AssertionError("the agent does not get ready")

    async def rent(self, resource: ResourceId, spec: JobSpec, *, duration: int = 60, image: Cid | None = None) -> JobId:
        found = await self.chain.resource(resource)
        request = JobRequest(
            resource_id=resource,
            image_cid="0x" + (image or self.image).digest.hex(),
            duration=duration,
            max_price_per_hour=found.price_per_hour,
            payment_token=found.payment_token,
            spec=encode(spec),
        )
        receipt = await self.renter.execute(f"rent {uuid.uuid4()}", calls.create_job(self.deployment, request))
        return created(self.deployment, receipt)

    async def until(self, job_id: JobId, *statuses: JobStatus, timeout: float = 60) -> Job:
        deadline = time.monotonic() + timeout
        while True:
            job = await self.chain.job(job_id)
            if job.status in statuses:
                return job
            assert time.monotonic() < deadline, f"job stays {job.status.name}"
            await asyncio.sleep(0.2)

    async def until_paid(self, job_id: JobId, timeout: float = 60) -> Job:
        deadline = time.monotonic() + timeout
        while True:
            job = await self.chain.job(job_id)
            if job.status is JobStatus.COMPLETED and job.locked_amount == 0:
                return job
            assert time.monotonic() < deadline, f"job stays {job.status.name} with {job.locked_amount} locked"
            await asyncio.sleep(0.2)

    async def until_gone(self, timeout: float = 40) -> None:
        """Until no container of this market is left."""
        deadline = time.monotonic() + timeout
        while containers(self.image):
            assert time.monotonic() < deadline, "a container is left"
            await asyncio.sleep(0.3)

    async def until_closed(self, job_id: JobId, timeout: float = 40) -> None:
        """Until the agent has cleaned up after a job."""
        deadline = time.monotonic() + timeout
        while not any("job closed" in line and job_id in line for line in self.agent_log.read_text().splitlines()):
            assert time.monotonic() < deadline, "the agent does not clean up"
            await asyncio.sleep(0.3)

    def events(self, job_id: JobId) -> list[str]:
        """Names of the market's events about a job, in order."""
        logs = self.node.rpc("eth_getLogs", {"fromBlock": "0x0", "toBlock": "latest"})
        events = [decode(log, self.deployment.addresses) for log in logs]
        return [type(event).__name__ for event in events if getattr(event, "job_id", "") == job_id]

    def transactions_sent(self) -> int:
        """Mined transactions of the provider."""
        return int(self.node.rpc("eth_getTransactionCount", self.provider, "latest"), 16)

    def results(self, job_id: JobId, dest: Path) -> Path:
        """What the agent pinned for a job, written to `dest`."""
        store = EmbeddedStore(self.folder / "agent" / "ipfs")
        export_path(store, next(pin.cid for pin in store.pins() if pin.name == f"results {job_id}"), dest)
        return dest


def created(deployment: Deployment, receipt: Receipt) -> JobId:
    events = (decode(log, deployment.addresses) for log in receipt.logs)
    return next(event.job_id for event in events if isinstance(event, JobCreated))


def containers(image: Cid) -> list[dict[str, Any]]:
    with docker_engine() as client:
        found: list[dict[str, Any]] = client.containers(all=True, filters={"label": f"gpumarket.image={image}"})
        return found


@contextlib.contextmanager
def serve_store(store: EmbeddedStore) -> Iterator[str]:
    """The renter's store over HTTP."""
    port = free_port()
    server = uvicorn.Server(
        uvicorn.Config(Starlette(routes=gateway.routes(store)), host="127.0.0.1", port=port, log_level="error")
    )
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        thread.join(5)


@contextlib.asynccontextmanager
async def market(folder: Path) -> AsyncIterator[Market]:
    """Everything but the agent, which the test starts. At the end nothing is left, whatever the agent did."""
    tag = f"gma-{uuid.uuid4().hex[:12]}:1"
    busybox_image(tag, changes=('CMD ["/bin/sh"]', "ENV PATH=/bin", f"LABEL gpumarket.test={tag}"))
    store = EmbeddedStore(folder / "renter-store")
    image = push_from_engine(tag, store).root
    with anvil(slots=1) as node, serve_store(store) as store_url:
        deployment = deploy_market(node)
        admin, provider, renter = accounts(node)[:3]
        for account in (provider, renter):
            transact(
                node, admin, deployment.payment_token.address, calls.transfer(deployment, account, 1000 * UNIT).data
            )
        node.rpc("evm_setIntervalMining", 1)  # deploying need not wait for blocks, jobs shall
        deployments = write_deployment(folder, deployment)
        chain = await ChainClient.connect(node.url, deployment)
        signer = load_account(None, {"GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[2]})
        sender = Sender(chain, signer, folder / "renter.db")
        approval = calls.approve(deployment, deployment.addresses["PaymentEscrow"], 1000 * UNIT)
        await sender.execute("approve", approval)
        port = free_port()
        config = folder / "agent.toml"
        values: dict[str, Any] = {
            "rpc_url": node.url,
            "deployments": str(deployments),
            "data_dir": str(folder / "agent"),
            "port": port,
            "registry_port": free_port(),
            "price_per_hour": PRICE,
            "min_seconds": 1,
            "max_seconds": 3600,
            "memory_gb": 0.25,
            "cpus": 1,
            "results_gb": 0.02,
            "poll_s": 0.3,
            "heartbeat_s": 1,
            "log_level": "debug",
        }
        config.write_text("[agent]\n" + "".join(f"{k} = {json.dumps(v)}\n" for k, v in values.items()))
        try:
            yield Market(node, deployment, chain, sender, signer, image, store_url, folder, config, port)
        finally:
            await sender.close()
            await chain.close()
            with docker_engine() as client:
                tags = [
                    t for i in client.images(filters={"label": f"gpumarket.test={tag}"}) for t in i["RepoTags"] or []
                ]
                for left in containers(image):
                    client.remove_container(left["Id"], force=True, v=True)
                for disk in (folder / "agent" / "disks").glob("*.img"):
                    disks.destroy(disk)
                for volume in client.volumes(filters={"label": f"gpumarket.image={image}"})["Volumes"] or []:
                    with contextlib.suppress(APIError):  # an engine that was killed believes the disk to be mounted
                        client.remove_volume(volume["Name"], force=True)
            remove_images(*{*tags, tag})
