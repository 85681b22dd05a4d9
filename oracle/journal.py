"""What a member must not forget: whom it heard, what it asked, what it signed. SQLite, durable before anything is said.

All calls are short and synchronous; one process owns the file (the data directory is locked).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gpumarket.chain.types import OutcomeKind
from gpumarket.errors import MarketError
from gpumarket.rules.units import Address
from oracle.possession import Answer, Challenge, Finding, Transcript
from oracle.verdict import Draft

_SCHEMA = """
CREATE TABLE IF NOT EXISTS beats (
  provider TEXT PRIMARY KEY, seq INTEGER NOT NULL, timestamp INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS transcripts (
  challenge_id TEXT PRIMARY KEY, job_id TEXT NOT NULL, provider TEXT NOT NULL, cid TEXT NOT NULL, nonce TEXT NOT NULL,
  issued_at INTEGER NOT NULL, finding TEXT NOT NULL, data_sha256 TEXT, signature BLOB, car BLOB, latency_s REAL,
  detail TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS transcripts_by_job ON transcripts (job_id, issued_at);
CREATE TABLE IF NOT EXISTS counted (challenge_id TEXT PRIMARY KEY, seq INTEGER NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS signed (seq INTEGER PRIMARY KEY, digest BLOB NOT NULL, signature BLOB);
CREATE TABLE IF NOT EXISTS claims (key TEXT NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (key, seq)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reports (seq INTEGER PRIMARY KEY, payload TEXT NOT NULL, state TEXT NOT NULL);
"""


@dataclass(frozen=True)
class StoredReport:
    """A report this member has a part in; `payload` is its JSON, `state` is signed, complete or done."""

    seq: int
    payload: dict[str, Any]
    state: str


class Journal:
    """A member's memory in one SQLite file."""

    def __init__(self, path: Path) -> None:
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA journal_mode=WAL")
        self._db.execute("PRAGMA synchronous=FULL")
        self._db.executescript(_SCHEMA)

    def close(self) -> None:
        self._db.close()

    # ---------------------------------------------------------------- watching

    def save_beat(self, provider: Address, seq: int, timestamp: int) -> None:
        self._db.execute("INSERT OR REPLACE INTO beats VALUES (?, ?, ?)", (provider, seq, timestamp))

    def beats(self) -> list[tuple[Address, int, int]]:
        return [(Address(p), s, t) for p, s, t in self._db.execute("SELECT provider, seq, timestamp FROM beats")]

    def save_transcript(self, transcript: Transcript) -> None:
        c, a = transcript.challenge, transcript.answer
        values = (c.challenge_id, c.job_id, c.provider, c.cid, c.nonce, c.issued_at, transcript.finding.value)
        answer = (a.data_sha256, a.signature, a.car) if a else (None, None, None)
        self._db.execute(
            "INSERT OR IGNORE INTO transcripts VALUES (?,?,?,?,?,?,?,?,?,?,?,?)",
            (*values, *answer, transcript.latency_s, transcript.detail),
        )

    def transcripts(self, job_id: str) -> tuple[Transcript, ...]:
        """This member's own challenges of a job, oldest first."""
        rows = self._db.execute("SELECT * FROM transcripts WHERE job_id = ? ORDER BY issued_at, rowid", (job_id,))
        return tuple(_transcript(row) for row in rows)

    def forget_blocks(self, before: int) -> None:
        """Drop the CARs of good answers older than `before`; what came of them stays, as does proof of fraud."""
        self._db.execute(
            "UPDATE transcripts SET car = x'' WHERE issued_at < ? AND finding = ? AND length(car) > 0",
            (before, Finding.SUCCESS.value),
        )

    def count(self, challenge_ids: Iterable[str], seq: int) -> None:
        """Remember that these proofs are part of report `seq`."""
        self._db.executemany("INSERT OR IGNORE INTO counted VALUES (?, ?)", [(c, seq) for c in challenge_ids])

    def counted(self, landed: int) -> frozenset[str]:
        """Proofs in reports up to the last one on chain: those that count, or never will again."""
        return frozenset(c for (c,) in self._db.execute("SELECT challenge_id FROM counted WHERE seq <= ?", (landed,)))

    # ----------------------------------------------------------------- signing

    def promise(self, seq: int, digest: bytes, claims: Sequence[str]) -> None:
        """Bind this member to one report for `seq`, durably, before it signs.

        Raises:
            MarketError: `forbidden` if it is bound to another.
        """
        self._db.execute("BEGIN IMMEDIATE")
        try:
            row = self._db.execute("SELECT digest FROM signed WHERE seq = ?", (seq,)).fetchone()
            if row is not None and row[0] != digest:
                raise MarketError("forbidden", "this member signed another report for this number", seq=seq)
            self._db.execute("INSERT OR IGNORE INTO signed VALUES (?, ?, NULL)", (seq, digest))
            self._db.executemany("INSERT OR IGNORE INTO claims VALUES (?, ?)", [(key, seq) for key in claims])
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def claimed(self, key: str, above: int) -> list[int]:
        """Numbers above `above` of reports this member signed with this claim in them."""
        rows = self._db.execute("SELECT seq FROM claims WHERE key = ? AND seq > ? ORDER BY seq", (key, above))
        return [seq for (seq,) in rows]

    def last_promised(self) -> int:
        return int(self._db.execute("SELECT COALESCE(MAX(seq), 0) FROM signed").fetchone()[0])

    # ----------------------------------------------------------------- reports

    def save_report(self, seq: int, payload: dict[str, Any], state: str) -> None:
        self._db.execute(
            "INSERT INTO reports VALUES (?, ?, ?) ON CONFLICT (seq) DO UPDATE SET payload = excluded.payload, "
            "state = excluded.state WHERE reports.state != 'done'",
            (seq, json.dumps(payload), state),
        )

    def finish_report(self, seq: int) -> None:
        self._db.execute("UPDATE reports SET state = 'done' WHERE seq = ?", (seq,))

    def open_reports(self) -> list[StoredReport]:
        rows = self._db.execute("SELECT seq, payload, state FROM reports WHERE state != 'done' ORDER BY seq")
        return [StoredReport(seq, json.loads(payload), state) for seq, payload, state in rows]


def claim_keys(drafts: Iterable[Draft]) -> list[str]:
    """What in a report may be said only once: everything but validations, which only count proofs."""
    found = []
    for draft in drafts:
        o = draft.outcome
        if o.kind is OutcomeKind.DOWNTIME:
            found.append(f"{o.kind.name}:{o.job_id}:{'dead' if o.to == 0 else 'out'}")
        elif o.kind is OutcomeKind.METRICS:
            found.append(f"{o.kind.name}:{o.job_id}:{o.from_}")
        elif o.kind is not OutcomeKind.VALIDATION:
            found.append(f"{o.kind.name}:{o.job_id}")
    return found


def _transcript(row: tuple[Any, ...]) -> Transcript:
    challenge_id, job_id, provider, cid, nonce, issued_at, finding, data, signature, car, latency, detail = row
    challenge = Challenge(challenge_id, job_id, Address(provider), cid, nonce, issued_at)
    answer = None if data is None else Answer(data, signature, car)
    return Transcript(challenge, Finding(finding), answer, latency, detail)
