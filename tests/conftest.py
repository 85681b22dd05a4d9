"""What every test shares: real parts as fixtures, and a closing line that says which of them were really used."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.parts.anvil import Anvil, anvil

REAL_PARTS = ("anvil", "docker", "kubo", "postgres", "e2e")
_ran: Counter[str] = Counter()
_skipped: Counter[str] = Counter()


@pytest.fixture
def node() -> Iterator[Anvil]:
    """A fresh EVM node that mines a block per transaction."""
    with anvil() as running:
        yield running


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    parts = [part for part in REAL_PARTS if item.get_closest_marker(part)]
    if report.when == "call" and report.passed:
        _ran.update(parts)
    elif report.skipped:
        _skipped.update(parts)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = ", ".join(f"{part} {_ran[part]}" for part in REAL_PARTS)
    terminalreporter.write_line(f"passed on real parts: {counts}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a skipped real part is a failure: a green run must mean that it was tried."""
    if os.environ.get("GPUMARKET_TESTS_NO_SKIP") and sum(_skipped.values()):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
