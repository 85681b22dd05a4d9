"""Listing: once, whatever happens; later starts bring the chain in line with the configuration."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gpumarket.chain.types import ResourceParams
from gpumarket.errors import MarketError
from gpumarket.rules.units import ResourceId
from provider_agent.listing import Lister, Listing
from tests.fakes import FakeChain
from tests.unit.agent.world import World


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


async def ensure(world: World, params: ResourceParams, endpoint: str = "http://agent", **more: bool) -> ResourceId:
    lister = Lister(world.chain, world.sender, world.journal, world.provider.address, world.log)
    return await lister.ensure(Listing(endpoint, params, **more))


def sent(world: World) -> Counter[str]:
    return Counter(call.label for call, _ in world.sender.sent.values())


async def test_default_start_registers_stakes_and_lists_once(world: World) -> None:
    first = await ensure(world, world.params())
    assert await ensure(world, world.params()) == first
    assert sent(world) == Counter(["registerProvider", "approve", "stake", "registerResource"])
    assert "CPU-only: no GPU here" in world.output.getvalue()
    assert (await world.chain.resource(first)).available


async def test_lost_journal_lists_nothing_twice(world: World) -> None:
    first = await ensure(world, world.params())
    world.lost_journal()
    assert await ensure(world, world.params()) == first
    assert sent(world)["registerResource"] == 1


async def test_changed_price_and_endpoint_are_brought_to_the_chain_back_and_forth(world: World) -> None:
    resource = await ensure(world, world.params())
    for price, endpoint in ((5, "http://new"), (world.params().price_per_hour, "http://agent"), (5, "http://new")):
        assert await ensure(world, world.params(price=price), endpoint) == resource
        assert (await world.chain.resource(resource)).price_per_hour == price
        assert await world.chain.endpoint_of(world.provider.address) == endpoint


async def test_new_hardware_is_a_new_resource_and_the_old_one_is_switched_off(world: World) -> None:
    old = await ensure(world, world.params())
    new = await ensure(world, world.params(gpus=2))
    assert old != new
    assert not (await world.chain.resource(old)).available
    assert (await world.chain.resource(new)).gpu_count == 2


async def test_draining_switches_off_and_the_next_start_on_again(world: World) -> None:
    resource = await ensure(world, world.params())
    await ensure(world, world.params(), available=False)
    assert not (await world.chain.resource(resource)).available
    await ensure(world, world.params())
    assert (await world.chain.resource(resource)).available


async def test_too_few_tokens_for_the_stake_say_how_many_are_missing(tmp_path: Path) -> None:
    world = World(tmp_path, chain=FakeChain(wallet=10))
    with pytest.raises(MarketError) as error:
        await ensure(world, world.params())
    assert error.value.code == "insufficient_balance"
    assert "100" in error.value.message
