from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from gpumarket.cli.main import main


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GPUMARKET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_default_behavior(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*arguments: str) -> str:
        assert main(["ipfs", *arguments]) == 0
        return capsys.readouterr().out.strip()

    (tmp_path / "dir").mkdir()
    (tmp_path / "dir/hello").write_bytes(b"hello world")
    cid = run("add", str(tmp_path / "dir"), "-o", "plain")
    assert cid.startswith("bafybei")
    listed = json.loads(run("ls", cid, "-o", "json"))
    leaf = "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"
    assert listed == [{"cid": leaf, "size": 11, "kind": "file", "name": "hello"}]
    assert run("pin", "-o", "plain") == f"{cid}\tdir"
    assert run("get", f"{cid}/hello", str(tmp_path / "out"), "-o", "plain").startswith(leaf)
    assert (tmp_path / "out").read_bytes() == b"hello world"
    run("export", cid, str(tmp_path / "dir.car"))
    other = ("--store", str(tmp_path / "other"), "-o", "plain")
    assert run("import", str(tmp_path / "dir.car"), *other) == cid
    assert run("pin", *other) == f"{cid}\tdir.car"
    run("pin", cid, "--remove", *other)
    assert run("pin", *other) == ""
    assert json.loads(run("gc", "-o", "json")) == {"blocks": 0, "bytes": 0}
    assert sorted(os.listdir(tmp_path)) == ["dir", "dir.car", "home", "other", "out"]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "error"),
    [
        (["ls", "nonsense"], 2, "invalid_argument"),
        (["ls", "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"], 7, "image_block_missing"),
        (["add", "nothing-here"], 3, "not_found"),
        (["import", "nothing-here"], 2, "invalid_argument"),
        (["gc", "--store", "x", "--api", "http://127.0.0.1:1"], 2, "invalid_argument"),
        (["gc", "--api", "ftp://127.0.0.1"], 2, "invalid_argument"),
        (["gc", "--api", "http://127.0.0.1:1"], 8, "ipfs_unreachable"),
    ],
)
def test_errors_have_codes(
    arguments: list[str],
    exit_code: int,
    error: str,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ipfs", *arguments]) == exit_code
    assert f"({error})" in capsys.readouterr().err
