from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gpumarket.images.image import OCI_INDEX, OCI_LAYER, OCI_MANIFEST, Image, read_image
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import add_path
from gpumarket.ipfs.store import EmbeddedStore
from provider_agent.registry import routes
from tests.unit.images.layouts import layout

_LAYER = bytes(range(256)) * 10_000


@dataclass
class Served:
    http: TestClient
    image: Image
    base: str
    approved: set[Cid]

    @property
    def blob(self) -> str:
        return f"{self.base}/blobs/{self.image.layers[0].digest}"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    store = EmbeddedStore(tmp_path / "blocks")
    root = add_path(store, layout([(_LAYER, OCI_LAYER, _LAYER)]).write(tmp_path / "oci")).cid
    approved = {root}
    with TestClient(Starlette(routes=routes(store, approved.__contains__))) as http:
        yield Served(http, read_image(store, root), f"/v2/ipfs/{root}", approved)


def code(response: object) -> str:
    return str(response.json()["errors"][0]["code"])  # type: ignore[attr-defined]


def test_version_check(served: Served) -> None:
    answer = served.http.get("/v2/")

    assert answer.status_code == 200
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("reference", ["latest", "digest"])
def test_manifest_by_tag_and_digest(served: Served, reference: str) -> None:
    name = served.image.manifest_digest if reference == "digest" else reference
    answer = served.http.get(f"{served.base}/manifests/{name}")
    head = served.http.head(f"{served.base}/manifests/{name}")

    assert answer.status_code == head.status_code == 200
    assert answer.headers["content-type"] == head.headers["content-type"] == OCI_MANIFEST
    assert answer.headers["docker-content-digest"] == served.image.manifest_digest
    assert head.headers["docker-content-digest"] == served.image.manifest_digest
    assert head.headers["content-length"] == str(len(answer.content))
    assert head.content == b""
    assert json.loads(answer.content)["schemaVersion"] == 2


def test_whole_blob(served: Served) -> None:
    answer = served.http.get(served.blob)
    head = served.http.head(served.blob)

    assert answer.status_code == head.status_code == 200
    assert answer.content == _LAYER
    assert head.content == b""
    for headers in (answer.headers, head.headers):
        assert headers["content-length"] == str(len(_LAYER))
        assert headers["docker-content-digest"] == served.image.layers[0].digest
        assert headers["accept-ranges"] == "bytes"


@pytest.mark.parametrize(
    ("header", "start", "end"),
    [
        ("bytes=0-0", 0, 1),
        ("bytes=1048570-1048580", 1_048_570, 1_048_581),
        ("bytes=2000000-", 2_000_000, 2_560_000),
        ("bytes=-5", 2_559_995, 2_560_000),
        ("bytes=-99999999", 0, 2_560_000),
        ("bytes=5-99999999", 5, 2_560_000),
    ],
)
def test_ranges(served: Served, header: str, start: int, end: int) -> None:
    answer = served.http.get(served.blob, headers={"range": header})

    assert answer.status_code == 206
    assert answer.content == _LAYER[start:end]
    assert answer.headers["content-range"] == f"bytes {start}-{end - 1}/{len(_LAYER)}"
    assert answer.headers["content-length"] == str(end - start)


@pytest.mark.parametrize("header", ["bytes=2560000-", "bytes=9999999-99999999", "bytes=-0"])
def test_a_range_past_the_end(served: Served, header: str) -> None:
    answer = served.http.get(served.blob, headers={"range": header})

    assert answer.status_code == 416
    assert answer.headers["content-range"] == f"bytes */{len(_LAYER)}"


@pytest.mark.parametrize("header", ["bytes=5-1", "bytes=0-1,4-5", "lines=0-1", "bytes=-", "bytes=x-"])
def test_a_range_that_is_not_understood_gives_everything(served: Served, header: str) -> None:
    answer = served.http.get(served.blob, headers={"range": header})

    assert answer.status_code == 200
    assert answer.content == _LAYER


@pytest.mark.parametrize(
    ("path", "status", "error"),
    [
        ("/v2/ipfs/{cid}/manifests/v1", 404, "MANIFEST_UNKNOWN"),
        ("/v2/ipfs/{cid}/manifests/sha256:" + "0" * 64, 404, "MANIFEST_UNKNOWN"),
        ("/v2/ipfs/{cid}/manifests/{layer}", 404, "MANIFEST_UNKNOWN"),
        ("/v2/ipfs/{cid}/blobs/sha256:" + "0" * 64, 404, "BLOB_UNKNOWN"),
        ("/v2/ipfs/{cid}/blobs/sha256:..%2F..", 404, "NAME_UNKNOWN"),
        ("/v2/ipfs/{cid}/blobs/md5:00", 400, "DIGEST_INVALID"),
        ("/v2/ipfs/{cid}/tags/list", 404, "NAME_UNKNOWN"),
        ("/v2/ipfs/nonsense/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/ipfs/bafkqaaa/manifests/latest", 400, "NAME_INVALID"),
        ("/v2/library/busybox/manifests/latest", 404, "NAME_UNKNOWN"),
        ("/v2/_catalog", 404, "NAME_UNKNOWN"),
    ],
)
def test_errors(served: Served, path: str, status: int, error: str) -> None:
    path = path.replace("{cid}", str(served.image.root)).replace("{layer}", served.image.layers[0].digest)
    answer = served.http.get(path)

    assert (answer.status_code, code(answer)) == (status, error)
    assert answer.headers["docker-distribution-api-version"] == "registry/2.0"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE"])
def test_writing_is_not_possible(served: Served, method: str) -> None:
    for path in ("/v2/", served.blob, f"{served.base}/manifests/latest", f"{served.base}/blobs/uploads/"):
        answer = served.http.request(method, path)

        assert (answer.status_code, code(answer)) == (405, "UNSUPPORTED")
        assert answer.headers["allow"] == "GET, HEAD"


def test_an_image_that_is_not_approved_is_unknown(served: Served) -> None:
    served.approved.clear()
    for path in (served.blob, f"{served.base}/manifests/latest"):
        answer = served.http.get(path)

        assert (answer.status_code, code(answer)) == (404, "NAME_UNKNOWN")


def test_an_index_is_served_as_one(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "blocks")
    made = layout()
    inner = made.files["index.json"]
    digest = made.add(inner)
    root = add_path(store, made.write(tmp_path / "oci")).cid
    with TestClient(Starlette(routes=routes(store, lambda _: True))) as http:
        answer = http.get(f"/v2/ipfs/{root}/manifests/{digest}")

    assert answer.headers["content-type"] == OCI_INDEX
    assert answer.content == inner


def test_a_corrupt_block_is_never_sent(tmp_path: Path) -> None:
    store = EmbeddedStore(tmp_path / "blocks")
    root = add_path(store, layout([(_LAYER, OCI_LAYER, _LAYER)]).write(tmp_path / "oci")).cid
    layer = read_image(store, root).layers[0].digest
    for file in (tmp_path / "blocks").rglob("*"):
        if file.is_file() and file.stat().st_size == 1 << 20:
            file.chmod(0o600)
            file.write_bytes(b"\0" * (1 << 20))
    with TestClient(Starlette(routes=routes(store, lambda _: True)), raise_server_exceptions=False) as http:
        answer = http.get(f"/v2/ipfs/{root}/blobs/{layer}")

    assert len(answer.content) < len(_LAYER)
    assert b"\0" * 300 not in answer.content
