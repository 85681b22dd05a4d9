"""A Docker Engine of a test's own, which it may kill. It shares nothing with the machine's engine but the kernel."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import docker
import pytest
from docker.errors import DockerException

_START_S = 60
_PATH = "/usr/sbin:/usr/bin:/usr/local/bin:/sbin:/bin"


@dataclass
class Engine:
    """`dockerd` with live-restore: containers outlive it."""

    folder: Path
    _process: subprocess.Popen[bytes] | None = field(default=None, init=False)

    @property
    def url(self) -> str:
        return f"unix://{self.folder}/s"

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = ["dockerd", "--host", self.url, "--data-root", str(self.folder / "data")]
        command += ["--exec-root", str(self.folder / "x"), "--pidfile", str(self.folder / "pid"), "--live-restore"]
        # No bridge and no rules of its own: it must not touch the network of the machine's engine.
        command += ["--bridge", "none", "--iptables=false", "--ip6tables=false", "--config-file", str(self._config())]
        command += [
            "--containerd-namespace",
            self.folder.name,
            "--containerd-plugins-namespace",
            f"{self.folder.name}-plugins",
        ]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, "PATH": _PATH}
            )
        deadline = time.monotonic() + _START_S
        while time.monotonic() < deadline and self._process.poll() is None:
            try:
                docker.APIClient(self.url, version="auto", timeout=5).close()
                return
            except DockerException:
                time.sleep(0.2)
        raise RuntimeError(f"the second dockerd does not answer: {(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """SIGKILL, also for its containerd, which it would otherwise find again."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
            self._kill_containerd()

    def close(self) -> None:
        """Remove its containers, stop it, and leave nothing mounted."""
        if self._process is None:
            self.start()
        client = docker.APIClient(self.url, version="auto", timeout=60)
        for container in client.containers(all=True):
            client.remove_container(container["Id"], force=True, v=True)
        client.close()
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        self._kill_containerd()
        mounted = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for path in sorted((p for p in mounted if p.startswith(f"{self.folder}/")), reverse=True):
            subprocess.run(["umount", "--lazy", path], check=False, env={"PATH": _PATH})

    def _kill_containerd(self) -> None:
        # Only the one whose process id this engine wrote down itself.
        file = self.folder / "x" / "containerd" / "containerd.pid"
        with contextlib.suppress(FileNotFoundError, ProcessLookupError, ValueError):
            os.kill(int(file.read_text()), signal.SIGKILL)

    def _config(self) -> Path:
        file = self.folder / "daemon.json"
        file.write_text("{}")
        return file


@contextlib.contextmanager
def own_engine() -> Iterator[Engine]:
    """Start an engine in a short folder, whose sockets' paths have a limit; everything is gone at the end."""
    if os.geteuid() != 0:
        pytest.skip("not root: a second Docker Engine cannot be started")
    if shutil.which("dockerd", path=_PATH) is None:
        pytest.fail("dockerd is not installed (apt-get install docker.io)", pytrace=False)
    engine = Engine(Path(tempfile.mkdtemp(prefix="gme")))
    try:
        engine.start()
        try:
            yield engine
        finally:
            engine.close()
    finally:
        shutil.rmtree(engine.folder, ignore_errors=True)
