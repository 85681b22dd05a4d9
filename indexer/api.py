"""The GraphQL types. Money is decimal text of base units; times are unix seconds; an Int holds at most 2^31 - 1.

Nested objects go through the request's loaders: any list costs one query per nested field, not one per row.
"""

from __future__ import annotations

from enum import Enum
from typing import Annotated

import strawberry
from strawberry.types import Info

from gpumarket.rules.job_state import EndReason, JobStatus, Verdict
from indexer import shape
from indexer.fields import field
from indexer.loaders import Context
from indexer.state import Row

Ctx = Info[Context, None]

strawberry.enum(JobStatus, name="ChainJobStatus", description="A job's state as the market contract has it.")
strawberry.enum(EndReason, name="JobEndReason", description="Why a job ended.")
strawberry.enum(Verdict, name="DisputeVerdict", description="How a dispute was decided.")


@strawberry.enum(name="JobStatus", description="A job's state in the words of the public API.")
class ApiStatus(Enum):
    PENDING = "PENDING"
    RUNNING = "RUNNING"
    COMPLETED = "COMPLETED"
    FAILED = "FAILED"
    DISPUTED = "DISPUTED"


@strawberry.type(name="GPUResource", description="A machine for rent.")
class GPUResource:
    row: strawberry.Private[Row]
    id: strawberry.ID
    provider: str
    gpu_model: str
    gpu_count: int
    vcpu: int
    memory_gb: int = strawberry.field(name="memoryGB")
    storage_gb: int = strawberry.field(name="storageGB")
    price_per_hour: str = strawberry.field(description="Base units of paymentToken.")
    payment_token: str
    available: bool = strawberry.field(description="The provider's switch. Rentable now: available and not busy.")
    busy: bool = strawberry.field(description="A job holds it.")
    reputation: int = strawberry.field(description="The provider's score, 0 to 1000; 0 while isNew.")
    is_new: bool = strawberry.field(description="The provider has had too few jobs for a score.")
    location: str | None = strawberry.field(description="Not on chain: null unless the indexer learns it elsewhere.")
    uptime: float = strawberry.field(description="The provider's measured uptime, 0 to 1; 1 while not measured.")
    total_uptime: int = strawberry.field(description="Seconds the committee has counted.")
    min_seconds: int
    max_seconds: int
    endpoint: str | None = strawberry.field(description="URL of the provider's agent.")
    registered_at: int
    metadata_cid: str | None = strawberry.field(name="metadataCID")

    @field("The job that holds the resource now.")
    async def active_job(self, info: Ctx) -> Annotated[Job, strawberry.lazy("indexer.api")] | None:
        if not self.row["busy"]:
            return None
        row = await info.context.loaders.jobs.load(self.row["last_job"])
        return None if row is None else shape.job_of(row)

    @strawberry.field
    async def host(self, info: Ctx) -> Annotated[Provider, strawberry.lazy("indexer.api")] | None:
        row = await info.context.loaders.providers.load(self.provider)
        return None if row is None else shape.provider_of(row)


@strawberry.type(description="A transaction that touched a job.")
class Transaction:
    hash: str
    block: int
    timestamp: int
    event: str


@strawberry.type
class EventArgument:
    name: str
    value: str = strawberry.field(description="Numbers are decimal, lists are joined by commas.")


@strawberry.type(description="A contract event, decoded.")
class Event:
    name: str
    block: int
    timestamp: int
    transaction: str
    log_index: int
    contract: str
    arguments: list[EventArgument]


@strawberry.type
class Evidence:
    party: str
    cid: str
    timestamp: int


@strawberry.type
class Dispute:
    initiator: str
    reason: str
    contested_amount: str
    opened_at: int
    verdict: Verdict | None
    by_timeout: bool | None
    resolved_at: int | None
    evidence: list[Evidence]


@strawberry.type(description="A rental, from offer to payout.")
class Job:
    row: strawberry.Private[Row]
    id: strawberry.ID
    user: str
    provider: str
    resource_id: strawberry.ID
    image_cid: str = strawberry.field(name="imageCID")
    status: ApiStatus
    chain_status: JobStatus
    end_reason: EndReason | None
    created_at: int
    accepted_at: int | None
    start_time: int | None
    end_time: int | None
    duration: int = strawberry.field(description="Seconds paid for.")
    outage_seconds: int
    billable_seconds: int | None
    price_per_hour: str
    payment_token: str | None
    max_cost: str
    total_cost: str | None = strawberry.field(description="Null until the job has ended.")
    provider_amount: str = strawberry.field(description="Released to the provider so far, less the fee.")
    fee: str
    refunded: str
    result_cid: str | None = strawberry.field(name="resultCID")

    @strawberry.field
    async def resource(self, info: Ctx) -> GPUResource | None:
        row = await info.context.loaders.gpus.load(self.resource_id)
        return None if row is None else shape.gpu_of(row)

    @strawberry.field
    async def dispute(self, info: Ctx) -> Dispute | None:
        row = await info.context.loaders.disputes.load(self.id)
        return None if row is None else shape.dispute_of(row)

    @field("In chain order, one entry per event.")
    async def transactions(self, info: Ctx) -> list[Transaction]:
        rows = await info.context.loaders.logs.load(self.id)
        return [shape.transaction_of(row) for row in rows]


@strawberry.type(description="Somebody who rents machines out.")
class Provider:
    address: str
    endpoint: str | None
    registered_at: int
    reputation: int
    is_new: bool
    total_jobs: int
    successful_jobs: int
    disputes: int
    penalty: int
    bonus: int
    uptime: float
    response_rate: float
    stake: str = strawberry.field(description="Active stake, base units of the stake token.")
    unbonding: str
    slashed: str

    @strawberry.field
    async def resources(self, info: Ctx) -> list[GPUResource]:
        return [shape.gpu_of(row) for row in await info.context.loaders.gpus_of.load(self.address)]


@strawberry.type(description="A movement of tokens through the market's contracts.")
class Payment:
    kind: str
    from_: str = strawberry.field(name="from")
    to: str
    amount: str
    fee: str = strawberry.field(description="Kept by the platform beside amount.")
    token: str | None = strawberry.field(description="Null for the stake token.")
    job_id: strawberry.ID | None
    transaction: str
    block: int
    timestamp: int


@strawberry.type(description="Who paid what to whom for a job. locked = providerAmount + fee + refunded + inEscrow.")
class Receipt:
    job_id: strawberry.ID
    user: str
    provider: str
    chain_status: JobStatus
    payment_token: str | None
    locked: str
    provider_amount: str
    fee: str
    refunded: str
    in_escrow: str
    billable_seconds: int | None
    payments: list[Payment]


@strawberry.type
class Committee:
    config_digest: str
    threshold: int
    signers: list[str]
    endpoints: list[str]


@strawberry.type
class Market:
    fee_bps: int | None
    payment_tokens: list[str]
    committee: Committee | None


@strawberry.type(description="A committee report on chain.")
class Report:
    seq: str
    epoch: str
    outcomes_root: str
    count: int
    applied: int
    evidence: str | None
    timestamp: int
    transaction: str


@strawberry.type
class MetaBlock:
    number: int
    hash: str
    timestamp: int


@strawberry.type(description="Where the index is.")
class Meta:
    block: MetaBlock
    finalized_block: int | None
    synced: bool = strawberry.field(description="Everything the node had at the last look is indexed.")
