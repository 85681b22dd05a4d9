from __future__ import annotations

from pathlib import Path

from gpumarket.errors import ERROR_KINDS

ROOT = Path(__file__).parents[3]


def test_the_error_page_lists_every_code_as_the_table_has_it() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    for code, kind in ERROR_KINDS.items():
        assert f"| `{code}` | {kind.http_status} | {kind.exit_code} | {kind.summary} |" in page
    assert page.count("\n| `") == len(ERROR_KINDS)
