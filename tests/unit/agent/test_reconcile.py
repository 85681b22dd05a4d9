"""The table of moves: every named case, one second around every deadline, and what must never happen."""

from __future__ import annotations

import dataclasses
import itertools

import pytest

from gpumarket.chain.types import Job, Windows
from gpumarket.rules.job_state import JobStatus
from gpumarket.rules.units import Address, JobId, ResourceId
from provider_agent.reconcile import CLEAN_GRACE_S, UNKNOWN_GRACE_S, Action, ChainView, Move, plan
from provider_agent.runtime import Container, ContainerId, ContainerState
from provider_agent.state import ALLOWED, HOLDS_MACHINE, JobRow, JobState, StopReason

NOW = 1_800_000_000
SINCE = NOW - 10
WINDOWS = Windows(accept=120, start=300, dispute=4, verdict=60)
S, C = JobStatus, ContainerState


def job(status: JobStatus, *, since: int = SINCE, started: int = 0, locked: int = 5) -> Job:
    return Job(
        JobId("0x" + "1" * 64), Address("0x" + "a" * 40), Address("0x" + "b" * 40), ResourceId("0x" + "2" * 64),
        Address("0x" + "c" * 40), status, since, started, 0, 100, 0, 60, 0, 0, 36, locked,
    )  # fmt: skip


def view(status: JobStatus, *, head: int = NOW, safe: int = NOW, final: int = NOW, **values: int) -> ChainView:
    return ChainView(job(status, **values), WINDOWS, head, safe, final)


def row(state: JobState, *, updated_at: int = SINCE, reason: str = "") -> JobRow:
    return JobRow(
        JobId("0x" + "1" * 64), ResourceId("0x" + "2" * 64), Address("0x" + "a" * 40), "0x" + "3" * 64, b"", 100, 36,
        state, updated_at, reason,
    )  # fmt: skip


def container(state: ContainerState | None) -> Container | None:
    if state is None:
        return None
    return Container(ContainerId("c1"), "name", state, None, False, None, None, {}, "image")


def move(chain: ChainView, state: JobState, box: ContainerState | None = None, *, now: int = NOW, free: bool = True):
    return plan(chain, row(state), container(box), now=now, machine_free=free)


TABLE = [
    # an offer
    (S.CREATED, JobState.OFFERED, None, Move(Action.CHECK)),
    (S.CREATED, JobState.FETCHING, None, Move(Action.FETCH)),
    (S.CREATED, JobState.ACCEPTED, None, Move(Action.ACCEPT)),
    (S.CREATED, JobState.REFUSED, None, Move(Action.WAIT)),
    (S.CREATED, JobState.STARTING, C.CREATED, Move(Action.WAIT)),
    (S.CREATED, JobState.RUNNING, C.RUNNING, Move(Action.WAIT)),
    # accepted on chain
    (S.ACCEPTED, JobState.ACCEPTED, None, Move(Action.LAUNCH)),
    (S.ACCEPTED, JobState.STARTING, None, Move(Action.CREATE)),
    (S.ACCEPTED, JobState.STARTING, C.CREATED, Move(Action.START)),
    (S.ACCEPTED, JobState.STARTING, C.RUNNING, Move(Action.START_CLOCK)),
    (S.ACCEPTED, JobState.STARTING, C.EXITED, Move(Action.START_CLOCK)),
    (S.ACCEPTED, JobState.RUNNING, C.RUNNING, Move(Action.START_CLOCK)),
    (S.ACCEPTED, JobState.STOPPED, C.CREATED, Move(Action.WAIT)),
    # accepted on chain, journal lost
    (S.ACCEPTED, JobState.OFFERED, None, Move(Action.ADOPT, state=JobState.FETCHING)),
    (S.ACCEPTED, JobState.OFFERED, C.CREATED, Move(Action.ADOPT, state=JobState.STARTING)),
    (S.ACCEPTED, JobState.FETCHING, None, Move(Action.FETCH)),
    (S.ACCEPTED, JobState.REFUSED, None, Move(Action.WAIT)),
    # the clock runs
    (S.RUNNING, JobState.STARTING, C.RUNNING, Move(Action.ADOPT, state=JobState.RUNNING)),
    (S.RUNNING, JobState.OFFERED, C.RUNNING, Move(Action.ADOPT, state=JobState.RUNNING)),
    (S.RUNNING, JobState.RUNNING, C.RUNNING, Move(Action.WAIT)),
    (S.RUNNING, JobState.RUNNING, C.EXITED, Move(Action.BEGIN_STOP, StopReason.EXITED)),
    (S.RUNNING, JobState.RUNNING, C.DEAD, Move(Action.BEGIN_STOP, StopReason.EXITED)),
    (S.RUNNING, JobState.RUNNING, None, Move(Action.BEGIN_STOP, StopReason.LOST)),
    (S.RUNNING, JobState.STOPPING, C.RUNNING, Move(Action.STOP)),
    (S.RUNNING, JobState.STOPPING, C.EXITED, Move(Action.COLLECT)),
    (S.RUNNING, JobState.STOPPED, C.EXITED, Move(Action.COMPLETE)),
    (S.RUNNING, JobState.STOPPED, C.RUNNING, Move(Action.STOP)),
    # over on chain
    (S.COMPLETED, JobState.RUNNING, C.RUNNING, Move(Action.BEGIN_STOP, StopReason.ENDED_ON_CHAIN)),
    (S.COMPLETED, JobState.RUNNING, C.EXITED, Move(Action.BEGIN_STOP, StopReason.ENDED_ON_CHAIN)),
    (S.COMPLETED, JobState.STOPPED, C.EXITED, Move(Action.SETTLE)),
    (S.CANCELLED, JobState.STARTING, C.CREATED, Move(Action.BEGIN_STOP, StopReason.CANCELLED)),
    (S.CANCELLED, JobState.FETCHING, None, Move(Action.CLEAN)),
    (S.CANCELLED, JobState.REFUSED, None, Move(Action.CLEAN)),
    (S.CANCELLED, JobState.STOPPED, C.CREATED, Move(Action.CLEAN)),
    (S.DISPUTED, JobState.RUNNING, C.RUNNING, Move(Action.BEGIN_STOP, StopReason.DISPUTED)),
    (S.DISPUTED, JobState.STOPPED, C.EXITED, Move(Action.WAIT)),
    (S.RESOLVED, JobState.STOPPED, C.EXITED, Move(Action.CLEAN)),
    (S.NONE, JobState.RUNNING, C.RUNNING, Move(Action.WAIT)),
]


