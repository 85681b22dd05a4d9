"""The sender's memory: every transaction ever signed, on disk before it is broadcast.

An intent is what a caller wants done, under a key of its choice. Its attempts are the signed transactions that would do
it; they share a nonce (a replacement pays more) unless another sender of the account took the nonce. At most one can be
mined.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from gpumarket.chain.calls import Call
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address

_SCHEMA = """
CREATE TABLE IF NOT EXISTS owner (
    id INTEGER PRIMARY KEY CHECK (id = 1),
    identity TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS intents (
    key TEXT PRIMARY KEY,
    round INTEGER NOT NULL,
    state TEXT NOT NULL,
    nonce INTEGER NOT NULL UNIQUE,
    "to" TEXT NOT NULL,
    data BLOB NOT NULL,
    value TEXT NOT NULL,
    label TEXT NOT NULL,
    block_number INTEGER
);
CREATE TABLE IF NOT EXISTS attempts (
    tx_hash TEXT PRIMARY KEY,
    key TEXT NOT NULL REFERENCES intents (key),
    round INTEGER NOT NULL,
    nonce INTEGER NOT NULL,
    raw BLOB NOT NULL,
    gas INTEGER NOT NULL,
    max_fee TEXT NOT NULL,
    priority_fee TEXT NOT NULL,
    signed_at REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS attempts_of ON attempts (key, round, signed_at);
CREATE INDEX IF NOT EXISTS intents_in ON intents (state, nonce);
"""


class IntentState(StrEnum):
    PENDING = "pending"  # signed, not known to be mined
    MINED = "mined"  # took effect; a reorganization may still undo it
    FINAL = "final"  # took effect, deep enough
    REVERTED = "reverted"  # mined without effect; the key may be used again


@dataclass(frozen=True)
class Intent:
    """What a caller wants done. `round` counts from 0 and rises when a reverted key is used again."""

    key: str
    round: int
    state: IntentState
    nonce: int
    call: Call
    block_number: int | None


@dataclass(frozen=True)
class Attempt:
    """One signed transaction; fees in wei per gas, `signed_at` in unix seconds."""

    tx_hash: str
    nonce: int
    raw: bytes
    gas: int
    max_fee: int
    priority_fee: int
    signed_at: float


class NonceTaken(Exception):
    """Another process that works on this journal used the nonce."""


class Journal:
    """One account's transactions on one chain. Safe to use from several threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._db = sqlite3.connect(path, timeout=10, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
            self._db.execute(f"PRAGMA {pragma}")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def bind(self, identity: str) -> None:
        """Tie the journal to an account on a chain, once.

        Raises:
            MarketError: `chain_mismatch`: it belongs to another.
        """
        with self._writing() as db:
            db.execute("INSERT OR IGNORE INTO owner VALUES (1, ?)", (identity,))
            (owner,) = db.execute("SELECT identity FROM owner").fetchone()
        if owner != identity:
            raise MarketError(
                "chain_mismatch",
                f"the transaction journal belongs to {owner}, not to {identity}",
                hint="was the development chain restarted? then use a new data directory",
            )

    def add(self, key: str, round_: int, call: Call, attempt: Attempt) -> None:
        """Store an intent and an attempt in one step: a new key, a reverted key again, or a pending key's new nonce.

        Raises:
            NonceTaken: another intent has the nonce.
        """
        values = (key, round_, attempt.nonce, call.to, call.data, str(call.value), call.label)
        with self._writing() as db:
            try:
                db.execute(
                    "INSERT INTO intents VALUES (?, ?, 'pending', ?, ?, ?, ?, ?, NULL)"
                    " ON CONFLICT (key) DO UPDATE SET"
                    " round = excluded.round, state = 'pending', nonce = excluded.nonce,"
                    ' "to" = excluded."to", data = excluded.data, value = excluded.value, label = excluded.label,'
                    " block_number = NULL",
                    values,
                )
            except sqlite3.IntegrityError:
                raise NonceTaken from None
            _insert(db, key, round_, attempt)

    def add_attempt(self, key: str, round_: int, attempt: Attempt) -> None:
        """Store a replacement."""
        with self._writing() as db:
            _insert(db, key, round_, attempt)

    def set_state(self, key: str, state: IntentState, block_number: int | None) -> None:
        with self._writing() as db:
            db.execute("UPDATE intents SET state = ?, block_number = ? WHERE key = ?", (state, block_number, key))

    def find(self, key: str) -> Intent | None:
        rows = self._read("SELECT * FROM intents WHERE key = ?", (key,))
        return _intent(rows[0]) if rows else None

    def unfinished(self) -> list[Intent]:
        """Pending and mined intents by nonce: what a node may have to hear of again."""
        return [
            _intent(row)
            for row in self._read("SELECT * FROM intents WHERE state IN ('pending', 'mined') ORDER BY nonce", ())
        ]

    def attempts(self, intent: Intent) -> list[Attempt]:
        """The attempts of an intent's present round, newest first."""
        rows = self._read(
            "SELECT tx_hash, nonce, raw, gas, max_fee, priority_fee, signed_at FROM attempts"
            " WHERE key = ? AND round = ? ORDER BY signed_at DESC, rowid DESC",
            (intent.key, intent.round),
        )
        return [Attempt(row[0], row[1], row[2], row[3], int(row[4]), int(row[5]), row[6]) for row in rows]

    def newest_from(self, nonce: int) -> list[bytes]:
        """The bytes of the newest attempt of every nonce from `nonce` on, whatever became of its intent, by nonce."""
        rows = self._read(
            "SELECT raw, MAX(signed_at) FROM attempts WHERE nonce >= ? GROUP BY nonce ORDER BY nonce", (nonce,)
        )
        return [row[0] for row in rows]

    def next_nonce(self) -> int:
        """One more than every nonce ever signed; 0 for an empty journal."""
        return int(self._read("SELECT COALESCE(MAX(nonce) + 1, 0) FROM attempts", ())[0][0])

    def _read(self, query: str, values: tuple[str | int, ...]) -> list[tuple[Any, ...]]:
        with self._lock:
            return self._db.execute(query, values).fetchall()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")


def _insert(db: sqlite3.Connection, key: str, round_: int, attempt: Attempt) -> None:
    db.execute(
        "INSERT INTO attempts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            attempt.tx_hash,
            key,
            round_,
            attempt.nonce,
            attempt.raw,
            attempt.gas,
            str(attempt.max_fee),
            str(attempt.priority_fee),
            attempt.signed_at,
        ),
    )


def _intent(row: tuple[Any, ...]) -> Intent:
    key, round_, state, nonce, to, data, value, label, block_number = row
    return Intent(key, round_, IntentState(state), nonce, Call(Address(to), data, int(value), label), block_number)
