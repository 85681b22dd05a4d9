"""A command group that imports a command's module only when the command runs: `gpumarket --help` stays instant."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

from gpumarket.errors import MarketError

SERVICES = "gpumarket.services"


@dataclass(frozen=True)
class Entry:
    """Where a command lives.

    Attributes:
        module: exports a typer `app`; empty for a service, which is found through its entry point.
        whole: the app itself is the command group, not the place of one command.
    """

    summary: str
    panel: str
    module: str = ""
    whole: bool = False


def lazy_group(entries: Mapping[str, Entry]) -> type[TyperGroup]:
    """A typer group class over `entries`, listed in their order."""

    class LazyGroup(TyperGroup):
        def __init__(self, **attributes: Any) -> None:
            super().__init__(**attributes)
            for name, entry in entries.items():
                self.commands[name] = TyperCommand(name=name, help=entry.summary, rich_help_panel=entry.panel)

        def list_commands(self, ctx: Any) -> list[str]:
            return list(entries)

        def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
            name, command, rest = super().resolve_command(ctx, args)
            if name is not None:
                command = load_command(name, entries[name])
            return name, command, rest

    return LazyGroup


def load_command(name: str, entry: Entry) -> Any:
    """Import a command.

    Raises:
        MarketError: `machine_unsuitable` if the part is not installed.
    """
    app = _service(name) if not entry.module else importlib.import_module(entry.module).app
    command = typer.main.get_command(app)
    if entry.whole or not entry.module or not isinstance(command, TyperGroup):
        return command
    return command.commands[name]


def _service(name: str) -> typer.Typer:
    found = [point for point in entry_points(group=SERVICES) if point.name == name]
    hint = f"install it: pip install 'gpumarket[{name}]'"
    if not found:
        raise MarketError("machine_unsuitable", f"the {name} is not installed here", hint=hint)
    try:
        loaded = found[0].load()
    except ModuleNotFoundError as error:
        raise MarketError(
            "machine_unsuitable", f"the {name} needs the Python package {error.name}", hint=hint
        ) from error
    if not isinstance(loaded, typer.Typer):
        raise MarketError("internal", f"the entry point of {name} is no typer application")
    return loaded
