"""`gpumarket version`."""

from __future__ import annotations

import importlib.metadata
import platform

import typer

from gpumarket.cli.output import Column
from gpumarket.cli.state import OutputOption, state_of

app = typer.Typer()


@app.command()
def version(context: typer.Context, output: OutputOption = None) -> None:
    """The version of gpumarket and of what runs it."""
    row = {
        "gpumarket": importlib.metadata.version("gpumarket"),
        "python": platform.python_version(),
        "system": platform.system(),
    }
    state_of(context, output).printer.record(row, [Column(name, name) for name in row])
