from __future__ import annotations

import io
import os
import tracemalloc
from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.importer import UNIXFS_V0_2015, UNIXFS_V1_2025, Profile, add_directory, add_file, add_path
from gpumarket.ipfs.reader import read_file, stat
from tests.fakes import MemoryBlocks
from tests.unit.ipfs.vectors import KeyStream

KIB, MIB = 1 << 10, 1 << 20

# IPIP-499, both profiles: a chunk, one byte more, a full root, one byte more ("hello world" is below).
VECTORS = [
    (UNIXFS_V0_2015, 256 * KIB, "chunk-v0-seed", "QmWmRj3dFDZdb6ABvbmKhEL6TmPbAfBZ1t5BxsEyJrcZhE"),
    (UNIXFS_V0_2015, 256 * KIB + 1, "chunk-v0-seed", "QmYyLxtzZyW22zpoVAtKANLRHpDjZtNeDjQdJrcQNWoRkJ"),
    (UNIXFS_V0_2015, 174 * 256 * KIB, "v0-seed", "QmUbBALi174SnogsUzLpYbD4xPiBSFANF4iztWCsHbMKh2"),
    (UNIXFS_V0_2015, 174 * 256 * KIB + 1, "v0-seed", "QmV81WL765sC8DXsRhE5fJv2rwhS4icHRaf3J9Zk5FdRnW"),
    (UNIXFS_V1_2025, MIB, "chunk-v1-seed", "bafkreiacndfy443ter6qr2tmbbdhadvxxheowwf75s6zehscklu6ezxmta"),
    (UNIXFS_V1_2025, MIB + 1, "chunk-v1-seed", "bafybeigmix7t42i6jacydtquhet7srwvgpizfg7gjbq7627d35mjomtu64"),
    (UNIXFS_V1_2025, 1024 * MIB, "v1-2025-seed", "bafybeihmf37wcuvtx4hpu7he5zl5qaf2ineo2lqlfrapokkm5zzw7zyhvm"),
    (UNIXFS_V1_2025, 1024 * MIB + 1, "v1-2025-seed", "bafybeibdsi225ugbkmpbdohnxioyab6jsqrmkts3twhpvfnzp77xtzpyhe"),
]


class Nowhere(MemoryBlocks):
    """Forgets every block: for vectors too large to keep."""

    def put(self, cid: Cid, block: bytes) -> None:
        pass


@pytest.mark.parametrize(("profile", "size", "seed", "cid"), VECTORS)
def test_published_file_vectors(profile: Profile, size: int, seed: str, cid: str) -> None:
    added = add_file(Nowhere(), KeyStream(size, seed), profile=profile)
    assert (str(added.cid), added.size) == (cid, size)


@pytest.mark.parametrize(
    ("profile", "cid"),
    [
        (UNIXFS_V0_2015, "Qmf412jQZiuVUtdgnB36FXFX7xg5V6KEbSJ4dpQuhkLyfD"),
        (UNIXFS_V1_2025, "bafkreifzjut3te2nhyekklss27nh3k72ysco7y32koao5eei66wof36n5e"),
    ],
)
def test_published_small_file_vectors(profile: Profile, cid: str) -> None:
    assert str(add_file(MemoryBlocks(), io.BytesIO(b"hello world"), profile=profile).cid) == cid


@pytest.mark.parametrize(
    ("profile", "cid"),
    [
        (UNIXFS_V0_2015, "QmUNLLsPACCz1vLxQVkXqqLX5R1X345qqfHbsf67hvA3Nn"),
        (UNIXFS_V1_2025, "bafybeiczsscdsbs7ffqz55asqdf3smv6klcw3gofszvwlyarci47bgf354"),
    ],
)
def test_published_empty_directory_vectors(profile: Profile, cid: str) -> None:
    assert str(add_directory(MemoryBlocks(), {}, profile=profile).cid) == cid


