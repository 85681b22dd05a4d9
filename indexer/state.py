"""The rows a batch of events works on, in memory: read, changed, and remembered as they were before each block.

Pure: the store fills it, the handlers change it, the store writes the result. Rows are plain dicts of JSON types.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gpumarket.errors import MarketError

Row = dict[str, Any]
Key = tuple[str, str]
"""Table name and row id."""


class State:
    """A working set of rows.

    `load` puts rows in as the database has them; `get` and `put` are the handlers' whole view of the world. A row that
    was never loaded reads as absent, so the store must load every row the events can reach.
    """

    def __init__(self) -> None:
        self._rows: dict[Key, Row] = {}
        self._original: dict[Key, Row | None] = {}
        self._undo: dict[tuple[int, str, str], Row | None] = {}
        self._block: int | None = None

    def load(self, table: str, row: Mapping[str, Any]) -> None:
        self._rows[(table, row["id"])] = dict(row)

    def begin_block(self, number: int, *, undoable: bool) -> None:
        """From here on the first change of a row keeps what it was before `number`, if the block is `undoable`."""
        self._block = number if undoable else None

    def get(self, table: str, row_id: str) -> Row | None:
        """A copy of the row, or none."""
        row = self._rows.get((table, row_id))
        return None if row is None else dict(row)

    def need(self, table: str, row_id: str, event: Any) -> Row:
        """A copy of a row that an event before `event` must have made.

        Raises:
            MarketError: `chain_mismatch`: there was none, so events are missing.
        """
        row = self.get(table, row_id)
        if row is None:
            raise MarketError(
                "chain_mismatch",
                f"{type(event).__name__} in block {event.block_number} is about {row_id}, which no event made",
                hint="does the deployment file name the block of the first contract, and does the node keep all logs?",
            )
        return row

    def put(self, table: str, row: Row) -> None:
        """Insert the row, or replace the one with the same id."""
        key = (table, row["id"])
        before = self._rows.get(key)
        if before == row:
            return
        self._original.setdefault(key, before)
        if self._block is not None:
            self._undo.setdefault((self._block, *key), before)
        self._rows[key] = row

    def inserted(self) -> Iterator[tuple[str, Row]]:
        """Rows that are new since they were loaded."""
        return ((key[0], self._rows[key]) for key, before in self._original.items() if before is None)

    def updated(self) -> Iterator[tuple[str, Row, Row]]:
        """Changed rows: table, before, after."""
        return (
            (key[0], before, self._rows[key])
            for key, before in self._original.items()
            if before is not None and before != self._rows[key]
        )

    def before_images(self) -> Iterator[tuple[int, str, str, Row | None]]:
        """What `undo` must hold: block number, table, id, and the row before that block; none if there was no row."""
        return ((*key, before) for key, before in self._undo.items())
