"""Where everything of a local market is: addresses, folders, configuration files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from gpumarket.dev.ports import free_ports

ORACLES = 3
THRESHOLD = 2
_HOST = "127.0.0.1"


@dataclass(frozen=True)
class Ports:
    node: int
    indexer: int
    gateway: int
    store: int
    agent: int
    registry: int
    oracles: tuple[int, ...]


@dataclass(frozen=True)
class Places:
    """One market's own folder and ports; nothing of it is shared with another."""

    base: Path
    ports: Ports

    @property
    def rpc_url(self) -> str:
        return _url(self.ports.node)

    @property
    def indexer_url(self) -> str:
        return _url(self.ports.indexer)

    @property
    def gateway_url(self) -> str:
        return _url(self.ports.gateway)

    @property
    def store_url(self) -> str:
        return _url(self.ports.store)

    @property
    def agent_url(self) -> str:
        return _url(self.ports.agent)

    def oracle_url(self, member: int) -> str:
        return _url(self.ports.oracles[member])

    @property
    def deployments(self) -> Path:
        return self.base / "deployments"

    @property
    def store(self) -> Path:
        return self.base / "renter" / "store"

    @property
    def renter_config(self) -> Path:
        return self.base / "renter" / "config.toml"

    @property
    def passphrase_file(self) -> Path:
        """Of all keys of this market, for the person who started it."""
        return self.base / "passphrase"

    def keystore(self, name: str) -> Path:
        return self.base / name / "keystore.json"

    def log(self, name: str) -> Path:
        return self.base / "logs" / f"{name}.jsonl"


def choose_places(base: Path) -> Places:
    """A place for a new market with ports that are free now."""
    node, indexer, gateway, store, agent, registry, *oracles = free_ports(6 + ORACLES)
    return Places(base, Ports(node, indexer, gateway, store, agent, registry, tuple(oracles)))


def write_config(path: Path, section: str, values: Mapping[str, str | int | float | bool]) -> Path:
    """A TOML file with one table; JSON's spelling of these values is TOML's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [f"[{section}]", *(f"{name} = {json.dumps(value)}" for name, value in values.items())]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_configs(places: Places) -> None:
    """The configuration of every service and of the renter."""
    chain = {"rpc_url": places.rpc_url, "deployments": str(places.deployments)}
    base = places.base
    write_config(
        base / "agent" / "config.toml",
        "agent",
        {
            **chain,
            "keystore": str(places.keystore("agent")),
            "data_dir": str(base / "agent" / "data"),
            "host": _HOST,
            "port": places.ports.agent,
            "endpoint": places.agent_url,
            "registry_port": places.ports.registry,
            "price_per_hour": "1.8",
            "min_seconds": 5,
            "max_seconds": 3600,
            "poll_s": 0.5,
            "heartbeat_s": 2,
            "results_gb": 0.0625,
        },
    )
    for member in range(ORACLES):
        write_config(
            base / f"oracle-{member}" / "config.toml",
            "oracle",
            {
                **chain,
                "keystore": str(places.keystore(f"oracle-{member}")),
                "data_dir": str(base / f"oracle-{member}" / "data"),
                "host": _HOST,
                "port": places.ports.oracles[member],
                "heartbeat_s": 2,
                "challenge_s": 4,
                "epoch_s": 6,
            },
        )
    write_config(
        base / "indexer" / "config.toml",
        "indexer",
        {
            **chain,
            "data_dir": str(base / "indexer" / "data"),
            "host": _HOST,
            "port": places.ports.indexer,
            "poll_s": 0.5,
        },
    )
    write_config(
        base / "gateway" / "config.toml",
        "gateway",
        {
            "indexer_url": places.indexer_url,
            "host": _HOST,
            "port": places.ports.gateway,
            "allow_private_endpoints": True,
        },
    )
    write_config(
        places.renter_config,
        "renter",
        {
            **chain,
            "gateway_url": places.gateway_url,
            "keystore": str(places.keystore("renter")),
            "data_dir": str(base / "renter" / "data"),
            "store": str(places.store),
            "store_url": places.store_url,
        },
    )


def _url(port: int) -> str:
    return f"http://{_HOST}:{port}"
