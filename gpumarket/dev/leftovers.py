"""What a run may leave on the machine, and how it goes away: process groups, containers, images.

Standard library only: the reaper runs this file in a process of its own, after the rest is dead.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

TERM_GRACE_S = 10.0
_ENGINE_CATCHES_UP_S = 3.0
_COMMAND_TIMEOUT_S = 30.0


@dataclass
class Leftovers:
    """What belongs to one run.

    Attributes:
        groups: process groups, in the order they were started.
        labels: `key=value` labels of containers, volumes, networks and images that only this run can have made.
            The image of such a container goes with it.
        folders: data folders of this run; what is mounted or loop-attached from inside them is let go.
    """

    groups: list[int] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)

    def apply(self, line: str) -> None:
        """Take one line of the reaper's protocol: `group N`, `forget N`, `label K=V`, `folder PATH`."""
        word, _, value = line.strip().partition(" ")
        if word == "group":
            self.groups.append(int(value))
        elif word == "forget":
            with contextlib.suppress(ValueError):
                self.groups.remove(int(value))
        elif word == "label":
            self.labels.append(value)
        elif word == "folder":
            self.folders.append(value)

    def clean(self, grace_s: float = TERM_GRACE_S) -> list[str]:
        """Stop and remove everything, newest first; says what it found."""
        found = _end_groups(list(reversed(self.groups)), grace_s)
        self.groups.clear()
        if found:  # the engine may still be busy with what a process asked of it just before it died
            found += self._clean_docker()
            time.sleep(_ENGINE_CATCHES_UP_S)
        return found + self._clean_docker() + self._clean_mounts()

    def _clean_docker(self) -> list[str]:
        found: list[str] = []
        images: list[str] = []
        for label in self.labels:
            chosen = ("--filter", f"label={label}")
            images += _docker(("ps", "--all", *chosen, "--format", "{{.Image}}"))
            for kind, listing, removal in _KINDS:
                for name in _docker((*listing, *chosen)):
                    _docker((*removal, name))
                    found.append(f"{kind} {name}")
            images += _docker(("image", "ls", "--quiet", "--no-trunc", *chosen))
        for image in dict.fromkeys(images):
            if _docker(("image", "rm", "--force", image)):
                found.append(f"image {image}")
        return found

    def _clean_mounts(self) -> list[str]:
        """Mounts and loop devices, which need root both to exist and to go away."""
        found: list[str] = []
        inside = tuple(folder.rstrip("/") + "/" for folder in self.folders)
        for line in _output(("cat", "/proc/self/mounts")) if inside else []:
            place = line.split(" ")[1].encode().decode("unicode_escape")
            if place.startswith(inside):
                _output(("umount", "--lazy", place))
                found.append(f"mount {place}")
        for line in _output(("losetup", "--list", "--noheadings", "--output", "NAME,BACK-FILE")) if inside else []:
            device, _, file = line.strip().partition(" ")
            if file.strip().startswith(inside):
                _output(("losetup", "--detach", device))
                found.append(f"loop device {device}")
        return found


_KINDS: tuple[tuple[str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("container", ("ps", "--all", "--quiet", "--no-trunc"), ("rm", "--force", "--volumes")),
    ("network", ("network", "ls", "--quiet", "--no-trunc"), ("network", "rm")),
    ("volume", ("volume", "ls", "--quiet"), ("volume", "rm", "--force")),
)


def signal_group(group: int, number: int) -> bool:
    """Send a signal to a process group; false if no such group is left."""
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _end_groups(groups: Sequence[int], grace_s: float) -> list[str]:
    alive = [group for group in groups if signal_group(group, signal.SIGTERM)]
    found = [f"process group {group}" for group in alive]
    deadline = time.monotonic() + grace_s
    while alive and time.monotonic() < deadline:
        time.sleep(0.05)
        alive = [group for group in alive if signal_group(group, 0)]
    for group in alive:
        signal_group(group, signal.SIGKILL)
    return found


def _docker(arguments: Sequence[str]) -> list[str]:
    """Words of what docker says; an engine that does not answer has nothing of ours that we could remove."""
    return [word for line in _output(("docker", *arguments)) for word in line.split()]


def _output(command: Sequence[str]) -> list[str]:
    """Lines of a command's output, none if it fails or is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_COMMAND_TIMEOUT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return []
    return done.stdout.splitlines() if done.returncode == 0 else []
