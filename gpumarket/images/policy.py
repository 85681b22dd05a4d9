"""What a host refuses to hand to its container engine, decided before the engine sees anything."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpumarket.errors import MarketError
from gpumarket.images.image import (
    DEFAULT_PLATFORM,
    DOCKER_CONFIG,
    MANIFESTS,
    OCI_CONFIG,
    OCI_LAYER,
    Descriptor,
    Image,
    blob_cid,
)
from gpumarket.ipfs.reader import stream_file
from gpumarket.ipfs.store import BlockStore

CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
PLAIN_LAYERS = frozenset({OCI_LAYER, "application/vnd.docker.image.rootfs.diff.tar"})
GZIP_LAYERS = frozenset({OCI_LAYER + "+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip"})
_READ_BYTES = 1 << 20


@dataclass(frozen=True)
class Policy:
    """Limits of a host.

    Sizes in bytes: `max_bytes` as stored, `max_unpacked_bytes` after decompression, all layers together.
    """

    max_bytes: int = 16 << 30
    max_unpacked_bytes: int = 64 << 30
    max_layers: int = 127
    platform: str = DEFAULT_PLATFORM


def check(image: Image, policy: Policy) -> None:
    """Judge the manifest and config alone; cheap.

    `urls` matter because some engines fetch them before they ask the registry: a manifest could then make the host call
    addresses inside its own network.

    Raises:
        MarketError: `image_policy_violation`, or `image_too_large` for the stored size.
    """
    _require(image.manifest_media_type in MANIFESTS, f"manifest of type {image.manifest_media_type}")
    _require(image.config_descriptor.media_type in CONFIGS, f"config of type {image.config_descriptor.media_type}")
    _require(len(image.layers) > 0, "no layer")
    _require(len(image.layers) <= policy.max_layers, f"{len(image.layers)} layers, more than {policy.max_layers}")
    for item in (image.config_descriptor, *image.layers):
        for url in item.urls:
            scheme = urlsplit(url).scheme.lower()
            _require(scheme == "ipfs", f"{item.digest} is to be fetched from a {scheme or 'relative'} URL")
    for layer in image.layers:
        _check_layer_type(layer)
    _require(image.platform == policy.platform, f"the image is for {image.platform}, this host runs {policy.platform}")
    _require(len(image.diff_ids) == len(image.layers), "the config does not list one diff_id per layer")
    if image.total_size > policy.max_bytes:
        raise MarketError(
            "image_too_large",
            f"the image has {image.total_size} bytes, over the host's limit of {policy.max_bytes}",
            size=image.total_size,
            limit=policy.max_bytes,
        )


def check_content(
    store: BlockStore, image: Image, policy: Policy, progress: Callable[[int, int], None] | None = None
) -> int:
    """Read every layer once: its digest, its unpacked size, its diff_id. Engines have no guard against decompression
    bombs.

    Args:
        progress: called with (stored bytes read, stored bytes in all).

    Returns:
        The unpacked size in bytes.

    Raises:
        MarketError: `image_too_large` as soon as the limit is crossed, `image_policy_violation` for a wrong digest.
    """
    unpacked, done = 0, 0
    total = sum(layer.size for layer in image.layers)
    for layer, diff_id in zip(image.layers, image.diff_ids, strict=True):
        stored, plain = hashlib.sha256(), hashlib.sha256()
        inflate = _Gzip() if layer.media_type in GZIP_LAYERS else None
        for chunk in _chunks(store, image, layer):
            stored.update(chunk)
            for piece in inflate.pieces(chunk) if inflate else (chunk,):
                unpacked += len(piece)
                if unpacked > policy.max_unpacked_bytes:
                    raise MarketError(
                        "image_too_large",
                        f"the image unpacks to more than {policy.max_unpacked_bytes} bytes",
                        limit=policy.max_unpacked_bytes,
                    )
                plain.update(piece)
            done += len(chunk)
            if progress:
                progress(done, total)
        _require(inflate is None or inflate.complete, f"layer {layer.digest} is a truncated gzip stream")
        _require(
            "sha256:" + stored.hexdigest() == layer.digest, f"layer {layer.digest} has other bytes than its digest"
        )
        _require(
            "sha256:" + plain.hexdigest() == diff_id, f"layer {layer.digest} does not unpack to its diff_id {diff_id}"
        )
    return unpacked


class _Gzip:
    """Decompresses gzip, several members in a row included, in bounded pieces."""

    def __init__(self) -> None:
        self._state = zlib.decompressobj(wbits=31)

    @property
    def complete(self) -> bool:
        return self._state.eof

    def pieces(self, data: bytes) -> Iterator[bytes]:
        more = True
        while data or more:
            if self._state.eof:
                self._state = zlib.decompressobj(wbits=31)
            try:
                piece = self._state.decompress(data, _READ_BYTES)
            except zlib.error as error:
                raise MarketError("image_policy_violation", f"a layer is not valid gzip: {error}") from error
            data = self._state.unused_data if self._state.eof else self._state.unconsumed_tail
            more = len(piece) == _READ_BYTES and not self._state.eof
            if piece:
                yield piece


def _chunks(store: BlockStore, image: Image, layer: Descriptor) -> Iterator[bytes]:
    return stream_file(store, blob_cid(store, image.root, layer.digest, layer.size))


def _check_layer_type(layer: Descriptor) -> None:
    kind = layer.media_type
    if "foreign" in kind or "nondistributable" in kind:
        raise _violation("it has a foreign layer, which would be fetched from elsewhere", kind)
    if kind.endswith("+zstd"):
        raise _violation("its layers are zstd-compressed, whose unpacked size this host cannot measure; use gzip", kind)
    if kind not in PLAIN_LAYERS | GZIP_LAYERS:
        raise _violation(f"layer {layer.digest} has the unknown type {kind}", kind)


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise _violation(message, "")


def _violation(message: str, media_type: str) -> MarketError:
    details = {"media_type": media_type} if media_type else {}
    return MarketError("image_policy_violation", f"the image is refused: {message}", **details)
