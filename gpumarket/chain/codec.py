"""ABI encoding by signature text, and the spelling of hex and addresses.

A signature such as "acceptJob(bytes32)" is the whole description of a call; tests hold every one here against
abi/*.json.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from eth_abi.abi import decode as abi_decode
from eth_abi.abi import encode as abi_encode
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak as eth_keccak

from gpumarket.errors import MarketError
from gpumarket.rules.units import Address


def keccak(data: bytes) -> bytes:
    """keccak-256."""
    return eth_keccak(data)


def hex_of(data: bytes) -> str:
    """0x and lower-case hex."""
    return "0x" + data.hex()


def bytes_of(text: str) -> bytes:
    """The bytes of 0x hex.

    Raises:
        MarketError: `invalid_argument`.
    """
    try:
        return bytes.fromhex(text[2:] if text[:2] in ("0x", "0X") else text)
    except ValueError:
        raise MarketError("invalid_argument", f"{text[:80]!r} is not hex") from None


def bytes32(value: str | bytes) -> bytes:
    """Exactly 32 bytes, from bytes or 0x hex.

    Raises:
        MarketError: `invalid_argument`.
    """
    data = value if isinstance(value, bytes) else bytes_of(value)
    if len(data) != 32:
        raise MarketError("invalid_argument", f"expected 32 bytes, got {len(data)}")
    return data


@lru_cache(maxsize=65_536)
def checksum(address: str) -> Address:
    """The EIP-55 spelling of an address.

    Raises:
        MarketError: `invalid_argument`.
    """
    try:
        return Address(to_checksum_address(address))
    except ValueError:
        raise MarketError("invalid_argument", f"{address[:80]!r} is not an address") from None


@lru_cache(maxsize=1_024)
def selector(signature: str) -> bytes:
    """The first four bytes of the signature's hash: a function's or an error's selector."""
    return keccak(signature.encode())[:4]


@lru_cache(maxsize=1_024)
def argument_types(signature: str) -> tuple[str, ...]:
    """The argument types of "name(type,(type,type)[])", tuples kept whole."""
    return split_types(signature[signature.index("(") + 1 : -1])


def split_types(text: str) -> tuple[str, ...]:
    """The types of a comma-separated list, tuples kept whole."""
    found: list[str] = []
    depth = start = 0
    for position, character in enumerate(text + ","):
        if character == "(":
            depth += 1
        elif character == ")":
            depth -= 1
        elif character == "," and depth == 0:
            if position > start:
                found.append(text[start:position])
            start = position + 1
    return tuple(found)


def encode_call(signature: str, *arguments: Any) -> bytes:
    """Calldata: selector and encoded arguments.

    Raises:
        MarketError: `invalid_argument`: a value does not fit its type.
    """
    try:
        return selector(signature) + abi_encode(argument_types(signature), arguments)
    except MarketError:
        raise
    except Exception as error:  # eth_abi raises many kinds, all of them for values that do not fit
        raise MarketError("invalid_argument", f"{signature}: {error}") from error


def decode(types: tuple[str, ...], data: bytes) -> tuple[Any, ...]:
    """Decoded values.

    Raises:
        MarketError: `chain_mismatch`: the data is not what the contract's interface promises.
    """
    try:
        return abi_decode(types, data)
    except Exception as error:  # eth_abi raises many kinds, all of them for malformed data
        raise MarketError("chain_mismatch", f"a contract answered something else than {','.join(types)}") from error
