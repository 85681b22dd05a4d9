from __future__ import annotations

from dataclasses import replace

import pytest

from gpumarket.chain.types import Outcome, OutcomeKind
from gpumarket.rules.job_state import JobStatus, Verdict
from oracle.heartbeats import Tracker
from oracle.possession import Finding
from oracle.verdict import Draft, Observation, objection, propose, response_bps, rhythm_for, uptime_bps, verdict
from tests.unit.oracle.oracle_stage import (
    JOB_ID,
    NOW,
    PROVIDER,
    RENTER,
    RESOURCE_ID,
    RHYTHM,
    beat,
    job,
    seen,
    steady,
    tracker_with,
    transcript,
)

ALIVE = steady(NOW, NOW + 600)


def kinds(drafts: list[Draft]) -> list[OutcomeKind]:
    return [draft.outcome.kind for draft in drafts]


def only(view: Observation, now: int) -> Draft:
    (draft,) = propose(view, now)
    return draft


def supported(view: Observation, draft: Draft, now: int) -> str | None:
    return objection(draft.outcome, draft.transcripts, view, now)


# ---------------------------------------------------------------- validation


def test_default_behavior_a_success_is_a_validation_and_is_supported() -> None:
    view = seen(
        tracker_with(*ALIVE), transcript(Finding.SUCCESS, 1, NOW + 20), transcript(Finding.SUCCESS, 2, NOW + 30)
    )
    draft = only(view, NOW + 610)
    assert draft.outcome.kind is OutcomeKind.VALIDATION
    assert draft.outcome.value == 1
    assert supported(view, draft, NOW + 610) is None


def test_a_quiet_job_has_nothing_to_say() -> None:
    assert propose(seen(tracker_with(*ALIVE)), NOW + 610) == []


def test_a_proof_counts_once() -> None:
    first, second = transcript(Finding.SUCCESS, 1, NOW + 20), transcript(Finding.SUCCESS, 2, NOW + 30)
    view = seen(tracker_with(*ALIVE), first, second, reported=frozenset({second.challenge.challenge_id}))
    assert propose(view, NOW + 610) == []
    draft = only(replace(view, reported=frozenset({first.challenge.challenge_id})), NOW + 610)
    assert draft.transcripts == (second,)
    assert supported(view, draft, NOW + 610) == "a proof is out of its time"


def test_a_validation_needs_its_proof() -> None:
    view = seen(tracker_with(*ALIVE), transcript(Finding.SUCCESS, 1, NOW + 20))
    good = only(view, NOW + 610)
    (proof,) = good.transcripts
    elsewhere = replace(proof, challenge=replace(proof.challenge, cid="other"))
    cases = {
        "count": (good.outcome, ()),
        "twice": (replace(good.outcome, value=2), (proof, proof)),
        "something else": (good.outcome, (elsewhere,)),
        "no_answer, not success": (good.outcome, (replace(proof, finding=Finding.NO_ANSWER),)),
        "out of its time": (replace(good.outcome, from_=NOW + 21, to=NOW + 22), (proof,)),
    }
    for expected, (outcome, proofs) in cases.items():
        assert expected in str(objection(outcome, proofs, view, NOW + 610))


def test_another_providers_job_is_refused() -> None:
    view = seen(tracker_with(*ALIVE), transcript(Finding.SUCCESS, 1, NOW + 20))
    draft = only(view, NOW + 610)
    assert objection(replace(draft.outcome, provider=RENTER.address), draft.transcripts, view, NOW + 610) is not None


# --------------------------------------------------------------------- fraud


def test_a_proven_wrong_answer_is_invalid_data_for_anybody() -> None:
    view = seen(tracker_with(*ALIVE), transcript(Finding.WRONG, 1, NOW + 20))
    draft = only(view, NOW + 610)
    assert draft.outcome.kind is OutcomeKind.INVALID_DATA
    assert supported(seen(tracker_with(*ALIVE)), draft, NOW + 610) is None
    assert propose(replace(view, applied=frozenset({OutcomeKind.INVALID_DATA})), NOW + 610) == []


def test_a_wrong_answer_that_proves_nothing_here_is_refused() -> None:
    view = seen(tracker_with(*ALIVE), transcript(Finding.WRONG, 1, NOW + 20))
    draft = only(view, NOW + 610)
    contained = tuple(replace(t, finding=Finding.CONTAINED) for t in draft.transcripts)
    assert objection(draft.outcome, contained, view, NOW + 610) == "a proof shows contained, not wrong"


# ------------------------------------------------------- timeouts, signatures


