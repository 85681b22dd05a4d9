"""An agent whose disk is really full: nothing is half done, nobody pays, and with room again it goes on."""

from __future__ import annotations

import asyncio
import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from gpumarket.chain import calls
from gpumarket.rules.job_spec import JobSpec
from gpumarket.rules.job_state import JobStatus
from tests.integration.agent.market import Market, containers, market

pytestmark = [pytest.mark.docker, pytest.mark.anvil, pytest.mark.timeout(240)]

DISK_MB = 64
LEFT_BYTES = 400_000
"""Room for the agent's own notes and less than the image."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Where the agent keeps everything."""
    if os.geteuid() != 0:
        pytest.skip("not root: a small disk cannot be mounted")
    folder = tmp_path / "agent"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MB}m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
async def world(small_disk: Path) -> AsyncIterator[Market]:
    async with market(small_disk.parent) as found:
        yield found


async def until_said(world: Market, word: str, timeout_s: float = 40) -> None:
    deadline = time.monotonic() + timeout_s
    while word not in world.agent_log.read_text():
        assert time.monotonic() < deadline, f"the agent never says {word}"
        await asyncio.sleep(0.3)


async def test_a_full_disk_costs_nobody_anything_and_passes(world: Market, small_disk: Path, tmp_path: Path) -> None:
    agent = world.agent()
    filler = small_disk / "filler"
    spec = JobSpec(command=("sh", "-c", "echo 42 > /results/answer"), sources=(world.store_url,))
    try:
        resource = await world.resource()
        before = await world.chain.token_balance(world.renter.address)
        filler.write_bytes(bytes(shutil.disk_usage(small_disk).free - LEFT_BYTES))
        refused = await world.rent(resource, spec)
        await until_said(world, "disk_full")
        assert (await world.chain.job(refused)).status is JobStatus.CREATED
        assert containers(world.image) == []
        await world.renter.execute("cancel", calls.cancel_job(world.deployment, refused))
        back = await world.chain.escrow_balance(world.renter.address)
        assert await world.chain.token_balance(world.renter.address) + back == before
        assert agent.process.poll() is None
        filler.unlink()
        await world.until_closed(refused, timeout=60)
        done = await world.rent(resource, spec)
        await world.until_paid(done, timeout=90)
        await world.until_closed(done)
    finally:
        agent.stop()
    assert "JobAccepted" not in world.events(refused)
    assert (world.results(done, tmp_path / "out") / "results" / "answer").read_text() == "42\n"
    journal = sqlite3.connect(small_disk / "journal.db")
    assert journal.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    states = dict(journal.execute("SELECT job_id, state FROM jobs").fetchall())
    journal.close()
    assert states[refused] == states[done]
