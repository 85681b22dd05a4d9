"""Every read of the index: SQL in, rows out. Nothing here knows GraphQL."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import Column, ColumnElement, Select, and_, func, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncEngine

from gpumarket.chain.codec import checksum
from gpumarket.errors import MarketError
from gpumarket.rules.job_state import JobStatus
from indexer import tables
from indexer.database import reading
from indexer.handlers import THE
from indexer.state import Row

MAX_PAGE = 1_000
_MAX_OFFSET = 1_000_000


@dataclass(frozen=True)
class Page:
    """Which part of a list. `after` is a cursor; `peek` reads one row more, to see whether there is more."""

    limit: int = 100
    offset: int = 0
    after: str | None = None
    peek: bool = False


@dataclass(frozen=True)
class GpuFilter:
    """Conditions on resources; all that are given must hold."""

    gpu_model: str | None = None
    gpu_count: int | None = None
    min_gpu_count: int | None = None
    min_vcpu: int | None = None
    min_memory_gb: int | None = None
    min_storage_gb: int | None = None
    max_price_per_hour: int | None = None
    payment_token: str | None = None
    available: bool | None = None
    busy: bool | None = None
    provider: str | None = None
    min_reputation: int | None = None


@dataclass(frozen=True)
class JobFilter:
    """Conditions on jobs; all that are given must hold."""

    user: str | None = None
    provider: str | None = None
    resource_id: str | None = None
    statuses: tuple[JobStatus, ...] | None = None


@dataclass(frozen=True)
class Order:
    """A sort column of the rows' own table or a joined one; ties break by id in the same direction."""

    column: Column[Any]
    descending: bool = False


NEWEST_JOBS = Order(tables.jobs.c.created_at, descending=True)

_REPUTATION = (
    tables.providers.c.endpoint,
    tables.providers.c.score,
    tables.providers.c.total_jobs,
    tables.providers.c.uptime_bps,
)
_GPUS = select(tables.resources, *_REPUTATION).outerjoin(
    tables.providers, tables.providers.c.id == tables.resources.c.provider
)
_ESCROW = tuple(tables.escrows.c[name] for name in ("token", "locked", "released", "fee", "refunded"))
_JOBS = select(tables.jobs, *_ESCROW).outerjoin(tables.escrows, tables.escrows.c.id == tables.jobs.c.id)


class Reader:
    """Reads committed rows. Safe to share between requests. Every read may raise `database_unreachable`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine

    async def gpus(self, wanted: GpuFilter, order: Order, page: Page) -> list[Row]:
        return await self._rows(_paged(_GPUS.where(*_gpu_conditions(wanted)), tables.resources.c.id, order, page))

    async def count_gpus(self, wanted: GpuFilter) -> int:
        return await self._count(_GPUS.where(*_gpu_conditions(wanted)))

    async def gpus_by_id(self, ids: Collection[str]) -> list[Row]:
        return await self._rows(_GPUS.where(tables.resources.c.id.in_(ids)))

    async def gpus_of(self, providers: Collection[str]) -> list[Row]:
        return await self._rows(_GPUS.where(tables.resources.c.provider.in_(providers)).order_by(tables.resources.c.id))

    async def jobs(self, wanted: JobFilter, page: Page) -> list[Row]:
        return await self._rows(_paged(_JOBS.where(*_job_conditions(wanted)), tables.jobs.c.id, NEWEST_JOBS, page))

    async def count_jobs(self, wanted: JobFilter) -> int:
        return await self._count(_JOBS.where(*_job_conditions(wanted)))

    async def jobs_by_id(self, ids: Collection[str]) -> list[Row]:
        return await self._rows(_JOBS.where(tables.jobs.c.id.in_(ids)))

    async def providers(self, min_reputation: int | None, page: Page) -> list[Row]:
        query = _PROVIDERS.where(tables.providers.c.registered_at.is_not(None))
        if min_reputation is not None:
            query = query.where(tables.providers.c.score >= min_reputation)
        return await self._rows(
            _paged(query, tables.providers.c.id, Order(tables.providers.c.score, descending=True), page)
        )

    async def providers_by_id(self, ids: Collection[str]) -> list[Row]:
        query = _PROVIDERS.where(tables.providers.c.id.in_(ids), tables.providers.c.registered_at.is_not(None))
        return await self._rows(query)

    async def disputes_by_id(self, ids: Collection[str]) -> list[Row]:
        return await self._rows(select(tables.disputes).where(tables.disputes.c.id.in_(ids)))

    async def logs_of(self, job_ids: Collection[str]) -> list[Row]:
        """Events of jobs in chain order."""
        c = tables.logs.c
        return await self._rows(select(tables.logs).where(c.job_id.in_(job_ids)).order_by(c.block_number, c.log_index))

    async def payments_of_job(self, job_id: str) -> list[Row]:
        c = tables.payments.c
        return await self._rows(select(tables.payments).where(c.job_id == job_id).order_by(c.id))

    async def payments_of(self, account: str, page: Page) -> list[Row]:
        """Newest first."""
        query = select(tables.payments).where(tables.payments.c.account == checksum(account))
        return await self._rows(
            _paged(query, tables.payments.c.id, Order(tables.payments.c.timestamp, descending=True), page)
        )

    async def reports(self, page: Page) -> list[Row]:
        """Newest first."""
        order = Order(tables.reports.c.seq, descending=True)
        return await self._rows(_paged(select(tables.reports), tables.reports.c.id, order, page))

    async def market(self) -> tuple[int | None, list[str], Row | None]:
        """The fee in basis points, the payment tokens allowed for new jobs, and the committee."""
        fees = await self._rows(select(tables.market).where(tables.market.c.id == THE))
        allowed = await self._rows(select(tables.tokens).where(tables.tokens.c.allowed).order_by(tables.tokens.c.index))
        committee = await self._rows(select(tables.committee).where(tables.committee.c.id == THE))
        return (
            (fees[0]["fee_bps"] if fees else None),
            [row["id"] for row in allowed],
            (committee[0] if committee else None),
        )

    async def ping(self) -> None:
        """See that the database answers."""
        await self._rows(select(literal(1)))

    async def position(self) -> tuple[int, str, int, int]:
        """The indexed block's number, hash and timestamp, and the highest block known to be final."""
        rows = await self._rows(select(tables.meta).where(tables.meta.c.key.in_(("cursor", "finalized"))))
        values = {row["key"]: row["value"] for row in rows}
        number, block_hash, timestamp = json.loads(values["cursor"])
        return number, block_hash, timestamp, int(values["finalized"])

    async def _rows(self, query: Select[Any]) -> list[Row]:
        async with reading(self._engine) as connection:
            return [dict(row) for row in (await connection.execute(query)).mappings()]

    async def _count(self, query: Select[Any]) -> int:
        async with reading(self._engine) as connection:
            return int((await connection.execute(select(func.count()).select_from(query.subquery()))).scalar_one())


