from __future__ import annotations

import hashlib
import tarfile
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from gpumarket.images.image import OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, read_image
from gpumarket.images.push import PushedImage, push
from gpumarket.ipfs.reader import ls, read_file, resolve
from gpumarket.ipfs.store import EmbeddedStore
from tests.unit.images.layouts import dumps, layout, special, tar


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "blocks")


def archive(tmp_path: Path, data: bytes) -> str:
    file = tmp_path / "image.tar"
    file.write_bytes(data)
    return str(file)


def docker_archive(*, repeated: bool = False, order: bool = False) -> dict[str, bytes | tarfile.TarInfo]:
    layer = b"layer bytes"
    digest = "sha256:" + hashlib.sha256(layer).hexdigest()
    ids = [digest, digest] if repeated else [digest]
    config = dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": ids}})
    names = ["a/layer.tar", "b/layer.tar"][: len(ids)]
    listing = dumps([{"Config": "c.json", "RepoTags": ["x:1"], "Layers": names}])
    members: dict[str, bytes | tarfile.TarInfo] = {"c.json": config, "a/layer.tar": layer, "a/VERSION": b"1.0"}
    if repeated:
        members["b/layer.tar"] = special("b/layer.tar", tarfile.SYMTYPE, "../a/layer.tar")
    members["manifest.json"] = listing
    return dict(reversed(members.items())) if order else members


def refused(source: str, store: EmbeddedStore) -> MarketError:
    with pytest.raises(MarketError) as error:
        push(source, store)
    return error.value


def test_default_behavior(tmp_path: Path, store: EmbeddedStore) -> None:
    made = layout()

    pushed = push(str(made.write(tmp_path / "oci")), store)

    assert {entry.name for entry in ls(store, pushed.root)} == {"oci-layout", "index.json", "blobs"}
    for name, data in made.files.items():
        assert read_file(store, resolve(store, pushed.root, name)) == data
    assert pushed.blobs == 3
    assert pushed.root in {pin.cid for pin in store.pins()}
    assert read_image(store, pushed.root).manifest_digest == pushed.manifest_digest


def test_folder_and_tar_and_gzipped_tar_give_the_same_cid(tmp_path: Path, store: EmbeddedStore) -> None:
    made = layout()
    folder = push(str(made.write(tmp_path / "oci")), store)

    assert push(archive(tmp_path, tar(made.files)), store) == folder
    assert push(archive(tmp_path, tar(made.files, "w:gz")), store) == folder


def test_files_that_the_index_does_not_reach_are_left_out(tmp_path: Path, store: EmbeddedStore) -> None:
    plain = push(archive(tmp_path, tar(layout().files)), store)
    made = layout()
    made.add(b"stray")
    made.files["manifest.json"] = b"[]"

    assert push(archive(tmp_path, tar(made.files)), store) == plain


def test_a_docker_archive_becomes_an_oci_layout(tmp_path: Path, store: EmbeddedStore) -> None:
    pushed = push(archive(tmp_path, tar(docker_archive())), store)
    image = read_image(store, pushed.root)

    assert image.manifest_media_type == OCI_MANIFEST
    assert image.config_descriptor.media_type == OCI_CONFIG
    assert [layer.media_type for layer in image.layers] == [OCI_LAYER]
    assert image.diff_ids == tuple(layer.digest for layer in image.layers)
    assert image.platform == "linux/amd64"


def test_member_order_of_a_docker_archive_does_not_matter(tmp_path: Path, store: EmbeddedStore) -> None:
    one = push(archive(tmp_path, tar(docker_archive())), store)

    assert push(archive(tmp_path, tar(docker_archive(order=True))), store) == one


def test_repeated_layers_of_a_docker_archive_are_links(tmp_path: Path, store: EmbeddedStore) -> None:
    pushed = push(archive(tmp_path, tar(docker_archive(repeated=True))), store)
    image = read_image(store, pushed.root)

    assert len(image.layers) == 2
    assert image.layers[0] == image.layers[1]
    assert pushed.blobs == 3


