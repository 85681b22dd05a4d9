"""A whole market on this machine: a chain, the contracts, every service a process of its own with its own key."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from gpumarket import config
from gpumarket.chain import deployments
from gpumarket.chain.deployments import Deployment
from gpumarket.chain.sender import create_keystore
from gpumarket.dev import tools
from gpumarket.dev.devnode import CHAIN_ID, ETHER, DevNode
from gpumarket.dev.image import RUN_LABEL
from gpumarket.dev.places import ORACLES, THRESHOLD, Places, choose_places, write_configs
from gpumarket.dev.process import Child, ChildSpec, Supervisor, http_ready
from gpumarket.dev.reaper import Reaper
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address

BLOCK_S = 2
_DEPLOY_TIMEOUT_S = 240.0
_COINS = 100 * ETHER
_REAPER_TIMEOUT_S = 60.0

Say = Callable[[str], None]


@dataclass
class LocalMarket:
    """A running market.

    Attributes:
        run_id: names the data folder; the label of everything it leaves in Docker.
        environ: environment for commands of the renter, passphrase included.
        accounts: who has which address: agent, oracle-0.., renter.
    """

    run_id: str
    root: Path
    places: Places
    environ: Mapping[str, str]
    supervisor: Supervisor
    accounts: Mapping[str, Address]
    deployment: Deployment
    timings: dict[str, float] = field(default_factory=dict)


@contextlib.asynccontextmanager
async def local_market(start: Path, base: Path | None, say: Say) -> AsyncIterator[LocalMarket]:
    """Start a market; whatever happens, nothing of it is left when this ends, logs of a failed run excepted.

    Args:
        start: a folder in the checkout whose contracts are deployed.
        base: where the market keeps its data; by default a temporary folder.

    Raises:
        MarketError: a part is missing here or did not become ready; the end of its log is the hint.
    """
    root = tools.project_root(start)
    chosen = base if base is not None else Path(tempfile.mkdtemp(prefix="gpumarket-dev-"))
    chosen.mkdir(parents=True, exist_ok=True)
    run_id = hashlib.sha256(str(chosen.resolve()).encode()).hexdigest()[:12]
    reaper = Reaper()
    supervisor = Supervisor(reaper, asyncio.get_running_loop().create_future())
    keep = False
    try:
        reaper.tell(f"label {RUN_LABEL}={run_id}")
        reaper.tell(f"folder {chosen.resolve()}")
        market = await _start(run_id, root, choose_places(chosen.resolve()), supervisor, reaper, say)
        yield market
    except asyncio.CancelledError:
        say("stopping everything")
        raise
    except BaseException:
        keep = True
        say(f"stopping everything; logs are kept in {chosen}/logs")
        raise
    finally:
        await _stop(supervisor, reaper)
        if base is None and not keep:
            shutil.rmtree(chosen, ignore_errors=True)


async def _start(
    run_id: str, root: Path, places: Places, supervisor: Supervisor, reaper: Reaper, say: Say
) -> LocalMarket:
    clock = _Timer(say)
    passphrase = secrets.token_urlsafe(24)
    environ = {
        **{k: v for k, v in config.environment().items() if not k.startswith("GPUMARKET_")},
        "GPUMARKET_PASSPHRASE": passphrase,
        "GPUMARKET_HOME": str(places.base / "home"),
        "PYTHONUNBUFFERED": "1",
    }
    write_configs(places)
    places.passphrase_file.touch(mode=0o600)
    places.passphrase_file.write_text(passphrase)
    async with httpx.AsyncClient(timeout=10, trust_env=False) as http:
        node = DevNode(places.rpc_url, http)
        names = ("agent", "renter", *(f"oracle-{member}" for member in range(ORACLES)))
        await _look_for_parts(root, places, environ, supervisor)
        writing = asyncio.gather(*(asyncio.to_thread(create_keystore, places.keystore(n), passphrase) for n in names))
        try:
            await _start_node(root, places, environ, supervisor, node)
            made = await asyncio.shield(writing)
        finally:
            await asyncio.wait([writing])  # a thread cannot be stopped: what it writes must be there to be removed
        accounts = dict(zip(names, made, strict=True))
        # Whatever runs here is rented from the one machine of this run's own provider: its first resource.
        reaper.tell(f"label gpumarket.resource={accounts['agent'].lower()}{1:024x}")
        await asyncio.gather(*(node.give_coins(address, _COINS) for address in made))
        clock.mark("node and keys")
        async with _plain_errors(), asyncio.TaskGroup() as starting:
            # These two need no contracts; the gateway is ready as soon as the indexer is.
            for spec in _first_services(places, environ):
                starting.create_task(supervisor.start(spec))
            await _deploy(root, places, environ, supervisor, accounts)
            deployment = deployments.load(places.deployments, CHAIN_ID)
            clock.mark("contracts")
            for spec in _chain_services(places, environ):
                starting.create_task(supervisor.start(spec))
        clock.mark("services")
        # Until here every transaction had a block at once; from here on time passes as on the real chain.
        await node.mine_every(BLOCK_S)
    return LocalMarket(run_id, root, places, environ, supervisor, accounts, deployment, clock.marks)


async def _look_for_parts(root: Path, places: Places, environ: Mapping[str, str], supervisor: Supervisor) -> None:
    """Say at once what is missing here, not after a minute in some log.

    Raises:
        MarketError: `machine_unsuitable`, `docker_unreachable`.
    """
    tools.anvil(root)
    tools.ape(root)
    question = (tools.docker(), "version", "--format", "{{.Server.Version}}")
    try:
        await supervisor.run(ChildSpec("docker", question, environ, places.log("docker")), timeout_s=20)
    except MarketError as error:
        raise MarketError(
            "docker_unreachable",
            "no Docker Engine answers",
            hint=f"start it, or let this user use it (`docker version` must work): {error.hint}",
        ) from error


async def _start_node(
    root: Path, places: Places, environ: Mapping[str, str], supervisor: Supervisor, node: DevNode
) -> Child:
    # One block per "epoch" makes the tags safe and finalized follow the head by one and two blocks.
    command = (
        tools.anvil(root),
        "--port",
        str(places.ports.node),
        "--chain-id",
        str(CHAIN_ID),
        "--slots-in-an-epoch",
        "1",
    )
    return await supervisor.start(ChildSpec("node", command, environ, places.log("node"), node.ready))


async def _deploy(
    root: Path, places: Places, environ: Mapping[str, str], supervisor: Supervisor, accounts: Mapping[str, Address]
) -> None:
    members = [f"{accounts[f'oracle-{i}']}={places.oracle_url(i)}" for i in range(ORACLES)]
    command = [tools.ape(root), "run", "deploy", "--network", f"ethereum:local:{places.rpc_url}"]
    command += [part for member in members for part in ("--member", member)]
    command += ["--threshold", str(THRESHOLD), "--output", str(places.deployments)]
    command += ["--fund", accounts["agent"], "--fund", accounts["renter"]]
    spec = ChildSpec("deploy", tuple(command), tools.ape_environ(root, environ), places.log("deploy"), cwd=root)
    await supervisor.run(spec, timeout_s=_DEPLOY_TIMEOUT_S)


def _first_services(places: Places, environ: Mapping[str, str]) -> list[ChildSpec]:
    store = ("ipfs", "serve", "--store", str(places.store), "--port", str(places.ports.store))
    return [
        _service(places, environ, "store", places.store_url, *store),
        _configured(places, environ, "gateway", "gateway", places.gateway_url),
    ]


def _chain_services(places: Places, environ: Mapping[str, str]) -> list[ChildSpec]:
    return [
        _configured(places, environ, "agent", "agent", places.agent_url),
        _configured(places, environ, "indexer", "indexer", places.indexer_url),
        *(_configured(places, environ, f"oracle-{i}", "oracle", places.oracle_url(i)) for i in range(ORACLES)),
    ]


def _configured(places: Places, environ: Mapping[str, str], name: str, part: str, url: str) -> ChildSpec:
    return _service(places, environ, name, url, part, "run", "--config", str(places.base / name / "config.toml"))


def _service(places: Places, environ: Mapping[str, str], name: str, url: str, *command: str) -> ChildSpec:
    """A part of the market, started the way a user would."""
    return ChildSpec(
        name, (*tools.gpumarket(), *command), environ, places.log(name), http_ready(f"{url}/readyz"), restartable=True
    )


@contextlib.asynccontextmanager
async def _plain_errors() -> AsyncIterator[None]:
    """A task group's first MarketError by itself: it says which part failed and why; the rest follows from it."""
    try:
        yield
    except BaseExceptionGroup as group:
        first: BaseException = group.subgroup(MarketError) or group
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
        raise first from None


async def _stop(supervisor: Supervisor, reaper: Reaper) -> None:
    """To the end, also if somebody cancels again."""
    work = asyncio.ensure_future(_really_stop(supervisor, reaper))
    while not work.done():
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.shield(work)
    work.result()


async def _really_stop(supervisor: Supervisor, reaper: Reaper) -> None:
    await supervisor.stop()
    with contextlib.suppress(subprocess.TimeoutExpired):  # an engine that hangs; the reaper goes on without us
        await asyncio.to_thread(reaper.close, _REAPER_TIMEOUT_S)


class _Timer:
    """How long each phase took."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._last = time.monotonic()
        self.marks: dict[str, float] = {}

    def mark(self, name: str) -> None:
        now = time.monotonic()
        self.marks[name] = round(now - self._last, 2)
        self._last = now
        self._say(f"{name}: ready after {self.marks[name]:.1f} s")
