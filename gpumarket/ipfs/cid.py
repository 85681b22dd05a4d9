"""Content identifiers: CIDv1 in base32 and CIDv0, always sha2-256, always raw or dag-pb.

Other hashes, codecs and multibases are refused: the market has no use for them, and each one is attack surface.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass

from gpumarket.errors import MarketError

RAW = 0x55
DAG_PB = 0x70

_SHA2_256 = b"\x12\x20"
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_CODECS = {RAW: "raw", DAG_PB: "dag-pb"}


@dataclass(frozen=True, slots=True)
class Cid:
    """What a block is (`codec`: RAW or DAG_PB) and the 32-byte sha2-256 of its bytes; `version` 0 is dag-pb only."""

    codec: int
    digest: bytes
    version: int = 1

    def __post_init__(self) -> None:
        if self.codec not in _CODECS or len(self.digest) != 32:
            raise MarketError("invalid_argument", f"not a sha2-256 CID of raw or dag-pb: codec {self.codec:#x}")
        if self.version not in (0, 1) or (self.version == 0 and self.codec != DAG_PB):
            raise MarketError("invalid_argument", f"CID version {self.version} does not exist for this codec")

    @classmethod
    def raw(cls, digest: bytes) -> Cid:
        return cls(RAW, digest)

    @classmethod
    def dag_pb(cls, digest: bytes) -> Cid:
        return cls(DAG_PB, digest)

    @classmethod
    def of(cls, codec: int, block: bytes, version: int = 1) -> Cid:
        """The CID of these bytes."""
        return cls(codec, hashlib.sha256(block).digest(), version)

    @classmethod
    def parse(cls, text: str) -> Cid:
        """Read `bafy...`, `bafk...` (base32, lower case) or `Qm...`.

        Raises:
            MarketError: `invalid_argument`.
        """
        try:
            if text.startswith("Qm") and len(text) == 46:
                return cls.from_bytes(_base58_decode(text))
            if text.startswith("b") and len(text) == 59 and text == text.lower():
                cid = cls.from_bytes(base64.b32decode(text[1:].upper() + "=" * (-len(text[1:]) % 8)))
                if str(cid) == text:
                    return cid
        except (ValueError, MarketError):
            pass
        raise MarketError(
            "invalid_argument",
            f"not a CID the market can use: {text[:80]!r}",
            hint="expected CIDv1 in base32 (bafy..., bafk...) or CIDv0 (Qm...), sha2-256, raw or dag-pb",
        )

    @classmethod
    def from_bytes(cls, binary: bytes) -> Cid:
        """Read the binary form found in links and CAR files; raises `content_malformed`."""
        if len(binary) == 34 and binary[:2] == _SHA2_256:
            return cls(DAG_PB, binary[2:], 0)
        if len(binary) == 36 and binary[0] == 1 and binary[1] in _CODECS and binary[2:4] == _SHA2_256:
            return cls(binary[1], binary[4:])
        raise MarketError("content_malformed", f"unsupported CID {binary[:40].hex()}")

    def to_bytes(self) -> bytes:
        multihash = _SHA2_256 + self.digest
        return multihash if self.version == 0 else bytes((1, self.codec)) + multihash

    def matches(self, block: bytes) -> bool:
        """Whether the bytes hash to this CID."""
        return hashlib.sha256(block).digest() == self.digest

    def __str__(self) -> str:
        if self.version == 0:
            return _base58_encode(self.to_bytes())
        return "b" + base64.b32encode(self.to_bytes()).decode().rstrip("=").lower()


def _base58_encode(binary: bytes) -> str:
    number, text = int.from_bytes(binary, "big"), ""
    while number:
        number, digit = divmod(number, 58)
        text = _BASE58[digit] + text
    return text


def _base58_decode(text: str) -> bytes:
    number = 0
    for char in text:
        number = number * 58 + _BASE58.index(char)
    return number.to_bytes(34, "big")