def test_progress_is_in_bytes_and_ends_at_the_total(tmp_path: Path, store: EmbeddedStore) -> None:
    seen: list[tuple[int, int | None]] = []
    folder = layout().write(tmp_path / "oci")

    push(str(folder), store, lambda done, total: seen.append((done, total)))

    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1] == sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("../outside", b"x"),
        ("a/../../outside", b"x"),
        ("/etc/passwd", b"x"),
        ("pipe", special("pipe", tarfile.FIFOTYPE)),
        ("device", special("device", tarfile.CHRTYPE)),
        ("link", special("link", tarfile.SYMTYPE, "/etc/passwd")),
        ("link", special("link", tarfile.SYMTYPE, "../../outside")),
        ("link", special("link", tarfile.LNKTYPE, "nothing")),
        ("loop", special("loop", tarfile.SYMTYPE, "loop")),
    ],
)
def test_hostile_members_are_refused(
    tmp_path: Path, store: EmbeddedStore, name: str, entry: bytes | tarfile.TarInfo
) -> None:
    error = refused(archive(tmp_path, tar({name: entry, **layout().files})), store)

    assert error.code == "image_unreadable"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blocks", "image.tar"]


def test_a_huge_archive_is_refused(tmp_path: Path, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumarket.images.push.MAX_PUSH_BYTES", 100)

    assert refused(archive(tmp_path, tar(layout().files)), store).code == "image_too_large"


def test_too_many_members_are_refused(tmp_path: Path, store: EmbeddedStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gpumarket.images.archive.MAX_MEMBERS", 3)

    assert refused(archive(tmp_path, tar(layout().files)), store).code == "image_unreadable"


@pytest.mark.parametrize("data", [b"", b"no tar at all", tar({"readme": b"x"}), tar(layout().files)[:2000]])
def test_what_is_no_image_is_refused(tmp_path: Path, store: EmbeddedStore, data: bytes) -> None:
    assert refused(archive(tmp_path, data), store).code == "image_unreadable"


def test_a_blob_that_is_not_what_its_name_says_is_refused(tmp_path: Path, store: EmbeddedStore) -> None:
    made = layout()
    name = next(name for name, data in made.files.items() if data == b"layer bytes")
    made.files[name] = b"other bytes"

    assert refused(archive(tmp_path, tar(made.files)), store).code == "image_unreadable"


def test_a_missing_layer_is_refused(tmp_path: Path, store: EmbeddedStore) -> None:
    made = layout()
    del made.files[next(name for name, data in made.files.items() if data == b"layer bytes")]

    assert refused(archive(tmp_path, tar(made.files)), store).code == "image_unreadable"


def test_layers_of_a_docker_archive_must_match_the_config(tmp_path: Path, store: EmbeddedStore) -> None:
    members = docker_archive()
    members["a/layer.tar"] = b"other bytes"

    assert refused(archive(tmp_path, tar(members)), store).code == "image_unreadable"


def test_a_docker_archive_of_two_images_is_refused(tmp_path: Path, store: EmbeddedStore) -> None:
    members = docker_archive()
    members["manifest.json"] = dumps([{}, {}])

    assert refused(archive(tmp_path, tar(members)), store).code == "image_unreadable"


def test_a_link_in_a_layout_folder_is_refused(tmp_path: Path, store: EmbeddedStore) -> None:
    folder = layout().write(tmp_path / "oci")
    (folder / "index.json").rename(tmp_path / "elsewhere")
    (folder / "index.json").symlink_to(tmp_path / "elsewhere")

    assert refused(str(folder), store).code == "image_unreadable"


def test_large_layers_are_streamed(tmp_path: Path, store: EmbeddedStore) -> None:
    layer = bytes(range(256)) * 4096 * 5
    pushed: PushedImage = push(archive(tmp_path, tar(layout([(layer, OCI_LAYER, layer)]).files)), store)

    assert read_image(store, pushed.root).layers[0].size == len(layer)
