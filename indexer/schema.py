"""The GraphQL schema: the fields of the requirements, connections, counts, and what receipts need.

`schema.graphql` beside this file is its committed text: `python -m indexer.app schema`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from enum import Enum

import strawberry
from graphql import GraphQLError, GraphQLSyntaxError
from strawberry.extensions import AddValidationRules, MaxTokensLimiter, ParserCache, ValidationCache
from strawberry.schema.config import StrawberryConfig
from strawberry.types import ExecutionContext

from gpumarket.errors import MarketError
from gpumarket.rules.job_state import JobStatus, api_status
from indexer import api, shape, tables
from indexer.api import Ctx
from indexer.arguments import address_of, amount_of, connection_page_of, job_id_of, page_of, resource_id_of, text_of
from indexer.fields import field, subscription
from indexer.limits import MAX_TOKENS, ComplexityRule
from indexer.queries import NEWEST_JOBS, GpuFilter, JobFilter, Order, Page, cursor_of
from indexer.state import Row


@strawberry.input(description="All that are given must hold.")
class GPUFilters:
    gpu_model: str | None = strawberry.field(default=None, description="Part of the name, in any case.")
    gpu_count: int | None = None
    min_gpu_count: int | None = None
    min_vcpu: int | None = None
    min_memory_gb: int | None = strawberry.field(default=None, name="minMemoryGB")
    min_storage_gb: int | None = strawberry.field(default=None, name="minStorageGB")
    max_price_per_hour: str | None = strawberry.field(default=None, description="Base units of the payment token.")
    payment_token: str | None = None
    available: bool | None = None
    busy: bool | None = None
    provider: str | None = None
    min_reputation: int | None = None


@strawberry.enum
class SortField(Enum):
    PRICE_PER_HOUR = "price_per_hour"
    REPUTATION = "score"
    GPU_COUNT = "gpu_count"
    VCPU = "vcpu"
    MEMORY_GB = "memory_gb"
    STORAGE_GB = "storage_gb"
    UPTIME = "uptime_bps"
    REGISTERED_AT = "registered_at"


@strawberry.enum
class SortDirection(Enum):
    ASC = "ASC"
    DESC = "DESC"


@strawberry.input(description="Equal values are ordered by id, so that every page is stable.")
class SortOptions:
    field: SortField = SortField.PRICE_PER_HOUR
    direction: SortDirection = SortDirection.ASC


@strawberry.type
class PageInfo:
    has_next_page: bool
    end_cursor: str | None


@strawberry.type
class GPUEdge:
    cursor: str
    node: api.GPUResource


@strawberry.type
class GPUConnection:
    wanted: strawberry.Private[GpuFilter]
    edges: list[GPUEdge]
    page_info: PageInfo

    @strawberry.field
    async def total_count(self, info: Ctx) -> int:
        return await info.context.reader.count_gpus(self.wanted)


@strawberry.type
class JobEdge:
    cursor: str
    node: api.Job


@strawberry.type
class JobConnection:
    wanted: strawberry.Private[JobFilter]
    edges: list[JobEdge]
    page_info: PageInfo

    @strawberry.field
    async def total_count(self, info: Ctx) -> int:
        return await info.context.reader.count_jobs(self.wanted)


@strawberry.type
class Query:
    @field("Machines, cheapest first unless sorted otherwise; at most 1000 at a time.")
    async def gpus(
        self,
        info: Ctx,
        filters: GPUFilters | None = None,
        sort: SortOptions | None = None,
        limit: int | None = 100,
        offset: int | None = 0,
    ) -> list[api.GPUResource]:
        rows = await info.context.reader.gpus(_gpu_filter(filters), _order(sort), page_of(limit, offset))
        return [shape.gpu_of(row) for row in rows]

    @strawberry.field
    async def gpus_count(self, info: Ctx, filters: GPUFilters | None = None) -> int:
        return await info.context.reader.count_gpus(_gpu_filter(filters))

    @strawberry.field
    async def gpus_connection(
        self,
        info: Ctx,
        filters: GPUFilters | None = None,
        sort: SortOptions | None = None,
        first: int | None = 100,
        after: str | None = None,
    ) -> GPUConnection:
        wanted, order, page = _gpu_filter(filters), _order(sort), connection_page_of(first, after)
        rows = await info.context.reader.gpus(wanted, order, page)
        edges = [GPUEdge(cursor=cursor_of(row, order), node=shape.gpu_of(row)) for row in rows[: page.limit]]
        return GPUConnection(wanted=wanted, edges=edges, page_info=_page_info(rows, order, page))

    @strawberry.field
    async def gpu(self, info: Ctx, id: strawberry.ID) -> api.GPUResource | None:
        row = await info.context.loaders.gpus.load(resource_id_of(id))
        return None if row is None else shape.gpu_of(row)

    @field("Newest first; at most 1000 at a time.")
    async def jobs(
        self,
        info: Ctx,
        user: str | None = None,
        provider: str | None = None,
        status: api.ApiStatus | None = None,
        resource_id: strawberry.ID | None = None,
        limit: int | None = 100,
        offset: int | None = 0,
    ) -> list[api.Job]:
        wanted = _job_filter(user, provider, status, resource_id)
        return [shape.job_of(row) for row in await info.context.reader.jobs(wanted, page_of(limit, offset))]

    @strawberry.field
    async def jobs_count(
        self,
        info: Ctx,
        user: str | None = None,
        provider: str | None = None,
        status: api.ApiStatus | None = None,
        resource_id: strawberry.ID | None = None,
    ) -> int:
        return await info.context.reader.count_jobs(_job_filter(user, provider, status, resource_id))

    @strawberry.field
    async def jobs_connection(
        self,
        info: Ctx,
        user: str | None = None,
        provider: str | None = None,
        status: api.ApiStatus | None = None,
        resource_id: strawberry.ID | None = None,
        first: int | None = 100,
        after: str | None = None,
    ) -> JobConnection:
        wanted, page = _job_filter(user, provider, status, resource_id), connection_page_of(first, after)
        rows = await info.context.reader.jobs(wanted, page)
        edges = [JobEdge(cursor=cursor_of(row, NEWEST_JOBS), node=shape.job_of(row)) for row in rows[: page.limit]]
        return JobConnection(wanted=wanted, edges=edges, page_info=_page_info(rows, NEWEST_JOBS, page))

    @strawberry.field
    async def job(self, info: Ctx, id: strawberry.ID) -> api.Job | None:
        row = await info.context.loaders.jobs.load(job_id_of(id))
        return None if row is None else shape.job_of(row)

    @field("Jobs that the address rented, newest first.")
    async def my_jobs(self, info: Ctx, address: str, limit: int | None = 100, offset: int | None = 0) -> list[api.Job]:
        rows = await info.context.reader.jobs(JobFilter(user=address), page_of(limit, offset))
        return [shape.job_of(row) for row in rows]

    @field("Best reputation first.")
    async def providers(
        self, info: Ctx, min_reputation: int | None = None, limit: int | None = 100, offset: int | None = 0
    ) -> list[api.Provider]:
        rows = await info.context.reader.providers(min_reputation, page_of(limit, offset))
        return [shape.provider_of(row) for row in rows]

    @strawberry.field
    async def provider(self, info: Ctx, address: str) -> api.Provider | None:
        row = await info.context.loaders.providers.load(address_of(address))
        return None if row is None else shape.provider_of(row)

    @field("Who paid what to whom for a job.")
    async def receipt(self, info: Ctx, job_id: strawberry.ID) -> api.Receipt | None:
        job = await info.context.loaders.jobs.load(job_id_of(job_id))
        if job is None:
            return None
        return shape.receipt_of(job, await info.context.reader.payments_of_job(job["id"]))

    @field("Every event that names the job, in chain order.")
    async def events(self, info: Ctx, job_id: strawberry.ID) -> list[api.Event]:
        return [shape.event_of(row) for row in await info.context.loaders.logs.load(job_id_of(job_id))]

    @field("What an account paid and got through the market's contracts, newest first.")
    async def payments(
        self, info: Ctx, account: str, limit: int | None = 100, offset: int | None = 0
    ) -> list[api.Payment]:
        rows = await info.context.reader.payments_of(account, page_of(limit, offset))
        return [shape.payment_of(row) for row in rows]

    @strawberry.field
    async def market(self, info: Ctx) -> api.Market:
        return shape.market_of(*await info.context.reader.market())

    @field("Committee reports, newest first.")
    async def reports(self, info: Ctx, limit: int | None = 100, offset: int | None = 0) -> list[api.Report]:
        return [shape.report_of(row) for row in await info.context.reader.reports(page_of(limit, offset))]

    @field("Where the index is.", name="_meta")
    async def meta(self, info: Ctx) -> api.Meta:
        number, block_hash, timestamp, finalized = await info.context.reader.position()
        progress = info.context.progress()
        return api.Meta(
            block=api.MetaBlock(number=number, hash=block_hash, timestamp=timestamp),
            finalized_block=None if finalized < 0 else finalized,
            synced=progress is not None and progress.head.number <= number,
        )


@strawberry.type
class Subscription:
    @subscription(
        "The job as it is now, then after every commit that changed its status; null when a reorganization took it."
    )
    async def job_status_changed(self, info: Ctx, job_id: strawberry.ID) -> AsyncIterator[api.Job | None]:
        wanted = job_id_of(job_id)
        with info.context.hub.job_changes(wanted) as changes:
            row = await info.context.loaders.jobs.load(wanted)
            yield None if row is None else shape.job_of(row)
            async for _ in changes:
                row = await info.context.loaders.jobs.load(wanted)
                yield None if row is None else shape.job_of(row)

    @subscription("Each machine that becomes rentable from now on.", name="newGPUAvailable")
    async def new_gpu_available(self, info: Ctx) -> AsyncIterator[api.GPUResource | None]:
        with info.context.hub.rentable() as found:
            async for resource_id in found:
                row = await info.context.loaders.gpus.load(resource_id)
                if row is not None and row["available"] and not row["busy"]:
                    yield shape.gpu_of(row)


class Schema(strawberry.Schema):
    """Gives every error its stable code in `extensions.code`, and keeps defects' texts inside."""

    def process_errors(self, errors: list[GraphQLError], execution_context: ExecutionContext | None = None) -> None:
        for error in errors:
            _give_code(error)


