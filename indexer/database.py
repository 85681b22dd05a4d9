"""The index's database: SQLite or PostgreSQL, and what its errors mean. A lost connection is one that may come back."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from gpumarket.errors import MarketError

CONNECT_S = 5
STATEMENT_S = 60
_WRONG_SETTINGS = ("28", "3D")  # SQLSTATE classes: not let in, no such database
_GONE = ("08", "57P")  # connection lost; the server stops or starts


def make_engine(url: str) -> AsyncEngine:
    """An engine for `sqlite+aiosqlite:///file` or `postgresql+asyncpg://...`.

    Raises:
        MarketError: `invalid_config`: not such a URL.
    """
    bounds = {"timeout": CONNECT_S, "command_timeout": STATEMENT_S} if url.startswith("postgresql") else {}
    try:
        engine = create_async_engine(url, pool_pre_ping=not url.startswith("sqlite"), connect_args=bounds)
    except (SQLAlchemyError, ImportError) as error:
        raise MarketError(
            "invalid_config",
            "database_url is not a database URL",
            hint="sqlite+aiosqlite:///path or postgresql+asyncpg://…",
        ) from error
    if engine.dialect.name == "sqlite":
        event.listen(engine.sync_engine, "connect", _tune_sqlite)
    elif engine.dialect.name != "postgresql":
        raise MarketError("invalid_config", f"{engine.dialect.name} is not supported", hint="use SQLite or PostgreSQL")
    return engine


@asynccontextmanager
async def reading(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection to read from.

    Raises:
        MarketError: `database_unreachable`; `invalid_config`: the server does not let us in; `disk_full`.
    """
    try:
        async with engine.connect() as connection:
            yield connection
    except Exception as error:
        ours = _translated(error)
        if ours is None:
            raise
        raise ours from error


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction, committed at the end. After an error it may have been committed or not.

    Raises:
        MarketError: as `reading`.
    """
    try:
        async with engine.begin() as connection:
            yield connection
    except Exception as error:
        ours = _translated(error)
        if ours is None:
            raise
        raise ours from error


def _translated(error: Exception) -> MarketError | None:
    """Our error for what the database's driver raises; None for anything else.

    While it connects, the driver's errors come as they are, not in SQLAlchemy's wrapping.
    """
    cause = error.orig if isinstance(error, DBAPIError) else error
    state = str(getattr(cause, "sqlstate", None) or "")
    if state.startswith(_WRONG_SETTINGS):
        return MarketError("invalid_config", "the database server does not let the indexer in", hint="see database_url")
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    if lost or isinstance(error, OSError) or state.startswith(_GONE):
        return MarketError(
            "database_unreachable", f"the database does not answer: {type(cause).__name__}", hint="is it running?"
        )
    if state.startswith("53100") or (isinstance(error, DBAPIError) and "disk" in str(cause)):
        return MarketError("disk_full", "the indexer's database cannot grow", hint="free disk space")
    return None


def _tune_sqlite(connection: Any, _: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "busy_timeout=10000", "foreign_keys=ON"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()
