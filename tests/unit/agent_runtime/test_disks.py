from __future__ import annotations

import errno
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from provider_agent import disks


def test_a_host_without_room_says_so_before_the_job_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("provider_agent.disks.os.posix_fallocate", full)

    with pytest.raises(MarketError) as refused:
        disks.make(tmp_path / "disks/job-results.img", 1 << 20, "65534:65534")

    assert refused.value.code == "disk_full"
    assert not list((tmp_path / "disks").iterdir())


def test_a_missing_tool_makes_the_machine_unsuitable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider_agent.disks._PATH", str(tmp_path))

    assert not disks.available()
    with pytest.raises(MarketError) as refused:
        disks.make(tmp_path / "job-results.img", 1 << 20, "65534:65534")

    assert refused.value.code == "machine_unsuitable"
    assert not list(tmp_path.iterdir())


def test_destroying_what_is_not_there_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "job-results.part").touch()

    disks.destroy(tmp_path / "job-results.img")

    assert not list(tmp_path.iterdir())