@pytest.mark.parametrize(("status", "state", "box", "expected"), TABLE)
def test_move_of_each_case(status: JobStatus, state: JobState, box: ContainerState | None, expected: Move) -> None:
    assert move(view(status, started=SINCE), state, box) == expected


def test_offer_expires_after_its_window_by_both_clocks() -> None:
    end = SINCE + WINDOWS.accept
    assert move(view(S.CREATED, head=end), JobState.REFUSED, now=end).action is Action.WAIT
    assert move(view(S.CREATED, head=end + 1), JobState.REFUSED, now=end + 1).action is Action.EXPIRE
    assert move(view(S.CREATED, head=end + 1), JobState.REFUSED, now=end).action is Action.WAIT
    assert move(view(S.CREATED, head=end), JobState.REFUSED, now=end + 100).action is Action.WAIT


def test_late_start_stops_first_and_expires_then() -> None:
    late = SINCE + WINDOWS.start + 1
    chain = view(S.ACCEPTED, head=late)
    assert move(chain, JobState.STARTING, C.RUNNING, now=late) == Move(Action.BEGIN_STOP, StopReason.START_LATE)
    assert move(chain, JobState.STOPPED, C.EXITED, now=late).action is Action.EXPIRE
    assert move(chain, JobState.ACCEPTED, now=late).action is Action.EXPIRE
    assert (
        move(view(S.ACCEPTED, head=late - 1), JobState.STARTING, C.RUNNING, now=late - 1).action is Action.START_CLOCK
    )


def test_container_stops_when_paid_time_is_over_and_not_a_second_before() -> None:
    end = SINCE + 100
    chain = view(S.RUNNING, started=SINCE, head=end)
    assert move(chain, JobState.RUNNING, C.RUNNING, now=end) == Move(Action.BEGIN_STOP, StopReason.TIME_OVER)
    assert move(chain, JobState.RUNNING, C.RUNNING, now=end - 1).action is Action.WAIT


def test_silent_chain_never_ends_paid_time() -> None:
    chain = view(S.RUNNING, started=SINCE, head=SINCE + 99)
    assert move(chain, JobState.RUNNING, C.RUNNING, now=NOW + 10_000).action is Action.WAIT


def test_container_starts_at_safe_depth_only() -> None:
    assert move(view(S.ACCEPTED, safe=SINCE - 1), JobState.ACCEPTED).action is Action.WAIT
    assert move(view(S.ACCEPTED, safe=SINCE), JobState.ACCEPTED).action is Action.LAUNCH


def test_container_stops_for_the_chain_at_safe_depth_only() -> None:
    assert move(view(S.COMPLETED, safe=SINCE - 1), JobState.RUNNING, C.RUNNING).action is Action.WAIT
    assert move(view(S.COMPLETED, safe=SINCE), JobState.RUNNING, C.RUNNING).action is Action.BEGIN_STOP


def test_local_data_is_deleted_when_final_or_long_over() -> None:
    assert move(view(S.CANCELLED, final=SINCE - 1), JobState.STOPPED).action is Action.WAIT
    assert move(view(S.CANCELLED, final=SINCE), JobState.STOPPED).action is Action.CLEAN
    long_over = SINCE + CLEAN_GRACE_S
    assert move(view(S.CANCELLED, final=0), JobState.STOPPED, now=long_over - 1).action is Action.WAIT
    assert move(view(S.CANCELLED, final=0), JobState.STOPPED, now=long_over).action is Action.CLEAN


