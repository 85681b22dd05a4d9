"""The only writer of the indexer's database: blocks in, blocks out, each in one transaction with the cursor.

A killed indexer finds either all of a batch or nothing of it. Above the finalized block every changed row leaves its
before-image, so that rolling back undoes updates as exactly as inserts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Table, bindparam, delete, insert, inspect, select, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from gpumarket.chain.types import Block
from gpumarket.errors import MarketError
from indexer import tables
from indexer.database import transaction
from indexer.dispatch import apply_event, owners, reach
from indexer.records import Indexed
from indexer.state import Key, Row, State

_IN_LIMIT = 500  # ids per IN (...): under every database's parameter limit


@dataclass(frozen=True)
class Cursor:
    """The last indexed block, and the highest block known to be final."""

    number: int
    hash: str
    timestamp: int
    finalized: int


@dataclass(frozen=True)
class Changes:
    """What a commit changed: jobs with another status (or gone), resources that were not rentable and now are."""

    jobs: frozenset[str] = frozenset()
    rentable: frozenset[str] = frozenset()


class Store:
    """The write side. One instance, one task; `open` it first. Everything raises `database_unreachable` as it comes.

    Args:
        identity: names the chain and contracts indexed. A database of another identity, base block or schema version is
            emptied.
    """

    def __init__(self, engine: AsyncEngine, identity: str) -> None:
        self._engine = engine
        self._identity = identity

    async def open(self, base: Block) -> Cursor:
        """Prepare the tables and answer where to go on.

        Args:
            base: the block before the first that can hold an event; where an empty database starts.
        """
        async with transaction(self._engine) as connection:
            names = await connection.run_sync(lambda sync: set(inspect(sync).get_table_names()))
            marks = {"schema_version": str(tables.SCHEMA_VERSION), "identity": f"{self._identity} {base.hash}"}
            if "meta" in names and await _read_meta(connection, list(marks)) == marks:
                return await _cursor(connection)
            await connection.run_sync(tables.metadata.drop_all)
            await connection.run_sync(tables.metadata.create_all)
            await connection.execute(insert(tables.blocks), [_block_row(base)])
            await connection.execute(
                insert(tables.meta),
                [{"key": key, "value": value} for key, value in marks.items()]
                + [{"key": "cursor", "value": _mark(base)}, {"key": "finalized", "value": "-1"}],
            )
            return await _cursor(connection)

    async def known_blocks(self) -> dict[int, str]:
        """Number → hash of the blocks one can still roll back to."""
        async with transaction(self._engine) as connection:
            rows = await connection.execute(select(tables.blocks.c.number, tables.blocks.c.hash))
            return {number: block_hash for number, block_hash in rows}

    async def apply(
        self, cursor: Cursor, blocks: Sequence[Block], logs: Sequence[Indexed], finalized: int
    ) -> tuple[Cursor, Changes]:
        """Index a stretch that follows `cursor`.

        Args:
            blocks: every block of the stretch above `finalized`, and at least its last one.
            logs: the stretch's logs in chain order.

        Raises:
            MarketError: `already_running`: somebody else moved the cursor.
        """
        finalized = max(finalized, cursor.finalized)
        last = blocks[-1]
        async with transaction(self._engine) as connection:
            await _advance(connection, cursor, last)
            state = await _working_set(connection, logs)
            for log in logs:
                state.begin_block(log.block_number, undoable=log.block_number > finalized)
                apply_event(state, log)
            await _write(connection, state)
            await _insert(connection, tables.logs, [log.row for log in logs])
            await _insert(connection, tables.blocks, [_block_row(block) for block in blocks])
            await _forget(connection, min(finalized, last.number))
            await _set_meta(connection, "finalized", str(finalized))
        return Cursor(last.number, last.hash, last.timestamp, finalized), _changes(state)

    async def rollback_to(self, cursor: Cursor, number: int) -> tuple[Cursor, Changes]:
        """Undo every block above `number`.

        Raises:
            MarketError: `chain_reorganized`: `number` is below the finalized block.
        """
        async with transaction(self._engine) as connection:
            kept = (
                (await connection.execute(select(tables.blocks).where(tables.blocks.c.number == number)))
                .mappings()
                .first()
            )
            if kept is None or number < cursor.finalized:
                raise beyond_finality(cursor, number)
            target = Block(kept["number"], kept["hash"], kept["parent_hash"], kept["timestamp"])
            await _advance(connection, cursor, target)
            before = await _before_images(connection, number)
            now = await _load(connection, before.keys())
            for name, table in tables.STATE_TABLES.items():
                ids = [row_id for table_name, row_id in before if table_name == name]
                for chunk in _chunks(ids):
                    await connection.execute(delete(table).where(table.c.id.in_(chunk)))
                await _insert(
                    connection, table, [row for (table_name, _), row in before.items() if table_name == name and row]
                )
            for table in (tables.logs, tables.undo):
                await connection.execute(delete(table).where(table.c.block_number > number))
            await connection.execute(delete(tables.blocks).where(tables.blocks.c.number > number))
        return Cursor(number, target.hash, target.timestamp, cursor.finalized), _differences(now, before)


def identity_of(chain_id: int, addresses: Mapping[str, str]) -> str:
    """Names what a database was built from."""
    return json.dumps([chain_id, dict(sorted(addresses.items()))])


def beyond_finality(cursor: Cursor, number: int | None) -> MarketError:
    """The error for a reorganization that the index cannot follow."""
    return MarketError(
        "chain_reorganized",
        f"the node's chain left the indexed one at or below block {cursor.finalized}, which was final",
        hint="if the chain was replaced on purpose, remove the indexer's database and start again",
        indexed_block=cursor.number,
        finalized_block=cursor.finalized,
        common_block=number,
    )


async def _working_set(connection: AsyncConnection, logs: Sequence[Indexed]) -> State:
    """Every row that `logs` can reach: those they name, then the rows that those point to."""
    state = State()
    wanted = {key for log in logs for key in reach(log.event)}
    loaded = await _load(connection, wanted)
    further = {key for (table, _), row in loaded.items() for key in owners(table, row)} - wanted
    loaded |= await _load(connection, further)
    for (table, _), row in loaded.items():
        state.load(table, row)
    return state


async def _load(connection: AsyncConnection, keys: Iterable[Key]) -> dict[Key, Row]:
    ids: dict[str, list[str]] = {}
    for table_name, row_id in keys:
        ids.setdefault(table_name, []).append(row_id)
    rows: dict[Key, Row] = {}
    for name, wanted in ids.items():
        table = tables.STATE_TABLES[name]
        for chunk in _chunks(wanted):
            for row in (await connection.execute(select(table).where(table.c.id.in_(chunk)))).mappings():
                rows[(name, row["id"])] = dict(row)
    return rows


async def _write(connection: AsyncConnection, state: State) -> None:
    new: dict[str, list[Row]] = {}
    for name, row in state.inserted():
        new.setdefault(name, []).append(row)
    for name, rows in new.items():
        await _insert(connection, tables.STATE_TABLES[name], rows)
    changed: dict[str, list[Row]] = {}
    for name, _, row in state.updated():
        changed.setdefault(name, []).append({"which": row["id"], **row})
    for name, rows in changed.items():
        table = tables.STATE_TABLES[name]
        await connection.execute(update(table).where(table.c.id == bindparam("which")), rows)
    await _insert(
        connection,
        tables.undo,
        [
            {"block_number": number, "table_name": table_name, "id": row_id, "before": before}
            for number, table_name, row_id, before in state.before_images()
        ],
    )


async def _before_images(connection: AsyncConnection, number: int) -> dict[Key, Row | None]:
    """What each row changed above `number` was at `number`: its oldest image above."""
    newest_first = (
        select(tables.undo).where(tables.undo.c.block_number > number).order_by(tables.undo.c.block_number.desc())
    )
    rows = (await connection.execute(newest_first)).mappings()
    return {(row["table_name"], row["id"]): row["before"] for row in rows}


async def _forget(connection: AsyncConnection, final: int) -> None:
    """Drop what only a rollback below `final` would need; `final` itself stays as the last possible ancestor."""
    await connection.execute(delete(tables.blocks).where(tables.blocks.c.number < final))
    await connection.execute(delete(tables.undo).where(tables.undo.c.block_number <= final))


async def _advance(connection: AsyncConnection, cursor: Cursor, to: Block) -> None:
    """Move the cursor from where this indexer believes it is: the first write, so two indexers exclude each other."""
    moved = await connection.execute(
        update(tables.meta)
        .where(tables.meta.c.key == "cursor", tables.meta.c.value == _mark(cursor))
        .values(value=_mark(to))
    )
    if moved.rowcount != 1:
        raise MarketError(
            "already_running", "another indexer works on this database", hint="give each its own database"
        )


async def _cursor(connection: AsyncConnection) -> Cursor:
    values = await _read_meta(connection, ["cursor", "finalized"])
    number, block_hash, timestamp = json.loads(values["cursor"])
    return Cursor(number, block_hash, timestamp, int(values["finalized"]))


async def _read_meta(connection: AsyncConnection, keys: list[str]) -> dict[str, str]:
    rows = await connection.execute(select(tables.meta).where(tables.meta.c.key.in_(keys)))
    return {key: value for key, value in rows}


async def _set_meta(connection: AsyncConnection, key: str, value: str) -> None:
    await connection.execute(update(tables.meta).where(tables.meta.c.key == key).values(value=value))


async def _insert(connection: AsyncConnection, table: Table, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        await connection.execute(insert(table), rows)


def _changes(state: State) -> Changes:
    before: dict[Key, Row] = {}
    after: dict[Key, Row | None] = {}
    for table, row in state.inserted():
        after[(table, row["id"])] = row
    for table, old, new in state.updated():
        before[(table, new["id"])], after[(table, new["id"])] = old, new
    return _differences(before, after)


def _differences(before: Mapping[Key, Row], after: Mapping[Key, Row | None]) -> Changes:
    def status(row: Row | None) -> Any:
        return None if row is None else row["status"]

    def rentable(row: Row | None) -> bool:
        return row is not None and row["available"] and not row["busy"]

    return Changes(
        frozenset(k[1] for k, new in after.items() if k[0] == "jobs" and status(before.get(k)) != status(new)),
        frozenset(
            k[1] for k, new in after.items() if k[0] == "resources" and rentable(new) and not rentable(before.get(k))
        ),
    )


def _block_row(block: Block) -> Row:
    return {"number": block.number, "hash": block.hash, "parent_hash": block.parent_hash, "timestamp": block.timestamp}


def _mark(block: Block | Cursor) -> str:
    return json.dumps([block.number, block.hash, block.timestamp])


def _chunks(ids: Sequence[str]) -> Iterable[Sequence[str]]:
    return (ids[start : start + _IN_LIMIT] for start in range(0, len(ids), _IN_LIMIT))
