"""Exit codes and how errors are told."""

from __future__ import annotations

import io
import sys

import pytest

from boildown.cli import main
from boildown.cli.exit import code_of, explain, of_outcome, of_status
from boildown.domain.outcome import Outcome
from boildown.domain.verdict import Status
from boildown.errors import BoildownError, Cancelled, DataError, InputError, JournalError, Mistake, UntrustedFileError
from boildown.journal.journal import Journal


def test_codes():
    assert {outcome.name: of_outcome(outcome) for outcome in Outcome} == {
        "TARGET_MET": 0,
        "TARGET_MISSED": 1,
        "UNDECIDED": 1,
        "OUT_OF_BUDGET": 1,
        "CANCELLED": 130,
    }
    assert [of_status(status) for status in (Status.MET, Status.MISSED, Status.UNDECIDED)] == [0, 1, 1]
    errors = (InputError.of("a", "b"), DataError.of("a", "b"), UntrustedFileError.of("a", "b"))
    assert {code_of(error) for error in errors} == {2}
    assert {code_of(error) for error in (Cancelled(), KeyboardInterrupt())} == {130}
    assert {code_of(error) for error in (BoildownError(), JournalError(), ValueError(), MemoryError())} == {3}


def test_mistakes_are_told_with_their_cures_on_standard_error(capsys):
    explain(InputError(Mistake("One is wrong.", "Do this."), Mistake("Two is wrong.", "")))
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "error: One is wrong.\n  cure: Do this.\nerror: Two is wrong.\n"


@pytest.mark.parametrize(
    "kind", [lambda text: InputError.of(text, text), JournalError, ValueError, lambda text: OSError(2, "gone", text)]
)
def test_what_others_name_steers_no_terminal(capsys, kind):
    explain(kind("a\x1b[2J\x9bb\rc\udcff"))
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert [c for c in err if not c.isprintable() and c != "\n"] == []
    assert "[2J" in err


def test_names_that_are_no_text_are_listed_all_the_same(tmp_path, monkeypatch):
    with Journal.create(tmp_path / "20260101-\udcff\x1b[2J", {"target": ["size <= 1 MB"]}):
        pass
    out = io.TextIOWrapper(io.BytesIO(), "utf-8", "strict", write_through=True)
    monkeypatch.setattr(sys, "stdout", out)
    for arguments in (["runs", "--runs"], ["report", "--runs"]):
        with pytest.raises(SystemExit) as caught:
            main([*arguments, str(tmp_path)])
        assert caught.value.code == 0
    listed, path = out.buffer.getvalue().decode().splitlines()
    assert listed.startswith("20260101-��[2J  ")
    assert path.endswith("report.html")


def test_a_fault_shows_its_trace_only_when_asked(capsys, monkeypatch):
    monkeypatch.delenv("BOILDOWN_DEBUG", raising=False)
    explain(ValueError("odd"))
    assert "Traceback" not in (told := capsys.readouterr().err)
    assert "ValueError: odd" in told
    assert "BOILDOWN_DEBUG=1" in told
    monkeypatch.setenv("BOILDOWN_DEBUG", "1")
    try:
        raise ValueError("odd")
    except ValueError as error:
        explain(error)
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [["nonsense"], ["compress"], ["compress", "a.toml", "--wrong"], ["take", "x", "y"]]
)
def test_a_command_line_that_cannot_be_read_is_wrong_input(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--help"], ["methods"], ["doctor"]])
def test_what_only_tells_ends_with_nought(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 0
    assert capsys.readouterr().out
