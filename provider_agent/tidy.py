"""Gives back room: results past their retention, logs with them, and blocks that no pin needs."""

from __future__ import annotations

import shutil
from pathlib import Path

from gpumarket.ipfs.store import BlockStore, Collected
from gpumarket.rules.units import JobId
from provider_agent.journal import Journal
from provider_agent.results import PIN_PREFIX
from provider_agent.state import JobState

RETENTION_S = 7 * 86_400
"""How long a job's results and log are kept after it was closed."""


def tidy(journal: Journal, store: BlockStore, logs: Path, now: float) -> Collected:
    """Drop what is past its time. Blocks; call it in a thread.

    Raises:
        MarketError: from the store or the journal; nothing is lost, try again later.
    """
    for pin in store.pins():
        if pin.name.startswith(PIN_PREFIX) and _is_past(journal, pin.name.removeprefix(PIN_PREFIX), now):
            store.unpin(pin.cid)
    for folder in logs.iterdir() if logs.is_dir() else ():
        if _is_past(journal, folder.name, now):
            shutil.rmtree(folder, ignore_errors=True)
    return store.gc(now)


def _is_past(journal: Journal, job_id: str, now: float) -> bool:
    row = journal.get(JobId(job_id))
    return row is not None and row.state is JobState.CLOSED and now > row.updated_at + RETENTION_S
