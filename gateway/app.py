"""The gateway process: the one public door to search, instances, logs and metrics."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from starlette.applications import Starlette
from starlette.routing import BaseRoute, WebSocketRoute

from gateway import queries, routes, sockets
from gateway.addresses import Resolver, resolve
from gateway.front import Front
from gateway.indexer import Indexer
from gpumarket import config, service
from gpumarket.service import Service

cli = typer.Typer(help="The public door: GraphQL, REST, live logs and metrics.", no_args_is_help=True)


@dataclass(frozen=True)
class Settings:
    """Section [gateway]."""

    indexer_url: str
    host: str = "127.0.0.1"
    port: int = 8080
    allow_private_endpoints: bool = False
    max_sockets: int = 1_000
    log_level: str = "info"


@cli.callback()
def main() -> None:
    """The public door: GraphQL, REST, live logs and metrics."""


@cli.command()
def run(
    config_file: Annotated[
        Path | None, typer.Option("--config", help="TOML file; its table `gateway` is read.")
    ] = None,
    indexer_url: Annotated[str | None, typer.Option(help="Base URL of the indexer.")] = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    allow_private_endpoints: Annotated[
        bool | None, typer.Option(help="Development only: reach providers on private and loopback addresses.")
    ] = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error.")] = None,
) -> None:
    """Run the gateway until SIGTERM."""
    flags = {
        "indexer_url": indexer_url,
        "host": host,
        "port": port,
        "allow_private_endpoints": allow_private_endpoints,
        "log_level": log_level,
    }
    settings = config.load(Settings, "gateway", file=config_file, flags=flags)

    async def start(running: Service) -> None:
        app = build(running, settings, resolve)
        running.add_asgi(app, host=settings.host, port=settings.port)

    raise typer.Exit(service.run("gateway", start, log_level=settings.log_level))


def build(running: Service, settings: Settings, resolver: Resolver) -> Any:
    """The whole ASGI application, its readiness check registered with the service."""
    http = httpx.AsyncClient(timeout=httpx.Timeout(15, connect=5), trust_env=False)
    indexer = Indexer(settings.indexer_url, http)
    turnstile = sockets.Turnstile(settings.max_sockets, running.metrics.gauge("open_sockets", "Open WebSockets"))

    async def reachable() -> dict[str, Any]:
        meta = (await indexer.query(queries.META, {}))["_meta"]
        return {"indexer": {"block": meta["block"]["number"], "synced": meta["synced"]}}

    running.add_ready_check(reachable)

    def instance(stream: str) -> sockets.SocketHandler:
        return sockets.instance_socket(
            indexer, turnstile, stream, allow_private=settings.allow_private_endpoints, resolver=resolver
        )

    websockets: list[BaseRoute] = [
        WebSocketRoute("/graphql", sockets.graphql_socket(indexer, turnstile)),
        WebSocketRoute("/api/v1/instances/{id}/logs", instance("logs")),
        WebSocketRoute("/api/v1/instances/{id}/metrics", instance("metrics")),
    ]

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await http.aclose()

    inner = Starlette(
        routes=[*running.health_routes(), *websockets, *routes.routes(indexer, running.log)], lifespan=lifespan
    )
    return Front(inner, running.metrics)
