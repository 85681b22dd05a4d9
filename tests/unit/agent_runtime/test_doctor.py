from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import pytest

from gpumarket.errors import MarketError
from provider_agent.doctor import ChainHead, Examination, Finding, Funds, Status, diagnose, healthy
from provider_agent.gpus import Gpu, Inventory
from provider_agent.runtime import DiskLimit, EngineInfo, Tier

T = TypeVar("T")

_ENGINE = EngineInfo(
    version="29.0.1",
    api_version="1.52",
    storage_driver="overlay2",
    cgroup_version="2",
    rootless=False,
    runtimes=("runc",),
    cdi=True,
    nvidia=True,
    tier=Tier.T1,
    disk_limit=DiskLimit.LOOP,
    security=("name=seccomp,profile=builtin",),
    architecture="x86_64",
    containers_running=0,
    runc="1.3.3",
)
_GPU = Gpu("GPU-1", "H100", 80 << 30, "00:01", "9.0", 700, False)
_NOW = 1_000_000.0


def answering(value: T) -> Callable[[], Awaitable[T]]:
    async def answer() -> T:
        return value

    return answer


@pytest.fixture
def healthy_machine(tmp_path: Path) -> Examination:
    return Examination(
        engine=answering(_ENGINE),
        inventory=lambda: Inventory((_GPU,), "570.86", "12.8", ""),
        toolkit=lambda: "1.18.0",
        clock=lambda: _NOW,
        data_dir=tmp_path / "data",
        min_free_bytes=1,
        chain=answering(ChainHead(31337, 7, _NOW - 2)),
        funds=answering(Funds(10, 10, 5, 5)),
    )


async def finding(look: Examination, name: str) -> Finding:
    return next(found for found in await diagnose(look) if found.name == name)


async def test_default_behavior(healthy_machine: Examination) -> None:
    found = await diagnose(healthy_machine)

    assert {entry.status for entry in found} == {Status.PASS}
    assert healthy(found)
    assert {"engine", "limits", "sandbox", "disk", "gpu", "toolkit", "chain", "clock", "gas", "stake"} <= {
        entry.name for entry in found
    }


async def test_no_engine_is_a_finding_not_an_exception(healthy_machine: Examination) -> None:
    async def gone() -> EngineInfo:
        raise MarketError("docker_unreachable", "no answer")

    found = await diagnose(replace(healthy_machine, engine=gone))

    assert not healthy(found)
    assert (found[0].name, found[0].status, found[0].message) == ("engine", Status.FAIL, "no answer")
    assert "systemctl start docker" in found[0].fix


async def test_an_engine_that_hangs_is_a_finding(healthy_machine: Examination, monkeypatch: pytest.MonkeyPatch) -> None:
    async def hanging() -> EngineInfo:
        raise TimeoutError

    assert (await finding(replace(healthy_machine, engine=hanging), "engine")).status is Status.FAIL


@pytest.mark.parametrize(
    ("change", "name", "status"),
    [
        ({"version": "20.9.1"}, "engine", Status.FAIL),
        ({"version": "20.10.24+dfsg1"}, "engine", Status.PASS),
        ({"limits_missing": ("PidsLimit",)}, "limits", Status.FAIL),
        ({"tier": Tier.T0}, "sandbox", Status.WARN),
        ({"tier": Tier.T2, "security": ()}, "sandbox", Status.PASS),
        ({"security": ()}, "sandbox", Status.FAIL),
        ({"tier": Tier.T0, "runc": "1.1.5+ds1"}, "runc", Status.WARN),
        ({"disk_limit": DiskLimit.WATCHED}, "disk limit", Status.WARN),
    ],
)
async def test_engine_findings(
    healthy_machine: Examination, change: dict[str, object], name: str, status: Status
) -> None:
    engine = replace(_ENGINE, **change)  # type: ignore[arg-type]
    found = await finding(replace(healthy_machine, engine=answering(engine)), name)

    assert found.status is status
    assert bool(found.fix) is (status is not Status.PASS)


async def test_a_machine_without_gpu_may_work_and_is_told_why(healthy_machine: Examination) -> None:
    look = replace(healthy_machine, inventory=lambda: Inventory((), "", "", "no GPU: no library"))
    found = await diagnose(look)

    assert healthy(found)
    assert next(entry for entry in found if entry.name == "gpu") == Finding(
        "gpu",
        Status.WARN,
        "no GPU: no library",
        "if there is a GPU: install the NVIDIA driver; else the machine is listed as CPU-only",
    )
    assert "toolkit" not in {entry.name for entry in found}


@pytest.mark.parametrize(
    ("version", "status"),
    [
        ("", Status.FAIL),
        ("1.17.7", Status.FAIL),
        ("1.17.8", Status.WARN),
        ("1.18.0", Status.PASS),
        ("2.0.0", Status.PASS),
    ],
)
async def test_toolkit_floor(healthy_machine: Examination, version: str, status: Status) -> None:
    assert (await finding(replace(healthy_machine, toolkit=lambda: version), "toolkit")).status is status


@pytest.mark.parametrize(
    ("block_age", "status"),
    [(-16.0, Status.FAIL), (-15.0, Status.PASS), (0.0, Status.PASS), (120.0, Status.PASS), (121.0, Status.WARN)],
)
async def test_clock(healthy_machine: Examination, block_age: float, status: Status) -> None:
    look = replace(healthy_machine, chain=answering(ChainHead(1, 1, _NOW - block_age)))

    assert (await finding(look, "clock")).status is status


async def test_an_unreachable_chain_fails(healthy_machine: Examination) -> None:
    async def gone() -> ChainHead:
        raise MarketError("chain_unreachable", "no answer", hint="start it")

    assert await finding(replace(healthy_machine, chain=gone), "chain") == Finding(
        "chain", Status.FAIL, "no answer", "start it"
    )


@pytest.mark.parametrize(
    ("funds", "gas", "stake"),
    [
        (Funds(10, 10, 5, 5), Status.PASS, Status.PASS),
        (Funds(9, 10, 5, 5), Status.FAIL, Status.PASS),
        (Funds(10, 10, 4, 5), Status.PASS, Status.FAIL),
    ],
)
async def test_funds(healthy_machine: Examination, funds: Funds, gas: Status, stake: Status) -> None:
    look = replace(healthy_machine, funds=answering(funds))

    assert (await finding(look, "gas")).status is gas
    assert (await finding(look, "stake")).status is stake


async def test_too_little_disk(healthy_machine: Examination) -> None:
    assert (await finding(replace(healthy_machine, min_free_bytes=1 << 60), "disk")).status is Status.FAIL


async def test_a_data_dir_that_cannot_be_made(healthy_machine: Examination, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    assert (await finding(replace(healthy_machine, data_dir=tmp_path / "file/x"), "disk")).status is Status.FAIL


async def test_without_a_chain_only_the_machine_is_judged(healthy_machine: Examination) -> None:
    found = await diagnose(replace(healthy_machine, chain=None, funds=None))

    assert not {"chain", "clock", "gas", "stake"} & {entry.name for entry in found}
