"""From what one member observed to what the committee may say: pure rules, the same for the leader and the others.

`propose` drafts the outcomes of an epoch from a job's observation. `objection` says why a member whose own observation
is given will not sign one. `verdict` decides a dispute.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from gpumarket.chain.types import Job, Outcome, OutcomeKind
from gpumarket.rules.job_state import JobStatus, Verdict
from gpumarket.rules.units import Address
from oracle.heartbeats import Phase, Rhythm, Silence, Tracker
from oracle.possession import DEADLINE_S, Finding, Transcript

MISSES_FOR_TIMEOUT = 3
UPTIME_SLACK_BPS = 500
RESPONSE_SLACK_BPS = 2_000
FULL_BPS = 10_000

_Match = Callable[[Transcript], bool]


@dataclass(frozen=True)
class Observation:
    """All that one member knows of one job.

    Args:
        job: as the chain has it now.
        image: CID text the job's challenges must be about.
        transcripts: this member's own challenges of the job, oldest first.
        reported: challenge ids that already counted in a report.
        recorded_until: end of the last outage on chain, 0 for none.
        applied: kinds already applied to this job that apply once.
        head_time: timestamp of the newest block; the contract takes no outage beyond its own time.
    """

    job: Job
    image: str
    tracker: Tracker
    transcripts: tuple[Transcript, ...] = ()
    reported: frozenset[str] = frozenset()
    recorded_until: int = 0
    applied: frozenset[OutcomeKind] = frozenset()
    head_time: int = 0

    @property
    def provider(self) -> Address:
        return self.job.provider


@dataclass(frozen=True)
class Draft:
    """An outcome with the transcripts that prove it to anybody."""

    outcome: Outcome
    transcripts: tuple[Transcript, ...] = ()


def propose(seen: Observation, now: int) -> list[Draft]:
    """What this member would report of a job."""
    drafts = [_validation(seen), _fraud(seen), _unanswered(seen, now), _bad_signatures(seen)]
    if is_bill_open(seen.job):
        drafts.append(_downtime(seen, now))
    if seen.job.status is JobStatus.RUNNING:
        drafts.append(_death(seen, now))
    if seen.job.status in (JobStatus.COMPLETED, JobStatus.RESOLVED):
        drafts.append(_metrics(seen, now))
    if seen.job.status is JobStatus.DISPUTED:
        drafts.append(Draft(_outcome(seen, OutcomeKind.VERDICT, seen.job.since, now, int(verdict(seen, now)))))
    return [d for d in drafts if d is not None and d.outcome.kind not in seen.applied]


def objection(outcome: Outcome, proofs: Sequence[Transcript], seen: Observation, now: int) -> str | None:
    """Why this member does not sign `outcome`, None if its own observation or the given proofs support it.

    Args:
        proofs: the proposer's transcripts, each already judged again here, with that finding in it.
    """
    subject = seen.job.resource_id if outcome.kind is OutcomeKind.METRICS else seen.job.job_id
    if outcome.provider != seen.provider or outcome.job_id != subject:
        return "the job is another provider's"
    if outcome.kind in seen.applied:
        return "already applied to this job"
    match outcome.kind:
        case OutcomeKind.VALIDATION:
            return _object_proofs(outcome, proofs, seen, Finding.SUCCESS)
        case OutcomeKind.INVALID_DATA:
            return _object_proofs(outcome, proofs, seen, Finding.WRONG)
        case OutcomeKind.TIMEOUT:
            return _object_own(seen, outcome, now, _is_miss)
        case OutcomeKind.INVALID_SIGNATURE:
            return _object_own(seen, outcome, now, _is_bad_signature)
        case OutcomeKind.DOWNTIME:
            return _object_death(outcome, seen, now) if outcome.to == 0 else _object_downtime(outcome, seen, now)
        case OutcomeKind.METRICS:
            return _object_metrics(outcome, seen, now)
        case OutcomeKind.VERDICT:
            if seen.job.status is not JobStatus.DISPUTED:
                return "the job is not disputed"
            mine = verdict(seen, now)
            return None if outcome.value == int(mine) else f"the verdict here is {mine.name.lower()}"


def verdict(seen: Observation, now: int) -> Verdict:
    """Whose fault a dispute is, in this order:

    1. a proven wrong answer: the provider;
    2. never started, or nothing was watched: split;
    3. silent when the clock stopped, or for half of the running time: the provider;
    4. answered every challenge of this job and was never silent: the renter;
    5. otherwise split.
    """
    findings = [t.finding for t in seen.transcripts]
    if Finding.WRONG in findings:
        return Verdict.PROVIDER_FAULT
    start, end = seen.job.started_at, seen.job.ended_at or now
    watched = seen.tracker.watched_since(seen.provider)
    if start == 0 or watched is None or watched > end:
        return Verdict.SPLIT_PAYMENT
    silences = seen.tracker.outages(seen.provider, now)
    silent = sum(_overlap(s, start, end) for s in silences)
    if any(s.start <= end and (s.to is None or s.to > end) for s in silences) or 2 * silent >= max(1, end - start):
        return Verdict.PROVIDER_FAULT
    proven = Finding.SUCCESS in findings and not any(
        _is_miss(t) or t.finding is Finding.CONTAINED for t in seen.transcripts
    )
    return Verdict.USER_FAULT if proven and silent == 0 else Verdict.SPLIT_PAYMENT


def uptime_bps(seen: Observation, now: int) -> int:
    """Basis points of a job's running time in which this member heard its host."""
    start, end = seen.job.started_at, seen.job.ended_at
    if end <= start:
        return FULL_BPS
    silent = sum(_overlap(s, start, end) for s in seen.tracker.outages(seen.provider, now))
    return max(0, FULL_BPS - int(silent * FULL_BPS / (end - start)))


