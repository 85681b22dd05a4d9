from __future__ import annotations

import pytest

from gpumarket.errors import MarketError
from gpumarket.rules.units import JobId
from oracle.heartbeats import MAX_JOBS, Heartbeat, Phase, Rhythm, Silence, Tracker
from tests.unit.oracle.oracle_stage import NOW, PROVIDER, beat, steady, tracker_with

WHO = PROVIDER.address
RHYTHM = Rhythm(interval_s=60, grace_s=60, dead_s=1_800)


def test_default_behavior_beats_on_time_are_no_outage() -> None:
    tracker = tracker_with(*steady(NOW, NOW + 600))
    assert tracker.phase(WHO, NOW + 630) is Phase.ALIVE
    assert tracker.outages(WHO, NOW + 630) == []


@pytest.mark.parametrize(
    ("quiet", "phase"),
    [
        (60, Phase.ALIVE),
        (240, Phase.ALIVE),
        (241, Phase.GRACE),
        (300, Phase.GRACE),
        (301, Phase.OUTAGE),
        (1_800, Phase.OUTAGE),
        (1_801, Phase.DEAD),
    ],
)
def test_more_than_three_missed_beats_begin_a_silence_and_grace_ends_it_in_outage_and_death(
    quiet: int, phase: Phase
) -> None:
    assert tracker_with(NOW).phase(WHO, NOW + quiet) is phase


def test_an_outage_begins_at_the_last_beat_and_stays_open_until_the_next() -> None:
    tracker = tracker_with(NOW, NOW + 60)
    assert tracker.outages(WHO, NOW + 360) == []
    assert tracker.outages(WHO, NOW + 361) == [Silence(NOW + 60, None)]
    ended = tracker.accept(beat(NOW + 500), NOW + 500)
    assert ended == Silence(NOW + 60, NOW + 500)
    assert tracker.outages(WHO, NOW + 510) == [Silence(NOW + 60, NOW + 500)]


def test_a_silence_within_the_grace_is_forgiven() -> None:
    tracker = tracker_with(NOW, NOW + 290)
    assert tracker.outages(WHO, NOW + 300) == []


def test_one_missed_beat_ends_nothing() -> None:
    tracker = tracker_with(NOW)
    assert tracker.accept(beat(NOW + 120), NOW + 120) is None


@pytest.mark.parametrize("off", [-121, 121])
def test_a_timestamp_off_our_clock_is_refused(off: int) -> None:
    with pytest.raises(MarketError) as refused:
        Tracker(RHYTHM).accept(beat(NOW + off), NOW)
    assert refused.value.code == "invalid_argument"


@pytest.mark.parametrize("off", [-120, 120])
def test_a_timestamp_at_the_edge_of_our_clock_is_taken(off: int) -> None:
    Tracker(RHYTHM).accept(beat(NOW + off), NOW)


def test_a_replayed_beat_is_refused() -> None:
    tracker = tracker_with(NOW)
    with pytest.raises(MarketError):
        tracker.accept(beat(NOW), NOW + 1)
    with pytest.raises(MarketError):
        tracker.accept(beat(NOW - 1, seq=NOW + 100), NOW + 1)


def test_two_beats_in_one_second_need_a_rising_number() -> None:
    tracker = tracker_with(NOW)
    tracker.accept(beat(NOW, seq=NOW + 1), NOW)
    with pytest.raises(MarketError):
        tracker.accept(beat(NOW, seq=NOW + 1), NOW)


def test_a_host_that_lost_its_counter_is_heard_again() -> None:
    tracker = Tracker(RHYTHM)
    tracker.accept(beat(NOW, seq=NOW + 50), NOW)
    tracker.accept(beat(NOW + 1, seq=NOW + 1), NOW + 1)
    assert tracker.position(WHO) == (NOW + 1, NOW + 1)


def test_too_many_jobs_are_refused() -> None:
    jobs = tuple(JobId("0x" + "00" * 32) for _ in range(MAX_JOBS + 1))
    with pytest.raises(MarketError):
        Tracker(RHYTHM).accept(Heartbeat(WHO, 1, NOW, jobs, ""), NOW)


def test_beats_seen_before_a_restart_stay_seen_and_the_time_away_proves_nothing() -> None:
    tracker = Tracker(RHYTHM)
    tracker.restore(WHO, NOW, NOW, NOW + 5_000)
    assert tracker.phase(WHO, NOW + 5_001) is Phase.ALIVE
    assert tracker.outages(WHO, NOW + 5_001) == []
    with pytest.raises(MarketError):
        tracker.accept(beat(NOW), NOW)


def test_an_expected_host_that_never_speaks_dies_from_when_it_was_expected() -> None:
    tracker = Tracker(RHYTHM)
    assert tracker.phase(WHO, NOW) is None
    tracker.expect(WHO, NOW)
    tracker.expect(WHO, NOW + 1_000)
    assert tracker.phase(WHO, NOW + 1_801) is Phase.DEAD
    assert tracker.last_beat(WHO) == NOW


def test_a_silence_is_witnessed_give_or_take_a_beat() -> None:
    tracker = tracker_with(NOW, NOW + 1_000)
    now = NOW + 1_010
    assert tracker.witnessed_silence(WHO, NOW, NOW + 1_000, now)
    assert tracker.witnessed_silence(WHO, NOW + 400, NOW + 600, now)
    assert tracker.witnessed_silence(WHO, NOW - 61, NOW + 1_061, now)
    assert not tracker.witnessed_silence(WHO, NOW - 62, NOW + 1_000, now)
    assert not tracker.witnessed_silence(WHO, NOW, NOW + 1_062, now)


def test_a_host_that_was_heard_witnesses_no_silence() -> None:
    tracker = tracker_with(*steady(NOW, NOW + 1_200))
    assert not tracker.witnessed_silence(WHO, NOW, NOW + 1_000, NOW + 1_210)


def test_who_was_not_watching_witnessed_nothing() -> None:
    tracker = Tracker(RHYTHM)
    tracker.expect(WHO, NOW + 500)
    assert not tracker.witnessed_silence(WHO, NOW, NOW + 900, NOW + 900)
    assert not Tracker(RHYTHM).witnessed_silence(WHO, NOW, NOW + 900, NOW + 900)


def test_the_future_is_witnessed_by_nobody() -> None:
    assert not tracker_with(NOW).witnessed_silence(WHO, NOW, NOW + 1_000, NOW + 900)
