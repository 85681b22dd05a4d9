"""The bytes of the published import vectors: a ChaCha20 key stream, key = sha256(seed), nonce and counter zero."""

from __future__ import annotations

import hashlib

from Crypto.Cipher import ChaCha20


class KeyStream:
    """`size` deterministic bytes, as a stream."""

    def __init__(self, size: int, seed: str) -> None:
        self._left = size
        self._cipher = ChaCha20.new(key=hashlib.sha256(seed.encode()).digest(), nonce=bytes(12))

    def read(self, size: int, /) -> bytes:
        size = min(size, self._left)
        self._left -= size
        return self._cipher.encrypt(bytes(size))
