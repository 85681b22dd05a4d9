"""The agent process: builds the real parts and puts them together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import httpx
import typer
from starlette.applications import Starlette

from gpumarket import config, service
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import Deployment, load
from gpumarket.chain.development import DEVELOPMENT_CHAINS
from gpumarket.chain.sender import Sender, Signer, load_account
from gpumarket.errors import MarketError
from gpumarket.images.policy import Policy
from gpumarket.ipfs import gateway
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.log import Log
from gpumarket.rules.units import JobId, ResourceId
from gpumarket.service import DirectoryLock, Service
from provider_agent import gpus, registry
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
from provider_agent.settings import Settings, machine_of, resource_of
from provider_agent.sources import resolve_host
from provider_agent.state import JobState
from provider_agent.watchdog import stop_overdue

T = TypeVar("T")

CONNECT_S = 30.0
"""How long a start waits for the chain's node."""

RESUME_S = 15.0
"""How often unfinished transactions are looked after."""

_TRANSIENT = frozenset({"chain_unreachable", "docker_unreachable", "transaction_not_mined", "insufficient_gas_funds"})
_MAX_PAUSE_S = 30.0

cli = typer.Typer(help="The provider's agent: lists this machine and runs what is rented on it.", no_args_is_help=True)


@cli.callback()
def main() -> None:
    """The provider's agent: lists this machine and runs what is rented on it."""


@cli.command()
def run(
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML file with an [agent] section.")] = None,
    rpc_url: Annotated[str | None, typer.Option(help="The chain's JSON-RPC node.")] = None,
    deployments: Annotated[Path | None, typer.Option(help="Deployment file, or the folder that holds it.")] = None,
    keystore: Annotated[Path | None, typer.Option(help="The provider's keystore file.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the agent keeps its state.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    registry_port: Annotated[int | None, typer.Option(help="Loopback port the local engine pulls from.")] = None,
    endpoint: Annotated[str | None, typer.Option(help="Public URL of this agent, as registered on chain.")] = None,
    price_per_hour: Annotated[str | None, typer.Option(help="Asking price in payment tokens, e.g. 1.5.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
    drain: Annotated[bool, typer.Option(help="Take no new jobs, finish the present ones, then exit.")] = False,
) -> None:
    """Run the agent until SIGTERM. Containers keep running; the next start adopts them."""
    flags = {
        "rpc_url": rpc_url,
        "deployments": deployments,
        "keystore": keystore,
        "data_dir": data_dir,
        "host": host,
        "port": port,
        "registry_port": registry_port,
        "endpoint": endpoint,
        "price_per_hour": price_per_hour,
        "log_level": log_level,
    }
    raise typer.Exit(run_agent(_settings(config_file, flags), drain=drain))


@cli.command()
def watchdog(
    data_dir: Annotated[Path | None, typer.Option(help="The agent's data folder.")] = None,
    every_s: Annotated[float, typer.Option("--every", help="Seconds between looks; 0 looks once.")] = 60.0,
) -> None:
    """Stop containers whose paid time is long over, also while the agent is dead. Needs no key and no chain."""
    folder = data_dir or config.data_home() / "agent"

    async def build(process: Service) -> None:
        runtime = DockerRuntime(folder / "disks")

        async def loop() -> None:
            while True:
                try:
                    await stop_overdue(runtime, folder / "leases", time.time(), process.log)
                except MarketError as error:
                    process.log.warning("engine out of reach", code=error.code)
                if every_s <= 0:
                    process.stop.set()
                if await process.wait(max(every_s, 0.01)):
                    return await runtime.close()

        process.add_task("watchdog", loop())

    raise typer.Exit(service.run("watchdog", build))


def run_agent(settings: Settings, *, drain: bool = False, fault: Fault = lambda _: None) -> int:
    """Run the agent in this process until a signal; the exit code.

    Args:
        fault: see `provider_agent.ports.Fault`.
    """

    async def build(process: Service) -> None:
        parts = await _connect(settings, process)
        host = _Host(parts, process, drain, fault)
        process.add_ready_check(host.ready)
        process.add_http([*host.streams.routes(), *gateway.routes(parts.store)], host=settings.host, port=settings.port)
        pulls = Starlette(routes=registry.routes(parts.store, host.approved))
        process.add_asgi(pulls, host="127.0.0.1", port=settings.registry_port)
        process.add_task("agent", host.run())

    return service.run("agent", build, log_level=settings.log_level)


@dataclasses.dataclass(frozen=True)
class _Parts:
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


async def _connect(settings: Settings, process: Service) -> _Parts:
    lock = DirectoryLock(settings.data_dir)
    deployment = load(settings.deployments)
    signer = load_account(settings.keystore)
    chain = await _patiently(lambda: ChainClient.connect(settings.rpc_url, deployment), process, CONNECT_S)
    inventory = await asyncio.to_thread(gpus.inventory)
    if inventory.reason:
        process.log.info("this machine is listed as CPU-only", reason=inventory.reason)
    birth = await chain.block(deployment.block_number)
    return _Parts(
        settings=settings,
        lock=lock,
        deployment=deployment,
        chain=chain,
        signer=signer,
        sender=Sender(chain, signer, settings.data_dir / "transactions.db"),
        store=EmbeddedStore(settings.data_dir / "ipfs"),
        runtime=DockerRuntime(settings.data_dir / "disks"),
        journal=Journal(settings.data_dir / "journal.db"),
        http=httpx.AsyncClient(follow_redirects=False),
        inventory=inventory,
        machine=machine_of(settings, inventory),
        market=Market(deployment.chain_id, deployment.addresses["Marketplace"], birth.hash),
    )


class _Host:
    """The running agent: lists the machine first, then works."""

    def __init__(self, parts: _Parts, process: Service, drain: bool, fault: Fault) -> None:
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
        await self._p.chain.block("latest")
        await self._p.runtime.ping()
        if self._resource is None:
            raise MarketError("resource_unavailable", "the machine is not listed yet")
        return {"resourceId": self._resource, "provider": self._p.signer.address, "gpus": len(self._p.inventory.gpus)}

    def approved(self, root: Cid) -> bool:
        """Whether the local engine may pull this image: it was checked for a job that is not over."""
        return any(image_root(row) == root and bool(row.manifest) for row in self._p.journal.open_jobs())

    async def run(self) -> None:
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
            return await _patiently(attempt, self._process, None)
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

    async def _resume(self) -> None:
        while not await self._process.wait(RESUME_S):
            try:
                await self._p.sender.resume()
            except MarketError as error:
                self._process.log.warning("transactions wait", code=error.code)


async def _patiently(work: Callable[[], Awaitable[T]], process: Service, limit_s: float | None) -> T:
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


def _settings(file: Path | None, flags: dict[str, Any]) -> Settings:
    try:
        return config.load(Settings, "agent", file=file, flags=flags)
    except MarketError as error:
        Log("agent").error("cannot start", error=error)
        raise typer.Exit(error.kind.exit_code) from None
