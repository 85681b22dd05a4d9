from __future__ import annotations

import pytest

from gpumarket.chain.codec import encode_call
from gpumarket.chain.reverts import CODES, canonical, decode_revert, revert_error
from gpumarket.chain.rpc import RpcRefused
from gpumarket.errors import ERROR_KINDS

ACCOUNT = "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"


def test_default_behavior() -> None:
    data = encode_call("ResourceBusy(bytes32,bytes32)", b"\x01" * 32, b"\x02" * 32)
    error = revert_error(RpcRefused(3, "execution reverted", "0x" + data.hex()))
    assert error.code == "resource_busy"
    assert error.message == f"ResourceBusy: resourceId 0x{'01' * 32}, jobId 0x{'02' * 32}"
    assert error.details == {
        "contract_error": "ResourceBusy",
        "resourceId": "0x" + "01" * 32,
        "jobId": "0x" + "02" * 32,
    }


@pytest.mark.parametrize(
    ("signature", "values", "code"),
    [
        ("ERC20InsufficientBalance(address,uint256,uint256)", (ACCOUNT, 1, 2**200), "insufficient_balance"),
        ("ERC20InsufficientAllowance(address,uint256,uint256)", (ACCOUNT, 1, 2), "insufficient_allowance"),
        ("PriceAboveMaximum(uint128,uint128)", (2, 1), "price_too_high"),
        ("ProviderStakeTooLow(address,uint256,uint256)", (ACCOUNT, 1, 2), "insufficient_stake"),
        ("JobDeadlineNotReached(bytes32,uint40)", (b"\x01" * 32, 9), "deadline_not_reached"),
        ("JobDeadlinePassed(bytes32,uint40)", (b"\x01" * 32, 9), "deadline_passed"),
        ("JobCallerUnauthorized(bytes32,address)", (b"\x01" * 32, ACCOUNT), "forbidden"),
        ("ResourceUnavailable(bytes32)", (b"\x01" * 32,), "resource_unavailable"),
        ("PaymentTokenMismatch(address,address)", (ACCOUNT, ACCOUNT), "payment_token_mismatch"),
        ("SpecTooLarge(uint256,uint256)", (5000, 4096), "invalid_job_spec"),
        ("OutcomeProofInvalid(uint64,uint32)", (1, 2), "proof_invalid"),
        ("ReportSignatureInvalid(uint256)", (1,), "unauthorized"),
        ("EnforcedPause()", (), "market_paused"),
    ],
)
def test_contract_errors_get_their_codes(signature: str, values: tuple[object, ...], code: str) -> None:
    assert decode_revert(encode_call(signature, *values)).code == code


def test_a_status_is_told_by_name() -> None:
    error = decode_revert(encode_call("JobStatusInvalid(bytes32,uint8)", b"\x01" * 32, 4))
    assert error.code == "job_status_invalid"
    assert error.message.endswith("actual COMPLETED")


def test_large_numbers_stay_exact_in_json() -> None:
    error = decode_revert(encode_call("ERC20InsufficientBalance(address,uint256,uint256)", ACCOUNT, 1, 2**200))
    assert error.details["needed"] == str(2**200)
    assert error.details["balance"] == 1


def test_every_code_is_a_known_one_and_no_selector_is_used_twice() -> None:
    assert set(CODES.values()) <= set(ERROR_KINDS)
    assert len({canonical(signature) for signature in CODES}) == len(CODES)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (encode_call("Error(string)", "because"), "because"),
        (encode_call("Panic(uint256)", 0x11), "0x11"),
        (b"\xde\xad\xbe\xef", "0xdeadbeef"),
        (b"", "no reason"),
    ],
)
def test_other_revert_data_is_transaction_reverted(data: bytes, text: str) -> None:
    error = decode_revert(data)
    assert error.code == "transaction_reverted"
    assert text in error.message


@pytest.mark.parametrize(
    ("message", "code"),
    [
        ("execution reverted", "transaction_reverted"),
        ("insufficient funds for gas * price + value", "insufficient_gas_funds"),
        ("method not found", "chain_unreachable"),
    ],
)
def test_a_refusal_without_data_is_told_by_its_text(message: str, code: str) -> None:
    assert revert_error(RpcRefused(-32000, message, None)).code == code


def test_nested_revert_data_is_found() -> None:
    nested = {"data": {"data": "0x" + encode_call("EnforcedPause()").hex()}}
    assert revert_error(RpcRefused(3, "reverted", nested)).code == "market_paused"
