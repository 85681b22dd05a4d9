"""Settings: built-in default < TOML file < environment < flags. The only reader of environment variables.

A service declares a frozen dataclass; `load` fills it. Field `rpc_url` of section `agent` is read from
`[agent] rpc_url = "..."`, then `GPUMARKET_AGENT_RPC_URL`, then `GPUMARKET_RPC_URL`, then the flag.
Secrets are no settings: they come only through `secret`.
"""

from __future__ import annotations

import dataclasses
import os
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from gpumarket.errors import MarketError

T = TypeVar("T")


def load(
    cls: type[T],
    section: str,
    *,
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> T:
    """Build the settings dataclass `cls` for `section`.

    Args:
        file: TOML file; its `[section]` table and top-level scalars apply. Unknown keys in the table are errors.
        flags: values given on the command line; `None` means not given.
        environ: replaces the process environment in tests.

    Raises:
        MarketError: `invalid_config` naming the setting and where it came from.
    """
    env = os.environ if environ is None else environ
    hints = typing.get_type_hints(cls)
    names = [f.name for f in dataclasses.fields(cls)]  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, (value, source) in _from_file(file, section, names).items():
        values[name] = _convert(value, hints[name], name, source)
    for name in names:
        for variable in (f"GPUMARKET_{section}_{name}".upper(), f"GPUMARKET_{name}".upper()):
            if variable in env:
                values[name] = _convert(env[variable], hints[name], name, variable)
                break
    for name, value in (flags or {}).items():
        if value is not None:
            values[name] = _convert(value, hints[name], name, "flag")
    missing = [
        f.name
        for f in dataclasses.fields(cls)  # type: ignore[arg-type]
        if f.name not in values and f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    ]
    if missing:
        first = missing[0]
        raise MarketError(
            "invalid_config",
            f"{section}: setting {', '.join(missing)} is not set",
            hint=f"set {first} in [{section}] of the config file, or GPUMARKET_{section.upper()}_{first.upper()}",
        )
    return cls(**values)


def secret(name: str, environ: Mapping[str, str] | None = None) -> str | None:
    """Read a secret: variable `NAME`, or the file named by `NAME_FILE`. Never logged, never a flag."""
    env = os.environ if environ is None else environ
    if name in env:
        return env[name]
    path = env.get(name + "_FILE")
    if path is None:
        return None
    try:
        return Path(path).read_text().strip()
    except OSError as error:
        raise MarketError("invalid_config", f"cannot read the file named by {name}_FILE: {error.strerror}") from error


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """A copy of the environment for a child process."""
    return {**os.environ, **(extra or {})}


def data_home() -> Path:
    """Where a user's data lives: `GPUMARKET_HOME`, else XDG's data folder."""
    home = os.environ.get("GPUMARKET_HOME")
    if home:
        return Path(home)
    return Path(os.environ.get("XDG_DATA_HOME", str(Path.home() / ".local/share"))) / "gpumarket"


def cache_home() -> Path:
    """Where rebuildable things live (a built Kubo, for one)."""
    return Path(os.environ.get("XDG_CACHE_HOME", str(Path.home() / ".cache"))) / "gpumarket"


def _from_file(file: Path | None, section: str, names: list[str]) -> dict[str, tuple[Any, str]]:
    if file is None:
        return {}
    try:
        document = tomllib.loads(file.read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise MarketError("invalid_config", f"cannot read {file}: {error}") from error
    table = document.get(section, {})
    unknown = sorted(set(table) - set(names))
    if unknown:
        raise MarketError(
            "invalid_config",
            f"{file}: [{section}] has unknown setting {', '.join(unknown)}",
            hint=f"known: {', '.join(names)}",
        )
    shared = {k: v for k, v in document.items() if k in names and not isinstance(v, dict)}
    return {name: (value, f"{file} [{section}]") for name, value in {**shared, **table}.items()}


def _convert(value: Any, hint: Any, name: str, source: str) -> Any:
    """Turn text or a TOML value into the annotated type: str, int, float, bool, Path, lists of those, or None."""
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None or value == "":
            return None
        hint = next(arg for arg in typing.get_args(hint) if arg is not type(None))
        origin = typing.get_origin(hint)
    try:
        if origin in (list, tuple):
            items = [p for p in value.split(",") if p] if isinstance(value, str) else list(value)
            converted = [_convert(item, typing.get_args(hint)[0], name, source) for item in items]
            return tuple(converted) if origin is tuple else converted
        if hint is bool:
            if isinstance(value, bool):
                return value
            return {"1": True, "true": True, "yes": True, "0": False, "false": False, "no": False}[str(value).lower()]
        if hint is int and isinstance(value, bool):
            raise ValueError("not a number")
        if hint in (int, float, str):
            return hint(value)
        if hint is Path:
            return Path(value).expanduser()
        return value
    except (ValueError, KeyError, TypeError) as error:
        raise MarketError("invalid_config", f"{source}: {name} cannot be {value!r}", hint=f"expected {hint}") from error
