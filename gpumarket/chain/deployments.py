"""Where the contracts of a market are: one JSON file per chain, written by the deploy script."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumarket.chain.codec import checksum
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address

CONTRACTS = (
    "GPUToken",
    "PaymentEscrow",
    "StakeVault",
    "ResourceRegistry",
    "Marketplace",
    "ReputationSystem",
    "OracleCommittee",
)


@dataclass(frozen=True)
class PaymentToken:
    """The default token of a market."""

    address: Address
    symbol: str
    decimals: int


@dataclass(frozen=True)
class Deployment:
    """A market on a chain.

    Args:
        addresses: contract name (see `CONTRACTS`) to address.
        block_number: no event of the market is older.
        parameters: what the deploy script was given, for people.
    """

    chain_id: int
    addresses: Mapping[str, Address]
    block_number: int
    payment_token: PaymentToken
    parameters: Mapping[str, Any] = field(default_factory=dict)
    path: Path | None = None


def load(path: Path | str, chain_id: int | None = None) -> Deployment:
    """Read a deployment file, or the one for `chain_id` in a directory (the only one, if `chain_id` is None).

    Raises:
        MarketError: `invalid_config`: missing, ambiguous or malformed; `chain_mismatch`: the file is for another chain.
    """
    file = _find(Path(path), chain_id)
    try:
        document = json.loads(file.read_text())
        deployment = _parse(document, file)
    except (OSError, json.JSONDecodeError) as error:
        raise MarketError("invalid_config", f"cannot read deployment {file}: {error}") from error
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise MarketError("invalid_config", f"deployment {file} is incomplete: {error!r}") from error
    if chain_id is not None and deployment.chain_id != chain_id:
        raise MarketError("chain_mismatch", f"{file} is for chain {deployment.chain_id}, not {chain_id}")
    return deployment


def _find(path: Path, chain_id: int | None) -> Path:
    if not path.is_dir():
        return path
    if chain_id is not None:
        return path / f"{chain_id}.json"
    files = sorted(file for file in path.glob("*.json") if file.stem.isdigit())
    if len(files) != 1:
        found = ", ".join(file.name for file in files) or "none"
        raise MarketError("invalid_config", f"{path} must hold one deployment, found {found}", hint="name the file")
    return files[0]


def _parse(document: dict[str, Any], path: Path) -> Deployment:
    contracts = document["contracts"]
    addresses = {name: checksum(entry["address"]) for name, entry in contracts.items()}
    missing = [name for name in CONTRACTS if name not in addresses]
    if missing:
        raise MarketError("invalid_config", f"deployment {path} lacks {', '.join(missing)}")
    token = document["paymentToken"]
    return Deployment(
        chain_id=int(document["chainId"]),
        addresses=addresses,
        block_number=int(document["block"]),
        payment_token=PaymentToken(checksum(token["address"]), str(token["symbol"]), int(token["decimals"])),
        parameters=document.get("parameters", {}),
        path=path,
    )
