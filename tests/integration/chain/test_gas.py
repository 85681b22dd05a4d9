"""The committed gas table is what the contracts cost."""

from __future__ import annotations

import json

import pytest

from tests.gas import SNAPSHOT, measure, stale

# The table's keys that others quote; it may have more.
QUOTED = (
    "create_job",
    "create_job_with_permit",
    "create_job_from_offer",
    "accept",
    "start",
    "settle",
    "settle_batch_20",
    "top_up",
    "extend",
    "complete",
    "stop",
    "withdraw",
    "refund_dead_provider",
    "report_k5",
    "lifecycle",
    "lifecycle_from_offer",
)


@pytest.mark.anvil
def test_the_committed_gas_table_is_fresh() -> None:
    assert stale(measure(), json.loads(SNAPSHOT.read_text())) == [], "run `make gas`"


def test_the_table_has_every_quoted_step() -> None:
    assert set(QUOTED) <= json.loads(SNAPSHOT.read_text()).keys()


def test_a_dearer_step_is_named() -> None:
    assert stale({"settle": 2}, {"settle": 1}) == ["settle: committed 1, measured 2"]
    assert stale({"settle": 1}, {"settle": 1}) == []