def make_schema() -> Schema:
    """The schema with its limits and caches."""
    return Schema(
        Query,
        subscription=Subscription,
        extensions=[
            lambda: MaxTokensLimiter(MAX_TOKENS),
            lambda: AddValidationRules([ComplexityRule]),
            lambda: ParserCache(maxsize=256),
            lambda: ValidationCache(maxsize=256),
        ],
        config=StrawberryConfig(batching_config=None),
    )


def _give_code(error: GraphQLError) -> None:
    cause = error.original_error
    if isinstance(cause, MarketError):
        shown = {"code": cause.code, "hint": cause.hint, "details": cause.details}
    elif isinstance(error, GraphQLSyntaxError) and error.message.endswith("Parsing aborted."):
        shown = {"code": "request_too_complex"}  # too many tokens, or nested too deeply
    elif cause is None or isinstance(cause, GraphQLError):
        shown = {"code": "invalid_argument"}
    else:
        shown = {"code": "internal"}
        error.message = "A defect in gpumarket; please report it."
    error.extensions = {**(error.extensions or {}), **shown}


def _gpu_filter(given: GPUFilters | None) -> GpuFilter:
    if given is None:
        return GpuFilter()
    values = {name: getattr(given, name) for name in GpuFilter.__dataclass_fields__}
    if given.max_price_per_hour is not None:
        values["max_price_per_hour"] = amount_of(given.max_price_per_hour)
    if given.gpu_model is not None:
        values["gpu_model"] = text_of(given.gpu_model)
    return GpuFilter(**values)


def _job_filter(
    user: str | None, provider: str | None, status: api.ApiStatus | None, resource_id: str | None
) -> JobFilter:
    statuses = None
    if status is not None:
        statuses = tuple(s for s in JobStatus if s is not JobStatus.NONE and api_status(s) == status.value)
    return JobFilter(user, provider, None if resource_id is None else resource_id_of(resource_id), statuses)


def _order(sort: SortOptions | None) -> Order:
    chosen = sort or SortOptions()
    of_provider = chosen.field in (SortField.REPUTATION, SortField.UPTIME)
    column = (tables.providers if of_provider else tables.resources).c[chosen.field.value]
    return Order(column, chosen.direction is SortDirection.DESC)


def _page_info(rows: list[Row], order: Order, page: Page) -> PageInfo:
    shown = rows[: page.limit]
    return PageInfo(has_next_page=len(rows) > page.limit, end_cursor=cursor_of(shown[-1], order) if shown else None)
