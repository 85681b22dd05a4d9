from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from gpumarket import config
from gpumarket.errors import MarketError


@dataclass(frozen=True)
class Settings:
    rpc_url: str
    port: int = 1
    data_dir: Path = Path(".")
    sources: tuple[str, ...] = ()
    verbose: bool = False
    limit: int | None = None


def load(tmp_path: Path, toml: str = "", env: dict[str, str] | None = None, **flags: object) -> Settings:
    file = tmp_path / "config.toml"
    file.write_text(toml)
    return config.load(Settings, "agent", file=file, flags=flags, environ=env or {})


def test_default_behavior_flags_beat_environment_beats_file_beats_default(tmp_path: Path) -> None:
    toml = '[agent]\nrpc_url = "file"\nport = 2\n'
    assert load(tmp_path, toml).port == 2
    assert load(tmp_path, toml, {"GPUMARKET_AGENT_PORT": "3"}).port == 3
    assert load(tmp_path, toml, {"GPUMARKET_AGENT_PORT": "3"}, port=4).port == 4
    assert load(tmp_path, '[agent]\nrpc_url = "x"').port == 1


def test_a_section_variable_beats_the_shared_one(tmp_path: Path) -> None:
    env = {"GPUMARKET_RPC_URL": "shared", "GPUMARKET_AGENT_RPC_URL": "own"}
    assert load(tmp_path, env=env).rpc_url == "own"
    assert load(tmp_path, env={"GPUMARKET_RPC_URL": "shared"}).rpc_url == "shared"


def test_a_missing_setting_is_named_with_a_way_to_set_it(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match="rpc_url is not set") as caught:
        load(tmp_path)
    assert caught.value.code == "invalid_config"
    assert "GPUMARKET_AGENT_RPC_URL" in caught.value.hint


def test_an_unknown_setting_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match="unknown setting rcp_url"):
        load(tmp_path, '[agent]\nrcp_url = "x"')


@pytest.mark.parametrize(("name", "value"), [("port", "many"), ("verbose", "perhaps")])
def test_a_value_of_the_wrong_type_names_its_source(tmp_path: Path, name: str, value: str) -> None:
    with pytest.raises(MarketError, match=f"GPUMARKET_AGENT_{name.upper()}"):
        load(tmp_path, '[agent]\nrpc_url = "x"', {f"GPUMARKET_AGENT_{name.upper()}": value})


def test_lists_paths_booleans_and_optionals_are_converted(tmp_path: Path) -> None:
    env = {"GPUMARKET_RPC_URL": "x", "GPUMARKET_SOURCES": "a,b", "GPUMARKET_VERBOSE": "yes", "GPUMARKET_LIMIT": "7"}
    settings = load(tmp_path, env=env, data_dir="/tmp/x")
    assert settings.sources == ("a", "b")
    assert settings.verbose is True
    assert settings.limit == 7
    assert settings.data_dir == Path("/tmp/x")


def test_a_broken_file_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(MarketError, match="cannot read"):
        load(tmp_path, "[agent")


def test_a_secret_comes_from_its_variable_or_the_file_it_names(tmp_path: Path) -> None:
    (tmp_path / "pass").write_text("word\n")
    assert config.secret("X", {"X": "direct"}) == "direct"
    assert config.secret("X", {"X_FILE": str(tmp_path / "pass")}) == "word"
    assert config.secret("X", {}) is None
    with pytest.raises(MarketError, match="X_FILE"):
        config.secret("X", {"X_FILE": str(tmp_path / "absent")})