def misses(count: int, finding: Finding = Finding.NO_ANSWER, detail: str = "") -> list[object]:
    return [transcript(finding, n, NOW + 40 * n, None, detail) for n in range(1, count + 1)]


def test_three_misses_in_a_row_of_a_living_host_are_a_timeout() -> None:
    for count, expected in ((2, []), (3, [OutcomeKind.TIMEOUT])):
        view = seen(tracker_with(*ALIVE), *misses(count))  # type: ignore[arg-type]
        assert kinds(propose(view, NOW + 610)) == expected


def test_a_success_between_misses_starts_the_count_again() -> None:
    view = seen(
        tracker_with(*ALIVE),
        transcript(Finding.NO_ANSWER, 1, NOW + 40, None),
        transcript(Finding.NO_ANSWER, 2, NOW + 80, None),
        transcript(Finding.SUCCESS, 3, NOW + 120),
        transcript(Finding.NO_ANSWER, 4, NOW + 160, None),
    )
    assert kinds(propose(view, NOW + 610)) == [OutcomeKind.VALIDATION]


def test_a_silent_host_is_an_outage_and_no_timeout() -> None:
    view = seen(tracker_with(NOW), *misses(3))  # type: ignore[arg-type]
    assert OutcomeKind.TIMEOUT not in kinds(propose(view, NOW + 610))


def test_a_timeout_needs_an_own_miss_and_no_own_success() -> None:
    draft = only(seen(tracker_with(*ALIVE), *misses(3)), NOW + 610)  # type: ignore[arg-type]
    assert supported(seen(tracker_with(*ALIVE), *misses(1)), draft, NOW + 610) is None  # type: ignore[arg-type]
    assert supported(seen(tracker_with(*ALIVE)), draft, NOW + 610) == "not observed here"
    heard = seen(tracker_with(*ALIVE), *misses(1), transcript(Finding.SUCCESS, 9, NOW + 60))  # type: ignore[arg-type]
    assert supported(heard, draft, NOW + 610) == "the host answered here"


def test_bad_signatures_are_reported_only_by_those_who_saw_them() -> None:
    bad = misses(3, Finding.CONTAINED, "signature")
    draft = only(seen(tracker_with(*ALIVE), *bad), NOW + 610)  # type: ignore[arg-type]
    assert draft.outcome.kind is OutcomeKind.INVALID_SIGNATURE
    assert supported(seen(tracker_with(*ALIVE), *bad[:1]), draft, NOW + 610) is None  # type: ignore[arg-type]
    assert supported(seen(tracker_with(*ALIVE), *misses(1)), draft, NOW + 610) is not None  # type: ignore[arg-type]


def test_contained_answers_of_another_kind_accuse_nobody() -> None:
    bad = misses(5, Finding.CONTAINED, "car: content_malformed")
    assert propose(seen(tracker_with(*ALIVE), *bad), NOW + 610) == []  # type: ignore[arg-type]


# ------------------------------------------------------------------ downtime


def test_an_outage_is_reported_from_the_last_beat() -> None:
    view = seen(tracker_with(NOW, NOW + 60, NOW + 460))
    draft = only(view, NOW + 470)
    assert draft.outcome == Outcome(OutcomeKind.DOWNTIME, JOB_ID, PROVIDER.address, NOW + 60, NOW + 460)
    assert supported(view, draft, NOW + 470) is None


def test_an_open_outage_is_reported_up_to_now_and_never_beyond_the_chains_time() -> None:
    view = seen(tracker_with(NOW))
    assert only(view, NOW + 400).outcome.to == NOW + 400
    assert only(replace(view, head_time=NOW + 350), NOW + 400).outcome.to == NOW + 350


def test_an_outage_open_when_the_job_is_completed_is_reported_until_it_is_paid_out() -> None:
    view = seen(tracker_with(*ALIVE), job=job(JobStatus.COMPLETED, since=NOW + 900, ended_at=NOW + 900))
    for now in (NOW + 910, NOW + 600 + RHYTHM.dead_s + 100):  # also when the host is silent for good
        draft = only(view, now)
        assert (draft.outcome.kind, draft.outcome.from_, draft.outcome.to) == (
            OutcomeKind.DOWNTIME,
            NOW + 600,
            NOW + 900,
        )
        assert supported(view, draft, now) is None
    paid = replace(view, job=replace(view.job, locked_amount=0))
    assert OutcomeKind.DOWNTIME not in kinds(propose(paid, NOW + 910))
    assert supported(paid, draft, NOW + 910) == "the job's bill is closed"
    assert propose(replace(view, recorded_until=NOW + 900), NOW + 910) == []


