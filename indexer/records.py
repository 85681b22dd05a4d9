"""A decoded event on its way into the database."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gpumarket.chain.types import RawLog
from indexer.state import Row

_PLACE = frozenset({"block_number", "block_hash", "tx_hash", "log_index", "address"})


@dataclass(frozen=True)
class Indexed:
    """An event, when it happened (unix seconds), and its row in `logs`."""

    event: Any
    timestamp: int
    row: Row

    @property
    def block_number(self) -> int:
        return int(self.event.block_number)


def index_log(raw: RawLog, event: Any, timestamp: int) -> Indexed:
    """Join a raw log with its decoded event."""
    row = {
        "block_hash": event.block_hash,
        "log_index": event.log_index,
        "block_number": event.block_number,
        "timestamp": timestamp,
        "tx_hash": event.tx_hash,
        "address": event.address,
        "topics": list(raw["topics"]),
        "data": raw["data"],
        "event": type(event).__name__,
        "args": {f.name: _json(getattr(event, f.name)) for f in dataclasses.fields(event) if f.name not in _PLACE},
        "job_id": getattr(event, "job_id", None),
    }
    return Indexed(event, timestamp, row)


def clean(text: str) -> str:
    """Text as every database takes it: strangers write it, and PostgreSQL refuses NUL."""
    return text.encode("utf-8", "replace").decode().replace("\x00", "\ufffd")


def _json(value: Any) -> Any:
    """Numbers as decimal text, since they can exceed what JSON readers keep exactly."""
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, bytes):
        return "0x" + value.hex()
    if isinstance(value, (list, tuple)):
        return [_json(item) for item in value]
    return clean(str(value))
