"""Small image layouts, good and bad."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gpumarket.images.image import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST


@dataclass
class Layout:
    """The files of an OCI layout by path, to be changed and then written somewhere."""

    files: dict[str, bytes] = field(default_factory=dict)

    def add(self, data: bytes) -> str:
        """Add a blob; its digest."""
        digest = hashlib.sha256(data).hexdigest()
        self.files[f"blobs/sha256/{digest}"] = data
        return f"sha256:{digest}"

    def describe(self, data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": self.add(data), "size": len(data), **more}

    def write(self, folder: Path) -> Path:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        return folder


def layout(
    layers: Sequence[tuple[bytes, str, bytes]] = (),
    *,
    platform: str = "amd64",
    manifest: Mapping[str, Any] | None = None,
    layer: Mapping[str, Any] | None = None,
    entry: Mapping[str, Any] | None = None,
) -> Layout:
    """A layout of one image.

    Args:
        layers: stored bytes, media type, unpacked bytes; by default one plain layer.
        manifest, layer, entry: what to change in the manifest, in each layer's descriptor, in the index entry.
    """
    made = Layout()
    content = layers or [(b"layer bytes", OCI_LAYER, b"layer bytes")]
    diff_ids = ["sha256:" + hashlib.sha256(plain).hexdigest() for _, _, plain in content]
    config = {"os": "linux", "architecture": platform, "rootfs": {"type": "layers", "diff_ids": diff_ids}}
    document = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": made.describe(dumps(config), OCI_CONFIG),
        "layers": [made.describe(data, kind, **(layer or {})) for data, kind, _ in content],
        **(manifest or {}),
    }
    index_entry = made.describe(dumps(document), OCI_MANIFEST, **(entry or {}))
    made.files["index.json"] = dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [index_entry]})
    made.files["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
    return made


def dumps(value: object) -> bytes:
    return json.dumps(value).encode()


def tar(members: Mapping[str, bytes | tarfile.TarInfo], mode: str = "w") -> bytes:
    """A tar; a member is its bytes, or a whole entry without content."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members.items():
            if isinstance(content, tarfile.TarInfo):
                archive.addfile(content)
                continue
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.type, entry.linkname = kind, target
    return entry
