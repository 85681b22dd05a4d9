"""What the commands of one invocation share: the output format, the settings, and how to run a coroutine."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from gpumarket.cli.output import OutputFormat, Printer
from gpumarket.errors import MarketError
from gpumarket.sdk.settings import RenterSettings, load

T = TypeVar("T")

OutputOption = Annotated[
    OutputFormat | None, typer.Option("--output", "-o", help="How results are printed.", show_default=False)
]
YesOption = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; for scripts.")]


@dataclass
class State:
    """Filled by the global options."""

    output: OutputFormat = OutputFormat.TABLE
    config: Path | None = None
    flags: Mapping[str, Any] = field(default_factory=dict)

    @property
    def printer(self) -> Printer:
        return Printer(self.output)

    def settings(self) -> RenterSettings:
        return load(self.config, self.flags)

    def confirm(self, question: str, yes: bool) -> None:
        """Ask on standard error before something that cannot be undone.

        Raises:
            typer.Exit: code 1, when the answer is no or nobody is there to answer.
        """
        if not yes and not typer.confirm(question, err=True):
            self.printer.note("nothing was sent")
            raise typer.Exit(1)


def state_of(context: typer.Context, output: OutputFormat | None = None) -> State:
    """The invocation's state; a command's own `--output` wins over the global one."""
    state = context.find_object(State)
    if state is None:
        raise MarketError("internal", "a command ran outside the gpumarket command line")
    if output is not None:
        state.output = output
    return state


def run(task: Coroutine[Any, Any, T]) -> T:
    """Run a command's coroutine; Ctrl-C cancels it, so that it can close what it opened."""
    return asyncio.run(task)
