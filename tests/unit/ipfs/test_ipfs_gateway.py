from __future__ import annotations

import io
import os

import pytest
from starlette.applications import Starlette
from starlette.testclient import TestClient

from gpumarket.ipfs.car import CarDecoder, read_car
from gpumarket.ipfs.cid import RAW, Cid
from gpumarket.ipfs.gateway import CAR_TYPE, RAW_TYPE, routes
from gpumarket.ipfs.importer import Added, add_directory, add_file
from gpumarket.ipfs.reader import load
from tests.fakes import MemoryBlocks

MIB = 1 << 20
DATA = os.urandom(3 * MIB + 5)


class Site:
    """A store with `sub/file` (four leaves) and `small`, and a client of its gateway."""

    def __init__(self) -> None:
        self.store = MemoryBlocks()
        self.file = add_file(self.store, io.BytesIO(DATA))
        self.small = add_file(self.store, io.BytesIO(b"small"))
        self.sub = add_directory(self.store, {"file": self.file, "twin": self.file})
        self.root = add_directory(self.store, {"sub": self.sub, "small": self.small})
        self.leaves = [link.cid for link in load(self.store, self.file.cid).links]
        self.client = TestClient(Starlette(routes=[*routes(self.store)]))

    def blocks(self, path: str, query: str = "") -> list[Cid]:
        answer = self.client.get(f"/ipfs/{path}?format=car{query}")
        assert answer.status_code == 200, answer.text
        return [cid for cid, _ in read_car(io.BytesIO(answer.content), CarDecoder())]


@pytest.fixture
def site() -> Site:
    return Site()


def test_default_behavior_raw(site: Site) -> None:
    answer = site.client.get(f"/ipfs/{site.small.cid}?format=raw")
    assert (answer.status_code, answer.content) == (200, b"small")
    assert answer.headers["content-type"] == RAW_TYPE
    assert answer.headers["content-disposition"] == f'attachment; filename="{site.small.cid}.bin"'
    assert answer.headers["etag"] == f'"{site.small.cid}.raw"'
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-ipfs-path"] == f"/ipfs/{site.small.cid}"
    assert answer.headers["content-length"] == "5"


def test_default_behavior_car(site: Site) -> None:
    answer = site.client.get(f"/ipfs/{site.root.cid}?format=car")
    assert answer.headers["content-type"] == f"{CAR_TYPE}; version=1; order=dfs; dups=n"
    assert answer.headers["content-disposition"] == f'attachment; filename="{site.root.cid}.car"'
    decoder = CarDecoder()
    got = [cid for cid, _ in read_car(io.BytesIO(answer.content), decoder)]
    assert decoder.roots == (site.root.cid,)
    assert got == [site.root.cid, site.small.cid, site.sub.cid, site.file.cid, *site.leaves]


def test_accept_headers(site: Site) -> None:
    url = f"/ipfs/{site.small.cid}"
    raw = site.client.get(url, headers={"accept": RAW_TYPE})
    assert (raw.headers["content-type"], raw.headers["content-location"]) == (RAW_TYPE, f"{url}?format=raw")
    car = site.client.get(url, headers={"accept": f"{CAR_TYPE}; version=1; order=dfs; dups=n"})
    assert car.headers["content-type"].startswith(CAR_TYPE)
    best = site.client.get(url, headers={"accept": f"text/html, {RAW_TYPE};q=0.2, {CAR_TYPE};q=0.9"})
    assert best.headers["content-type"].startswith(CAR_TYPE)
    assert site.client.get(f"{url}?format=raw", headers={"accept": CAR_TYPE}).headers["content-type"] == RAW_TYPE


@pytest.mark.parametrize(
    ("query", "accept", "status"),
    [
        ("", "text/html", 406),
        ("", "*/*", 406),
        ("", "", 400),
        ("?format=tar", RAW_TYPE, 406),
        ("?format=ipns-record", RAW_TYPE, 406),
        ("", f"{CAR_TYPE}; version=2", 406),
        ("", f"{CAR_TYPE}; order=bfs", 406),
        ("", f"{CAR_TYPE}; dups=y", 406),
        ("?format=car&car-version=2", "", 406),
        ("?format=car&dag-scope=some", "", 400),
        ("?format=car&entity-bytes=1", "", 400),
        ("?format=car&entity-bytes=a:b", "", 400),
        ("?format=car&entity-bytes=5:1", "", 400),
        ("?format=car&entity-bytes=5:*", "", 400),  # the file has five bytes
        ("?format=car&car-order=unk&car-dups=n&car-version=1", "", 200),
    ],
)
def test_what_is_not_served(site: Site, query: str, accept: str, status: int) -> None:
    answer = site.client.get(f"/ipfs/{site.small.cid}{query}", headers={"accept": accept})
    assert answer.status_code == status
    if status != 200:
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["content-type"] == "application/problem+json"
        assert answer.json()["code"] == "invalid_argument"


@pytest.mark.parametrize("cid", ["nothing", "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvykv", "..%2f"])
def test_a_malformed_cid(site: Site, cid: str) -> None:
    assert site.client.get(f"/ipfs/{cid}?format=raw").status_code in (400, 404)
    assert site.client.get("/ipfs/nothing?format=raw").status_code == 400


