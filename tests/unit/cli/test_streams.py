"""A stream of frames over connections that break."""

from __future__ import annotations

import pytest

from gpumarket.errors import MarketError
from gpumarket.sdk.streams import Frame, follow
from tests.fakes import ScriptedStream

LOST = ConnectionError("lost")
END = {"type": "end", "exitCode": 0, "reason": "exited"}


def line(seq: int) -> dict[str, object]:
    return {"type": "log", "seq": seq, "line": f"line {seq}"}


def refusal(code: str) -> dict[str, object]:
    return {"type": "error", "error": {"code": code, "message": "no"}}


async def frames(stream: ScriptedStream, after: int = 0) -> list[Frame]:
    found = []
    async for frame in follow(stream.connect, stream.greeting, stream.sleep, after=after, attempts=5):
        found.append(frame)
    return found


async def test_default_behavior() -> None:
    found = await frames(ScriptedStream([[line(1), {"type": "status", "phase": "RUNNING"}, line(2), END]]))
    assert [frame.type for frame in found] == ["log", "status", "log", "end"]


async def test_a_lost_connection_resumes_after_the_last_line() -> None:
    stream = ScriptedStream([[line(1), line(2), LOST], [line(3), END]])
    found = await frames(stream)
    assert [frame.seq for frame in found if frame.type == "log"] == [1, 2, 3]
    assert stream.greetings == [0, 2]


async def test_a_line_sent_again_is_shown_once() -> None:
    found = await frames(ScriptedStream([[line(1), line(2), LOST], [line(1), line(2), line(3), END]]))
    assert [frame.seq for frame in found if frame.type == "log"] == [1, 2, 3]


async def test_lines_already_seen_are_not_asked_for() -> None:
    stream = ScriptedStream([[line(8), END]])
    await frames(stream, after=7)
    assert stream.greetings == [7]


async def test_it_gives_up_after_connections_in_a_row_that_bring_nothing() -> None:
    stream = ScriptedStream([[LOST]] * 9)
    with pytest.raises(MarketError) as caught:
        await frames(stream)
    assert caught.value.code == "gateway_unreachable"
    assert len(stream.greetings) == 5


async def test_progress_renews_patience() -> None:
    stream = ScriptedStream([*[[LOST]] * 4, [line(1), LOST], *[[LOST]] * 3, [END]])
    assert [frame.type for frame in await frames(stream)] == ["log", "end"]


async def test_a_provider_out_of_reach_is_tried_again() -> None:
    stream = ScriptedStream([[refusal("provider_unreachable")], [END]])
    assert [frame.type for frame in await frames(stream)] == ["end"]


async def test_a_job_the_agent_has_not_seen_yet_is_tried_again() -> None:
    stream = ScriptedStream([[refusal("not_found")], [line(1), END]])
    assert [frame.type for frame in await frames(stream)] == ["log", "end"]


async def test_forbidden_is_final() -> None:
    with pytest.raises(MarketError) as caught:
        await frames(ScriptedStream([[refusal("forbidden")], [line(1), END]]))
    assert caught.value.code == "forbidden"


async def test_a_bad_signature_is_final() -> None:
    stream = ScriptedStream([[refusal("unauthorized")], [END]])
    with pytest.raises(MarketError) as caught:
        await frames(stream)
    assert caught.value.code == "unauthorized"
    assert len(stream.greetings) == 1


async def test_an_unknown_code_from_the_other_side_is_no_crash() -> None:
    assert len(await frames(ScriptedStream([[refusal("no_such_code")], [END]]))) == 1


async def test_a_frame_that_is_no_json_is_an_error_with_a_code() -> None:
    stream = ScriptedStream([["not json"]] * 9)
    with pytest.raises(MarketError) as caught:
        await frames(stream)
    assert caught.value.code == "internal"
