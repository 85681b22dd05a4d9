"""Writes docs/cli.md from the commands themselves: `python -m gpumarket.cli.reference > docs/cli.md`."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import typer
from typer.core import TyperGroup

from gpumarket.cli.lazy import load_command
from gpumarket.cli.main import COMMANDS, EPILOG, app
from gpumarket.errors import ERROR_KINDS

_HEAD = """\
# The command line

Written by `python -m gpumarket.cli.reference`; do not edit. `gpumarket COMMAND --help` says the same.

Results go to standard output in the format that `--output` names (`table`, `json`, `yaml`, `plain`), all else to
standard error. Amounts in `json` and `yaml` are decimal texts of base units. A failure prints one sentence, a hint and
a stable code; with `--output json` it is `{"error": {"code", "message", "hint", "details"}}` on standard error.
"""


def reference() -> str:
    """The page."""
    root = typer.main.get_command(app)
    parts = [
        _HEAD,
        "## Exit codes, keys, settings\n",
        EPILOG.strip() + "\n",
        _exit_codes(),
        "## Options of all commands\n",
    ]
    parts.append(_options(root))
    for name, entry in COMMANDS.items():
        parts += _command(f"gpumarket {name}", load_command(name, entry))
    return "\n".join(parts)


def _exit_codes() -> str:
    codes: dict[int, list[str]] = {}
    for code, kind in ERROR_KINDS.items():
        codes.setdefault(kind.exit_code, []).append(f"`{code}`")
    rows = [f"| {number} | {', '.join(sorted(names))} |" for number, names in sorted(codes.items())]
    return "\n".join(["| exit code | error codes |", "| --- | --- |", *rows]) + "\n"


def _command(title: str, command: Any) -> Iterator[str]:
    yield f"## `{title}`\n"
    yield _text(command.help or "") + "\n"
    options = _options(command)
    if options:
        yield options
    if isinstance(command, TyperGroup):
        for name, each in command.commands.items():
            yield from (line.replace("## ", "### ", 1) for line in _command(f"{title} {name}", each))


def _options(command: Any) -> str:
    rows = []
    for parameter in command.params:
        names = [n for n in (*parameter.opts, *parameter.secondary_opts) if n.startswith("-")]
        if "completion" in "".join(names) or names == ["--help"]:
            continue
        shown = ", ".join(f"`{name}`" for name in names) or f"`{(parameter.metavar or parameter.name).upper()}`"
        rows.append(f"| {shown} | {_text(parameter.help or '')}{' Required.' if parameter.required else ''} |")
    return "\n".join(["| | |", "| --- | --- |", *rows]) + "\n" if rows else ""


def _text(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