@pytest.mark.parametrize("kind", ["raw", "car"])
def test_unknown_content(site: Site, kind: str) -> None:
    url = f"/ipfs/{Cid.of(RAW, b'unknown')}?format={kind}"
    for method in ("GET", "HEAD"):
        assert site.client.request(method, url).status_code == 404
    assert site.client.get(url).json()["code"] == "not_found"
    assert site.client.get(url, headers={"cache-control": "only-if-cached"}).status_code == 412


def test_paths(site: Site) -> None:
    assert site.blocks(f"{site.root.cid}/sub/file") == [site.root.cid, site.sub.cid, site.file.cid, *site.leaves]
    assert site.client.get(f"/ipfs/{site.root.cid}/nothing?format=car").status_code == 404
    assert site.client.get(f"/ipfs/{site.root.cid}/small/below?format=car").status_code == 404
    assert site.client.get(f"/ipfs/{site.root.cid}/small?format=raw").status_code == 400


def test_dag_scope(site: Site) -> None:
    assert site.blocks(f"{site.root.cid}", "&dag-scope=block") == [site.root.cid]
    assert site.blocks(f"{site.root.cid}/sub", "&dag-scope=block") == [site.root.cid, site.sub.cid]
    assert site.blocks(f"{site.root.cid}", "&dag-scope=entity") == [site.root.cid]
    assert site.blocks(f"{site.file.cid}", "&dag-scope=block") == [site.file.cid]
    assert site.blocks(f"{site.file.cid}", "&dag-scope=entity") == [site.file.cid, *site.leaves]
    assert site.blocks(f"{site.sub.cid}", "&dag-scope=all") == [site.sub.cid, site.file.cid, *site.leaves]


@pytest.mark.parametrize(
    ("span", "leaves"),
    [
        ("0:*", [0, 1, 2, 3]),
        ("0:0", [0]),
        (f"{MIB - 1}:{MIB}", [0, 1]),
        (f"{MIB}:{2 * MIB - 1}", [1]),
        ("-5:*", [3]),
        ("-6:*", [2, 3]),
        (f"{MIB}:-6", [1, 2]),
        ("0:-999999999", []),
        (f"{3 * MIB + 4}:{9 * MIB}", [3]),
        ("-99999999:0", [0]),
    ],
)
def test_entity_bytes(site: Site, span: str, leaves: list[int]) -> None:
    expected = [site.file.cid, *(site.leaves[i] for i in leaves)]
    assert site.blocks(f"{site.file.cid}", f"&entity-bytes={span}") == expected


def test_entity_bytes_outside_the_file(site: Site) -> None:
    url = f"/ipfs/{site.file.cid}?format=car&entity-bytes={len(DATA)}:*"
    assert site.client.get(url).status_code == 400


def test_entity_bytes_of_a_directory_are_ignored(site: Site) -> None:
    assert site.blocks(f"{site.root.cid}/sub", "&entity-bytes=0:5") == [site.root.cid, site.sub.cid]


def test_head_answers_like_get_without_a_body(site: Site) -> None:
    for query in ("?format=raw", "?format=car"):
        got = site.client.get(f"/ipfs/{site.small.cid}{query}")
        head = site.client.head(f"/ipfs/{site.small.cid}{query}")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["etag"] == got.headers["etag"]
        assert head.headers["content-type"] == got.headers["content-type"]
    assert site.client.head(f"/ipfs/{site.small.cid}?format=raw").headers["content-length"] == "5"


def test_a_known_etag_is_not_sent_again(site: Site) -> None:
    tags = set()
    for query in ("format=raw", "format=car", "format=car&dag-scope=block", "format=car&entity-bytes=0:1"):
        url = f"/ipfs/{site.small.cid}?{query}"
        tag = site.client.get(url).headers["etag"]
        tags.add(tag)
        again = site.client.get(url, headers={"if-none-match": f'"other", {tag}'})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", tag)
    assert len(tags) == 4
    unknown = Cid.of(RAW, b"unknown")
    never = site.client.get(f"/ipfs/{unknown}?format=raw", headers={"if-none-match": f'"{unknown}.raw"'})
    assert never.status_code == 404


def test_the_probe(site: Site) -> None:
    raw = site.client.get("/ipfs/bafkqaaa?format=raw")
    assert (raw.status_code, raw.content, raw.headers["content-type"]) == (200, b"", RAW_TYPE)
    car = site.client.get("/ipfs/bafkqaaa", headers={"accept": CAR_TYPE})
    assert car.status_code == 200
    assert car.content == b"\x19\xa2\x65roots\x81\xd8\x2a\x45\x00\x01\x55\x00\x00\x67version\x01"
    assert site.client.head("/ipfs/bafkqaaa?format=raw").status_code == 200


def test_a_missing_child_ends_the_stream(site: Site) -> None:
    del site.store.blocks[site.leaves[2].digest]
    got = site.blocks(f"{site.file.cid}")
    assert got == [site.file.cid, *site.leaves[:2]]


def test_damage_on_disk_is_an_error_of_the_server(site: Site) -> None:
    site.store.blocks[site.small.cid.digest] = b"wrong"
    answer = site.client.get(f"/ipfs/{site.small.cid}?format=raw")
    assert answer.status_code >= 500
    assert answer.json()["code"] == "image_block_corrupt"


def test_other_methods_are_not_allowed(site: Site) -> None:
    assert site.client.post(f"/ipfs/{site.small.cid}?format=raw").status_code == 405


def test_a_twin_is_sent_once(site: Site) -> None:
    added: Added = add_directory(site.store, {"a": site.small, "b": site.small})
    assert site.blocks(str(added.cid)) == [added.cid, site.small.cid]
