"""Who is alive: a pure tracker of signed heartbeats and of the silences between them.

A beat is judged by when it arrived here; its own timestamp and sequence number only keep replays out. More than
`MISSED_ALLOWED` missed beats are a silence that began at the last beat. A silence shorter than the grace is forgiven, a
longer one is an outage that is never billed, and one that goes on is a dead host.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

from gpumarket.errors import MarketError
from gpumarket.rules.units import Address, JobId

MISSED_ALLOWED = 3
MAX_JOBS = 256
MAX_SILENCES = 1_000
_SKEW_FLOOR_S = 15


@dataclass(frozen=True)
class Heartbeat:
    """What a provider signs: itself, a rising number, unix seconds, its jobs, and the hash of its metrics."""

    provider: Address
    seq: int
    timestamp: int
    jobs: tuple[JobId, ...]
    metrics_hash: str


class Phase(Enum):
    """How a provider looks from here, right now."""

    ALIVE = "alive"
    GRACE = "grace"
    OUTAGE = "outage"
    DEAD = "dead"


@dataclass(frozen=True)
class Rhythm:
    """Seconds: between beats; forgiven beyond the allowed misses; of silence after which a host is dead."""

    interval_s: float
    grace_s: float
    dead_s: float

    @property
    def silence_s(self) -> float:
        """A pause longer than this misses more than `MISSED_ALLOWED` beats."""
        return self.interval_s * (MISSED_ALLOWED + 1)

    @property
    def outage_s(self) -> float:
        return self.silence_s + self.grace_s

    @property
    def skew_s(self) -> float:
        """How far a beat's own timestamp may be from our clock."""
        return max(_SKEW_FLOOR_S, 2 * self.interval_s)


@dataclass(frozen=True)
class Silence:
    """No beat between two arrivals, unix seconds; `to` is None while it lasts."""

    start: float
    to: float | None

    def seconds(self, now: float) -> float:
        return (now if self.to is None else self.to) - self.start


@dataclass
class _Track:
    watched_since: float
    last: float
    seq: int = 0
    timestamp: int = 0
    beats: int = 0
    jobs: tuple[JobId, ...] = ()
    silences: list[Silence] = field(default_factory=list)


class Tracker:
    """Every provider's beats as this one observer received them. Holds no clock: callers pass `now`."""

    def __init__(self, rhythm: Rhythm) -> None:
        self.rhythm = rhythm
        self._tracks: dict[Address, _Track] = {}

    def restore(self, provider: Address, seq: int, timestamp: int, now: float) -> None:
        """Know after a restart which beats were already seen. The time away proves nothing about the host."""
        self._tracks[provider] = _Track(watched_since=now, last=now, seq=seq, timestamp=timestamp)

    def expect(self, provider: Address, now: float) -> None:
        """Start watching a provider that has work; its silence counts from now, not from before."""
        self._tracks.setdefault(provider, _Track(watched_since=now, last=now))

    def accept(self, beat: Heartbeat, now: float) -> Silence | None:
        """Take a beat whose signature is already checked.

        Returns:
            The silence that this beat ended, if it was longer than the allowed misses.

        Raises:
            MarketError: `invalid_argument` for a stale number, a timestamp off our clock, or too many jobs.
        """
        if abs(beat.timestamp - now) > self.rhythm.skew_s:
            raise MarketError("invalid_argument", "heartbeat timestamp is off", timestamp=beat.timestamp, now=int(now))
        if len(beat.jobs) > MAX_JOBS:
            raise MarketError(
                "invalid_argument", "heartbeat lists too many jobs", jobs=len(beat.jobs), maximum=MAX_JOBS
            )
        track = self._tracks.setdefault(beat.provider, _Track(watched_since=now, last=now))
        # A host that lost its counter starts again from a lower number; time alone then tells new from replayed.
        if (beat.timestamp, beat.seq) <= (track.timestamp, track.seq):
            raise MarketError("invalid_argument", "heartbeat is not newer than the last", seq=beat.seq, last=track.seq)
        ended: Silence | None = None
        if now - track.last > self.rhythm.silence_s:
            ended = Silence(track.last, now)
            track.silences = [*track.silences[-MAX_SILENCES + 1 :], ended]
        track.seq, track.timestamp, track.jobs = beat.seq, beat.timestamp, beat.jobs
        track.last = max(track.last, now)
        track.beats += 1
        return ended

    def phase(self, provider: Address, now: float) -> Phase | None:
        """None for a provider never seen or expected."""
        track = self._tracks.get(provider)
        if track is None:
            return None
        quiet = now - track.last
        if quiet <= self.rhythm.silence_s:
            return Phase.ALIVE
        if quiet <= self.rhythm.outage_s:
            return Phase.GRACE
        return Phase.OUTAGE if quiet <= self.rhythm.dead_s else Phase.DEAD

    def last_beat(self, provider: Address) -> float | None:
        track = self._tracks.get(provider)
        return None if track is None else track.last

    def watched_since(self, provider: Address) -> float | None:
        track = self._tracks.get(provider)
        return None if track is None else track.watched_since

    def outages(self, provider: Address, now: float) -> list[Silence]:
        """Silences beyond the grace, oldest first, the open one last."""
        track = self._tracks.get(provider)
        if track is None:
            return []
        found = [s for s in track.silences if s.seconds(now) > self.rhythm.outage_s]
        if now - track.last > self.rhythm.outage_s:
            found.append(Silence(track.last, None))
        return found

    def witnessed_silence(self, provider: Address, start: float, to: float, now: float) -> bool:
        """Whether this observer itself heard nothing from the host in [start, to], give or take a beat at each end.

        An observer that was not watching yet has witnessed nothing.
        """
        track = self._tracks.get(provider)
        slack = self.rhythm.interval_s + 1
        if track is None or track.watched_since > start + slack or to > now + slack:
            return False
        spans = [*track.silences]
        if now - track.last > self.rhythm.silence_s:
            spans.append(Silence(track.last, None))
        return any(s.start <= start + slack and (s.to is None or s.to >= to - slack) for s in spans)

    def providers(self) -> list[Address]:
        return list(self._tracks)

    def position(self, provider: Address) -> tuple[int, int]:
        """The last accepted (seq, timestamp); zeros before the first."""
        track = self._tracks.get(provider)
        return (0, 0) if track is None else (track.seq, track.timestamp)