def test_completed_job_is_settled_after_the_dispute_window_and_cleaned_once_paid() -> None:
    end = SINCE + WINDOWS.dispute
    assert move(view(S.COMPLETED, head=end), JobState.STOPPED, now=end).action is Action.WAIT
    assert move(view(S.COMPLETED, head=end + 1), JobState.STOPPED, now=end + 1).action is Action.SETTLE
    assert move(view(S.COMPLETED, locked=0), JobState.STOPPED).action is Action.CLEAN


def test_dispute_without_a_verdict_is_resolved_by_timeout() -> None:
    end = SINCE + WINDOWS.verdict
    assert move(view(S.DISPUTED, head=end + 1), JobState.STOPPED, now=end + 1).action is Action.RESOLVE
    assert move(view(S.DISPUTED, head=end), JobState.STOPPED, now=end).action is Action.WAIT


def test_busy_machine_accepts_and_starts_nothing() -> None:
    assert move(view(S.CREATED), JobState.ACCEPTED, free=False).action is Action.WAIT
    assert move(view(S.ACCEPTED), JobState.ACCEPTED, free=False).action is Action.WAIT


def test_job_unknown_to_the_chain_is_left_alone_for_a_grace() -> None:
    chain = view(S.NONE)
    end = SINCE + UNKNOWN_GRACE_S
    assert move(chain, JobState.RUNNING, C.RUNNING, now=end - 1).action is Action.WAIT
    assert move(chain, JobState.RUNNING, C.RUNNING, now=end) == Move(Action.BEGIN_STOP, StopReason.UNKNOWN_TO_CHAIN)
    assert move(chain, JobState.OFFERED, None, now=end).action is Action.CLEAN


EVERY = list(
    itertools.product(JobStatus, JobState, [None, *ContainerState], [NOW, NOW + 200, NOW + 5_000], [True, False])
)


def target(found: Move, state: JobState) -> JobState:
    """The journal state a successful move leads to."""
    match found.action:
        case Action.CHECK:
            return JobState.FETCHING
        case Action.FETCH:
            return JobState.ACCEPTED
        case Action.LAUNCH:
            return JobState.STARTING
        case Action.START_CLOCK:
            return JobState.RUNNING
        case Action.BEGIN_STOP:
            return JobState.STOPPING
        case Action.COLLECT:
            return JobState.STOPPED
        case Action.CLEAN:
            return JobState.CLOSED
        case Action.ADOPT:
            assert found.state is not None
            return found.state
        case _:
            return state


def test_every_move_of_every_combination_is_allowed_by_the_table_of_states() -> None:
    for status, state, box, now, free in EVERY:
        chain = view(status, started=SINCE, head=now, safe=now, final=now)
        found = plan(chain, row(state), container(box), now=now, machine_free=free)
        after = target(found, state)
        assert after is state or after in ALLOWED[state], (status, state, box, found)


def test_a_running_container_stops_only_for_a_listed_reason() -> None:
    for status, state, box, now, free in EVERY:
        chain = view(status, started=SINCE, head=now, safe=now, final=now)
        found = plan(chain, row(state), container(box), now=now, machine_free=free)
        if box is C.RUNNING and found.action is Action.BEGIN_STOP:
            over = status in (S.COMPLETED, S.CANCELLED, S.DISPUTED, S.RESOLVED)
            unknown = status is S.NONE and now >= SINCE + UNKNOWN_GRACE_S
            late = status is S.ACCEPTED and now > SINCE + WINDOWS.start
            paid = status is S.RUNNING and now < SINCE + 100
            assert over or unknown or late or (status is S.RUNNING and not paid), (status, state, found)


def test_nothing_is_deleted_while_a_container_may_run() -> None:
    for status, state, box, now, free in EVERY:
        chain = view(status, started=SINCE, head=now, safe=now, final=now)
        found = plan(chain, row(state), container(box), now=now, machine_free=free)
        if found.action is Action.CLEAN:
            assert box is not C.RUNNING, (status, state)
            assert state is not JobState.CLOSED


def test_a_closed_job_never_moves() -> None:
    for status, box in itertools.product(JobStatus, [None, *ContainerState]):
        assert move(view(status), JobState.CLOSED, box).action is Action.WAIT


def test_every_state_reaches_closed() -> None:
    for state in JobState:
        seen, front = {state}, [state]
        while front:
            for after in ALLOWED[front.pop()] - seen:
                seen.add(after)
                front.append(after)
        assert JobState.CLOSED in seen
    assert JobState.STOPPED not in HOLDS_MACHINE


def test_a_view_is_never_mutated() -> None:
    chain = view(S.CREATED)
    before = dataclasses.replace(chain)
    move(chain, JobState.OFFERED)
    assert chain == before
