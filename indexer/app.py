"""The indexer as a service: `gpumarket indexer run`."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from gpumarket import config
from gpumarket.chain import deployments
from gpumarket.chain.client import ChainClient
from gpumarket.service import DirectoryLock, Service, run
from indexer.database import make_engine
from indexer.follow import Follower
from indexer.hub import Hub
from indexer.queries import Reader
from indexer.schema import make_schema
from indexer.server import add_metrics, readiness, routes
from indexer.store import Store, identity_of

cli = typer.Typer(help="Make the chain searchable.", no_args_is_help=True, add_completion=False)


@dataclass(frozen=True)
class Settings:
    """`[indexer]`. An empty `database_url` is SQLite in `data_dir`; it may hold a password, so it is no flag."""

    rpc_url: str = "http://127.0.0.1:8545"
    deployments: Path = Path("deployments")
    data_dir: Path = field(default_factory=lambda: config.data_home() / "indexer")
    database_url: str = ""
    host: str = "127.0.0.1"
    port: int = 8090
    poll_s: float = 0.25
    log_level: str = "info"


@cli.command("run")
def run_command(
    config_file: Annotated[Path | None, typer.Option("--config", help="TOML file with a table named indexer.")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Where the database lives.")] = None,
    rpc_url: Annotated[str | None, typer.Option(help="The chain's node.")] = None,
    deployments_dir: Annotated[Path | None, typer.Option("--deployments", help="Deployment file or directory.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    poll_s: Annotated[float | None, typer.Option(help="Seconds between looks at the chain.")] = None,
) -> None:
    """Follow the chain and serve GraphQL at /graphql.

    PostgreSQL instead of SQLite: GPUMARKET_INDEXER_DATABASE_URL=postgresql+asyncpg://user:password@host/name.
    """
    flags = {
        "data_dir": data_dir,
        "rpc_url": rpc_url,
        "deployments": deployments_dir,
        "host": host,
        "port": port,
        "poll_s": poll_s,
    }
    settings = _settings(config_file, flags)

    async def main(service: Service) -> None:
        await _start(service, settings)

    raise typer.Exit(run("indexer", main, log_level=settings.log_level))


@cli.command("schema")
def schema_command() -> None:
    """Print the GraphQL schema."""
    typer.echo(make_schema().as_str())


def _settings(file: Path | None, flags: dict[str, Any]) -> Settings:
    return config.load(Settings, "indexer", file=file, flags=flags)


async def _start(service: Service, settings: Settings) -> None:
    lock = DirectoryLock(settings.data_dir)
    deployment = deployments.load(settings.deployments)
    chain = await ChainClient.connect(settings.rpc_url, deployment)
    engine = make_engine(settings.database_url or f"sqlite+aiosqlite:///{settings.data_dir.resolve() / 'index.db'}")
    hub, reader = Hub(), Reader(engine)
    follower = Follower(
        chain,
        Store(engine, identity_of(deployment.chain_id, deployment.addresses)),
        deployment.addresses,
        deployment.block_number,
        publish=hub.publish,
        clock=time.monotonic,
        log=service.log,
    )

    async def ready() -> dict[str, Any]:
        await reader.ping()
        return readiness(follower.progress, clock=time.monotonic(), now=time.time())

    async def follow() -> None:
        try:
            await follower.run(service.wait, settings.poll_s)
        finally:
            await chain.close()
            await engine.dispose()
            lock.release()

    add_metrics(service.metrics, follower, time.time)
    service.add_ready_check(ready)
    service.add_task("follow", follow())
    service.add_http(
        routes(make_schema(), reader, hub, lambda: follower.progress), host=settings.host, port=settings.port
    )


if __name__ == "__main__":
    cli()
