"""An image out of the store as a docker-archive, for engines that cannot reach the agent's registry."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Iterator
from pathlib import Path

from gpumarket.errors import MarketError
from gpumarket.images.archive import IterableReader
from gpumarket.images.image import Image, blob_cid
from gpumarket.ipfs.reader import stream_file
from gpumarket.ipfs.store import BlockStore


def write_docker_archive(store: BlockStore, image: Image, dest: Path) -> int:
    """Write `image` to the new file `dest`, in the form that `docker load` reads on every engine; the bytes written.

    Layers stay compressed as they are; the engine checks them against the config's diff_ids.

    Raises:
        MarketError: `disk_full`; `image_block_missing` or `image_block_corrupt` from the store. No file is left then.
    """
    layers = [f"{number}/layer.tar" for number in range(len(image.layers))]
    config = image.config_descriptor
    name = config.digest.removeprefix("sha256:") + ".json"
    listing = json.dumps([{"Config": name, "RepoTags": None, "Layers": layers}]).encode()
    with dest.open("xb") as out:
        try:
            with tarfile.open(fileobj=out, mode="w") as tar:
                content = stream_file(store, blob_cid(store, image.root, config.digest, config.size))
                _add(tar, name, config.size, content)
                for path, layer in zip(layers, image.layers, strict=True):
                    content = stream_file(store, blob_cid(store, image.root, layer.digest, layer.size))
                    _add(tar, path, layer.size, content)
                _add(tar, "manifest.json", len(listing), iter([listing]))
            return out.tell()
        except BaseException as error:
            dest.unlink(missing_ok=True)
            if isinstance(error, OSError) and error.errno in (28, 122):
                raise MarketError("disk_full", f"no space for {dest.name}: {error.strerror}") from error
            raise


def _add(tar: tarfile.TarFile, name: str, size: int, chunks: Iterator[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, IterableReader(chunks, None))
