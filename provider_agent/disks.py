"""Disks of fixed size for jobs: an ext4 file system in a file, attached to a loop device.

A program that fills its disk gets "no space left on device" from the kernel and cannot touch the host's free space.
Needs root on the engine's own machine. Every function may be repeated after a crash: the file's path says which disk
it is.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from gpumarket.errors import MarketError

MIN_BYTES = 1 << 20
_TOOLS = ("losetup", "mkfs.ext4", "debugfs")
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin"
_TIMEOUT_S = 60


def available() -> bool:
    """Whether this process can make such disks."""
    tools = all(shutil.which(tool, path=_PATH) for tool in _TOOLS)
    return os.geteuid() == 0 and tools and Path("/dev/loop-control").exists()


def make(file: Path, size: int, owner: str) -> Path:
    """Make the disk if it is not there, and attach it.

    Args:
        size: bytes of the file; the file system keeps a few per cent of it.
        owner: `uid:gid` of its top folder.

    Returns:
        A path that names its device, also after a reboot and `reattach`.

    Raises:
        MarketError: `disk_full` if the host lacks the space: it is reserved now, not when the job needs it.
    """
    if not file.exists():
        _make(file, max(size, MIN_BYTES), owner)
    return reattach(file)


def reattach(file: Path) -> Path:
    """Attach an existing disk if it is not attached; the path that names its device."""
    device = _device_of(file) or _run("losetup", "--find", "--show", str(file)).strip()
    link = _link(file)
    fresh = link.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fresh.symlink_to(device)
    fresh.rename(link)
    return link


def destroy(file: Path) -> None:
    """Unmount, detach and delete the disk; the container that used it is gone."""
    device = _device_of(file) if file.exists() else ""
    if device:
        for place in _places_of(device, str(_link(file))):
            _run("umount", "--lazy", place)
        _run("losetup", "--detach", device)
    _link(file).unlink(missing_ok=True)
    file.with_suffix(".part").unlink(missing_ok=True)
    file.unlink(missing_ok=True)


def _device_of(file: Path) -> str:
    return _run("losetup", "--associated", str(file)).partition(":")[0].strip()


def _places_of(*names: str) -> list[str]:
    """Where a device that goes by these names is mounted, the newest mount first."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    return [place.encode().decode("unicode_escape") for source, place, *_ in reversed(mounts) if source in names]


def _link(file: Path) -> Path:
    return file.with_suffix(".dev")


def _make(file: Path, size: int, owner: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    part = file.with_suffix(".part")
    try:
        with part.open("wb") as out:
            os.posix_fallocate(out.fileno(), 0, size)
        options = f"root_owner={owner},lazy_itable_init=1,nodiscard"
        _run("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", options, str(part))
        _run("debugfs", "-w", "-R", "rmdir lost+found", str(part))
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MarketError("disk_full", f"cannot reserve {size} bytes for a job: {error.strerror}", size=size) from error
    except MarketError:
        part.unlink(missing_ok=True)
        raise
    part.rename(file)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command, env={"PATH": _PATH, "LC_ALL": "C"}, capture_output=True, text=True, timeout=_TIMEOUT_S, check=True
        )
    except (subprocess.SubprocessError, OSError) as error:
        output = getattr(error, "stderr", "") or str(error)
        raise MarketError("machine_unsuitable", f"{command[0]} failed: {output.strip()[:300]}") from error
    return done.stdout
