from __future__ import annotations

import json
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest

from gpumarket.chain import calls, client
from gpumarket.chain.codec import (
    argument_types,
    bytes32,
    bytes_of,
    checksum,
    decode,
    encode_call,
    hex_of,
    selector,
    split_types,
)
from gpumarket.chain.deployments import CONTRACTS
from gpumarket.chain.reverts import CODES, canonical
from gpumarket.errors import MarketError


def abi_of(contract: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((files("gpumarket.chain") / "abi" / f"{contract}.json").read_text())
    return found


def type_of(item: dict[str, Any]) -> str:
    if not item["type"].startswith("tuple"):
        return str(item["type"])
    return f"({','.join(type_of(part) for part in item['components'])}){item['type'][5:]}"


def signature_of(entry: dict[str, Any]) -> str:
    return f"{entry['name']}({','.join(type_of(item) for item in entry['inputs'])})"


def abi(kind: str) -> dict[str, dict[str, Any]]:
    return {signature_of(entry): entry for name in CONTRACTS for entry in abi_of(name) if entry["type"] == kind}


def source_strings(module: Any) -> list[str]:
    """Signatures in a module's source with its own constants filled in."""
    text = Path(str(module.__file__)).read_text()
    found = re.findall(r'f?"([a-zA-Z]\w*\((?:[^"\s]*)\))"', text)
    return [re.sub(r"{(\w+)}", lambda m: str(getattr(module, m[1], m[0])), item) for item in found]


def test_default_behavior() -> None:
    assert encode_call("stake(uint256)", 5).hex() == "a694fc3a" + f"{5:064x}"
    assert decode(("uint256", "string"), encode_call("f(uint256,string)", 7, "x")[4:]) == (7, "x")


def test_every_call_is_an_entry_point_of_the_contracts() -> None:
    functions = abi("function")
    used = [text for text in source_strings(calls) if "{" not in text]
    assert len(used) > 15
    assert [text for text in used if text not in functions] == []
    for name in calls.OUTCOME_ENTRY_POINTS.values():
        assert f"{name}(uint64,uint32,{calls.OUTCOME},bytes32[])" in functions
    for name in (
        "cancelJob",
        "stopJob",
        "acceptJob",
        "startJob",
        "expireJob",
        "endJob",
        "settleJob",
        "resolveByTimeout",
    ):
        assert f"{name}(bytes32)" in functions


def test_every_read_is_a_view_that_answers_what_is_expected() -> None:
    functions = abi("function")
    text = Path(str(client.__file__)).read_text()
    reads = re.findall(r'"(\w+\([\w,\[\]]*\))",\s*f?"(\([^"]*\))"', text)
    assert len(reads) > 20
    for signature, returns in reads:
        filled = re.sub(r"{(\w+)}", lambda m: str(getattr(client, m[1])), returns)
        assert f"({','.join(type_of(item) for item in functions[signature]['outputs'])})" == filled, signature


def test_every_custom_error_of_the_interfaces_has_a_code() -> None:
    known = {canonical(signature) for signature in CODES}
    errors = abi("error")
    assert sorted(known - set(errors)) == []
    ours = set()
    for path in (Path(__file__).resolve().parents[3] / "contracts" / "interfaces").glob("*.sol"):
        ours |= set(re.findall(r"^\s*error (\w+)\(", path.read_text(), re.M))
    assert sorted(name for name in ours if name not in {item.split("(")[0] for item in known}) == []


def test_parameter_names_in_error_signatures_are_the_contracts() -> None:
    errors = abi("error")
    for signature in CODES:
        names = [part.split(" ")[1] for part in argument_types(signature)]
        assert names == [item["name"] for item in errors[canonical(signature)]["inputs"]], signature


def test_types_are_split_at_the_outer_commas() -> None:
    assert split_types("") == ()
    assert split_types("uint8,(address,(bool,bytes))[],string") == ("uint8", "(address,(bool,bytes))[]", "string")


def test_an_address_is_spelled_with_its_checksum() -> None:
    assert checksum("0x" + "ab" * 20) == "0xABaBaBaBABabABabAbAbABAbABabababaBaBABaB"
    with pytest.raises(MarketError) as malformed:
        checksum("0x12")
    assert malformed.value.code == "invalid_argument"


@pytest.mark.parametrize("value", [b"\x01" * 31, "0x" + "01" * 33, "0xzz", ""])
def test_other_than_32_bytes_are_refused(value: str | bytes) -> None:
    with pytest.raises(MarketError) as malformed:
        bytes32(value)
    assert malformed.value.code == "invalid_argument"


def test_hex_goes_both_ways() -> None:
    assert hex_of(bytes_of("0x00ff")) == "0x00ff"
    assert len(selector("transfer(address,uint256)")) == 4


def test_values_that_do_not_fit_are_refused() -> None:
    with pytest.raises(MarketError) as malformed:
        encode_call("extendJob(bytes32,uint40)", b"\x01" * 32, 2**40)
    assert malformed.value.code == "invalid_argument"


def test_an_answer_of_another_shape_is_no_answer() -> None:
    with pytest.raises(MarketError) as other:
        decode(("uint256",), b"\x01")
    assert other.value.code == "chain_mismatch"
