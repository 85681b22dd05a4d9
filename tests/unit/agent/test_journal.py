"""The journal: rows once, moves by the table, the first reason kept, intents that survive."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpumarket.errors import MarketError
from gpumarket.rules.units import Address, JobId, ResourceId
from provider_agent.journal import Journal
from provider_agent.state import JobRow, JobState, StopReason

JOB = JobId("0x" + "1" * 64)


def row(job_id: JobId = JOB) -> JobRow:
    return JobRow(
        job_id, ResourceId("0x" + "2" * 64), Address("0x" + "a" * 40), "0x" + "3" * 64, b"{}", 100, 2**127,
        JobState.OFFERED, 7,
    )  # fmt: skip


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.db")


def test_default_row_comes_back_as_it_was(journal: Journal) -> None:
    assert journal.observe([row()], 5) == [row()]
    assert journal.get(JOB) == row()
    assert journal.note("cursor") == "5"


def test_a_job_seen_again_is_not_written_again(journal: Journal) -> None:
    journal.observe([row()], 5)
    journal.move(JOB, JobState.FETCHING, 8)
    assert journal.observe([row()], 6) == []
    found = journal.get(JOB)
    assert found is not None
    assert (found.state, found.updated_at) == (JobState.FETCHING, 8)


def test_a_move_the_table_lacks_is_a_defect(journal: Journal) -> None:
    journal.observe([row()], 5)
    with pytest.raises(MarketError) as error:
        journal.move(JOB, JobState.STOPPED, 8)
    assert error.value.code == "internal"


def test_staying_keeps_the_time_of_entry(journal: Journal) -> None:
    journal.observe([row()], 5)
    assert journal.move(JOB, JobState.OFFERED, 99, code="x").updated_at == 7


def test_first_stop_reason_is_kept(journal: Journal) -> None:
    journal.observe([row()], 5)
    journal.begin_stop(JOB, StopReason.TIME_OVER, 8)
    assert journal.begin_stop(JOB, StopReason.LOST, 9).reason == "time over"


def test_closed_jobs_are_not_open(journal: Journal) -> None:
    journal.observe([row(), row(JobId("0x" + "4" * 64))], 5)
    journal.move(JOB, JobState.CLOSED, 8)
    assert [found.job_id for found in journal.open_jobs()] == ["0x" + "4" * 64]


def test_an_intent_has_one_key_until_it_is_fulfilled_also_over_a_restart(tmp_path: Path) -> None:
    first = Journal(tmp_path / "j.db")
    key = first.intent("price")
    first.close()
    again = Journal(tmp_path / "j.db")
    assert again.intent("price") == key
    again.fulfil("price")
    assert again.intent("price") != key


def test_a_full_disk_is_said_as_such(journal: Journal) -> None:
    with journal._transaction() as connection:
        connection.exec_driver_sql("PRAGMA max_page_count=1")
    with pytest.raises(MarketError) as error:
        journal.set_note("large", "x" * 1_000_000)
    assert error.value.code == "disk_full"