def response_bps(seen: Observation) -> int | None:
    """1 - mean response time / deadline, basis points; no answer takes the whole deadline. None without a challenge."""
    waits = [DEADLINE_S if _is_miss(t) else t.latency_s for t in seen.transcripts if t.finding is not Finding.UNKNOWN]
    known = [min(float(DEADLINE_S), w) for w in waits if w is not None]
    return int(FULL_BPS * (1 - sum(known) / len(known) / DEADLINE_S)) if known else None


# ------------------------------------------------------------------ drafting


def _validation(seen: Observation) -> Draft | None:
    good = [t for t in seen.transcripts if t.finding is Finding.SUCCESS]
    since = max((t.challenge.issued_at for t in good if _counted(t, seen)), default=-1)
    fresh = [t for t in good if t.challenge.issued_at > since and t.answer and t.answer.car]
    if not fresh:
        return None
    # One proof is enough to show the job was challenged; more would only make the bundle large.
    last = fresh[-1]
    at = last.challenge.issued_at
    return Draft(_outcome(seen, OutcomeKind.VALIDATION, at, at, 1), (last,))


def _fraud(seen: Observation) -> Draft | None:
    wrong = [t for t in seen.transcripts if t.finding is Finding.WRONG]
    if not wrong:
        return None
    at = wrong[0].challenge.issued_at
    return Draft(_outcome(seen, OutcomeKind.INVALID_DATA, at, at, 1), (wrong[0],))


def _unanswered(seen: Observation, now: int) -> Draft | None:
    # A silent host is an outage, not a slow one: being paid for nothing is already prevented there.
    run = _latest_run(seen.transcripts, _is_miss)
    if len(run) < MISSES_FOR_TIMEOUT or seen.tracker.phase(seen.provider, now) is not Phase.ALIVE:
        return None
    return Draft(_span(seen, OutcomeKind.TIMEOUT, run))


def _bad_signatures(seen: Observation) -> Draft | None:
    run = _latest_run(seen.transcripts, _is_bad_signature)
    return Draft(_span(seen, OutcomeKind.INVALID_SIGNATURE, run)) if len(run) >= MISSES_FOR_TIMEOUT else None


def _downtime(seen: Observation, now: int) -> Draft | None:
    job = seen.job
    if not job.started_at:
        return None
    if job.status is JobStatus.RUNNING and seen.tracker.phase(seen.provider, now) is Phase.DEAD:
        return None  # that is a death, which ends the job
    floor, ceiling = max(job.started_at, seen.recorded_until), min(seen.head_time, job.ended_at or seen.head_time)
    for silence in seen.tracker.outages(seen.provider, now):
        start = max(floor, int(silence.start))
        to = min(int(now if silence.to is None else silence.to), ceiling)
        if to - start > seen.tracker.rhythm.interval_s:
            return Draft(_outcome(seen, OutcomeKind.DOWNTIME, start, to, 0))
    return None


def _death(seen: Observation, now: int) -> Draft | None:
    if seen.tracker.phase(seen.provider, now) is not Phase.DEAD or seen.job.dead_at:
        return None
    return Draft(_outcome(seen, OutcomeKind.DOWNTIME, _last_proof_of_life(seen), 0, 0))


def _metrics(seen: Observation, now: int) -> Draft | None:
    job, response = seen.job, response_bps(seen)
    if not job.started_at or not job.ended_at or response is None or _unwatched(seen):
        return None
    value = uptime_bps(seen, now) << 16 | response
    # Metrics are of the machine: their subject is the resource, their period is the job's.
    return Draft(Outcome(OutcomeKind.METRICS, job.resource_id, seen.provider, job.started_at, job.ended_at, value))


# ------------------------------------------------------------------ checking


def _object_proofs(outcome: Outcome, proofs: Sequence[Transcript], seen: Observation, want: Finding) -> str | None:
    if not proofs or outcome.value != len(proofs):
        return "the proofs do not match the count"
    if len({t.challenge.challenge_id for t in proofs}) != len(proofs):
        return "a proof is given twice"
    for proof in proofs:
        asked = proof.challenge
        if asked.job_id != outcome.job_id or asked.provider != outcome.provider or asked.cid != seen.image:
            return "a proof is about something else"
        if proof.finding is not want:
            return f"a proof shows {proof.finding.value}, not {want.value}"
        if not outcome.from_ <= asked.issued_at <= outcome.to or asked.challenge_id in seen.reported:
            return "a proof is out of its time"
    return None


