"""The dag-pb wire format: a list of links, then opaque data.

Reading is strict: exactly the bytes our own writer (and Kubo's) would produce. Two encodings of one node would be two
CIDs of one thing, and every tolerated deviation is a place to hide bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

from gpumarket.errors import MarketError
from gpumarket.ipfs.cid import Cid

_LINKS = 0x12
_DATA = 0x0A
_HASH = 0x0A
_NAME = 0x12
_TSIZE = 0x18


@dataclass(frozen=True, slots=True)
class Link:
    """A child: its CID, its name (empty inside files), and the bytes of all blocks under it, duplicates counted."""

    cid: Cid
    name: str
    tsize: int


def encode(links: list[Link], data: bytes) -> bytes:
    """Serialise a node. The order of links is kept."""
    out = bytearray()
    for link in links:
        cid, name = link.cid.to_bytes(), link.name.encode()
        body = bytes((_HASH, len(cid))) + cid + bytes((_NAME,)) + varint(len(name)) + name
        body += bytes((_TSIZE,)) + varint(link.tsize)
        out += bytes((_LINKS,)) + varint(len(body)) + body
    return bytes(out) + bytes((_DATA,)) + varint(len(data)) + data


def decode(block: bytes) -> tuple[tuple[Link, ...], bytes]:
    """Read a node.

    Returns:
        The links and the data.

    Raises:
        MarketError: `content_malformed`.
    """
    links: list[Link] = []
    at = 0
    while at < len(block) and block[at] == _LINKS:
        body, at = read_bytes(block, at + 1)
        links.append(_decode_link(body))
    if at >= len(block) or block[at] != _DATA:
        raise malformed("dag-pb node without data, or with fields out of order")
    data, at = read_bytes(block, at + 1)
    if at != len(block):
        raise malformed("bytes after the end of a dag-pb node")
    return tuple(links), data


def varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(buffer: bytes, at: int) -> tuple[int, int]:
    """Read a minimal varint below 2**63 at `at`; returns the value and the position after it."""
    value = shift = 0
    while True:
        if at >= len(buffer) or shift > 56:
            raise malformed("varint is cut short or too long")
        byte = buffer[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if byte == 0 and shift:
                raise malformed("varint is not minimal")
            return value, at
        shift += 7


def read_bytes(buffer: bytes, at: int) -> tuple[bytes, int]:
    """Read a length-prefixed byte string at `at`; returns it and the position after it."""
    length, at = read_varint(buffer, at)
    end = at + length
    if end > len(buffer):
        raise malformed("a field runs past the end of its block")
    return buffer[at:end], end


def malformed(what: str) -> MarketError:
    return MarketError("content_malformed", what)


def _decode_link(body: bytes) -> Link:
    if not body or body[0] != _HASH:
        raise malformed("link without a CID")
    cid, at = read_bytes(body, 1)
    if at >= len(body) or body[at] != _NAME:
        raise malformed("link without a name field")
    name, at = read_bytes(body, at + 1)
    if at >= len(body) or body[at] != _TSIZE:
        raise malformed("link without a size")
    tsize, at = read_varint(body, at + 1)
    if at != len(body):
        raise malformed("bytes after the end of a link")
    try:
        return Link(Cid.from_bytes(cid), name.decode(), tsize)
    except UnicodeDecodeError:
        raise malformed("link name is not UTF-8") from None
