"""The Python model of money and reputation against the Solidity libraries, compiled as they are and run on a node."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gpumarket.chain.codec import bytes_of, decode, encode_call, hex_of
from gpumarket.rules import reputation, settlement
from gpumarket.rules.units import Address
from tests.parts.anvil import Anvil, anvil
from tests.parts.market import accounts, transact

pytestmark = pytest.mark.anvil

ROOT = Path(__file__).resolve().parents[3]
HARNESS = """
pragma solidity ^0.8.28;
import {Reputation} from "contracts/libraries/Reputation.sol";
import {Settlement} from "contracts/libraries/Settlement.sol";
contract Model {
    function settle(uint256[7][] calldata cases) external pure returns (uint256[7][] memory results) {
        results = new uint256[7][](cases.length);
        for (uint256 i = 0; i < cases.length; ++i) {
            uint256[7] calldata c = cases[i];
            uint256 billed = Settlement.billableSeconds(c[1], c[2], c[3], c[4], c[5]);
            uint256 owed = Settlement.accrued(c[0], billed, c[6]);
            (uint256 toProvider, uint256 toUser) = Settlement.split(owed);
            results[i] = [
                billed, owed, toProvider, toUser,
                Settlement.lockUp(c[0], c[5]), Settlement.cost(c[0], billed), Settlement.fee(owed, c[4] % 501)
            ];
        }
    }
    function rank(uint256[6][] calldata cases) external pure returns (uint256[2][] memory results) {
        results = new uint256[2][](cases.length);
        for (uint256 i = 0; i < cases.length; ++i) {
            uint256[6] calldata c = cases[i];
            results[i] = [Reputation.score(c[0], c[1], c[2], c[3], c[4], c[5]), Reputation.rate(c[4], c[5])];
        }
    }
}
"""


def compiled() -> bytes:
    """The harness's creation code, by the repository's own compiler."""
    request = {
        "language": "Solidity",
        "sources": {"Model.sol": {"content": HARNESS}},
        "settings": {"outputSelection": {"*": {"*": ["evm.bytecode.object"]}}},
    }
    result = subprocess.run(
        ["node", "scripts/solc.js", "--standard-json"],
        cwd=ROOT,
        input=json.dumps(request),
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    output = json.loads(result.stdout)
    assert "contracts" in output, output["errors"]
    return bytes.fromhex(output["contracts"]["Model.sol"]["Model"]["evm"]["bytecode"]["object"])


@pytest.fixture(scope="module")
def model() -> Iterator[tuple[Anvil, Address]]:
    with anvil() as node:
        receipt = transact(node, accounts(node)[0], None, compiled())
        yield node, receipt["contractAddress"]


def ask(model: tuple[Anvil, Address], signature: str, returns: str, cases: list[list[int]]) -> list[Any]:
    node, at = model
    answer = node.rpc("eth_call", {"to": at, "data": hex_of(encode_call(signature, cases))}, "latest")
    return list(decode((returns,), bytes_of(answer))[0])


def test_settlement_is_the_same_to_the_base_unit(model: tuple[Anvil, Address]) -> None:
    rng = random.Random(7)
    limits = [2**128 - 1, 2**40 - 1, 2**40 - 1, 2**32 - 1, 2**32 - 1, 2**40 - 1, 2**40 - 1]
    cases = [[rng.randrange(rng.choice((2, 100, 10_000, limit)) + 1) for limit in limits] for _ in range(400)]
    cases += [[price, 100, at, 0, 60, 600, 0] for price in (0, 1, 3599, 3600, 3601) for at in (99, 159, 160, 700, 701)]
    expected = []
    for price, started, ended, outage, least, duration, settled in cases:
        billed = settlement.billable_seconds(started, ended, outage, least, duration)
        owed = settlement.accrued(price, billed, settled)
        expected.append(
            (
                *(billed, owed, *settlement.split(owed)),
                *(settlement.lock_up(price, duration), settlement.cost(price, billed)),
                settlement.fee(owed, least % 501),
            )
        )
    assert ask(model, "settle(uint256[7][])", "uint256[7][]", cases) == expected


def test_reputation_is_the_same_to_the_point(model: tuple[Anvil, Address]) -> None:
    rng = random.Random(11)
    cases = [
        [
            *(rng.choice((0, 1, 9_999, 10_000, rng.randrange(10_001))) for _ in range(4)),
            rng.randrange(700),
            rng.randrange(700),
        ]
        for _ in range(400)
    ]
    expected = [(reputation.score(*case), reputation.rate(case[4], case[5])) for case in cases]
    assert ask(model, "rank(uint256[6][])", "uint256[2][]", cases) == expected
