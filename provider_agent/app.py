"""The agent process: builds the real parts and puts them together."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from starlette.applications import Starlette

from gpumarket import config, service
from gpumarket.chain.client import ChainClient
from gpumarket.chain.deployments import load
from gpumarket.chain.sender import Sender, load_account
from gpumarket.errors import ERROR_KINDS, MarketError
from gpumarket.ipfs import gateway
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.log import Log
from gpumarket.service import DirectoryLock, Service
from provider_agent import gpus, registry
from provider_agent.container import Market
from provider_agent.docker_runtime import DockerRuntime
from provider_agent.doctor import ChainHead, Examination, Finding, Funds, Status, diagnose, healthy, toolkit_version
from provider_agent.host import Host, Parts, patiently
from provider_agent.journal import Journal
from provider_agent.ports import Fault
from provider_agent.settings import Settings, machine_of
from provider_agent.watchdog import stop_overdue

CONNECT_S = 30.0
"""How long a start waits for the chain's node."""

MIN_FREE_BYTES = 10 << 30
MIN_GAS_WEI = 10**16

cli = typer.Typer(help="The provider's agent: lists this machine and runs what is rented on it.", no_args_is_help=True)


@cli.callback()
def main() -> None:
    """The provider's agent: lists this machine and runs what is rented on it."""


@cli.command()
def run(
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML file whose section agent applies.")] = None,
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
def doctor(
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML file whose section agent applies.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the agent keeps its state.")] = None,
) -> None:
    """Check whether this machine can rent itself out, and say how to mend what is wrong.

    With a configuration also the chain and the provider's funds.
    """
    settings = _settings(config_file, {"data_dir": data_dir}) if config_file else None
    folder = settings.data_dir if settings else data_dir or config.data_home() / "agent"
    findings = asyncio.run(_diagnose(settings, folder))
    for finding in findings:
        typer.echo(f"{finding.status.value:<5} {finding.name}: {finding.message}")
        if finding.fix and finding.status is not Status.PASS:
            typer.echo(f"      {finding.fix}")
    if not healthy(findings):
        raise typer.Exit(ERROR_KINDS["machine_unsuitable"].exit_code)


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
        host = Host(parts, process, drain, fault)
        process.add_ready_check(host.ready)
        process.add_http([*host.streams.routes(), *gateway.routes(parts.store)], host=settings.host, port=settings.port)
        pulls = Starlette(routes=registry.routes(parts.store, host.approved))
        process.add_asgi(pulls, host="127.0.0.1", port=settings.registry_port)
        process.add_task("agent", host.run())

    return service.run("agent", build, log_level=settings.log_level)


async def _connect(settings: Settings, process: Service) -> Parts:
    lock = DirectoryLock(settings.data_dir)
    deployment = load(settings.deployments)
    signer = load_account(settings.keystore)
    chain = await patiently(lambda: ChainClient.connect(settings.rpc_url, deployment), process, CONNECT_S)
    inventory = await asyncio.to_thread(gpus.inventory)
    if inventory.reason:
        process.log.info("this machine is listed as CPU-only", reason=inventory.reason)
    birth = await chain.block(deployment.block_number)
    return Parts(
        settings=settings,
        lock=lock,
        deployment=deployment,
        chain=chain,
        signer=signer,
        sender=Sender(chain, signer, settings.data_dir / "transactions.db"),
        store=EmbeddedStore(settings.data_dir / "ipfs"),
        runtime=DockerRuntime(settings.data_dir / "disks"),
        journal=Journal(settings.data_dir / "journal.db"),
        http=httpx.AsyncClient(follow_redirects=False, trust_env=False),
        inventory=inventory,
        machine=machine_of(settings, inventory),
        market=Market(deployment.chain_id, deployment.addresses["Marketplace"], birth.hash),
    )


def _settings(file: Path | None, flags: dict[str, Any]) -> Settings:
    try:
        return config.load(Settings, "agent", file=file, flags=flags)
    except MarketError as error:
        Log("agent").error("cannot start", error=error)
        raise typer.Exit(error.kind.exit_code) from None


async def _diagnose(settings: Settings | None, folder: Path) -> tuple[Finding, ...]:
    runtime = DockerRuntime(folder / "disks")
    try:
        look = Examination(
            engine=runtime.ping,
            inventory=gpus.inventory,
            toolkit=toolkit_version,
            clock=time.time,
            data_dir=folder,
            min_free_bytes=MIN_FREE_BYTES,
        )
        if settings is not None:
            chosen = settings
            look = dataclasses.replace(look, chain=lambda: _head(chosen), funds=lambda: _funds(chosen))
        return await diagnose(look)
    finally:
        await runtime.close()


async def _head(settings: Settings) -> ChainHead:
    chain = await ChainClient.connect(settings.rpc_url, load(settings.deployments))
    try:
        block = await chain.block("latest")
        return ChainHead(chain.chain_id, block.number, block.timestamp)
    finally:
        await chain.close()


async def _funds(settings: Settings) -> Funds:
    chain = await ChainClient.connect(settings.rpc_url, load(settings.deployments))
    try:
        account = load_account(settings.keystore).address
        stake, required = await chain.stake_of(account), await chain.required_stake(1)
        # What is not staked yet can be: the agent does that itself when it first starts.
        wallet = await chain.token_balance(account, chain.deployment.addresses["GPUToken"])
        return Funds(await chain.native_balance(account), MIN_GAS_WEI, stake.active + wallet, required)
    finally:
        await chain.close()
