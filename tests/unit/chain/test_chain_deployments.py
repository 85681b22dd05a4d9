from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from gpumarket.chain.deployments import CONTRACTS, load
from gpumarket.errors import MarketError


def document(**changes: Any) -> dict[str, Any]:
    contracts = {name: {"address": "0x" + "ab" * 20, "implementation": None} for name in CONTRACTS}
    token = {"address": "0x" + "cd" * 20, "symbol": "GPU", "decimals": 18}
    return {"chainId": 31337, "block": 7, "contracts": contracts, "paymentToken": token, "parameters": {}, **changes}


def written(directory: Path, name: str, content: Any) -> Path:
    path = directory / name
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_default_behavior(tmp_path: Path) -> None:
    path = written(tmp_path, "31337.json", document())
    deployment = load(path)
    assert (deployment.chain_id, deployment.block_number, deployment.path) == (31337, 7, path)
    assert deployment.addresses["Marketplace"] == "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"
    assert deployment.payment_token.decimals == 18


def test_a_directory_gives_the_file_of_the_chain_or_the_only_one(tmp_path: Path) -> None:
    written(tmp_path, "31337.json", document())
    assert load(tmp_path).chain_id == load(tmp_path, 31337).chain_id == 31337
    written(tmp_path, "1.json", document(chainId=1))
    assert load(tmp_path, 1).chain_id == 1
    with pytest.raises(MarketError, match=r"1\.json, 31337\.json") as ambiguous:
        load(tmp_path)
    assert ambiguous.value.code == "invalid_config"


def test_a_file_for_another_chain_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketError) as mismatch:
        load(written(tmp_path, "1.json", document()), 1)
    assert mismatch.value.code == "chain_mismatch"


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        {},
        document(contracts={}),
        document(contracts={"Marketplace": {"address": "0x12"}}),
        document(paymentToken={"address": "0x" + "cd" * 20}),
        document(chainId="one"),
    ],
)
def test_a_broken_file_is_refused(tmp_path: Path, content: Any) -> None:
    with pytest.raises(MarketError) as broken:
        load(written(tmp_path, "31337.json", content))
    assert broken.value.code in ("invalid_config", "invalid_argument")


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketError) as missing:
        load(tmp_path, 5)
    assert missing.value.code == "invalid_config"
