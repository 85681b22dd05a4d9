from __future__ import annotations

import re
from enum import IntEnum
from pathlib import Path

import pytest

from gpumarket.rules.job_state import ALLOWED, TERMINAL, EndReason, JobStatus, Verdict, api_status
from gpumarket.rules.reputation import JobOutcome, PenaltyReason

INTERFACES = Path(__file__).resolve().parents[3] / "contracts" / "interfaces"


def test_default_behavior() -> None:
    assert api_status(JobStatus.RUNNING) == "RUNNING"


@pytest.mark.parametrize(
    ("file", "name", "mirror"),
    [
        ("IMarketplace", "JobStatus", JobStatus),
        ("IMarketplace", "EndReason", EndReason),
        ("IMarketplace", "Verdict", Verdict),
        ("IReputationSystem", "JobOutcome", JobOutcome),
        ("IReputationSystem", "PenaltyReason", PenaltyReason),
    ],
)
def test_numbers_are_those_of_the_contracts(file: str, name: str, mirror: type[IntEnum]) -> None:
    source = (INTERFACES / f"{file}.sol").read_text()
    found = re.search(rf"enum {name} {{([^}}]*)}}", source)
    assert found is not None
    names = re.findall(r"\w+", re.sub(r"//.*", "", found[1]))
    snake = [re.sub(r"(?<!^)(?=[A-Z])", "_", item).upper() for item in names]
    assert snake == [member.name for member in mirror]
    assert [member.value for member in mirror] == list(range(len(mirror)))


def test_every_status_has_its_arrows_and_terminal_ones_run_nothing() -> None:
    assert set(ALLOWED) == set(JobStatus)
    for status in TERMINAL:
        assert ALLOWED[status] <= {JobStatus.DISPUTED}


def test_every_job_can_end() -> None:
    for start in set(JobStatus) - {JobStatus.NONE}:
        reached, edge = {start}, [start]
        while edge:
            for following in ALLOWED[edge.pop()] - reached:
                reached.add(following)
                edge.append(following)
        assert reached & TERMINAL


def test_every_status_but_none_has_an_api_name() -> None:
    names = {api_status(status) for status in JobStatus if status is not JobStatus.NONE}
    assert names == {"PENDING", "RUNNING", "COMPLETED", "FAILED", "DISPUTED"}
    with pytest.raises(ValueError, match="does not exist"):
        api_status(JobStatus.NONE)
