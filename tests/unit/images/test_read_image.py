from __future__ import annotations

import json
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from gpumarket.images.image import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Image, read_image
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import add_path
from gpumarket.ipfs.store import EmbeddedStore
from tests.unit.images.layouts import Layout, dumps, layout


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "blocks")


def root_of(made: Layout, store: EmbeddedStore, tmp_path: Path) -> Cid:
    return add_path(store, made.write(tmp_path / "oci")).cid


def refused(made: Layout, store: EmbeddedStore, tmp_path: Path) -> MarketError:
    with pytest.raises(MarketError) as error:
        read_image(store, root_of(made, store, tmp_path))
    return error.value


def test_default_behavior(store: EmbeddedStore, tmp_path: Path) -> None:
    made = layout()
    image: Image = read_image(store, root_of(made, store, tmp_path))

    entry = json.loads(made.files["index.json"])["manifests"][0]
    assert image.manifest_digest == entry["digest"]
    assert image.total_size == sum(len(data) for name, data in made.files.items() if name.startswith("blobs/"))
    assert image.platform == "linux/amd64"
    assert len(image.diff_ids) == 1


def test_the_platform_is_chosen_from_an_index(store: EmbeddedStore, tmp_path: Path) -> None:
    ours = layout(entry={"platform": {"os": "linux", "architecture": "amd64"}})
    other = layout(platform="arm64", entry={"platform": {"os": "linux", "architecture": "arm64"}})
    entries = [json.loads(made.files["index.json"])["manifests"][0] for made in (other, ours)]
    files = {**other.files, **ours.files}
    both = Layout({**files, "index.json": dumps({"schemaVersion": 2, "manifests": entries})})
    root = root_of(both, store, tmp_path)

    assert read_image(store, root).platform == "linux/amd64"
    assert read_image(store, root, "linux/arm64").platform == "linux/arm64"
    with pytest.raises(MarketError, match="linux/riscv64"):
        read_image(store, root, "linux/riscv64")


def test_a_nested_index_is_followed_but_not_endlessly(store: EmbeddedStore, tmp_path: Path) -> None:
    made = layout()
    for depth in range(6):
        inner = made.files["index.json"]
        made.files["index.json"] = dumps({"schemaVersion": 2, "manifests": [made.describe(inner, OCI_INDEX)]})
        root = root_of(made, store, tmp_path / str(depth))
        if depth < 3:
            assert read_image(store, root).platform == "linux/amd64"
    with pytest.raises(MarketError, match="nested"):
        read_image(store, root)


def test_a_manifest_with_another_digest_is_refused(store: EmbeddedStore, tmp_path: Path) -> None:
    made = layout()
    entry = json.loads(made.files["index.json"])["manifests"][0]
    name = "blobs/sha256/" + entry["digest"].removeprefix("sha256:")
    made.files[name] = made.files[name].replace(b"layers", b"Layers")

    assert refused(made, store, tmp_path).code == "image_unreadable"


def test_a_layer_with_another_size_is_refused(store: EmbeddedStore, tmp_path: Path) -> None:
    assert refused(layout(layer={"size": 7}), store, tmp_path).code == "image_unreadable"


@pytest.mark.parametrize("name", ["oci-layout", "index.json"])
def test_a_layout_without_its_files_is_refused(store: EmbeddedStore, tmp_path: Path, name: str) -> None:
    made = layout()
    del made.files[name]

    assert refused(made, store, tmp_path).code == "image_unreadable"


@pytest.mark.parametrize(
    "index",
    [
        b"",
        b"[]",
        b"[" * 100_000,
        b'{"manifests": 1}',
        b'{"manifests": [1]}',
        b'{"manifests": []}',
        dumps({"manifests": [{"mediaType": OCI_MANIFEST, "digest": "sha256:zz", "size": 1}]}),
        dumps({"manifests": [{"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": -1}]}),
        dumps({"manifests": [{"mediaType": OCI_MANIFEST, "digest": "sha256:" + "0" * 64, "size": True}]}),
        dumps({"manifests": [{"mediaType": DOCKER_MANIFEST, "digest": "sha256:" + "0" * 64, "size": 1 << 40}]}),
        dumps({"manifests": [{"mediaType": "text/plain", "digest": "sha256:" + "0" * 64, "size": 1}]}),
    ],
)
def test_a_malformed_index_is_refused(store: EmbeddedStore, tmp_path: Path, index: bytes) -> None:
    made = layout()
    made.files["index.json"] = index

    assert refused(made, store, tmp_path).code == "image_unreadable"


def test_a_file_is_no_image(store: EmbeddedStore, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(MarketError) as error:
        read_image(store, add_path(store, tmp_path / "file").cid)

    assert error.value.code == "image_unreadable"


def test_a_missing_block_is_said_to_be_missing(store: EmbeddedStore) -> None:
    with pytest.raises(MarketError) as error:
        read_image(store, Cid.dag_pb(b"\0" * 32))

    assert error.value.code == "image_block_missing"
