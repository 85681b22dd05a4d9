"""Following, rolling back, being killed: the index always equals a fresh one of the same chain."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event

from gpumarket.errors import MarketError
from indexer.follow import HEAD_RANGE
from tests.fakes import FakeNode
from tests.unit.indexer.parts import contents, count_statements, indexer
from tests.unit.indexer.story import (
    PROVIDERS,
    History,
    created,
    job_id,
    provider_registered,
    raw,
    registered,
    resource_id,
)

P = PROVIDERS[0]
R = resource_id(P, 1)


class Killed(Exception):
    pass


async def test_default_behavior(tmp_path: Path) -> None:
    node = FakeNode()
    node.add([provider_registered(P), registered(P, 1)])
    node.add(created(job_id(1), R))
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        data = await index.ask("{ gpus { id busy } jobs { id status } _meta { block { number } synced } }")
    assert data == {
        "gpus": [{"id": R, "busy": True}],
        "jobs": [{"id": job_id(1), "status": "PENDING"}],
        "_meta": {"block": {"number": 2}, "synced": True},
    }


async def test_an_idle_poll_is_one_request(tmp_path: Path) -> None:
    node = FakeNode()
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        before = node.requests
        assert await index.follower.step() is False
    assert node.requests == before + 1


async def test_final_blocks_come_in_ranges_and_leave_no_undo(tmp_path: Path) -> None:
    node, story = FakeNode(finality_depth=5), History(1)
    for number in range(1, 1_201):
        node.add(story.block(number) if number % 10 == 0 else [])
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        assert node.requests < 400
        async with index.engine.connect() as connection:
            oldest = (await connection.exec_driver_sql("select min(number) from blocks")).scalar_one()
            undo = (
                await connection.exec_driver_sql("select count(*) from undo where block_number <= 1195")
            ).scalar_one()
    assert (oldest, undo) == (1_195, 0)


async def test_a_lagging_node_changes_nothing(tmp_path: Path) -> None:
    node = FakeNode()
    for _ in range(5):
        node.add([])
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        late = node.blocks.copy()
        node.drop(2)
        assert await index.follower.step() is False
        assert index.follower.rollbacks == 0
        node.blocks = late
        await index.catch_up()
        assert index.follower.rollbacks == 0


async def test_a_shorter_chain_is_followed(tmp_path: Path) -> None:
    node = FakeNode()
    node.add([provider_registered(P), registered(P, 1)])
    node.add(created(job_id(1), R))
    node.add([])
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        node.drop(2)
        node.add([], salt="other")
        await index.catch_up()
        data = await index.ask("{ gpus { busy } jobs { id } _meta { block { number } } }")
    assert data == {"gpus": [{"busy": False}], "jobs": [], "_meta": {"block": {"number": 2}}}


async def test_a_reorganization_beyond_finality_stops_with_a_clear_error(tmp_path: Path) -> None:
    node = FakeNode(finality_depth=3)
    for _ in range(10):
        node.add([])
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        before = await contents(index.engine)
        node.drop(6)
        for _ in range(8):
            node.add([], salt="other")
        with pytest.raises(MarketError) as caught:
            await index.catch_up()
        assert caught.value.code == "chain_reorganized"
        assert await contents(index.engine) == before


async def test_a_silent_node_is_asked_again(tmp_path: Path) -> None:
    node = FakeNode()
    waits: list[float] = []

    async def wait(seconds: float) -> bool:
        waits.append(seconds)
        node.silent = len(waits) in (2, 3, 4)
        return len(waits) > 7

    async with indexer(node, tmp_path) as index:
        await index.follower.run(wait, 0.25)
        assert index.follower.progress is not None
    assert waits[:7] == [0.25, 0.25, 0.5, 1.0, 2.0, 0.25, 0.25]


async def test_two_indexers_on_one_database_exclude_each_other(tmp_path: Path) -> None:
    node = FakeNode()
    node.add([])
    async with indexer(node, tmp_path) as one, indexer(node, tmp_path) as two:
        await one.catch_up()
        await two.catch_up()
        node.add([])
        await one.catch_up()
        with pytest.raises(MarketError) as caught:
            await two.catch_up()
    assert caught.value.code == "already_running"


async def test_another_chain_or_schema_rebuilds_the_database(tmp_path: Path) -> None:
    node = FakeNode()
    node.add([provider_registered(P), registered(P, 1)])
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        async with index.engine.begin() as connection:
            await connection.exec_driver_sql("update meta set value = '0' where key = 'schema_version'")
            await connection.exec_driver_sql("update resources set gpu_model = 'stale'")
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        assert (await index.ask("{ gpus { gpuModel } }"))["gpus"] == [{"gpuModel": "NVIDIA H200"}]


async def test_a_chain_begun_anew_rebuilds_the_database(tmp_path: Path) -> None:
    node = FakeNode()
    node.add([provider_registered(P), registered(P, 1)])
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
    node.drop(2)
    node.add([], salt="another genesis")
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        assert (await index.ask("{ gpusCount _meta { block { number } } }")) == {
            "gpusCount": 0,
            "_meta": {"block": {"number": 0}},
        }


async def test_a_full_disk_is_said_and_loses_nothing(tmp_path: Path) -> None:
    node, story = FakeNode(), History(5)
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        async with index.engine.connect() as connection:
            pages = (await connection.exec_driver_sql("pragma page_count")).scalar_one()
        event.listen(
            index.engine.sync_engine, "begin", lambda c: c.exec_driver_sql(f"pragma max_page_count = {pages + 2}")
        )
        for number in range(60):
            node.add(story.block(number))
        with pytest.raises(MarketError) as caught:
            await index.catch_up()
        assert caught.value.code == "disk_full"
    async with indexer(node, tmp_path) as index, indexer(node, tmp_path, "fresh") as fresh:
        await index.catch_up()
        await fresh.catch_up()
        assert await contents(index.engine) == await contents(fresh.engine)


async def test_an_event_about_nothing_known_is_refused(tmp_path: Path) -> None:
    node = FakeNode()
    node.add([raw("Marketplace", "JobAccepted", job_id(1), P)])
    async with indexer(node, tmp_path) as index:
        with pytest.raises(MarketError) as caught:
            await index.catch_up()
    assert caught.value.code == "chain_mismatch"


@settings(max_examples=8, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    depths=st.lists(st.integers(1, 10), min_size=1, max_size=5),
    finality=st.integers(10, 20),
)
async def test_random_reorganizations_leave_what_a_fresh_index_has(seed: int, depths: list[int], finality: int) -> None:
    node = FakeNode(finality_depth=finality)
    with TemporaryDirectory() as folder:
        async with indexer(node, Path(folder)) as index:
            await _live_through(node, index.catch_up, seed, depths)
            followed = await contents(index.engine)
            assert index.follower.rollbacks == len(depths)
        async with indexer(node, Path(folder), "fresh") as fresh:
            await fresh.catch_up()
            assert await contents(fresh.engine) == followed


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), kills=st.lists(st.integers(1, 60), min_size=1, max_size=8), depth=st.integers(1, 10))
async def test_killed_at_any_statement_it_resumes_with_nothing_lost_and_nothing_twice(
    seed: int, kills: list[int], depth: int
) -> None:
    node = FakeNode(finality_depth=12)
    pending = list(kills)
    with TemporaryDirectory() as folder:

        async def survive() -> None:
            while True:
                async with indexer(node, Path(folder)) as index:
                    left = pending.pop() if pending else -1

                    def count(_: str) -> None:
                        nonlocal left
                        left -= 1
                        if left == 0:
                            raise Killed

                    stop = count_statements(index.engine, count)
                    try:
                        await index.catch_up()
                        return
                    except Killed:
                        continue
                    finally:
                        stop()

        await _live_through(node, survive, seed, [depth])
        async with indexer(node, Path(folder)) as index, indexer(node, Path(folder), "fresh") as fresh:
            await index.catch_up()
            await fresh.catch_up()
            assert await contents(fresh.engine) == await contents(index.engine)


async def test_a_head_stretch_longer_than_a_commit_is_followed(tmp_path: Path) -> None:
    node, story = FakeNode(), History(3)
    for number in range(HEAD_RANGE * 2 + 5):
        node.add(story.block(number))
    async with indexer(node, tmp_path) as index:
        await index.catch_up()
        assert (await index.ask("{ _meta { block { number } } }"))["_meta"]["block"]["number"] == HEAD_RANGE * 2 + 5


async def _live_through(node: FakeNode, catch_up: object, seed: int, depths: list[int]) -> None:
    """Grow the chain, let the indexer look now and then, and replace its newest blocks by another lawful history."""
    assert callable(catch_up)
    story = History(seed)
    snapshots = [story.copy(0)]  # snapshots[n]: the story after block n
    for round_number, depth in enumerate(depths):
        for _ in range(12):
            node.add(story.block(1_700_000_000))
            snapshots.append(story.copy(len(snapshots)))
            if story.random.random() < 0.3:
                await catch_up()
        await catch_up()
        node.drop(depth)
        del snapshots[len(snapshots) - depth :]
        story = snapshots[-1].copy(seed + round_number + 1)
        for _ in range(depth + story.random.randrange(2)):
            node.add(story.block(1_700_000_000), salt=f"fork {round_number}")
            snapshots.append(story.copy(len(snapshots)))
        await catch_up()
