"""The fake node behaves as a real one: the same checks on both."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass

import pytest

from gpumarket.chain import calls
from gpumarket.chain.client import ChainClient
from gpumarket.errors import MarketError
from indexer.follow import Chain
from tests.fakes import FakeNode
from tests.parts.anvil import Anvil
from tests.parts.market import UNIT, accounts, deploy_market, transact
from tests.unit.indexer.story import raw


@dataclass(frozen=True)
class Part:
    """A chain, a way to add a block with one log, and a way to replace its newest blocks by as many empty ones."""

    chain: Chain
    add: Callable[[], None]
    replace: Callable[[int], None]


@pytest.fixture(params=[pytest.param("fake"), pytest.param("real", marks=pytest.mark.anvil)])
async def part(request: pytest.FixtureRequest) -> AsyncIterator[Part]:
    if request.param == "fake":
        fake = FakeNode()

        def replace(depth: int) -> None:
            fake.drop(depth)
            for _ in range(depth):
                fake.add([], salt="other")

        yield Part(fake, lambda: void(fake.add([raw("Marketplace", "FeeUpdated", 200)])), replace)
        return
    node: Anvil = request.getfixturevalue("node")
    deployment = deploy_market(node)
    admin = accounts(node)[0]
    escrow = deployment.addresses["PaymentEscrow"]
    approve = calls.approve(deployment, escrow, 10 * UNIT)
    transact(node, admin, approve.to, approve.data)
    deposit = calls.deposit(deployment, 1)
    client = await ChainClient.connect(node.url, deployment)
    yield Part(
        client,
        lambda: void(transact(node, admin, deposit.to, deposit.data)),
        lambda depth: void(node.rpc("anvil_reorg", depth, [])),
    )
    await client.close()


async def test_blocks_link_logs_have_their_place_and_a_reorganization_changes_hashes(part: Part) -> None:
    chain = part.chain
    part.add()
    part.add()
    head = await chain.block("latest")
    before = await chain.block(head.number - 1)
    assert head.parent_hash == before.hash
    assert head.timestamp >= before.timestamp
    assert (await chain.block("finalized")).number < head.number
    (log,) = await chain.logs_of_block(head.hash)
    assert (int(log["blockNumber"], 16), log["blockHash"]) == (head.number, head.hash)
    assert {"address", "topics", "data", "transactionHash", "logIndex"} <= set(log)
    assert await chain.logs(before.number, head.number) == [*await chain.logs_of_block(before.hash), log]
    part.replace(1)
    other = await chain.block("latest")
    assert other.number == head.number
    assert other.hash != head.hash
    assert other.parent_hash == before.hash
    assert await chain.logs_of_block(other.hash) == []
    with pytest.raises(MarketError) as caught:
        await chain.block(head.number + 1)
    assert caught.value.code == "not_found"


async def test_a_log_decodes_to_what_was_sent(part: Part) -> None:
    part.add()
    head = await part.chain.block("latest")
    (log,) = await part.chain.logs_of_block(head.hash)
    assert all(topic.startswith("0x") and len(topic) == 66 for topic in log["topics"])
    assert log["data"].startswith("0x")


def void(_: object) -> None:
    return None
