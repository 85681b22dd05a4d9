"""A renter's settings: section `[renter]` of the configuration file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumarket import config


def _data_dir() -> Path:
    return config.data_home() / "renter"


def own_keystore() -> Path:
    """Where `gpumarket wallet create` puts a key unless told otherwise."""
    return config.data_home() / "keystore.json"


def _keystore() -> Path | None:
    """The user's own keystore if there is one, unless a key is given in the environment."""
    usual = own_keystore()
    return usual if config.secret("GPUMARKET_PRIVATE_KEY") is None and usual.is_file() else None


def _store() -> Path:
    return config.data_home() / "ipfs"


def _deployments() -> Path:
    return Path("deployments")


@dataclass(frozen=True)
class RenterSettings:
    """Where the market is and where a renter keeps things.

    Args:
        rpc_url: JSON-RPC address of the chain's node.
        deployments: deployment file, or the folder of `<chain id>.json` files.
        gateway_url: the gateway that answers GraphQL and streams logs.
        keystore: V3 keystore file, by default the one that `gpumarket wallet create` makes; None, where there is
            none: the key comes from `GPUMARKET_PRIVATE_KEY`.
        data_dir: transaction journal.
        store: this renter's content store; the same folder that `gpumarket ipfs` uses.
        store_url: public address of this renter's content store (`gpumarket ipfs serve`), where hosts fetch images.
    """

    rpc_url: str = "http://127.0.0.1:8545"
    deployments: Path = field(default_factory=_deployments)
    gateway_url: str = "http://127.0.0.1:8080"
    keystore: Path | None = field(default_factory=_keystore)
    data_dir: Path = field(default_factory=_data_dir)
    store: Path = field(default_factory=_store)
    store_url: str = ""

    @property
    def journal_path(self) -> Path:
        return self.data_dir / "transactions.db"


def load(file: Path | None, flags: Mapping[str, Any]) -> RenterSettings:
    """Settings from file, environment and flags.

    Raises:
        MarketError: `invalid_config`.
    """
    if file is None:
        usual = config.data_home() / "config.toml"
        file = usual if usual.is_file() else None
    return config.load(RenterSettings, "renter", file=file, flags=flags)