def test_only_the_part_of_an_outage_after_the_start_and_not_yet_recorded_counts() -> None:
    view = seen(tracker_with(NOW, NOW + 500), job=job(started_at=NOW + 100))
    assert only(view, NOW + 510).outcome.from_ == NOW + 100
    assert only(replace(view, recorded_until=NOW + 300), NOW + 510).outcome.from_ == NOW + 300
    assert propose(replace(view, recorded_until=NOW + 500), NOW + 510) == []


def test_an_outage_seen_by_one_member_only_is_refused_by_the_others() -> None:
    draft = only(seen(tracker_with(NOW)), NOW + 600)
    assert supported(seen(tracker_with(*ALIVE)), draft, NOW + 600) == "the host was heard here, or not watched"
    assert supported(seen(Tracker(RHYTHM)), draft, NOW + 600) == "the host was heard here, or not watched"
    assert supported(seen(tracker_with(NOW + 30)), draft, NOW + 600) is None


def test_an_outage_outside_the_job_is_refused() -> None:
    view = seen(tracker_with(NOW), job=job(started_at=NOW + 100), recorded_until=NOW + 200)
    outage = Outcome(OutcomeKind.DOWNTIME, JOB_ID, PROVIDER.address, NOW + 200, NOW + 500)
    assert objection(outage, (), view, NOW + 500) is None
    for bad in (replace(outage, from_=NOW + 199), replace(outage, to=NOW + 200)):
        assert objection(bad, (), view, NOW + 500) is not None
    ended = replace(view, job=job(JobStatus.COMPLETED, ended_at=NOW + 300, locked_amount=0))
    assert objection(outage, (), ended, NOW + 500) == "the job's bill is closed"


def test_death_is_reported_once_from_the_last_proof_of_life() -> None:
    view = seen(tracker_with(NOW, NOW + 60))
    now = NOW + 60 + 1_801
    draft = only(view, now)
    assert (draft.outcome.from_, draft.outcome.to) == (NOW + 60, 0)
    assert supported(view, draft, now) is None
    assert propose(replace(view, job=job(dead_at=NOW + 60)), now) == []
    assert kinds(propose(view, now - 1)) == [OutcomeKind.DOWNTIME]
    assert only(view, now - 1).outcome.to != 0


def test_recorded_outages_move_the_last_proof_of_life_so_that_nothing_is_subtracted_twice() -> None:
    view = seen(tracker_with(NOW, NOW + 60), recorded_until=NOW + 900)
    assert only(view, NOW + 1_900).outcome.from_ == NOW + 900


def test_a_death_is_refused_where_the_host_lives_or_died_at_another_time() -> None:
    now = NOW + 1_900
    draft = only(seen(tracker_with(NOW)), now)
    assert supported(seen(tracker_with(*steady(NOW, now))), draft, now) == "the host is not dead here"
    assert supported(seen(tracker_with(NOW, NOW + 62)), draft, now) == "the last proof of life differs"
    assert supported(seen(tracker_with(NOW, NOW + 61)), draft, now) is None
    assert supported(seen(Tracker(RHYTHM)), draft, now) == "the host is not dead here"


# ------------------------------------------------------------------- metrics


def ended_view(*beats: int) -> Observation:
    ended = job(JobStatus.COMPLETED, ended_at=NOW + 1_000, since=NOW + 1_000)
    return seen(tracker_with(*beats), transcript(Finding.SUCCESS, 1, NOW + 20, 3.0), job=ended)


def metrics(view: Observation) -> Draft:
    return next(d for d in propose(view, NOW + 1_010) if d.outcome.kind is OutcomeKind.METRICS)


def test_metrics_follow_a_jobs_end_and_name_the_machine() -> None:
    view = ended_view(*steady(NOW, NOW + 960))
    outcome = metrics(view).outcome
    assert (outcome.job_id, outcome.from_, outcome.to) == (RESOURCE_ID, NOW, NOW + 1_000)
    assert outcome.value == 10_000 << 16 | 9_000
    assert supported(view, metrics(view), NOW + 1_010) is None


def test_uptime_is_the_share_of_the_job_without_outage() -> None:
    assert uptime_bps(ended_view(NOW, NOW + 500, NOW + 560, NOW + 620, NOW + 900), NOW + 1_010) == 5_000
    assert uptime_bps(ended_view(NOW), NOW + 1_010) == 0
    assert uptime_bps(seen(tracker_with(NOW)), NOW + 1_010) == 10_000


