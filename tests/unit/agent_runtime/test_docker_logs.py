from __future__ import annotations

import io

from provider_agent.docker_logs import Resume, frames
from provider_agent.runtime import LogLine


def frame(stream: int, text: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(text).to_bytes(4, "big") + text


def at(second: int, stream: str = "stdout", line: str = "x") -> LogLine:
    return LogLine(f"2026-01-01T00:00:{second:02d}.000000000Z", stream, line)


def test_frames_are_lines() -> None:
    data = frame(1, b"2026-01-01T00:00:00.1Z hello world\n") + frame(2, b"2026-01-01T00:00:00.2Z \xff\r\n")

    assert list(frames(io.BytesIO(data).read)) == [
        LogLine("2026-01-01T00:00:00.1Z", "stdout", "hello world"),
        LogLine("2026-01-01T00:00:00.2Z", "stderr", "\ufffd"),
    ]


def test_a_stream_that_breaks_off_just_ends() -> None:
    data = frame(1, b"t one\n") + frame(1, b"t two\n")
    for cut in range(len(data)):
        assert len(list(frames(io.BytesIO(data[:cut]).read))) == (1 if cut >= 14 else 0)


def test_a_reopened_stream_repeats_nothing_and_loses_nothing() -> None:
    lines = [at(1), at(2, "stderr"), at(1, line="late"), at(2, "stderr", "piece"), at(2, "stderr", "piece"), at(3)]
    for cut in range(len(lines) + 1):
        resume = Resume("")
        resume.reopen()
        first = [line for line in lines[:cut] if resume.is_new(line)]
        resume.reopen()
        second = [line for line in lines if resume.is_new(line)]

        assert first + second == lines


def test_since_leaves_out_what_is_not_after_it() -> None:
    resume = Resume(at(2).ts)
    asked = resume.reopen()

    assert int(asked) == 1767225601
    assert [line for line in (at(1), at(2), at(3)) if resume.is_new(line)] == [at(3)]