@pytest.mark.parametrize(
    ("profile", "count", "length", "last", "cid"),
    [
        (UNIXFS_V0_2015, 4096, 30, 30, "QmX5GtRk3TSSEHtdrykgqm4eqMEn3n2XhfkFAis5fjyZmN"),
        (UNIXFS_V1_2025, 4766, 11, 21, "bafybeic3h7rwruealwxkacabdy45jivq2crwz6bufb5ljwupn36gicplx4"),
    ],
)
def test_published_vectors_of_the_largest_flat_directories(
    profile: Profile, count: int, length: int, last: int, cid: str
) -> None:
    alphabet = "abcdefghijklmnopqrstuvwxyz01234567890-_"
    letters = [alphabet[byte % len(alphabet)] for byte in KeyStream(MIB, f"hamt-{profile.name}").read(MIB)]
    starts = [length * index for index in range(count)]
    names = ["".join(letters[at : at + (last if at == starts[-1] else length)]) for at in starts]
    store = MemoryBlocks()
    one = add_file(store, io.BytesIO(b"x"), profile=profile)
    assert str(add_directory(store, dict.fromkeys(names, one), profile=profile).cid) == cid


def test_a_directory_over_the_block_limit_is_refused() -> None:
    store = MemoryBlocks()
    one = add_file(store, io.BytesIO(b"x"))
    add_directory(store, {f"{i:05}": one for i in range(40_000)})
    with pytest.raises(MarketError) as caught:
        add_directory(store, {f"{i:05}": one for i in range(45_000)})
    assert caught.value.code == "invalid_argument"


def test_an_empty_file_is_an_empty_leaf() -> None:
    added = add_file(MemoryBlocks(), io.BytesIO(b""))
    assert str(added.cid) == "bafkreihdwdcefgh4dqkjv67uzcmw7ojee6xedzdetojuzjevtenxquvyku"
    assert (added.size, added.tsize) == (0, 0)


def test_short_reads_do_not_change_the_result() -> None:
    class Trickle(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(min(size or 0, 1000))

    data = os.urandom(MIB + 5000)
    assert add_file(MemoryBlocks(), Trickle(data)) == add_file(MemoryBlocks(), io.BytesIO(data))


@pytest.mark.parametrize("leaves", [1, 2, 3, 4, 9, 10, 13, 27, 28, 81, 82])
def test_a_tree_of_any_shape_reads_back(leaves: int) -> None:
    profile = Profile("tiny", 4, 3, True, 1)
    store, data = MemoryBlocks(), os.urandom(leaves * 4 - 1)
    added = add_file(store, io.BytesIO(data), profile=profile)
    assert read_file(store, added.cid) == data
    node = stat(store, added.cid)
    assert (node.size, node.tsize) == (added.size, added.tsize)


def test_memory_stays_constant() -> None:
    tracemalloc.start()
    try:
        add_file(Nowhere(), KeyStream(64 * MIB, "memory"))
        assert tracemalloc.get_traced_memory()[1] < 8 * MIB
    finally:
        tracemalloc.stop()


def test_progress_counts_every_byte() -> None:
    seen: list[int] = []
    add_file(MemoryBlocks(), io.BytesIO(bytes(3 * MIB + 7)), progress=seen.append)
    assert sum(seen) == 3 * MIB + 7


def test_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    with pytest.raises(MarketError) as caught:
        add_path(MemoryBlocks(), tmp_path)
    assert caught.value.code == "invalid_argument"


def test_a_missing_path_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(MarketError) as caught:
        add_path(MemoryBlocks(), tmp_path / "nothing")
    assert caught.value.code == "not_found"


def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    (Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff"))).write_bytes(b"")
    with pytest.raises(MarketError) as caught:
        add_path(MemoryBlocks(), tmp_path)
    assert caught.value.code == "invalid_argument"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\0b", "x" * 256])
def test_a_directory_entry_cannot_climb(name: str) -> None:
    store = MemoryBlocks()
    with pytest.raises(MarketError) as caught:
        add_directory(store, {name: add_file(store, io.BytesIO(b""))})
    assert caught.value.code == "invalid_argument"
