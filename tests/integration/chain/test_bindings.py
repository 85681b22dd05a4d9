"""The committed ABI and events against what forge compiled."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.parts.market import OUT


@pytest.fixture
def artifacts(tmp_path: Path) -> Path:
    """A copy of forge's artifacts of the market's own contracts and interfaces."""
    names = [path.stem for path in (OUT.parent / "contracts").glob("**/*.sol")]
    if not (OUT / "Marketplace.sol").exists():
        pytest.skip("the contracts are not compiled: run `forge build`")
    for name in names:
        if (OUT / f"{name}.sol").exists():
            shutil.copytree(OUT / f"{name}.sol", tmp_path / f"{name}.sol")
    return tmp_path


def check(artifacts: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "scripts/_bindings.py", "--check", "--out", str(artifacts)]
    return subprocess.run(command, cwd=OUT.parent, capture_output=True, text=True, timeout=60, check=False)


def test_committed_bindings_are_fresh(artifacts: Path) -> None:
    result = check(artifacts)
    hint = "run `forge build` and `python scripts/_bindings.py`"
    assert result.returncode == 0, f"{hint}\n{result.stdout}{result.stderr}"


def test_a_stale_file_is_named(artifacts: Path) -> None:
    path = artifacts / "IStakeVault.sol" / "IStakeVault.json"
    document = json.loads(path.read_text())
    document["abi"] = [entry for entry in document["abi"] if entry.get("name") != "Slashed"]
    path.write_text(json.dumps(document))
    result = check(artifacts)
    assert (result.returncode, result.stdout) == (1, "stale gpumarket/chain/events.py\n")
