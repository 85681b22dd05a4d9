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
    try:
        with dest.open("xb") as out, tarfile.open(fileobj=out, mode="w") as tar:
            _add(tar, name, config.size, stream_file(store, blob_cid(store, image.root, config.digest, config.size)))
            for path, layer in zip(layers, image.layers, strict=True):
                chunks = stream_file(store, blob_cid(store, image.root, layer.digest, layer.size))
                _add(tar, path, layer.size, chunks)
            _add(tar, "manifest.json", len(listing), iter([listing]))
    except OSError as error:
        dest.unlink(missing_ok=True)
        code = "disk_full" if error.errno in (28, 122) else "invalid_argument"
        raise MarketError(code, f"cannot write {dest}: {error.strerror}") from error
    except MarketError:
        dest.unlink(missing_ok=True)
        raise
    return dest.stat().st_size


def _add(tar: tarfile.TarFile, name: str, size: int, chunks: Iterator[bytes]) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = size
    tar.addfile(entry, IterableReader(chunks, None))
