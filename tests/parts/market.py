"""A whole market on a throwaway node, deployed from forge's artifacts by the node's first account."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import rlp
from eth_abi.abi import encode
from eth_utils.crypto import keccak

from gpumarket.chain.codec import checksum, encode_call
from gpumarket.chain.deployments import Deployment, PaymentToken
from gpumarket.rules.units import Address
from tests.parts.anvil import Anvil

OUT = Path(__file__).resolve().parents[2] / "out"
UNIT = 10**18
SUPPLY = 1_000_000_000 * UNIT
STAKE_PER_RESOURCE = 100 * UNIT
WINDOWS = (120, 300, 4, 60)
FEE_BPS = 200
MARKET_STRUCT = "(address,address,address,address,address)"
ORDER = (
    "GPUToken",
    "StakeVault",
    "PaymentEscrow",
    "ResourceRegistry.implementation",
    "ResourceRegistry",
    "ReputationSystem.implementation",
    "ReputationSystem",
    "Marketplace.implementation",
    "Marketplace",
    "OracleCommittee.implementation",
    "OracleCommittee",
)


def accounts(node: Anvil) -> list[Address]:
    """The node's unlocked accounts."""
    return [checksum(account) for account in node.rpc("eth_accounts")]


def transact(node: Anvil, sender: Address, to: Address | None, data: bytes) -> dict[str, Any]:
    """Send from an unlocked account; the receipt, which must be a success."""
    request: dict[str, Any] = {"from": sender, "data": "0x" + data.hex(), "gas": hex(12_000_000)}
    if to is not None:
        request["to"] = to
    receipt = node.receipt(node.rpc("eth_sendTransaction", request))
    assert receipt["status"] == "0x1", f"deploying failed: {to}"
    return dict(receipt)


def deploy_market(
    node: Anvil,
    members: tuple[tuple[str, str], ...] = (),
    threshold: int = 1,
    windows: tuple[int, int, int, int] = WINDOWS,
) -> Deployment:
    """Every contract, the token allowed; all of the supply with the first account, which is the admin."""
    admin = accounts(node)[0]
    nonce = int(node.rpc("eth_getTransactionCount", admin, "latest"), 16)
    at = {
        name: checksum("0x" + keccak(rlp.encode([bytes.fromhex(admin[2:]), nonce + i]))[12:].hex())
        for i, name in enumerate(ORDER)
    }
    block = int(node.rpc("eth_blockNumber"), 16) + 1

    def create(name: str, artifact: str, types: list[str], *values: Any) -> None:
        receipt = transact(node, admin, None, bytecode(artifact) + encode(types, values))
        assert checksum(receipt["contractAddress"]) == at[name]

    def create_proxied(name: str, types: list[str], values: tuple[Any, ...], initialize: bytes) -> None:
        create(f"{name}.implementation", name, types, *values)
        create(name, "MarketProxy", ["address", "bytes"], at[f"{name}.implementation"], initialize)

    create("GPUToken", "GPUToken", ["address", "uint256"], admin, SUPPLY)
    create(
        "StakeVault",
        "StakeVault",
        ["address", "address", "uint256", "uint40"],
        *(at["GPUToken"], at["OracleCommittee"], STAKE_PER_RESOURCE, 3600),
    )
    create("PaymentEscrow", "PaymentEscrow", ["address", "address"], admin, at["Marketplace"])
    create_proxied(
        "ResourceRegistry",
        ["address"] * 5,
        (at["PaymentEscrow"], at["StakeVault"], at["ReputationSystem"], at["OracleCommittee"], at["GPUToken"]),
        encode_call("initialize(address)", admin),
    )
    create_proxied(
        "ReputationSystem",
        ["address"] * 2,
        (at["Marketplace"], at["OracleCommittee"]),
        encode_call("initialize(address)", admin),
    )
    parts = ("PaymentEscrow", "ResourceRegistry", "StakeVault", "ReputationSystem", "OracleCommittee")
    create_proxied(
        "Marketplace",
        [MARKET_STRUCT, "(uint32,uint32,uint32,uint32)"],
        (tuple(at[part] for part in parts), windows),
        encode_call("initialize(address,uint16)", admin, FEE_BPS),
    )
    create_proxied(
        "OracleCommittee",
        ["(address,address,address,address)", "uint256", "uint256"],
        (
            (at["Marketplace"], at["ResourceRegistry"], at["ReputationSystem"], at["StakeVault"]),
            50 * UNIT,
            5 * UNIT,
        ),
        encode_call("initialize(address,(address,string)[],uint8)", admin, list(members or ((admin, ""),)), threshold),
    )
    transact(node, admin, at["PaymentEscrow"], encode_call("allowToken(address)", at["GPUToken"]))
    addresses = {name: at[name] for name in ORDER if "." not in name}
    chain_id = int(node.rpc("eth_chainId"), 16)
    return Deployment(chain_id, addresses, block, PaymentToken(at["GPUToken"], "GPU", 18))


def write_deployment(folder: Path, deployment: Deployment) -> Path:
    """The deployment as a file, as operators have it."""
    token = deployment.payment_token
    document = {
        "chainId": deployment.chain_id,
        "block": deployment.block_number,
        "contracts": {name: {"address": address} for name, address in deployment.addresses.items()},
        "paymentToken": {"address": token.address, "symbol": token.symbol, "decimals": token.decimals},
    }
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{deployment.chain_id}.json"
    path.write_text(json.dumps(document))
    return path


def bytecode(name: str) -> bytes:
    """The creation code of a compiled contract."""
    artifact = OUT / f"{name}.sol" / f"{name}.json"
    if not artifact.exists():
        pytest.skip("the contracts are not compiled: run `forge build`")
    return bytes.fromhex(json.loads(artifact.read_text())["bytecode"]["object"][2:])
