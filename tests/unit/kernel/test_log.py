from __future__ import annotations

import io
import json
from typing import Any

from gpumarket.errors import MarketError
from gpumarket.log import Log


def written(**fields: Any) -> dict[str, Any]:
    stream = io.StringIO()
    Log("test", stream=stream).info("something happened", **fields)
    entry: dict[str, Any] = json.loads(stream.getvalue())
    return entry


def test_default_behavior_one_json_line_with_fields() -> None:
    entry = written(job_id="0x1", amount=5)
    assert entry["message"] == "something happened"
    assert (entry["service"], entry["level"], entry["job_id"], entry["amount"]) == ("test", "info", "0x1", 5)


def test_fields_that_name_a_secret_are_masked_at_every_depth() -> None:
    entry = written(private_key="0xabc", nested={"Passphrase": "x", "ok": 1}, api_keys=["k"])
    assert entry["private_key"] == "***"
    assert entry["nested"] == {"Passphrase": "***", "ok": 1}
    assert entry["api_keys"] == "***"


def test_bytes_are_hex_and_unknown_types_are_text() -> None:
    entry = written(digest=b"\x01\xff", thing={1, 2}.__class__)
    assert entry["digest"] == "0x01ff"
    assert "set" in entry["thing"]


def test_bound_fields_are_kept_and_levels_filter() -> None:
    stream = io.StringIO()
    log = Log("test", "warning", stream=stream).bind(job_id="0x1")
    log.info("quiet")
    log.warning("loud")
    assert [json.loads(line)["message"] for line in stream.getvalue().splitlines()] == ["loud"]
    assert json.loads(stream.getvalue())["job_id"] == "0x1"


def test_an_error_is_logged_with_its_code_and_only_defects_with_a_trace() -> None:
    stream = io.StringIO()
    log = Log("test", stream=stream)
    log.error("failed", error=MarketError("not_found", "no job"))
    log.error("failed", error=ValueError("bug"))
    expected, defect = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert expected["code"] == "not_found"
    assert "trace" not in expected
    assert defect["code"] == "internal"
    assert "ValueError: bug" in defect["error"]
    assert defect["trace"]
