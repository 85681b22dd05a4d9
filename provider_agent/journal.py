"""The agent's intents, crash-safe: SQLite in WAL mode with full synchronisation, one process, one writer.

Losing the file loses no job: rows come back from the chain's events, containers from their labels.
"""

from __future__ import annotations

import contextlib
import dataclasses
import secrets
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from gpumarket.errors import MarketError
from gpumarket.rules.units import JobId
from provider_agent.state import ALLOWED, JobRow, JobState, StopReason

_METADATA = sa.MetaData()

_JOBS = sa.Table(
    "jobs",
    _METADATA,
    sa.Column("job_id", sa.Text, primary_key=True),
    sa.Column("resource_id", sa.Text, nullable=False),
    sa.Column("user", sa.Text, nullable=False),
    sa.Column("image", sa.Text, nullable=False),
    sa.Column("spec", sa.LargeBinary, nullable=False),
    sa.Column("duration", sa.Integer, nullable=False),
    sa.Column("price_per_hour", sa.Text, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("updated_at", sa.Integer, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("code", sa.Text, nullable=False),
    sa.Column("exit_code", sa.Integer, nullable=True),
    sa.Column("result", sa.Text, nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
)

_NOTES = sa.Table(
    "notes",
    _METADATA,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)


class Journal:
    """Jobs and notes of one agent. Any method raises MarketError `disk_full` or `machine_unsuitable` for a bad disk."""

    def __init__(self, path: Path) -> None:
        self._engine = sa.create_engine(f"sqlite:///{path}")
        sa.event.listen(self._engine, "connect", _configure)
        _METADATA.create_all(self._engine)

    def close(self) -> None:
        self._engine.dispose()

    def add(self, row: JobRow) -> bool:
        """Write a job seen for the first time; false if it is known already."""
        with self._transaction() as connection:
            statement = insert(_JOBS).values(_encode(row)).on_conflict_do_nothing()
            return connection.execute(statement).rowcount == 1

    def get(self, job_id: JobId) -> JobRow | None:
        with self._transaction() as connection:
            found = connection.execute(sa.select(_JOBS).where(_JOBS.c.job_id == job_id)).mappings().first()
        return None if found is None else _decode(found)

    def open_jobs(self) -> list[JobRow]:
        """Everything not CLOSED, oldest first."""
        query = sa.select(_JOBS).where(_JOBS.c.state != JobState.CLOSED.value).order_by(sa.literal_column("rowid"))
        with self._transaction() as connection:
            return [_decode(found) for found in connection.execute(query).mappings()]

    def move(self, job_id: JobId, state: JobState, now: int, **values: Any) -> JobRow:
        """Bring a job into `state` and set other columns in the same transaction.

        Raises:
            MarketError: `internal` for a move that `ALLOWED` does not have.
        """
        with self._transaction() as connection:
            where = _JOBS.c.job_id == job_id
            row = _decode(connection.execute(sa.select(_JOBS).where(where)).mappings().one())
            if state is not row.state and state not in ALLOWED[row.state]:
                raise MarketError("internal", f"a job cannot go from {row.state} to {state}", jobId=job_id)
            if state is not row.state:
                values |= {"state": state, "updated_at": now}
            changed = dataclasses.replace(row, **values)
            connection.execute(sa.update(_JOBS).where(where).values(_encode(changed)))
        return changed

    def begin_stop(self, job_id: JobId, reason: StopReason, now: int, *, code: str = "") -> JobRow:
        """Bring a job into STOPPING. The first reason stays, whatever comes later."""
        row = self.get(job_id)
        if row is not None and row.reason:
            return self.move(job_id, JobState.STOPPING, now)
        return self.move(job_id, JobState.STOPPING, now, reason=reason.value, code=code)

    def note(self, name: str) -> str | None:
        """A remembered value: the chain cursor, the listed resource, ..."""
        with self._transaction() as connection:
            return connection.execute(sa.select(_NOTES.c.value).where(_NOTES.c.name == name)).scalar_one_or_none()

    def set_note(self, name: str, value: str) -> None:
        statement = insert(_NOTES).values(name=name, value=value)
        with self._transaction() as connection:
            connection.execute(statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}))

    def observe(self, rows: Iterable[JobRow], cursor: int) -> list[JobRow]:
        """Write jobs seen on chain and the block they were seen up to, together; the ones that were new."""
        with self._transaction() as connection:
            new = []
            for row in rows:
                statement = insert(_JOBS).values(_encode(row)).on_conflict_do_nothing()
                if connection.execute(statement).rowcount == 1:
                    new.append(row)
            noted = insert(_NOTES).values(name="cursor", value=str(cursor))
            connection.execute(noted.on_conflict_do_update(index_elements=["name"], set_={"value": str(cursor)}))
        return new

    def intent(self, name: str) -> str:
        """A unique key for a thing to be done once: the same until `fulfil`, another one after."""
        known = self.note(f"intent:{name}")
        if known:
            return known
        key = f"{name}:{secrets.token_hex(8)}"
        self.set_note(f"intent:{name}", key)
        return key

    def fulfil(self, name: str) -> None:
        """The thing was done, or is no longer wanted."""
        self.set_note(f"intent:{name}", "")

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[sa.Connection]:
        try:
            with self._engine.begin() as connection:
                yield connection
        except sa.exc.OperationalError as error:
            code = "disk_full" if "full" in str(error.orig) else "machine_unsuitable"
            raise MarketError(code, f"the agent's journal cannot be used: {error.orig}") from error


def _configure(connection: Any, _: Any) -> None:
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("PRAGMA busy_timeout=5000")


def _encode(row: JobRow) -> dict[str, Any]:
    # SQLite's integers have 64 bits, a price has 128.
    return {**dataclasses.asdict(row), "state": row.state.value, "price_per_hour": str(row.price_per_hour)}


def _decode(found: Any) -> JobRow:
    return JobRow(**{**found, "state": JobState(found["state"]), "price_per_hour": int(found["price_per_hour"])})
