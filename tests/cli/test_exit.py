"""Exit codes and how errors are told."""

from __future__ import annotations

import pytest

from boildown.cli import main
from boildown.cli.exit import code_of, explain, of_outcome, of_status
from boildown.domain.outcome import Outcome
from boildown.domain.verdict import Status
from boildown.errors import BoildownError, Cancelled, DataError, InputError, JournalError, Mistake, UntrustedFileError


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
