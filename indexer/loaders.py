"""One query for many parents: the DataLoaders of a request, and what a resolver gets to work with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Any

from strawberry.dataloader import DataLoader

from indexer.follow import Progress
from indexer.hub import Hub
from indexer.queries import Reader
from indexer.state import Row

_BATCH = 500
ReadMany = Callable[[Collection[str]], Awaitable[list[Row]]]


class Loaders:
    """They join queries and keep nothing: a subscription that lives for days never sees an old row."""

    def __init__(self, reader: Reader) -> None:
        self.gpus: DataLoader[str, Row | None] = _single(reader.gpus_by_id)
        self.jobs: DataLoader[str, Row | None] = _single(reader.jobs_by_id)
        self.providers: DataLoader[str, Row | None] = _single(reader.providers_by_id)
        self.disputes: DataLoader[str, Row | None] = _single(reader.disputes_by_id)
        self.gpus_of: DataLoader[str, list[Row]] = _grouped(reader.gpus_of, "provider")
        self.logs: DataLoader[str, list[Row]] = _grouped(reader.logs_of, "job_id")


@dataclass
class Context:
    """What resolvers work with. `progress` answers none until the follower has seen the node."""

    reader: Reader
    loaders: Loaders
    hub: Hub
    progress: Callable[[], Progress | None]
    request: Any = None
    response: Any = None


def _single(read: ReadMany) -> DataLoader[str, Row | None]:
    async def load(ids: list[str]) -> list[Row | None]:
        found = {row["id"]: row for row in await read(set(ids))}
        return [found.get(one) for one in ids]

    return DataLoader(load_fn=load, max_batch_size=_BATCH, cache=False)


def _grouped(read: ReadMany, parent: str) -> DataLoader[str, list[Row]]:
    async def load(ids: list[str]) -> list[list[Row]]:
        groups: dict[str, list[Row]] = {one: [] for one in ids}
        for row in await read(set(ids)):
            groups[row[parent]].append(row)
        return [groups[one] for one in ids]

    return DataLoader(load_fn=load, max_batch_size=_BATCH, cache=False)
