"""The running agent: lists this machine, then works through its jobs and keeps in touch with the oracles."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import httpx

from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.development import DEVELOPMENT_CHAINS
from gpumarket.chain.sender import Sender, Signer
from gpumarket.errors import MarketError
from gpumarket.images.policy import Policy
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.rules.units import JobId, ResourceId
from gpumarket.service import DirectoryLock, Service
from provider_agent import gpus
from provider_agent.agent import Agent
from provider_agent.challenges import Challenges
from provider_agent.container import Machine, Market, image_root
from provider_agent.docker_runtime import DockerRuntime
from provider_agent.follow import Follower
from provider_agent.heartbeats import Heartbeats, Pulse
from provider_agent.image import ImageDesk
from provider_agent.job import Desk
from provider_agent.journal import Journal
from provider_agent.listing import Lister, Listing
from provider_agent.logs import LogHub
from provider_agent.offer import Limits
from provider_agent.ports import Fault
from provider_agent.pump import LogPump
from provider_agent.results import ResultsDesk
from provider_agent.server import JobStreams
from provider_agent.settings import Settings, resource_of
from provider_agent.sources import resolve_host
from provider_agent.state import JobState
from provider_agent.tidy import tidy

T = TypeVar("T")

RESUME_S = 15.0
"""How often unfinished transactions are looked after."""

TIDY_S = 3_600.0

_TRANSIENT = frozenset({"chain_unreachable", "docker_unreachable", "transaction_not_mined", "insufficient_gas_funds"})
_MAX_PAUSE_S = 30.0


@dataclasses.dataclass(frozen=True)
class Parts:
    """The real parts, as the process built them."""

    settings: Settings
    lock: DirectoryLock
    deployment: Deployment
    chain: ChainClient
    signer: Signer
    sender: Sender
    store: EmbeddedStore
    runtime: DockerRuntime
    journal: Journal
    http: httpx.AsyncClient
    inventory: gpus.Inventory
    machine: Machine
    market: Market


class Host:
    """The running agent: lists the machine first, then works."""

    def __init__(self, parts: Parts, process: Service, drain: bool, fault: Fault) -> None:
        self._p = parts
        self._process = process
        self._drain = drain
        self._fault = fault
        self._resource: ResourceId | None = None
        self._agent: Agent | None = None
        self._logs = LogHub(parts.settings.data_dir / "logs")
        self.streams = JobStreams(
            journal=parts.journal,
            logs=self._logs,
            runtime=parts.runtime,
            market=parts.market,
            deployment=parts.deployment,
            provider=parts.signer.address,
            clock=time.time,
            stopping=process.stop,
            gpu_metrics=self._gpu_metrics,
        )

    async def ready(self) -> dict[str, Any]:
        """Chain, engine and listing; raises what is wrong."""
        await self._p.chain.block("latest")
        await self._p.runtime.ping()
        if self._resource is None:
            raise MarketError("resource_unavailable", "the machine is not listed yet")
        return {"resourceId": self._resource, "provider": self._p.signer.address, "gpus": len(self._p.inventory.gpus)}

    def approved(self, root: Cid) -> bool:
        """Whether the local engine may pull this image: it was checked for a job that is not over."""
        return any(image_root(row) == root and bool(row.manifest) for row in self._p.journal.open_jobs())

    async def run(self) -> None:
        """Until the process is asked to stop; closes all parts at the end."""
        p, stop = self._p, self._process.stop
        try:
            self._resource = await self._start()
            if self._resource is None:
                return
            desk = self._desk(self._resource)
            follower = Follower(p.chain, p.journal, p.signer.address, time.time)
            self._agent = Agent(desk, follower, draining=self._drain)
            running = self._process.metrics.gauge("jobs_running", "Jobs that hold this machine.")
            running.set_function(lambda: len(self._agent.running()) if self._agent else 0)
            async with asyncio.TaskGroup() as group:
                group.create_task(self._agent.run(stop))
                group.create_task(self._heartbeats().run(stop))
                group.create_task(self._resume())
                group.create_task(self._tidy())
        finally:
            with contextlib.suppress(MarketError):
                await p.sender.close()
            await p.chain.close()
            await p.http.aclose()
            await p.runtime.close()
            p.journal.close()
            p.lock.release()

    async def _start(self) -> ResourceId | None:
        """List the machine; None if the process is asked to stop before."""
        p = self._p
        listing = Listing(
            p.settings.public_url,
            resource_of(p.settings, p.machine, p.inventory, p.deployment.payment_token),
            available=not self._drain,
        )
        lister = Lister(p.chain, p.sender, p.journal, p.signer.address, self._process.log)

        async def attempt() -> ResourceId:
            await p.runtime.ping()
            await p.sender.resume()
            return await lister.ensure(listing)

        try:
            return await patiently(attempt, self._process, None)
        except MarketError:
            if self._process.stop.is_set():
                return None
            raise

    def _desk(self, resource_id: ResourceId) -> Desk:
        p, settings = self._p, self._p.settings
        private_sources = p.deployment.chain_id in DEVELOPMENT_CHAINS
        policy = Policy(max_bytes=int(settings.max_image_gb * (1 << 30)))
        results = ResultsDesk(
            p.runtime, p.store, p.signer, p.deployment, settings.data_dir / "work", p.machine.results_bytes
        )
        return Desk(
            chain=p.chain,
            transactions=p.sender,
            runtime=p.runtime,
            journal=p.journal,
            images=ImageDesk(p.store, p.http, policy, settings.gateways, None if private_sources else resolve_host),
            results=results,
            logs=self._logs,
            pump=LogPump(p.runtime, self._logs, self._process.log, self._wake),
            market=p.market,
            machine=p.machine,
            resource_id=resource_id,
            limits=Limits(settings.min_seconds, settings.max_seconds),
            registry_port=settings.registry_port,
            leases=settings.data_dir / "leases",
            poll_s=settings.poll_s,
            clock=time.time,
            log=self._process.log,
            fault=self._fault,
        )

    def _wake(self) -> None:
        if self._agent is not None:
            self._agent.wake()

    def _heartbeats(self) -> Heartbeats:
        p = self._p
        return Heartbeats(
            chain=p.chain,
            pulse=Pulse(p.deployment, p.signer, time.time),
            report=self._report,
            challenges=lambda: Challenges(p.store, p.journal, p.signer, p.deployment, time.time),
            interval_s=p.settings.heartbeat_s,
            log=self._process.log,
        )

    async def _report(self) -> tuple[list[JobId], dict[str, Any]]:
        rows = [] if self._agent is None else self._agent.running()
        jobs = [row.job_id for row in rows if row.state in (JobState.STARTING, JobState.RUNNING)]
        return jobs, {"gpus": await self._gpu_metrics(), "jobs": len(jobs)}

    async def _gpu_metrics(self) -> list[dict[str, Any]]:
        uuids = [gpu.uuid for gpu in self._p.inventory.gpus]
        found = await asyncio.to_thread(gpus.metrics, uuids) if uuids else ()
        return [dataclasses.asdict(metrics) for metrics in found]

    async def _tidy(self) -> None:
        p = self._p
        while not await self._process.wait(TIDY_S):
            try:
                freed = await asyncio.to_thread(tidy, p.journal, p.store, p.settings.data_dir / "logs", time.time())
                self._process.log.info("tidied", blocks=freed.blocks, bytes=freed.bytes)
            except MarketError as error:
                self._process.log.warning("tidying waits", code=error.code)

    async def _resume(self) -> None:
        while not await self._process.wait(RESUME_S):
            try:
                await self._p.sender.resume()
            except MarketError as error:
                self._process.log.warning("transactions wait", code=error.code)


async def patiently(work: Callable[[], Awaitable[T]], process: Service, limit_s: float | None) -> T:
    """Try until it works, or a time is over, or the error is not one that passes, or the process is asked to stop.

    Raises:
        MarketError: the last error.
    """
    began, pause = time.monotonic(), 0.5
    while True:
        try:
            return await work()
        except MarketError as error:
            if error.code not in _TRANSIENT or (limit_s is not None and time.monotonic() - began > limit_s):
                raise
            process.log.warning("waiting", code=error.code, reason=error.message)
            if await process.wait(pause):
                raise
        pause = min(pause * 2, _MAX_PAUSE_S)