def _object_own(seen: Observation, outcome: Outcome, now: int, matches: _Match) -> str | None:
    slack = DEADLINE_S + 2 * seen.tracker.rhythm.interval_s
    window = [t for t in seen.transcripts if outcome.from_ - slack <= t.challenge.issued_at <= outcome.to + slack]
    if outcome.to > now + slack or not any(matches(t) for t in window):
        return "not observed here"
    if any(t.finding is Finding.SUCCESS for t in window):
        return "the host answered here"
    return None


def _object_downtime(outcome: Outcome, seen: Observation, now: int) -> str | None:
    if not is_bill_open(seen.job):
        return "the job's bill is closed"
    if not max(seen.job.started_at, seen.recorded_until) <= outcome.from_ < outcome.to:
        return "the time is before the start or already recorded"
    if not seen.tracker.witnessed_silence(seen.provider, outcome.from_, outcome.to, now):
        return "the host was heard here, or not watched"
    return None


def _object_death(outcome: Outcome, seen: Observation, now: int) -> str | None:
    if seen.job.status is not JobStatus.RUNNING or seen.job.dead_at:
        return "the job is not running"
    slack = seen.tracker.rhythm.interval_s + 1
    last = seen.tracker.last_beat(seen.provider)
    if last is None or now - last <= seen.tracker.rhythm.dead_s - slack:
        return "the host is not dead here"
    return None if abs(outcome.from_ - _last_proof_of_life(seen)) <= slack else "the last proof of life differs"


def _object_metrics(outcome: Outcome, seen: Observation, now: int) -> str | None:
    job, response = seen.job, response_bps(seen)
    if job.status not in (JobStatus.COMPLETED, JobStatus.RESOLVED) or not job.started_at:
        return "the job has not ended"
    if (outcome.from_, outcome.to) != (job.started_at, job.ended_at):
        return "the period is not the job's"
    if response is None or _unwatched(seen):
        return "not observed here"
    given_uptime, given_response = outcome.value >> 16, outcome.value & 0xFFFF
    if given_uptime > FULL_BPS or given_response > FULL_BPS:
        return "out of range"
    if abs(given_uptime - uptime_bps(seen, now)) > UPTIME_SLACK_BPS:
        return "the uptime here differs"
    return None if abs(given_response - response) <= RESPONSE_SLACK_BPS else "the response rate here differs"


# ------------------------------------------------------------------- helpers


def is_bill_open(job: Job) -> bool:
    """Whether an outage still changes what is billed: while the job runs, is disputed, or waits to be paid out."""
    if job.status is JobStatus.COMPLETED:
        return job.locked_amount > 0
    return job.status in (JobStatus.RUNNING, JobStatus.DISPUTED)


def rhythm_for(heartbeat_s: float, grace_beats: int, dead_beats: int) -> Rhythm:
    """The rhythm in seconds from a heartbeat period and counts of beats."""
    return Rhythm(heartbeat_s, heartbeat_s * grace_beats, heartbeat_s * dead_beats)


def _outcome(seen: Observation, kind: OutcomeKind, start: int, to: int, value: int) -> Outcome:
    return Outcome(kind=kind, job_id=seen.job.job_id, provider=seen.provider, from_=start, to=to, value=value)


def _span(seen: Observation, kind: OutcomeKind, run: Sequence[Transcript]) -> Outcome:
    return _outcome(seen, kind, run[0].challenge.issued_at, run[-1].challenge.issued_at, len(run))


def _counted(transcript: Transcript, seen: Observation) -> bool:
    return transcript.challenge.challenge_id in seen.reported


def _is_miss(transcript: Transcript) -> bool:
    return transcript.finding is Finding.NO_ANSWER


def _is_bad_signature(transcript: Transcript) -> bool:
    return transcript.finding is Finding.CONTAINED and transcript.detail == "signature"


def _latest_run(transcripts: Sequence[Transcript], matches: _Match) -> list[Transcript]:
    """The matching transcripts after the last success."""
    run: list[Transcript] = []
    for transcript in transcripts:
        if transcript.finding is Finding.SUCCESS:
            run = []
        elif matches(transcript):
            run.append(transcript)
    return run


def _last_proof_of_life(seen: Observation) -> int:
    # Outages already recorded past the last beat stay recorded: dying earlier would subtract them twice.
    last = seen.tracker.last_beat(seen.provider) or 0
    return max(int(last), seen.recorded_until, seen.job.started_at)


def _unwatched(seen: Observation) -> bool:
    watched = seen.tracker.watched_since(seen.provider)
    return watched is None or watched > seen.job.started_at + seen.tracker.rhythm.outage_s


def _overlap(silence: Silence, start: int, end: int) -> float:
    to = end if silence.to is None else min(silence.to, end)
    return max(0.0, to - max(silence.start, start))
