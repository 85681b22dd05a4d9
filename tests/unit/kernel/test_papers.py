from __future__ import annotations

import re
from pathlib import Path

import pytest

from gateway.app import Settings as GatewaySettings
from gpumarket import config
from gpumarket.client import RenterSettings
from gpumarket.errors import ERROR_KINDS
from indexer.app import Settings as IndexerSettings
from oracle.app import Settings as OracleSettings
from provider_agent.settings import Settings as AgentSettings

ROOT = Path(__file__).parents[3]


def test_the_error_page_lists_every_code_as_the_table_has_it() -> None:
    page = (ROOT / "docs/errors.md").read_text()
    for code, kind in ERROR_KINDS.items():
        assert f"| `{code}` | {kind.http_status} | {kind.exit_code} | {kind.summary} |" in page
    assert page.count("\n| `") == len(ERROR_KINDS)


@pytest.mark.parametrize(
    ("section", "settings"),
    [
        ("agent", AgentSettings),
        ("oracle", OracleSettings),
        ("indexer", IndexerSettings),
        ("gateway", GatewaySettings),
        ("renter", RenterSettings),
    ],
)
def test_the_samples_on_the_settings_page_load_also_with_every_default_written_out(
    section: str, settings: type, tmp_path: Path
) -> None:
    page = (ROOT / "docs/settings.md").read_text()
    block = next(b for b in re.findall(r"```toml\n(.*?)```", page, re.S) if b.startswith(f"[{section}]"))
    file = tmp_path / "sample.toml"
    file.write_text(block)
    loaded = config.load(settings, section, file=file, environ={})
    file.write_text(re.sub(r"^# (\w+ =)", r"\1", block, flags=re.M))
    assert config.load(settings, section, file=file, environ={}) == loaded
