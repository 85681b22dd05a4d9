"""The oracle process: one member of the committee."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer

from gpumarket import config, service
from gpumarket.chain import deployments
from gpumarket.chain.client import ChainClient
from gpumarket.chain.sender import Sender, load_account
from gpumarket.ipfs import gateway
from gpumarket.ipfs.store import EmbeddedStore
from gpumarket.service import DirectoryLock, Service
from oracle import server
from oracle.agents import Agents
from oracle.committee import Member
from oracle.heartbeats import Tracker
from oracle.journal import Journal
from oracle.market import Market
from oracle.possession import Finding
from oracle.reporter import Reporter
from oracle.verdict import rhythm_for
from oracle.watch import Watch

cli = typer.Typer(help="A member of the oracle committee.", no_args_is_help=True)


@dataclass(frozen=True)
class Settings:
    """Section [oracle]. Periods are seconds; all members of a committee use the same `heartbeat_s` and `epoch_s`."""

    rpc_url: str
    deployments: Path
    data_dir: Path
    keystore: Path | None = None
    host: str = "127.0.0.1"
    port: int = 8070
    heartbeat_s: float = 60.0
    grace_beats: int = 1
    dead_beats: int = 30
    epoch_s: int = 600
    challenge_s: float = 120.0
    log_level: str = "info"


@cli.callback()
def main() -> None:
    """A member of the oracle committee."""


@cli.command()
def run(
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML file; its table `oracle` is read.")] = None,
    rpc_url: Annotated[str | None, typer.Option(help="The chain's node.")] = None,
    deployments_dir: Annotated[
        Path | None, typer.Option("--deployments", help="Deployment file, or a directory of them.")
    ] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where this member keeps its memory.")] = None,
    keystore: Annotated[
        Path | None, typer.Option(help="Keystore of the member's key; else GPUMARKET_PRIVATE_KEY is used.")
    ] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    heartbeat_s: Annotated[float | None, typer.Option(help="How often a host's heartbeat is due.")] = None,
    epoch_s: Annotated[int | None, typer.Option(help="Length of an epoch; one report each at most.")] = None,
    challenge_s: Annotated[float | None, typer.Option(help="How often a host is challenged.")] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run a committee member until SIGTERM. The key: a keystore (GPUMARKET_PASSPHRASE), or GPUMARKET_PRIVATE_KEY."""
    flags = {
        "rpc_url": rpc_url,
        "deployments": deployments_dir,
        "data_dir": data_dir,
        "keystore": keystore,
        "host": host,
        "port": port,
        "heartbeat_s": heartbeat_s,
        "epoch_s": epoch_s,
        "challenge_s": challenge_s,
        "log_level": log_level,
    }
    settings = config.load(Settings, "oracle", file=config_file, flags=flags)

    async def start(running: Service) -> None:
        await build(running, settings)

    raise typer.Exit(service.run("oracle", start, log_level=settings.log_level))


async def build(running: Service, settings: Settings) -> None:
    """Make the parts and register the loops.

    Raises:
        MarketError: `invalid_config`, `already_running`, `chain_unreachable`, `chain_mismatch`.
    """
    lock = DirectoryLock(settings.data_dir)
    deployment = deployments.load(settings.deployments)
    chain = await ChainClient.connect(settings.rpc_url, deployment)
    signer = load_account(settings.keystore)
    sender = Sender(chain, signer, settings.data_dir / "transactions.db")
    store = EmbeddedStore(settings.data_dir / "blocks")
    journal = Journal(settings.data_dir / "journal.db")
    clock, log = time.time, running.log
    tracker = Tracker(rhythm_for(settings.heartbeat_s, settings.grace_beats, settings.dead_beats))
    for provider, seq, timestamp in journal.beats():
        tracker.restore(provider, seq, timestamp, clock())
    market = Market(chain)
    agents = Agents(tracker, deployment, journal, market.is_registered, clock, log)
    http = httpx.AsyncClient(timeout=httpx.Timeout(20, connect=5), trust_env=False)
    member = Member(
        chain=chain,
        market=market,
        tracker=tracker,
        journal=journal,
        store=store,
        signer=signer,
        http=http,
        epoch_s=settings.epoch_s,
        clock=clock,
        log=log,
    )
    reporter = Reporter(chain, sender, journal, settings.epoch_s, clock, log)
    watch = Watch(
        market=market,
        tracker=tracker,
        agents=agents,
        member=member,
        reporter=reporter,
        journal=journal,
        clock=clock,
        wait=running.wait,
        log=log,
    )
    findings = running.metrics.gauge("challenges", "Challenges by finding since the start", ("finding",))
    for finding in Finding:
        findings.labels(finding.value).set_function(partial(watch.transcripts.__getitem__, finding))
    running.metrics.gauge("connected_hosts", "Hosts connected now").set_function(lambda: len(agents.connected()))

    async def status() -> dict[str, Any]:
        committee = await chain.committee()
        now = clock()
        phases = {p: tracker.phase(p, now) for p in tracker.providers()}
        return {
            "member": await member.index(),
            "signer": signer.address,
            "threshold": committee.threshold,
            "latestSeq": committee.latest_seq,
            "epoch": int(now) // settings.epoch_s,
            "challenges": {f.value: n for f, n in watch.transcripts.items()},
            "hosts": [
                {"provider": p, "phase": phase.value if phase else None, "lastBeat": int(tracker.last_beat(p) or 0)}
                for p, phase in phases.items()
            ],
        }

    async def ready() -> dict[str, Any]:
        await chain.block("latest")
        return {"member": await member.index()}

    async def work() -> None:
        try:
            async with asyncio.TaskGroup() as loops:
                loops.create_task(watch.follow(min(1.0, settings.epoch_s / 4)))
                loops.create_task(watch.question(settings.challenge_s))
                loops.create_task(watch.lead())
                loops.create_task(watch.look_after(sender.resume))
        finally:
            await http.aclose()
            await sender.close()
            await chain.close()
            lock.release()

    await sender.resume()
    running.add_ready_check(ready)
    running.add_http(
        [*server.routes(agents, member, status, log), *gateway.routes(store)], host=settings.host, port=settings.port
    )
    running.add_task("work", work())
    log.info("member", signer=signer.address, data_dir=str(settings.data_dir))
