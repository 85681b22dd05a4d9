"""Turning an image of any origin into an OCI layout in a block store. The same image always gives the same CID."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import docker
from docker.errors import APIError, DockerException, ImageNotFound
from requests.exceptions import RequestException
from urllib3.exceptions import HTTPError

from gpumarket.errors import MarketError
from gpumarket.images.archive import IterableReader, Progress, Stored, store_bytes, store_members, store_stream
from gpumarket.images.image import (
    DEFAULT_PLATFORM,
    MAX_JSON_BYTES,
    OCI_CONFIG,
    OCI_INDEX,
    OCI_LAYER,
    OCI_MANIFEST,
    descriptor,
    read_image,
    unreadable,
)
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import Added, add_directory
from gpumarket.ipfs.reader import read_file
from gpumarket.ipfs.store import BlockStore

MAX_PUSH_BYTES = 256 << 30
_READ_BYTES = 1 << 20
_ENGINE_TIMEOUT_S = 600
_BLOBS = "blobs/sha256/"


@dataclass(frozen=True)
class PushedImage:
    """What a push made. `size` is the manifest, config and layers in bytes; `blobs` how many the layout holds."""

    root: Cid
    manifest_digest: str
    size: int
    blobs: int


def push(source: str, store: BlockStore, progress: Progress | None = None) -> PushedImage:
    """Push a folder (OCI layout), a tar file (OCI or docker-archive), or else an image of the local Docker Engine."""
    path = Path(source)
    if path.is_dir():
        return push_from_directory(path, store, progress)
    if path.is_file():
        return push_from_tar(path, store, progress)
    return push_from_engine(source, store, progress)


def push_from_engine(image: str, store: BlockStore, progress: Progress | None = None) -> PushedImage:
    """Push an image that the local Docker Engine has.

    Raises `docker_unreachable`, or `not_found` if the engine has no such image.
    """
    try:
        with closing(docker.from_env(version="auto", timeout=_ENGINE_TIMEOUT_S)) as engine:
            found = engine.images.get(image)
            total = int(found.attrs.get("Size", 0)) or None
            # The archive adds headers, so the engine's size is a floor; progress never claims more than what was read.
            return _push_archive(IterableReader(found.save(named=False), progress, total), store)
    except ImageNotFound as error:
        raise MarketError(
            "not_found",
            f"there is no image {image!r} in the Docker Engine, and no file or folder of that name",
            hint="docker image ls shows what there is",
        ) from error
    except APIError as error:
        raise MarketError("docker_failed", f"the Docker Engine refused: {error.explanation or error}") from error
    except (DockerException, RequestException, HTTPError) as error:
        raise MarketError(
            "docker_unreachable",
            f"the Docker Engine does not answer: {error}",
            hint="start Docker, or push a tar made by `docker save`",
        ) from error


def push_from_tar(path: Path, store: BlockStore, progress: Progress | None = None) -> PushedImage:
    """Push an archive: `docker save`, `skopeo copy oci-archive:`, `buildx --output type=oci`; gzip is undone."""
    with path.open("rb") as file:
        chunks = iter(lambda: file.read(_READ_BYTES), b"")
        return _push_archive(IterableReader(chunks, progress, path.stat().st_size), store)


def push_from_directory(path: Path, store: BlockStore, progress: Progress | None = None) -> PushedImage:
    """Push an OCI image layout folder, byte for byte.

    Links in it are not followed; files that OCI does not name are left out.
    """
    names = ["oci-layout", "index.json"]
    blobs = path / _BLOBS
    if blobs.is_dir():
        names += sorted(_BLOBS + entry.name for entry in blobs.iterdir())
    members: dict[str, Stored] = {}
    total, done = 0, 0
    for name in names:
        file = path / name
        if file.is_symlink() or not file.is_file():
            raise unreadable(f"{path} has no file {name}: not an OCI image layout")
        total += file.stat().st_size
    for name in names:
        with (path / name).open("rb") as stream:
            report = _shifted(progress, done, total)
            chunks = iter(lambda stream=stream: stream.read(_READ_BYTES), b"")  # type: ignore[misc]
            members[name] = store_stream(IterableReader(chunks, report), store)
        done += members[name].size
    return _push_layout(members, store)


def _push_archive(source: IterableReader, store: BlockStore) -> PushedImage:
    members = store_members(cast(Any, source), store, MAX_PUSH_BYTES)
    if "oci-layout" in members and "index.json" in members:
        return _push_layout(members, store)
    if "manifest.json" in members:
        return _push_layout(_converted(members, store), store)
    raise unreadable("the archive is neither an OCI layout nor a docker-archive")


def _push_layout(members: Mapping[str, Stored], store: BlockStore) -> PushedImage:
    """Make the root directory of exactly what `index.json` reaches, so that stray files do not change the CID."""
    for name, stored in members.items():
        if name.startswith(_BLOBS) and name.removeprefix(_BLOBS) != stored.sha256:
            raise unreadable(f"{name} has other bytes than its name says (sha256 is {stored.sha256})")
    reached: dict[str, Stored] = {}
    index = _json(members["index.json"], "index.json", store)
    _reach(index, members, store, reached)
    blobs = add_directory(store, {name.removeprefix(_BLOBS): stored.added for name, stored in reached.items()})
    top: dict[str, Added] = {
        "oci-layout": members["oci-layout"].added,
        "index.json": members["index.json"].added,
        "blobs": add_directory(store, {"sha256": blobs}),
    }
    root = add_directory(store, top).cid
    image = read_image(store, root, _only_platform(index))
    store.pin(root, "image")
    return PushedImage(root, image.manifest_digest, image.total_size, len(reached))


def _reach(
    document: Mapping[str, Any], members: Mapping[str, Stored], store: BlockStore, reached: dict[str, Stored]
) -> None:
    children = [document.get("config"), *(document.get("layers") or []), *(document.get("manifests") or [])]
    for child in (c for c in children if c is not None):
        item = descriptor(child)
        name = _BLOBS + item.digest.removeprefix("sha256:")
        if name in reached:
            continue
        if name not in members:
            # An index may list platforms that its producer did not export.
            if child in (document.get("manifests") or []):
                continue
            raise unreadable(f"the image lacks its blob {item.digest}")
        reached[name] = members[name]
        if "manifest" in item.media_type or "index" in item.media_type:
            _reach(_json(members[name], name, store), members, store, reached)


def _converted(members: Mapping[str, Stored], store: BlockStore) -> dict[str, Stored]:
    """A docker-archive as an OCI layout.

    Its uncompressed layers are OCI layers as they are; the config is kept byte for byte.
    """
    entries = _list(_json_value(members["manifest.json"], "manifest.json", store), "manifest.json")
    if len(entries) != 1 or not isinstance(entries[0], dict):
        raise unreadable(f"the archive holds {len(entries)} images; push them one at a time")
    config = _member(members, entries[0].get("Config"))
    layers = [_member(members, name) for name in _list(entries[0].get("Layers"), "Layers")]
    diff_ids = _json(config, "the config", store).get("rootfs", {}).get("diff_ids", [])
    if diff_ids != ["sha256:" + layer.sha256 for layer in layers]:
        raise unreadable("the archive's layers do not hash to the config's diff_ids")
    manifest = store_bytes(
        _canonical(
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": _descriptor_json(OCI_CONFIG, config),
                "layers": [_descriptor_json(OCI_LAYER, layer) for layer in layers],
            }
        ),
        store,
    )
    settings = _json(config, "the config", store)
    platform = {"os": settings.get("os", "linux"), "architecture": settings.get("architecture", "")}
    entry = {**_descriptor_json(OCI_MANIFEST, manifest), "platform": platform}
    index = store_bytes(_canonical({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}), store)
    layout = store_bytes(_canonical({"imageLayoutVersion": "1.0.0"}), store)
    blobs = {_BLOBS + stored.sha256: stored for stored in (manifest, config, *layers)}
    return {"oci-layout": layout, "index.json": index, **blobs}


def _only_platform(index: Mapping[str, Any]) -> str:
    """The platform to report on: ours if the index has it, else the first it states."""
    stated = [descriptor(entry).platform for entry in _list(index.get("manifests"), "manifests")]
    real = [platform for platform in stated if platform and not platform.startswith("unknown")]
    return DEFAULT_PLATFORM if not real or DEFAULT_PLATFORM in real else real[0]


def _member(members: Mapping[str, Stored], name: object) -> Stored:
    if not isinstance(name, str) or name not in members:
        raise unreadable(f"the archive's manifest names {str(name)[:80]!r}, which the archive does not hold")
    return members[name]


def _descriptor_json(media_type: str, stored: Stored) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": "sha256:" + stored.sha256, "size": stored.size}


def _canonical(value: object) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def _json(stored: Stored, name: str, store: BlockStore) -> dict[str, Any]:
    value = _json_value(stored, name, store)
    if not isinstance(value, dict):
        raise unreadable(f"{name} is not a JSON object")
    return value


def _json_value(stored: Stored, name: str, store: BlockStore) -> object:
    if stored.size > MAX_JSON_BYTES:
        raise unreadable(f"{name} has {stored.size} bytes, too many")
    try:
        return json.loads(read_file(store, stored.added.cid, 0, stored.size))
    except (ValueError, RecursionError) as error:
        raise unreadable(f"{name} is not JSON") from error


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise unreadable(f"{name} is not a list")
    return value


def _shifted(progress: Progress | None, done: int, total: int) -> Callable[[int, int | None], None] | None:
    return (lambda count, _: progress(done + count, total)) if progress else None
