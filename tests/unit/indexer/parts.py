"""An indexer in a test: a store on SQLite, a follower of a fake node, and what is in the tables."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import event, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gpumarket.log import Log
from indexer import tables
from indexer.database import make_engine
from indexer.follow import Chain, Follower
from indexer.hub import Hub
from indexer.loaders import Context, Loaders
from indexer.queries import Reader
from indexer.schema import make_schema
from indexer.store import Changes, Store
from tests.unit.indexer.story import ADDRESSES


class Indexer:
    """Everything but the network."""

    def __init__(
        self, chain: Chain, engine: AsyncEngine, *, addresses: Mapping[str, str] = ADDRESSES, start_block: int = 1
    ) -> None:
        self.chain = chain
        self.engine = engine
        self.hub = Hub()
        self.changes: list[Changes] = []
        self.now = 0.0
        self.follower = Follower(
            chain,
            Store(engine, "test"),
            addresses,
            start_block,
            publish=self._publish,
            clock=lambda: self.now,
            log=Log("test", stream=io.StringIO()),
        )
        self.schema = make_schema()

    def _publish(self, changes: Changes) -> None:
        self.changes.append(changes)
        self.hub.publish(changes)

    async def catch_up(self) -> None:
        for _ in range(1_000):
            if not await self.follower.step():
                return
        raise AssertionError("the follower never catches up")

    def context(self) -> Context:
        reader = Reader(self.engine)
        return Context(reader, Loaders(reader), self.hub, lambda: self.follower.progress)

    async def result(self, query: str, **variables: Any) -> Any:
        return await self.schema.execute(query, variable_values=variables, context_value=self.context())

    async def ask(self, query: str, **variables: Any) -> dict[str, Any]:
        result = await self.result(query, **variables)
        assert result.errors is None, result.errors
        return dict(result.data)

    async def code(self, query: str, **variables: Any) -> str:
        """The code of the first error."""
        result = await self.result(query, **variables)
        assert result.errors, "no error"
        return str(result.errors[0].formatted["extensions"]["code"])


@asynccontextmanager
async def indexer(chain: Chain, folder: Path, name: str = "index") -> AsyncIterator[Indexer]:
    engine = make_engine(f"sqlite+aiosqlite:///{folder / name}.db")
    try:
        yield Indexer(chain, engine)
    finally:
        await engine.dispose()


async def contents(engine: AsyncEngine) -> dict[str, list[tuple[Any, ...]]]:
    """All derived rows in order, which two indexes of one chain must share."""
    found = {}
    async with engine.connect() as connection:
        for table in (*tables.STATE_TABLES.values(), tables.logs):
            rows = await connection.execute(select(table))
            found[table.name] = sorted((tuple(row) for row in rows), key=repr)
        cursor = await connection.execute(select(tables.meta.c.value).where(tables.meta.c.key == "cursor"))
        found["cursor"] = [tuple(row) for row in cursor]
    return found


def count_statements(engine: AsyncEngine, on: Callable[[str], None]) -> Callable[[], None]:
    """Call `on` with every SQL statement; the answer takes it off again."""

    def before(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        on(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", before)
    return lambda: event.remove(engine.sync_engine, "before_cursor_execute", before)
