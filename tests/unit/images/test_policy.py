from __future__ import annotations

import gzip
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gpumarket.errors import MarketError
from gpumarket.images.image import OCI_LAYER, Image, read_image
from gpumarket.images.policy import Policy, check, check_content
from gpumarket.ipfs.importer import add_path
from gpumarket.ipfs.store import EmbeddedStore
from tests.unit.images.layouts import Layout, layout

_GZIP = OCI_LAYER + "+gzip"


@pytest.fixture
def store(tmp_path: Path) -> EmbeddedStore:
    return EmbeddedStore(tmp_path / "blocks")


def read(made: Layout, store: EmbeddedStore, tmp_path: Path) -> Image:
    return read_image(store, add_path(store, made.write(tmp_path / "oci")).cid)


def refused(image: Image, policy: Policy, store: EmbeddedStore | None = None) -> MarketError:
    judge = partial(check_content, store) if store else check
    with pytest.raises(MarketError) as error:
        judge(image, policy)
    return error.value


def test_default_behavior(store: EmbeddedStore, tmp_path: Path) -> None:
    plain, packed = b"layer " * 1000, gzip.compress(b"other " * 1000)
    image = read(layout([(plain, OCI_LAYER, plain), (packed, _GZIP, b"other " * 1000)]), store, tmp_path)
    seen: list[tuple[int, int]] = []

    check(image, Policy())

    assert check_content(store, image, Policy(), lambda done, total: seen.append((done, total))) == 12_000
    assert seen[-1] == (len(plain) + len(packed),) * 2


@pytest.mark.parametrize(
    "change",
    [
        {"layer": {"urls": ["http://169.254.169.254/latest"]}},
        {"layer": {"urls": ["HTTPS://example.org/layer"]}},
        {"layer": {"urls": ["//example.org/layer"]}},
        {"layer": {"mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"}},
        {"layer": {"mediaType": "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"}},
        {"layer": {"mediaType": OCI_LAYER + "+zstd"}},
        {"layer": {"mediaType": "application/x-sh"}},
        {"manifest": {"layers": []}},
        {"platform": "arm64"},
    ],
)
def test_refused_manifests(store: EmbeddedStore, tmp_path: Path, change: dict[str, Any]) -> None:
    made = layout(**{k: v for k, v in change.items() if k != "layer"}, layer=change.get("layer"))

    assert refused(read(made, store, tmp_path), Policy()).code == "image_policy_violation"


def test_ipfs_urls_are_allowed(store: EmbeddedStore, tmp_path: Path) -> None:
    check(read(layout(layer={"urls": ["ipfs://bafkqaaa"]}), store, tmp_path), Policy())


def test_layer_count_at_the_limit_and_one_over(store: EmbeddedStore, tmp_path: Path) -> None:
    layers = [(b"%d" % n, OCI_LAYER, b"%d" % n) for n in range(128)]

    check(read(layout(layers[:127]), store, tmp_path / "a"), Policy())

    error = refused(read(layout(layers), store, tmp_path / "b"), Policy())
    assert error.code == "image_policy_violation"


def test_stored_size_at_the_limit_and_one_over(store: EmbeddedStore, tmp_path: Path) -> None:
    image = read(layout(), store, tmp_path)

    check(image, Policy(max_bytes=image.total_size))

    assert refused(image, Policy(max_bytes=image.total_size - 1)).code == "image_too_large"


def test_diff_ids_must_be_as_many_as_layers(store: EmbeddedStore, tmp_path: Path) -> None:
    made = layout()
    twice = made.describe(b"layer bytes", OCI_LAYER)
    image = read(layout(manifest={"layers": [twice, twice]}), store, tmp_path)

    assert refused(image, Policy()).code == "image_policy_violation"


def test_unpacked_size_at_the_limit_and_one_over(store: EmbeddedStore, tmp_path: Path) -> None:
    bomb = bytes(10 << 20)
    image = read(layout([(gzip.compress(bomb), _GZIP, bomb)]), store, tmp_path)

    assert check_content(store, image, Policy(max_unpacked_bytes=len(bomb))) == len(bomb)
    assert refused(image, Policy(max_unpacked_bytes=len(bomb) - 1), store).code == "image_too_large"


def test_gzip_of_several_members_is_measured_whole(store: EmbeddedStore, tmp_path: Path) -> None:
    packed = gzip.compress(b"one") + gzip.compress(b"two")

    assert check_content(store, read(layout([(packed, _GZIP, b"onetwo")]), store, tmp_path), Policy()) == 6


@pytest.mark.parametrize(
    ("stored", "plain"),
    [
        (gzip.compress(b"one"), b"other"),
        (gzip.compress(b"one")[:-4], b"one"),
        (gzip.compress(b"one") + b"rubbish", b"one"),
        (b"not gzip", b"not gzip"),
        (b"", b""),
    ],
)
def test_layers_that_do_not_unpack_to_their_diff_id(
    store: EmbeddedStore, tmp_path: Path, stored: bytes, plain: bytes
) -> None:
    image = read(layout([(stored, _GZIP, plain)]), store, tmp_path)

    assert refused(image, Policy(), store).code == "image_policy_violation"


def test_a_layer_with_other_bytes_than_its_digest_is_refused(store: EmbeddedStore, tmp_path: Path) -> None:
    made = layout()
    name = next(name for name, data in made.files.items() if data == b"layer bytes")
    made.files[name] = b"LAYER BYTES"

    assert refused(read(made, store, tmp_path), Policy(), store).code == "image_policy_violation"
