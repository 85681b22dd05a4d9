"""The command line itself: speed of help, exit codes, formats, confirmation."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from gpumarket.cli import lazy
from gpumarket.cli.main import COMMANDS, EPILOG, main
from gpumarket.cli.output import Column, OutputFormat, Printer
from gpumarket.cli.reference import reference
from gpumarket.cli.show import amount, duration, job_id, money, resource_id, seconds
from gpumarket.cli.state import State
from gpumarket.errors import ERROR_KINDS, MarketError

HEAVY = ("web3", "eth_account", "docker", "sqlalchemy", "strawberry", "httpx", "uvicorn", "starlette", "ape")


def test_help_imports_nothing_heavy() -> None:
    script = "import sys; from gpumarket.cli.main import main; main(['--help']); print('|'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.splitlines()[-1].split("|"))
    assert not loaded & set(HEAVY)
    assert all(name in done.stdout for name in COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_command_loads_and_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([name, "--help"]) == 0
    assert "Usage: gpumarket " + name in capsys.readouterr().out


def test_help_names_every_exit_code() -> None:
    codes = {kind.exit_code for kind in ERROR_KINDS.values()}
    assert all(f" {code} " in EPILOG for code in codes | {0, 130})


def test_an_unknown_command_is_bad_input_with_a_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["lst"]) == 2
    assert "'list'" in capsys.readouterr().err


def test_version_answers_in_every_format(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["version", "-o", "json"]) == 0
    as_json = json.loads(capsys.readouterr().out)
    assert main(["--output", "yaml", "version"]) == 0
    assert yaml.safe_load(capsys.readouterr().out) == as_json
    assert main(["version", "-o", "plain"]) == 0
    assert capsys.readouterr().out.strip().split("\t") == list(as_json.values())
    assert main(["version"]) == 0
    assert as_json["gpumarket"] in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["rent", "0x12", "--image", "bafy", "--for", "1h", "--deployments", "/nowhere.json"], None, 2),
        (["status", "0x12"], "invalid_argument", 2),
        (["rent", "0x12", "--image", "bafy", "--for", "soon"], "invalid_argument", 2),
        (["rent", "0x12", "--image", "bafy", "--duration", "1h", "--env", "novalue"], "invalid_argument", 2),
        (["--deployments", "/nowhere.json", "list"], "invalid_config", 2),
    ],
)
def test_bad_input_has_a_code_and_exit_code(
    arguments: list[str], code: str | None, exit_code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--output", "json", *arguments]) == exit_code
    if code is not None:
        assert json.loads(capsys.readouterr().err)["error"]["code"] == code


def test_a_service_that_is_not_installed_says_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lazy, "entry_points", lambda group: ())
    assert main(["oracle", "run"]) == 9
    assert "gpumarket[oracle]" in capsys.readouterr().err


@pytest.mark.parametrize("code", sorted(ERROR_KINDS))
def test_every_error_reads_well_and_has_its_exit_code(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    error = MarketError(code, "it did not work", hint="try this", extra=1)
    Printer(OutputFormat.TABLE).error(error)
    text = capsys.readouterr().err
    assert f"({code})" in text.replace("\n", "")
    assert "hint: try this" in text
    Printer(OutputFormat.JSON).error(error)
    assert json.loads(capsys.readouterr().err)["error"] == error.as_dict()
    assert 0 < error.kind.exit_code < 10


def test_rows_go_to_standard_output_and_notes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    printer = Printer(OutputFormat.PLAIN)
    printer.rows([{"a": 1, "b": None, "c": "hidden"}], [Column("A", "a"), Column("B", "b")])
    printer.note("progress")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("1\t-\n", "progress\n")


def test_an_empty_list_is_empty_for_programs_and_a_sentence_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(OutputFormat.JSON).rows([], [Column("A", "a")])
    assert json.loads(capsys.readouterr().out) == []
    Printer(OutputFormat.TABLE).rows([], [Column("A", "a")], empty="no machine fits")
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "no machine fits\n")


def test_markup_in_foreign_text_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(OutputFormat.TABLE).record({"name": "[red]NVIDIA[/red]"}, [Column("GPU", "name")])
    assert "[red]NVIDIA[/red]" in capsys.readouterr().out


def test_terminal_commands_in_foreign_text_are_made_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(OutputFormat.TABLE).record({"name": "a\x1b]0;evil\x07b"}, [Column("GPU", "name")])
    Printer(OutputFormat.TABLE).line("\x1b[2Jcleared")
    assert "\x1b" not in capsys.readouterr().out


def test_colours_of_a_log_are_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    Printer(OutputFormat.TABLE).line("\x1b[1;32mgreen\x1b[0m\r")
    assert capsys.readouterr().out == "green\n"


def test_nobody_there_to_answer_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nobody:
        def readline(self, *_: Any) -> str:
            raise EOFError

    monkeypatch.setattr("sys.stdin", Nobody())
    with pytest.raises((typer.Abort, typer.Exit)):
        State().confirm("pay?", False)


def test_yes_asks_nothing() -> None:
    State().confirm("pay?", True)


def test_a_key_is_never_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "key.json"
    path.write_text("mine")
    assert main(["wallet", "create", str(path)]) == 2
    assert path.read_text() == "mine"


def test_a_new_key_is_used_from_then_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GPUMARKET_HOME", str(tmp_path))
    monkeypatch.setenv("GPUMARKET_PASSPHRASE", "test")
    assert State().settings().keystore is None
    assert main(["wallet", "create", "-o", "json"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert State().settings().keystore == Path(made["keystore"])
    assert oct(Path(made["keystore"]).stat().st_mode & 0o777) == "0o600"


def test_values_for_people() -> None:
    assert [seconds(n) for n in (0, 59, 60, 3_661, 90_000)] == ["0s", "59s", "1m", "1h1m1s", "1d1h"]
    assert money("GPU", 18)("1500000000000000000") == "1.5 GPU"


@pytest.mark.parametrize("parse", [duration, job_id, resource_id, lambda text: amount(text, 18)])
def test_values_from_people_are_checked(parse: Any) -> None:
    with pytest.raises(MarketError) as caught:
        parse("-1")
    assert caught.value.code == "invalid_argument"


def test_the_page_about_the_command_line_is_fresh() -> None:
    page = Path(__file__).parents[3] / "docs" / "cli.md"
    assert page.read_text() == reference(), "run: python -m gpumarket.cli.reference > docs/cli.md"
