"""Room is given back when a job's retention is over, and not a second before."""

from __future__ import annotations

from pathlib import Path

from gpumarket.ipfs.cid import Cid
from provider_agent.state import JobState
from provider_agent.tidy import RETENTION_S, tidy
from tests.unit.agent.world import World


async def test_results_and_logs_stay_for_the_retention_and_go_after(tmp_path: Path) -> None:
    world = World(tmp_path)
    resource = await world.list_machine()
    job_id = await world.rent(resource, world.image())

    def closed() -> bool:
        row = world.journal.get(job_id)
        return row is not None and row.state is JobState.CLOSED

    await world.drive(world.life(resource), closed)
    row = world.row(job_id)
    root, end = Cid.dag_pb(bytes.fromhex(row.result[2:])), row.updated_at + RETENTION_S
    assert tidy(world.journal, world.store, tmp_path / "logs", end).blocks > 0  # the image, which nobody needs
    assert world.store.has(root)
    assert (tmp_path / "logs" / job_id).is_dir()
    tidy(world.journal, world.store, tmp_path / "logs", end + 1)
    assert not world.store.has(root)
    assert not (tmp_path / "logs" / job_id).exists()
