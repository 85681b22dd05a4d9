"""The indexer's tables: derived from the chain, and rebuilt from it whenever `SCHEMA_VERSION` changes.

Every state table has one text primary key `id`, so that one undo table can hold before-images of all of them. Amounts
are fixed-width decimal text: exact on every database, and ordered as numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sqlalchemy import JSON, BigInteger, Boolean, Column, Dialect, Index, MetaData, String, Table, Text, TypeDecorator

SCHEMA_VERSION = 2

_AMOUNT_DIGITS = 78  # a uint256 has at most 78 decimal digits


class Amount(TypeDecorator[int]):
    """A token amount in base units: `int` in Python, zero-padded decimal text in the database."""

    impl = String(_AMOUNT_DIGITS)
    cache_ok = True

    def process_bind_param(self, value: int | None, dialect: Dialect) -> str | None:
        return None if value is None else f"{value:0{_AMOUNT_DIGITS}d}"

    def process_result_value(self, value: Any | None, dialect: Dialect) -> int | None:
        return None if value is None else int(value)


metadata = MetaData()

meta = Table("meta", metadata, Column("key", String(32), primary_key=True), Column("value", Text, nullable=False))

blocks = Table(
    "blocks",
    metadata,
    Column("number", BigInteger, primary_key=True, autoincrement=False),
    Column("hash", String(66), nullable=False),
    Column("parent_hash", String(66), nullable=False),
    Column("timestamp", BigInteger, nullable=False),
)

logs = Table(
    "logs",
    metadata,
    Column("block_hash", String(66), primary_key=True),
    Column("log_index", BigInteger, primary_key=True, autoincrement=False),
    Column("block_number", BigInteger, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("tx_hash", String(66), nullable=False),
    Column("address", String(42), nullable=False),
    Column("topics", JSON, nullable=False),
    Column("data", Text, nullable=False),
    Column("event", String(40), nullable=False),
    Column("args", JSON, nullable=False),
    Column("job_id", String(66)),
    Index("logs_by_block", "block_number"),
    Index("logs_by_job", "job_id", "block_number", "log_index"),
)

undo = Table(
    "undo",
    metadata,
    Column("block_number", BigInteger, primary_key=True, autoincrement=False),
    Column("table_name", String(32), primary_key=True),
    Column("id", String(80), primary_key=True),
    Column("before", JSON(none_as_null=True)),
)

providers = Table(
    "providers",
    metadata,
    Column("id", String(42), primary_key=True),
    Column("endpoint", Text),
    Column("registered_at", BigInteger),
    Column("score", BigInteger, nullable=False),
    Column("total_jobs", BigInteger, nullable=False),
    Column("successful_jobs", BigInteger, nullable=False),
    Column("disputes", BigInteger, nullable=False),
    Column("penalty", BigInteger, nullable=False),
    Column("bonus", BigInteger, nullable=False),
    Column("uptime_bps", BigInteger, nullable=False),
    Column("response_bps", BigInteger, nullable=False),
)

resources = Table(
    "resources",
    metadata,
    Column("id", String(66), primary_key=True),
    Column("provider", String(42), nullable=False),
    Column("gpu_model", Text, nullable=False),
    Column("gpu_model_folded", Text, nullable=False),
    Column("gpu_count", BigInteger, nullable=False),
    Column("vcpu", BigInteger, nullable=False),
    Column("memory_gb", BigInteger, nullable=False),
    Column("storage_gb", BigInteger, nullable=False),
    Column("price_per_hour", Amount, nullable=False),
    Column("payment_token", String(42), nullable=False),
    Column("min_seconds", BigInteger, nullable=False),
    Column("max_seconds", BigInteger, nullable=False),
    Column("metadata_cid", String(66), nullable=False),
    Column("available", Boolean, nullable=False),
    Column("last_job", String(66)),
    Column("busy", Boolean, nullable=False),
    Column("total_uptime", Amount, nullable=False),
    Column("registered_at", BigInteger, nullable=False),
    Index("resources_by_provider", "provider"),
    Index("resources_by_price", "price_per_hour", "id"),
)

jobs = Table(
    "jobs",
    metadata,
    Column("id", String(66), primary_key=True),
    Column("user", String(42), nullable=False),
    Column("provider", String(42), nullable=False),
    Column("resource_id", String(66), nullable=False),
    Column("image_cid", String(66), nullable=False),
    Column("status", BigInteger, nullable=False),
    Column("end_reason", BigInteger, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("accepted_at", BigInteger),
    Column("started_at", BigInteger),
    Column("ended_at", BigInteger),
    Column("dead_at", BigInteger),
    Column("reclaim_at", BigInteger),
    Column("duration", BigInteger, nullable=False),
    Column("outage_seconds", BigInteger, nullable=False),
    Column("billable_seconds", BigInteger),
    Column("settled_seconds", BigInteger, nullable=False),
    Column("price_per_hour", Amount, nullable=False),
    Column("max_cost", Amount, nullable=False),
    Column("final_cost", Amount),
    Column("result_cid", String(66)),
    Index("jobs_by_user", "user", "created_at", "id"),
    Index("jobs_by_provider", "provider", "created_at", "id"),
    Index("jobs_by_resource", "resource_id", "created_at", "id"),
    Index("jobs_by_time", "created_at", "id"),
)

escrows = Table(
    "escrows",
    metadata,
    Column("id", String(66), primary_key=True),
    Column("token", String(42), nullable=False),
    Column("locked", Amount, nullable=False),
    Column("released", Amount, nullable=False),
    Column("fee", Amount, nullable=False),
    Column("refunded", Amount, nullable=False),
)

disputes = Table(
    "disputes",
    metadata,
    Column("id", String(66), primary_key=True),
    Column("initiator", String(42), nullable=False),
    Column("reason", Text, nullable=False),
    Column("contested_amount", Amount, nullable=False),
    Column("opened_at", BigInteger, nullable=False),
    Column("verdict", BigInteger),
    Column("by_timeout", Boolean),
    Column("resolved_at", BigInteger),
    Column("evidence", JSON, nullable=False),
)

payments = Table(
    "payments",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("kind", String(24), nullable=False),
    Column("account", String(42), nullable=False),
    Column("contract", String(42), nullable=False),
    Column("token", String(42)),
    Column("amount", Amount, nullable=False),
    Column("fee", Amount, nullable=False),
    Column("job_id", String(66)),
    Column("timestamp", BigInteger, nullable=False),
    Column("tx_hash", String(66), nullable=False),
    Column("block_number", BigInteger, nullable=False),
    Index("payments_by_job", "job_id", "id"),
    Index("payments_by_account", "account", "id"),
)

stakes = Table(
    "stakes",
    metadata,
    Column("id", String(42), primary_key=True),
    Column("active", Amount, nullable=False),
    Column("pending", Amount, nullable=False),
    Column("pending_until", BigInteger),
    Column("slashed", Amount, nullable=False),
    Column("compensation", Amount, nullable=False),
)

reports = Table(
    "reports",
    metadata,
    Column("id", String(20), primary_key=True),
    Column("seq", Amount, nullable=False),
    Column("epoch", Amount, nullable=False),
    Column("outcomes_root", String(66), nullable=False),
    Column("count", BigInteger, nullable=False),
    Column("applied", BigInteger, nullable=False),
    Column("evidence_digest", String(66), nullable=False),
    Column("signers_mask", Amount, nullable=False),
    Column("timestamp", BigInteger, nullable=False),
    Column("tx_hash", String(66), nullable=False),
)

committee = Table(
    "committee",
    metadata,
    Column("id", String(8), primary_key=True),
    Column("config_digest", String(66), nullable=False),
    Column("threshold", BigInteger, nullable=False),
    Column("signers", JSON, nullable=False),
    Column("endpoints", JSON, nullable=False),
)

tokens = Table(
    "tokens",
    metadata,
    Column("id", String(42), primary_key=True),
    Column("index", BigInteger, nullable=False),
    Column("allowed", Boolean, nullable=False),
)

market = Table(
    "market", metadata, Column("id", String(8), primary_key=True), Column("fee_bps", BigInteger, nullable=False)
)

STATE_TABLES: Mapping[str, Table] = {
    table.name: table
    for table in (
        providers,
        resources,
        jobs,
        escrows,
        disputes,
        payments,
        stakes,
        reports,
        committee,
        tokens,
        market,
    )
}
"""What the handlers write; everything in here can be rolled back."""
