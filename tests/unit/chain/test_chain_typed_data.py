from __future__ import annotations

import pytest
from eth_abi.abi import encode

from gpumarket.chain import typed_data
from gpumarket.chain.codec import keccak
from gpumarket.chain.deployments import CONTRACTS, Deployment, PaymentToken
from gpumarket.chain.sender import load_account
from gpumarket.chain.typed_data import TypedData
from gpumarket.chain.types import Report
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address
from tests.parts.anvil import ANVIL_KEYS

ADDRESS = Address("0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB")
DEPLOYMENT = Deployment(31337, {name: ADDRESS for name in CONTRACTS}, 0, PaymentToken(ADDRESS, "GPU", 18))
SIGNER = load_account(None, {"GPUMARKET_PRIVATE_KEY": ANVIL_KEYS[0]})
ID, DIGEST = "0x" + "11" * 32, b"\x22" * 32
HALF_ORDER = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
ORDER = 2 * HALF_ORDER + 1

MESSAGES = [
    typed_data.permit(DEPLOYMENT, SIGNER.address, ADDRESS, 1, 2, 3, token_name="GPU Token"),
    typed_data.receipt(DEPLOYMENT, ID, DIGEST, 600),
    typed_data.report(DEPLOYMENT, Report(DIGEST, 1, 2, DIGEST, 3, DIGEST)),
    typed_data.heartbeat(DEPLOYMENT, ADDRESS, 1, 1_700_000_000, [ID, ID], DIGEST),
    typed_data.possession(DEPLOYMENT, "challenge-1", ID, "bafy", DIGEST, DIGEST),
    typed_data.access_grant(DEPLOYMENT, ID, ADDRESS, "logs", 1_700_000_000),
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: message.primary_type)
def test_default_behavior(message: TypedData) -> None:
    signature = SIGNER.sign_typed(message)
    assert len(signature) == 65
    assert typed_data.recover(message, signature) == SIGNER.address
    assert typed_data.recover(message, typed_data.compact_signature(signature)) == SIGNER.address
    assert len({typed_data.digest(other) for other in MESSAGES}) == len(MESSAGES)


def test_the_digest_is_that_of_the_standard() -> None:
    domain = keccak(
        encode(
            ["bytes32", "bytes32", "bytes32", "uint256", "address"],
            [
                keccak(b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"),
                keccak(b"gpumarket"),
                keccak(b"1"),
                31337,
                ADDRESS,
            ],
        )
    )
    type_hash = keccak(b"Receipt(bytes32 jobId,bytes32 resultCid,uint40 maxSeconds)")
    struct = keccak(
        encode(["bytes32", "bytes32", "bytes32", "uint40"], [type_hash, bytes.fromhex(ID[2:]), DIGEST, 600])
    )
    expected = keccak(b"\x19\x01" + domain + struct)
    assert typed_data.digest(typed_data.receipt(DEPLOYMENT, ID, DIGEST, 600)) == expected


def test_another_message_recovers_another_signer() -> None:
    signature = SIGNER.sign_typed(typed_data.receipt(DEPLOYMENT, ID, DIGEST, 600))
    assert typed_data.recover(typed_data.receipt(DEPLOYMENT, ID, DIGEST, 601), signature) != SIGNER.address


def test_a_malleable_twin_of_a_signature_is_refused() -> None:
    message = typed_data.receipt(DEPLOYMENT, ID, DIGEST, 600)
    signature = SIGNER.sign_typed(message)
    twin_s = ORDER - int.from_bytes(signature[32:64], "big")
    twin = signature[:32] + twin_s.to_bytes(32, "big") + bytes([55 - signature[64]])
    with pytest.raises(MarketError, match="low-s") as refused:
        typed_data.recover(message, twin)
    assert refused.value.code == "unauthorized"


@pytest.mark.parametrize("signature", [b"", b"\x00" * 65, b"\x01" * 66, b"\xff" * 32 + b"\x01" * 32 + b"\x1b"])
def test_garbage_is_no_signature(signature: bytes) -> None:
    with pytest.raises(MarketError) as refused:
        typed_data.recover(MESSAGES[1], signature)
    assert refused.value.code == "unauthorized"


def test_a_value_that_does_not_fit_is_refused() -> None:
    with pytest.raises(MarketError) as refused:
        typed_data.digest(typed_data.access_grant(DEPLOYMENT, ID, Address("nobody"), "logs", 1))
    assert refused.value.code == "invalid_argument"