def test_response_counts_a_miss_as_the_whole_deadline_and_unknown_not_at_all() -> None:
    good, miss = transcript(Finding.SUCCESS, 1, NOW, 0.0), transcript(Finding.NO_ANSWER, 2, NOW, None)
    unknown = transcript(Finding.UNKNOWN, 3, NOW, None)
    assert response_bps(seen(tracker_with(NOW), good)) == 10_000
    assert response_bps(seen(tracker_with(NOW), good, miss)) == 5_000
    assert response_bps(seen(tracker_with(NOW), miss)) == 0
    assert response_bps(seen(tracker_with(NOW), unknown)) is None


def test_metrics_far_from_what_was_seen_here_are_refused() -> None:
    view = ended_view(*steady(NOW, NOW + 960))
    draft = metrics(view)

    def changed(uptime: int, response: int) -> str | None:
        return objection(replace(draft.outcome, value=uptime << 16 | response), (), view, NOW + 1_010)

    assert changed(9_500, 9_000) is None
    assert changed(9_499, 9_000) == "the uptime here differs"
    assert changed(10_000, 7_000) is None
    assert changed(10_000, 6_999) == "the response rate here differs"
    assert changed(10_001, 9_000) == "out of range"
    assert objection(replace(draft.outcome, to=NOW + 999), (), view, NOW + 1_010) == "the period is not the job's"
    blind = replace(view, transcripts=())
    assert supported(blind, draft, NOW + 1_010) == "not observed here"
    assert supported(replace(view, job=job()), draft, NOW + 1_010) == "the job has not ended"


def test_a_member_that_came_late_measures_nothing() -> None:
    late = Tracker(RHYTHM)
    late.expect(PROVIDER.address, NOW + 900)
    view = replace(ended_view(NOW), tracker=late)
    assert OutcomeKind.METRICS not in kinds(propose(view, NOW + 1_010))


# ------------------------------------------------------------------- verdicts


def disputed(*beats: int, ended_at: int = NOW + 600) -> Observation:
    return seen(tracker_with(*beats), job=job(JobStatus.DISPUTED, ended_at=ended_at, since=ended_at))


SUCCESS, MISS = transcript(Finding.SUCCESS, 1, NOW + 20), transcript(Finding.NO_ANSWER, 2, NOW + 60, None)
FULL = steady(NOW, NOW + 660)


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (replace(disputed(*FULL), transcripts=(SUCCESS, transcript(Finding.WRONG, 3, NOW))), Verdict.PROVIDER_FAULT),
        (replace(disputed(*FULL), transcripts=(SUCCESS,)), Verdict.USER_FAULT),
        (replace(disputed(*FULL), transcripts=(SUCCESS, MISS)), Verdict.SPLIT_PAYMENT),
        (disputed(*FULL), Verdict.SPLIT_PAYMENT),
        (
            replace(disputed(NOW, NOW + 310, *steady(NOW + 360, NOW + 660)), transcripts=(SUCCESS,)),
            Verdict.PROVIDER_FAULT,
        ),
        (replace(disputed(NOW, NOW + 60), transcripts=(SUCCESS,)), Verdict.PROVIDER_FAULT),
        (replace(disputed(*FULL), job=job(JobStatus.DISPUTED, started_at=0)), Verdict.SPLIT_PAYMENT),
        (replace(disputed(*FULL), tracker=Tracker(RHYTHM)), Verdict.SPLIT_PAYMENT),
    ],
    ids=["fraud", "worked", "missed", "nothing known", "half silent", "silent at the end", "not started", "unwatched"],
)
def test_a_dispute_is_decided_by_what_was_observed(view: Observation, expected: Verdict) -> None:
    assert verdict(view, NOW + 670) is expected
    draft = next(d for d in propose(view, NOW + 670) if d.outcome.kind is OutcomeKind.VERDICT)
    assert draft.outcome.value == int(expected)
    assert supported(view, draft, NOW + 670) is None


def test_a_verdict_others_do_not_reach_is_refused() -> None:
    draft = next(d for d in propose(disputed(*FULL), NOW + 670) if d.outcome.kind is OutcomeKind.VERDICT)
    worked = replace(disputed(*FULL), transcripts=(SUCCESS,))
    assert supported(worked, draft, NOW + 670) == "the verdict here is user_fault"
    assert supported(seen(tracker_with(*FULL)), draft, NOW + 670) == "the job is not disputed"


def test_what_was_applied_once_is_not_said_again() -> None:
    view = replace(disputed(*FULL), applied=frozenset({OutcomeKind.VERDICT}))
    assert propose(view, NOW + 670) == []


def test_the_rhythm_follows_the_heartbeat_period() -> None:
    rhythm = rhythm_for(2, 1, 30)
    assert (rhythm.silence_s, rhythm.outage_s, rhythm.dead_s) == (8, 10, 60)
    assert beat(NOW).timestamp == NOW