def cursor_of(row: Row, order: Order) -> str:
    """Where a row stands in a list ordered by `order`; opaque to clients."""
    return base64.urlsafe_b64encode(json.dumps([_sort_value(row[order.column.name]), row["id"]]).encode()).decode()


_STAKE = tuple(tables.stakes.c[name] for name in ("active", "pending", "slashed"))
_PROVIDERS = select(tables.providers, *_STAKE).outerjoin(tables.stakes, tables.stakes.c.id == tables.providers.c.id)


def _gpu_conditions(wanted: GpuFilter) -> list[ColumnElement[bool]]:
    r, p = tables.resources.c, tables.providers.c
    given = (
        (wanted.gpu_model, lambda v: r.gpu_model_folded.contains(v.casefold(), autoescape=True)),
        (wanted.gpu_count, lambda v: r.gpu_count == v),
        (wanted.min_gpu_count, lambda v: r.gpu_count >= v),
        (wanted.min_vcpu, lambda v: r.vcpu >= v),
        (wanted.min_memory_gb, lambda v: r.memory_gb >= v),
        (wanted.min_storage_gb, lambda v: r.storage_gb >= v),
        (wanted.max_price_per_hour, lambda v: r.price_per_hour <= v),
        (wanted.payment_token, lambda v: r.payment_token == checksum(v)),
        (wanted.available, lambda v: r.available == v),
        (wanted.busy, lambda v: r.busy == v),
        (wanted.provider, lambda v: r.provider == checksum(v)),
        (wanted.min_reputation, lambda v: func.coalesce(p.score, 0) >= v),
    )
    return [condition(value) for value, condition in given if value is not None]


def _job_conditions(wanted: JobFilter) -> list[ColumnElement[bool]]:
    c = tables.jobs.c
    conditions: list[ColumnElement[bool]] = []
    if wanted.user is not None:
        conditions.append(c.user == checksum(wanted.user))
    if wanted.provider is not None:
        conditions.append(c.provider == checksum(wanted.provider))
    if wanted.resource_id is not None:
        conditions.append(c.resource_id == wanted.resource_id)
    if wanted.statuses is not None:
        conditions.append(c.status.in_([int(status) for status in wanted.statuses]))
    return conditions


def _paged(query: Select[Any], id_column: ColumnElement[str], order: Order, page: Page) -> Select[Any]:
    if not 0 <= page.limit <= MAX_PAGE or not 0 <= page.offset <= _MAX_OFFSET:
        raise MarketError(
            "request_too_complex",
            f"limit is at most {MAX_PAGE}, offset at most {_MAX_OFFSET}",
            hint="page with a connection's cursor",
        )
    key: Any = func.coalesce(order.column, 0) if order.column.table is tables.providers else order.column
    if page.after is not None:
        value, row_id = _parse_cursor(page.after, order)
        beyond = key < value if order.descending else key > value
        tie = id_column < row_id if order.descending else id_column > row_id
        query = query.where(or_(beyond, and_(key == value, tie)))
    columns: Sequence[Any] = (key, id_column)
    query = query.order_by(*(column.desc() if order.descending else column.asc() for column in columns))
    return query.limit(page.limit + page.peek).offset(page.offset)


def _parse_cursor(text: str, order: Order) -> tuple[int, str]:
    try:
        value, row_id = json.loads(base64.urlsafe_b64decode(text.encode("ascii")))
        limit = 10**78 if isinstance(order.column.type, tables.Amount) else 2**63
        if type(value) is int and 0 <= value < limit and isinstance(row_id, str) and "\x00" not in row_id:
            return value, row_id
    except (ValueError, TypeError, binascii.Error):
        pass
    raise MarketError(
        "invalid_argument", "after is not a cursor of this list", hint="pass an endCursor, with the same sort"
    )


def _sort_value(value: Any) -> int:
    return int(value or 0)
