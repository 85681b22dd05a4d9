from __future__ import annotations

import errno
import tarfile
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from provider_agent.extract import extract_tree, folders_tar
from tests.unit.images.layouts import special, tar


def take(members: dict[str, bytes | tarfile.TarInfo], dest: Path, limit: int = 1 << 20) -> dict[str, bytes]:
    data = tar(members)
    extract_tree([data[n : n + 1000] for n in range(0, len(data), 1000)], dest, limit)
    return {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("*") if path.is_file()}


def test_default_behavior(tmp_path: Path) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = {
        "results/": special("results/", tarfile.DIRTYPE),
        "results/a": b"1",
        "results/b/c": b"22",
        "results/d/": special("results/d/", tarfile.DIRTYPE),
    }

    assert take(members, tmp_path / "out") == {"a": b"1", "b/c": b"22"}
    assert (tmp_path / "out/d").is_dir()


def test_size_at_the_limit_and_one_over(tmp_path: Path) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = {"r/a": b"12", "r/b": b"345"}

    assert take(members, tmp_path / "exact", 5)
    with pytest.raises(MarketError) as refused:
        take(members, tmp_path / "over", 4)

    assert refused.value.code == "image_too_large"
    assert not (tmp_path / "over").exists()


@pytest.mark.parametrize(
    "entry",
    [
        special("r/x", tarfile.SYMTYPE, "/etc/passwd"),
        special("r/x", tarfile.LNKTYPE, "/etc/passwd"),
        special("r/x", tarfile.LNKTYPE, "r/../../etc/passwd"),
        special("r/x", tarfile.FIFOTYPE),
        special("r/x", tarfile.CHRTYPE),
        special("/x", tarfile.REGTYPE),
        special("../x", tarfile.REGTYPE),
        special("r/../../x", tarfile.REGTYPE),
        special("r/" + "d/" * 100 + "x", tarfile.REGTYPE),
        special("r/" + "n" * 256, tarfile.REGTYPE),
        special("r/not-utf-8-\udcff", tarfile.REGTYPE),
    ],
)
def test_tricks_are_left_out(tmp_path: Path, entry: tarfile.TarInfo) -> None:
    assert take({"trick": entry, "r/good": b"1"}, tmp_path / "out") == {"good": b"1"}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "target").mkdir()
    members: dict[str, bytes | tarfile.TarInfo] = {
        "l": special("r/l", tarfile.SYMTYPE, str(tmp_path / "target")),
        "r/l/x": b"1",
    }

    assert take(members, tmp_path / "out") == {"l/x": b"1"}
    assert not list((tmp_path / "target").iterdir())


def test_a_second_name_of_a_file_counts_and_comes(tmp_path: Path) -> None:
    members: dict[str, bytes | tarfile.TarInfo] = {"r/a": b"123", "r/b": special("r/b", tarfile.LNKTYPE, "r/a")}

    assert take(members, tmp_path / "out", 6) == {"a": b"123", "b": b"123"}
    with pytest.raises(MarketError):
        take(members, tmp_path / "over", 5)


def test_too_many_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("provider_agent.extract.MAX_ENTRIES", 1)

    with pytest.raises(MarketError) as refused:
        take({"r/a": b"1", "r/b": b"2"}, tmp_path / "out")

    assert refused.value.code == "image_too_large"


def test_a_stream_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    data = tar({"r/a": b"1" * 5000})

    with pytest.raises(MarketError) as failed:
        extract_tree([data[:2000]], tmp_path / "out", 1 << 20)

    assert failed.value.code == "docker_failed"
    assert not (tmp_path / "out").exists()


def test_a_full_disk_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("provider_agent.extract.shutil.copyfileobj", full)

    with pytest.raises(MarketError) as failed:
        take({"r/a": b"1"}, tmp_path / "out")

    assert failed.value.code == "disk_full"
    assert not (tmp_path / "out").exists()


def test_folders_belong_to_the_user(tmp_path: Path) -> None:
    (tmp_path / "t.tar").write_bytes(folders_tar(["/results", "/a/b"], "65534:7"))
    with tarfile.open(tmp_path / "t.tar") as made:
        entries = [(entry.name, entry.uid, entry.gid, entry.mode, entry.isdir()) for entry in made]

    assert entries == [("results", 65534, 7, 0o1777, True), ("a/b", 65534, 7, 0o1777, True)]
