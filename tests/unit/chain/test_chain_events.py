from __future__ import annotations

import json
import time
from dataclasses import astuple, fields
from importlib.resources import files
from typing import Any

import pytest
from eth_abi.abi import encode
from hypothesis import given, settings
from hypothesis import strategies as st

from gpumarket.chain import events
from gpumarket.chain.codec import checksum, keccak
from gpumarket.chain.types import RawLog

ADDRESSES = {spec.contract: checksum("0x" + f"{n:02x}" * 20) for n, spec in enumerate(events.EVENTS.values(), 1)}
ENUM_SIZES = {"JobStatus": 8, "EndReason": 10, "Verdict": 3, "OutcomeKind": 7, "JobOutcome": 5, "PenaltyReason": 5}


def abi_events() -> list[tuple[str, dict[str, Any]]]:
    found = []
    for contract in sorted(ADDRESSES):
        abi = json.loads((files("gpumarket.chain") / "abi" / f"{contract}.json").read_text())
        known = {spec.name for spec in events.EVENTS.values() if spec.contract == contract}
        found += [(contract, e) for e in abi if e["type"] == "event" and e["name"] in known]
    return found


def values_of(item: dict[str, Any]) -> st.SearchStrategy[Any]:
    kind: str = item["type"]
    if kind.endswith("[]"):
        return st.lists(values_of({**item, "type": kind[:-2]}), max_size=3)
    if item.get("internalType", "").startswith("enum "):
        return st.integers(0, ENUM_SIZES[item["internalType"].rsplit(".", 1)[1]] - 1)
    simple: dict[str, st.SearchStrategy[Any]] = {
        "address": st.binary(min_size=20, max_size=20).map(lambda raw: checksum("0x" + raw.hex())),
        "bool": st.booleans(),
        "string": st.text(max_size=70),
        "bytes": st.binary(max_size=70),
        "bytes32": st.binary(min_size=32, max_size=32),
    }
    return simple[kind] if kind in simple else st.integers(0, 2 ** int(kind.removeprefix("uint")) - 1)


def raw_log(contract: str, entry: dict[str, Any], values: list[Any]) -> RawLog:
    pairs = list(zip(entry["inputs"], values, strict=True))
    plain = [(item["type"], value) for item, value in pairs if not item["indexed"]]
    signature = f"{entry['name']}({','.join(item['type'] for item in entry['inputs'])})"
    topics = ["0x" + keccak(signature.encode()).hex()]
    topics += ["0x" + encode([item["type"]], [value]).hex() for item, value in pairs if item["indexed"]]
    return {
        "address": ADDRESSES[contract].lower(),
        "topics": topics,
        "data": "0x" + encode([kind for kind, _ in plain], [value for _, value in plain]).hex(),
        "blockNumber": "0x10",
        "blockHash": "0x" + "aa" * 32,
        "transactionHash": "0x" + "bb" * 32,
        "logIndex": "0x2",
    }


def plain_value(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    return value


@pytest.mark.parametrize(("contract", "entry"), abi_events(), ids=lambda value: str(value)[-20:])
@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_generated_decoders_agree_with_eth_abi(contract: str, entry: dict[str, Any], data: st.DataObject) -> None:
    values = [data.draw(values_of(item)) for item in entry["inputs"]]
    event = events.decode(raw_log(contract, entry, values), ADDRESSES)
    assert event is not None
    assert type(event).__name__ == entry["name"]
    assert astuple(event)[:5] == (16, "0x" + "aa" * 32, "0x" + "bb" * 32, 2, ADDRESSES[contract])
    expected = [
        "0x" + value.hex() if item["type"] == "bytes32" else plain_value(value)
        for item, value in zip(entry["inputs"], values, strict=True)
    ]
    assert list(astuple(event)[5:]) == expected


def test_every_event_of_the_interfaces_is_known_once() -> None:
    assert len(abi_events()) == len(events.EVENTS)
    assert len({spec.type for spec in events.EVENTS.values()}) == len(events.EVENTS)


def test_other_logs_are_none() -> None:
    contract, entry = abi_events()[0]
    values = [1 if item["type"].startswith("uint") else b"\x01" * 32 for item in entry["inputs"]]
    log = raw_log(contract, entry, values)
    assert events.decode({**log, "address": "0x" + "ee" * 20}, ADDRESSES) is None
    assert events.decode({**log, "topics": ["0x" + "00" * 32]}, ADDRESSES) is None
    assert events.decode({**log, "topics": []}, ADDRESSES) is None


def test_text_that_is_no_utf8_does_not_stop_the_reader() -> None:
    [(contract, entry)] = [(c, e) for c, e in abi_events() if e["name"] == "ProviderRegistered"]
    log = raw_log(contract, entry, ["0x" + "11" * 20, "ab"])
    log["data"] = log["data"].replace("6162", "ff62")
    event = events.decode(log, ADDRESSES)
    assert isinstance(event, events.ProviderRegistered)
    assert event.endpoint == "\ufffdb"


def test_data_that_is_cut_short_is_refused() -> None:
    [(contract, entry)] = [(c, e) for c, e in abi_events() if e["name"] == "ProviderRegistered"]
    log = raw_log(contract, entry, ["0x" + "11" * 20, "http://provider"])
    with pytest.raises(ValueError, match="cut short"):
        events.decode({**log, "data": log["data"][:-64]}, ADDRESSES)


def test_decoding_is_fast_enough_for_a_backfill() -> None:
    [(contract, entry)] = [(c, e) for c, e in abi_events() if e["name"] == "JobCreated"]
    one = "0x" + "11" * 20
    log = raw_log(contract, entry, [b"\x01" * 32, one, b"\x02" * 32, b"\x03" * 32, 10**9, 3600, 10**9, b"{}"])
    best = min(_microseconds(log) for _ in range(5))
    assert best < 50, f"{best:.1f} us per event"  # 5 on an idle machine; eth_abi's own codec takes more than 100


def _microseconds(log: RawLog) -> float:
    start = time.perf_counter()
    for _ in range(500):
        events.decode(log, ADDRESSES)
    return (time.perf_counter() - start) * 1e6 / 500


def test_field_names_are_snake_case() -> None:
    names = [field.name for spec in events.EVENTS.values() for field in fields(spec.type)]
    assert all(name == name.lower() for name in names)
    assert "from_" in names
