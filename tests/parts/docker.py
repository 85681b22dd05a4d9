"""A real Docker Engine for tests, and a tiny real image to run on it."""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import APIError, DockerException
from docker.utils import kwargs_from_env

_START_S = 30
_BUSYBOX = ("/bin/busybox", "/usr/bin/busybox")


@contextmanager
def docker_engine() -> Iterator[docker.APIClient]:
    """A client of an engine that answers. As root a `dockerd` is started if none does, and stopped afterwards."""
    client = _connect()
    started = None
    if client is None:
        started = _start()
        client = _wait(started)
    try:
        yield client
    finally:
        client.close()
        if started is not None:
            started.terminate()
            started.wait(30)


def busybox_image(
    tag: str,
    *,
    files: Mapping[str, bytes] | None = None,
    changes: tuple[str, ...] = ('CMD ["/bin/sh"]', "ENV PATH=/bin"),
) -> str:
    """Build an image of a static busybox with its applets, and `files` in a second layer; returns `tag`.

    Args:
        changes: Dockerfile instructions (CMD, ENV, USER, VOLUME, ...) that set the image's config.
    """
    with docker_engine() as client:
        base = f"gpumarket-test-base:{_busybox_key()}"
        if not client.images(base):
            repository, _, version = base.partition(":")
            client.import_image_from_data(_busybox_tar(), repository=repository, tag=version)
        dockerfile = "\n".join([f"FROM {base}", *changes, *(f"COPY {name} /{name}" for name in files or {}), ""])
        context = {"Dockerfile": dockerfile.encode(), **(files or {})}
        for event in client.build(
            fileobj=io.BytesIO(_tar(context)), custom_context=True, tag=tag, rm=True, decode=True
        ):
            if "error" in event:
                raise RuntimeError(f"docker build failed: {event['error']}")
    return tag


def remove_images(*tags: str) -> None:
    """Remove images by tag, and the base they were built on if nothing else needs it."""
    with docker_engine() as client:
        for tag in (*tags, f"gpumarket-test-base:{_busybox_key()}"):
            try:
                client.remove_image(tag, force=tag in tags)
            except APIError as error:
                if error.status_code not in (404, 409):
                    raise


def _connect() -> docker.APIClient | None:
    try:
        return docker.APIClient(version="auto", timeout=60, **kwargs_from_env())
    except DockerException:
        return None


def _start() -> subprocess.Popen[bytes]:
    dockerd = shutil.which("dockerd", path="/usr/sbin:/usr/bin:/usr/local/bin:/sbin:/bin")
    if os.geteuid() != 0 or dockerd is None:
        raise RuntimeError(
            "no Docker Engine answers. Start Docker and let this user reach it (docker info must work), "
            "or run the tests as root on a machine that has dockerd (apt-get install docker.io iptables)."
        )
    return subprocess.Popen([dockerd], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)


def _wait(process: subprocess.Popen[bytes]) -> docker.APIClient:
    end = time.monotonic() + _START_S
    while time.monotonic() < end and process.poll() is None:
        client = _connect()
        if client is not None:
            return client
        time.sleep(0.2)
    process.terminate()
    raise RuntimeError(f"dockerd was started and did not answer within {_START_S} s; run `dockerd` by hand to see why")


def _busybox_path() -> Path:
    for path in _BUSYBOX:
        if Path(path).exists():
            return Path(path)
    raise RuntimeError("no static busybox found (apt-get install busybox-static)")


def _busybox_key() -> str:
    return f"{_busybox_path().stat().st_size}"


def _busybox_tar() -> bytes:
    binary = _busybox_path()
    applets = subprocess.run([str(binary), "--list"], capture_output=True, text=True, check=True).stdout.split()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        _add(tar, "bin/busybox", binary.read_bytes(), 0o755)
        for applet in applets:
            if applet != "busybox":
                link = tarfile.TarInfo(f"bin/{applet}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
    return out.getvalue()


def _tar(files: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            _add(tar, name, data, 0o755)
    return out.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(data), mode
    tar.addfile(entry, io.BytesIO(data))
