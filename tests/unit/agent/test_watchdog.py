"""The watchdog: labels and leases only, never a second early, never on a label it cannot read."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from gpumarket.log import Log
from provider_agent.runtime import ContainerSpec
from provider_agent.watchdog import drop_lease, stop_overdue, write_lease
from tests.fakes import FakeProgram, FakeRuntime

LOG = Log("watchdog", stream=io.StringIO())


async def engine(expires: str) -> FakeRuntime:
    runtime = FakeRuntime(lambda: 0.0, FakeProgram(seconds=None))
    await runtime.pull("x@sha256:1", "image")
    identity = await runtime.create(ContainerSpec("job", "image", labels={"gpumarket.expires": expires}))
    await runtime.start(identity)
    return runtime


async def test_default_stops_what_is_over_and_not_a_second_before(tmp_path: Path) -> None:
    runtime = await engine("100")
    assert await stop_overdue(runtime, tmp_path, 100, LOG) == []
    assert await stop_overdue(runtime, tmp_path, 101, LOG) == ["job"]
    assert await stop_overdue(runtime, tmp_path, 200, LOG) == []


async def test_a_lease_extends_and_never_shortens(tmp_path: Path) -> None:
    runtime = await engine("100")
    write_lease(tmp_path, "job", 500)
    write_lease(tmp_path, "job", 50)
    assert await stop_overdue(runtime, tmp_path, 500, LOG) == []
    drop_lease(tmp_path, "job")
    assert await stop_overdue(runtime, tmp_path, 500, LOG) == ["job"]


@pytest.mark.parametrize("label", ["", "soon", "-5", "1e3"])
async def test_an_unreadable_label_stops_nothing(tmp_path: Path, label: str) -> None:
    assert await stop_overdue(await engine(label), tmp_path, 10**12, LOG) == []
