"""What an image is here: an OCI image layout stored as a UnixFS directory, read with every digest checked.

Format: https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md. The root CID names the directory
(`oci-layout`, `index.json`, `blobs/sha256/<hex>`); blobs are stored byte for byte, so digests and signatures stay
what any registry shows.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.reader import read_file, resolve, stat
from gpumarket.ipfs.store import BlockStore
from gpumarket.ipfs.unixfs import Kind

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
DEFAULT_PLATFORM = "linux/amd64"

MAX_JSON_BYTES = 4 << 20
_MAX_INDEX_DEPTH = 3
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True)
class Descriptor:
    """An OCI content descriptor: what a blob is, its sha256 digest (`sha256:<hex>`) and its size in bytes."""

    media_type: str
    digest: str
    size: int
    urls: tuple[str, ...] = ()
    platform: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Image:
    """One image for one platform, as its verified manifest and config describe it.

    `total_size` is the sum of the manifest, the config and all layers as stored, in bytes.
    """

    root: Cid
    manifest_digest: str
    manifest_media_type: str
    config_descriptor: Descriptor
    config: Mapping[str, Any]
    layers: tuple[Descriptor, ...]
    total_size: int

    @property
    def platform(self) -> str:
        return f"{self.config.get('os', '')}/{self.config.get('architecture', '')}"

    @property
    def diff_ids(self) -> tuple[str, ...]:
        rootfs = self.config.get("rootfs")
        ids = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
        return tuple(str(i) for i in ids) if isinstance(ids, list) else ()


def read_image(store: BlockStore, root: Cid, platform: str = DEFAULT_PLATFORM) -> Image:
    """Read the image at `root`: index, manifest for `platform`, config, and the presence and size of each layer.

    Raises:
        MarketError: `image_unreadable` if it is no OCI layout, has no such platform, or a digest or size is wrong;
            `image_block_missing` or `image_block_corrupt` from the store.
    """
    layout = _document(read_blob(store, root, "oci-layout", MAX_JSON_BYTES), "oci-layout")
    if layout.get("imageLayoutVersion") != "1.0.0":
        raise unreadable("oci-layout does not state version 1.0.0")
    index = _document(read_blob(store, root, "index.json", MAX_JSON_BYTES), "index.json")
    chosen, data = _choose(store, root, index, platform, 0)
    manifest = _document(data, "the manifest")
    if manifest.get("schemaVersion") != 2:
        raise unreadable("the manifest's schemaVersion is not 2")
    config_descriptor = descriptor(manifest.get("config"))
    config = _document(_verified(store, root, config_descriptor), "the image config")
    layers = tuple(descriptor(entry) for entry in items(manifest, "layers"))
    for layer in layers:
        blob_cid(store, root, layer.digest, layer.size)
    total = chosen.size + config_descriptor.size + sum(layer.size for layer in layers)
    return Image(root, chosen.digest, chosen.media_type, config_descriptor, config, layers, total)


def descriptor(value: object) -> Descriptor:
    """A descriptor from JSON; `image_unreadable` if it is malformed. Extra keys are allowed, as OCI demands."""
    if not isinstance(value, dict):
        raise unreadable("a descriptor is not an object")
    digest, size, media_type, urls = (value.get(k) for k in ("digest", "size", "mediaType", "urls"))
    if not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
        raise unreadable(f"descriptor has digest {str(digest)[:80]!r}, expected sha256:<64 hex>")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise unreadable(f"descriptor {digest} has no valid size")
    if not isinstance(media_type, str):
        raise unreadable(f"descriptor {digest} has no mediaType")
    if urls is not None and not (isinstance(urls, list) and all(isinstance(url, str) for url in urls)):
        raise unreadable(f"descriptor {digest} has malformed urls")
    where = value.get("platform")
    platform = f"{where.get('os', '')}/{where.get('architecture', '')}" if isinstance(where, dict) else ""
    return Descriptor(media_type, digest, size, tuple(urls or ()), platform)


def items(document: Mapping[str, Any], key: str) -> list[Any]:
    """The list at `key`, at most 1024 long; `image_unreadable` otherwise."""
    value = document.get(key)
    if not isinstance(value, list) or len(value) > 1024:
        raise unreadable(f"{key} is not a list of reasonable length")
    return value


def blob_cid(store: BlockStore, root: Cid, digest: str, size: int) -> Cid:
    """Where the layout at `root` holds the blob `digest`, which must be a file of `size` bytes."""
    cid = _find(store, root, _blob_path(digest))
    present = _file_size(store, cid)
    if present != size:
        raise unreadable(f"blob {digest} has {present} bytes, its manifest says {size}")
    return cid


def read_blob(store: BlockStore, root: Cid, path: str, max_bytes: int) -> bytes:
    """A small file of the layout, whole."""
    cid = _find(store, root, path)
    size = _file_size(store, cid)
    if size > max_bytes:
        raise unreadable(f"{path} has {size} bytes, over {max_bytes}")
    return read_file(store, cid, 0, size)


def unreadable(message: str) -> MarketError:
    return MarketError("image_unreadable", message, hint="push the image again with `gpumarket push`")


def _choose(
    store: BlockStore, root: Cid, index: Mapping[str, Any], platform: str, depth: int
) -> tuple[Descriptor, bytes]:
    if depth > _MAX_INDEX_DEPTH:
        raise unreadable("image indexes are nested too deeply")
    entries = [descriptor(entry) for entry in items(index, "manifests")]
    usable = [entry for entry in entries if entry.media_type in INDEXES | MANIFESTS]
    if not usable:
        raise unreadable("the index lists no image manifest")
    matching = [entry for entry in usable if entry.platform == platform]
    # An entry of a single-image index need not state its platform; the config does, and the policy checks it.
    matching = matching or [entry for entry in usable if not entry.platform]
    if len(matching) != 1:
        offered = ", ".join(sorted({entry.platform or "unstated" for entry in usable}))
        raise unreadable(f"the index has {len(matching)} images for {platform}; it offers {offered}")
    data = _verified(store, root, matching[0])
    if matching[0].media_type in MANIFESTS:
        return matching[0], data
    return _choose(store, root, _document(data, "a nested index"), platform, depth + 1)


def _verified(store: BlockStore, root: Cid, item: Descriptor) -> bytes:
    if item.size > MAX_JSON_BYTES:
        raise unreadable(f"{item.digest} states {item.size} bytes, too many for a manifest or config")
    data = read_blob(store, root, _blob_path(item.digest), MAX_JSON_BYTES)
    if len(data) != item.size or "sha256:" + hashlib.sha256(data).hexdigest() != item.digest:
        raise unreadable(f"the blob {item.digest} has other bytes than its digest says")
    return data


def _document(data: bytes, name: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise unreadable(f"{name} is not JSON") from error
    if not isinstance(value, dict):
        raise unreadable(f"{name} is not a JSON object")
    return value


def _blob_path(digest: str) -> str:
    return f"blobs/sha256/{digest.removeprefix('sha256:')}"


def _file_size(store: BlockStore, cid: Cid) -> int:
    node = stat(store, cid)
    if node.kind is not Kind.FILE:
        raise unreadable(f"{cid} is a directory where the image layout has a file")
    return node.size


def _find(store: BlockStore, root: Cid, path: str) -> Cid:
    try:
        return resolve(store, root, path)
    except MarketError as error:
        if error.code in ("not_found", "content_malformed"):
            raise unreadable(f"the content has no {path}: not an OCI image layout") from error
        raise
