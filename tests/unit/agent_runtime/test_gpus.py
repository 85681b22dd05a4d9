"""The real pynvml against a compiled stand-in of NVIDIA's library, in a child process; and the pool."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gpumarket.config import environment
from gpumarket.errors import MarketError
from provider_agent.gpus import GpuPool

_ASK = """
import dataclasses, json
from provider_agent.gpus import inventory, metrics
found = inventory()
now = metrics([gpu.uuid for gpu in found.gpus] + ["GPU-gone"])
print(json.dumps([dataclasses.asdict(found), [dataclasses.asdict(entry) for entry in now]]))
"""
_FIRST = "GPU-00000000-0000-0000-0000-000000000000"


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("gcc") or shutil.which("cc")
    assert compiler, "this test compiles a small C file: apt-get install gcc"
    out = tmp_path_factory.mktemp("nvml") / "libnvidia-ml.so.1"
    source = Path(__file__).with_name("nvml.c")
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(out), str(source)], check=True, timeout=60)
    return out.parent


def ask(**variables: str) -> tuple[dict[str, object], list[dict[str, object]]]:
    """Inventory and metrics as a process with these variables sees them."""
    done = subprocess.run(
        [sys.executable, "-c", _ASK],
        env=environment(variables),
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found, now = json.loads(done.stdout)
    return found, now


def test_two_gpus(library: Path) -> None:
    found, now = ask(LD_LIBRARY_PATH=str(library), STAND_IN_GPUS="2")

    assert (found["driver"], found["cuda"], found["reason"]) == ("570.86.10", "12.8", "")
    assert isinstance(found["gpus"], list)
    assert len(found["gpus"]) == 2
    assert found["gpus"][0] == {
        "uuid": _FIRST,
        "name": "Stand-in GPU",
        "memory_bytes": 80 << 30,
        "pci_bus_id": "",
        "compute_capability": "9.0",
        "power_limit_w": 700,
        "mig": False,
    }
    assert [entry["uuid"] for entry in now] == [gpu["uuid"] for gpu in found["gpus"]]
    assert now[1]["utilization_percent"] == 11
    assert now[1]["memory_used_bytes"] == 1 << 20
    assert now[1]["power_w"] == 123.456
    assert now[1]["temperature_c"] == 41


def test_what_a_card_does_not_tell_is_none(library: Path) -> None:
    _, now = ask(LD_LIBRARY_PATH=str(library), STAND_IN_GPUS="1")

    assert now[0]["sm_clock_mhz"] is None
    assert now[0]["ecc_uncorrected"] is None


def test_a_driver_without_cards(library: Path) -> None:
    found, now = ask(LD_LIBRARY_PATH=str(library), STAND_IN_GPUS="0")

    assert found["gpus"] == []
    assert found["reason"] == "no GPU: the NVIDIA driver is loaded and finds no card"
    assert now == []


def test_no_driver(library: Path) -> None:
    found, now = ask(LD_LIBRARY_PATH=str(library), STAND_IN_NO_DRIVER="1")

    assert found["reason"] == "no GPU: the NVIDIA driver is not loaded"
    assert now == []


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has an NVIDIA driver")
def test_no_library() -> None:
    found, now = ask()

    assert found["gpus"] == []
    assert found["reason"] == "no GPU: the NVIDIA management library (NVML) is not installed"
    assert now == []


def test_the_pool_gives_all_or_nothing() -> None:
    pool = GpuPool(["a", "b", "c"])

    assert pool.take("one", 2) == ("a", "b")
    with pytest.raises(MarketError) as refused:
        pool.take("two", 2)

    assert refused.value.code == "resource_busy"
    assert pool.free == ("c",)
    assert pool.of("two") == ()


def test_the_pool_gives_the_same_to_the_same_owner() -> None:
    pool = GpuPool(["a", "b"])

    assert pool.take("one", 1) == pool.take("one", 1) == ("a",)
    with pytest.raises(MarketError) as refused:
        pool.take("one", 2)

    assert refused.value.code == "already_running"


def test_the_pool_takes_back() -> None:
    pool = GpuPool(["a", "b"])
    pool.take("one", 2)

    pool.release("one")
    pool.release("one")

    assert pool.take("two", 2) == ("a", "b")


def test_the_pool_adopts_what_survived_a_restart() -> None:
    pool = GpuPool(["a", "b"])

    pool.adopt("one", ["b"])
    pool.adopt("one", ["b"])

    assert pool.owners() == {"a": "", "b": "one"}
    for uuids, code in ((["a", "b"], "resource_busy"), (["a", "gone"], "not_found")):
        with pytest.raises(MarketError) as refused:
            pool.adopt("two", uuids)
        assert refused.value.code == code
    assert pool.free == ("a",)
