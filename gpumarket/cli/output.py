"""What a command prints: one set of rows, four formats. Data goes to standard output, all else to standard error."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from gpumarket.errors import MarketError

Row = Mapping[str, Any]


_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class OutputFormat(StrEnum):
    """`table` for people, `json` and `yaml` for programs, `plain` for shell pipes: tab-separated, no header."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    PLAIN = "plain"


@dataclass(frozen=True)
class Column:
    """A column of a table: its title, the key in the row, and how a person reads the value."""

    title: str
    key: str
    show: Callable[[Any], str] = str
    right: bool = False


@dataclass(frozen=True)
class Printer:
    """Writes results in the chosen format. JSON and YAML show the rows whole, tables and plain text the columns."""

    format: OutputFormat

    def rows(self, rows: Sequence[Row], columns: Sequence[Column], *, empty: str = "nothing found") -> None:
        """Print a list."""
        if self._document([dict(row) for row in rows]):
            return
        if self.format is OutputFormat.PLAIN:
            for row in rows:
                print("\t".join(_cell(column, row) for column in columns))
            return
        if not rows:
            self.note(empty)
            return
        table = Table(box=None, pad_edge=False, header_style="bold")
        for column in columns:
            table.add_column(column.title, justify="right" if column.right else "left", overflow="fold")
        for row in rows:
            table.add_row(*(_cell(column, row) for column in columns))
        _wide().print(table, markup=False)

    def record(self, row: Row, columns: Sequence[Column]) -> None:
        """Print one thing, a line per column."""
        if self._document(dict(row)):
            return
        if self.format is OutputFormat.PLAIN:
            print("\t".join(_cell(column, row) for column in columns))
            return
        table = Table.grid(padding=(0, 2))
        table.add_column(style="bold")
        table.add_column(overflow="fold")
        for column in columns:
            table.add_row(column.title, _cell(column, row))
        _wide().print(table, markup=False)

    def line(self, text: str) -> None:
        """One line of a stream, such as a log; colours in it are left out."""
        sys.stdout.write(
            (text if self.format is OutputFormat.JSON else harmless(_COLOUR.sub("", text).rstrip("\r"))) + "\n"
        )
        sys.stdout.flush()

    def note(self, text: str) -> None:
        """Progress and advice, never data."""
        Console(stderr=True, highlight=False).print(harmless(text), markup=False, soft_wrap=True)

    def error(self, error: MarketError) -> None:
        """An expected failure: people get sentence, hint and code; programs get the error as a document."""
        if self.format is OutputFormat.JSON:
            sys.stderr.write(json.dumps({"error": error.as_dict()}, default=str) + "\n")
        elif self.format is OutputFormat.YAML:
            sys.stderr.write(yaml.safe_dump({"error": error.as_dict()}, sort_keys=False))
        else:
            console = Console(stderr=True, highlight=False)
            console.print(f"error: {harmless(error.message)} ({error.code})", markup=False, style="red", soft_wrap=True)
            if error.hint:
                console.print(f"hint: {harmless(error.hint)}", markup=False, soft_wrap=True)

    def _document(self, value: Any) -> bool:
        if self.format is OutputFormat.JSON:
            print(json.dumps(value, indent=2, default=str))
        elif self.format is OutputFormat.YAML:
            print(yaml.safe_dump(value, sort_keys=False), end="")
        else:
            return False
        return True


def _wide() -> Console:
    """Never folds an id in two: a terminal that is too narrow wraps the line itself, and what is copied stays whole."""
    return Console(width=max(Console().width, 250))


def harmless(text: str) -> str:
    """Foreign text that cannot steer a terminal: control characters but tab and newline are spelled out."""
    return _CONTROL.sub(lambda found: f"\\x{ord(found[0]):02x}", text)


def _cell(column: Column, row: Row) -> str:
    value = row.get(column.key)
    return "-" if value is None or value == "" else harmless(column.show(value))
