"""CARv1: a header that names roots, then blocks, each with its CID. Streaming both ways; every block read is hashed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

from gpumarket.errors import MarketError
from gpumarket.ipfs import dag
from gpumarket.ipfs.cid import Cid
from gpumarket.ipfs.dagpb import malformed, varint
from gpumarket.ipfs.importer import ByteStream
from gpumarket.ipfs.store import BlockStore
from gpumarket.ipfs.unixfs import MAX_BLOCK

MAX_HEADER = 4096
_MAX_CID = 36
_PIECE = 1 << 18

# The header is DAG-CBOR {"roots": [CID...], "version": 1}, of which exactly this form is canonical.
_ROOTS = b"\xa2\x65roots"
_VERSION_1 = b"\x67version\x01"
_TAG = b"\xd8\x2a"


class ByteSink(Protocol):
    def write(self, data: bytes, /) -> object: ...


class CarDecoder:
    """Reads a CAR in pieces of any size.

    Args:
        max_bytes: the whole CAR may not be longer.
    """

    def __init__(self, *, max_bytes: int | None = None) -> None:
        self.roots: tuple[Cid, ...] = ()
        self._buffer = bytearray()
        self._left = max_bytes
        self._started = False

    def feed(self, piece: bytes) -> Iterator[tuple[Cid, bytes]]:
        """Take the next bytes and yield the blocks they complete.

        Raises:
            MarketError: `content_malformed`, `image_too_large`; `image_block_corrupt` for a block unlike its CID.
        """
        if self._left is not None:
            self._left -= len(piece)
            if self._left < 0:
                raise MarketError("image_too_large", "the CAR is larger than allowed")
        self._buffer += piece
        at = 0
        while (frame := self._frame(at)) is not None:
            body, at = frame
            if self._started:
                yield _section(body)
            else:
                self.roots = _read_header(body)
                self._started = True
        del self._buffer[:at]

    def finish(self) -> None:
        """Call at the end of the stream; raises `content_malformed` if it was cut."""
        if self._buffer or not self._started:
            raise malformed("the CAR is cut short")

    def _frame(self, at: int) -> tuple[bytes, int] | None:
        """The length-prefixed frame at `at` and the position after it; None until all of it has arrived."""
        length = shift = 0
        start = at
        while True:
            if at >= len(self._buffer):
                return None
            byte = self._buffer[at]
            at += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
            if shift > 28:
                raise malformed("a CAR frame is too long")
        if length == 0 or length > (MAX_BLOCK + _MAX_CID if self._started else MAX_HEADER):
            raise malformed(f"a CAR frame of {length} bytes at position {start} of the buffer")
        if at + length > len(self._buffer):
            return None
        return bytes(memoryview(self._buffer)[at : at + length]), at + length


def header(roots: Iterable[Cid]) -> bytes:
    """The first bytes of a CAR."""
    return raw_header([root.to_bytes() for root in roots])


def raw_header(roots: list[bytes]) -> bytes:
    """The same for CIDs in binary form, of any kind."""
    if len(roots) > 23:
        raise MarketError("invalid_argument", "a CAR names at most 23 roots")
    items = b"".join(_tagged(root) for root in roots)
    body = _ROOTS + bytes((0x80 | len(roots),)) + items + _VERSION_1
    return varint(len(body)) + body


def section(cid: Cid, block: bytes) -> bytes:
    """One block as it stands in a CAR."""
    name = cid.to_bytes()
    return varint(len(name) + len(block)) + name + block


def write_car(out: ByteSink, roots: Iterable[Cid], blocks: Iterable[tuple[Cid, bytes]]) -> None:
    """Write a whole CAR."""
    out.write(header(roots))
    for cid, block in blocks:
        out.write(section(cid, block))


def read_car(stream: ByteStream, decoder: CarDecoder) -> Iterator[tuple[Cid, bytes]]:
    """All blocks of a CAR, checked; afterwards `decoder.roots` holds its roots. Raises what the decoder raises."""
    while piece := stream.read(_PIECE):
        yield from decoder.feed(piece)
    decoder.finish()


def export_car(store: BlockStore, root: Cid, out: ByteSink) -> int:
    """Write everything under `root` as a CAR; returns the number of blocks."""
    count = 0
    out.write(header([root]))
    for cid, block in dag.blocks(store, root):
        out.write(section(cid, block))
        count += 1
    return count


def import_car(store: BlockStore, stream: ByteStream, *, max_bytes: int | None = None) -> tuple[Cid, ...]:
    """Put all blocks of a CAR into the store; returns its roots. Nothing is pinned, and the roots may be incomplete."""
    decoder = CarDecoder(max_bytes=max_bytes)
    for cid, block in read_car(stream, decoder):
        store.put(cid, block)
    return decoder.roots


def _tagged(root: bytes) -> bytes:
    """A CID in DAG-CBOR; lengths below 24 are part of the type byte."""
    length = len(root) + 1
    kind = bytes((0x58, length)) if length > 23 else bytes((0x40 | length,))
    return _TAG + kind + b"\0" + root


def _section(body: bytes) -> tuple[Cid, bytes]:
    length = 34 if body[:2] == b"\x12\x20" else _MAX_CID
    cid, block = Cid.from_bytes(body[:length]), body[length:]
    if not cid.matches(block):
        raise MarketError("image_block_corrupt", f"a block in the CAR does not hash to {cid}", cid=str(cid))
    return cid, block


def _read_header(body: bytes) -> tuple[Cid, ...]:
    at = len(_ROOTS)
    if body[:at] != _ROOTS or at >= len(body) or not 0x80 <= body[at] <= 0x97:
        raise malformed("not a CARv1 header")
    roots = []
    count, at = body[at] - 0x80, at + 1
    for _ in range(count):
        end = at + 4 + (body[at + 3] if at + 3 < len(body) else 0)
        if body[at : at + 3] != _TAG + b"\x58" or end > len(body):
            raise malformed("a root in the CAR header is not a CID")
        roots.append(Cid.from_bytes(body[at + 5 : end]))
        at = end
    if body[at:] != _VERSION_1:
        raise malformed("not a CARv1 header")
    return tuple(roots)
