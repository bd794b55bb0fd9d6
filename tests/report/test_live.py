"""What is shown while a run works, here and from another terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import time

import pytest
from made_up_run import write_run
from rich.console import Console

from boildown.cli import watch as command
from boildown.cli.watch import watch
from boildown.domain.outcome import Outcome, State
from boildown.errors import JournalError
from boildown.journal import Journal
from boildown.report.follow import Follower
from boildown.report.live import Live, plain


def told(live):
    return live._console.file.getvalue()


def lines(terminal=False):
    console = Console(file=io.StringIO(), width=200, highlight=False, force_terminal=terminal, color_system=None)
    return Live(console, lines=not terminal)


def now(what="training", done=40, at=None, left=600.0):
    return {"now": {"what": what, "done": done, "total": 100, "at": at or time.time(), "since": 0.0, "left": left}}


@pytest.fixture
def working(tmp_path):
    """A run at work on its sixth attempt, with the journal that is being written."""
    folder = write_run(tmp_path / "20260101-000000-abcd", outcome=None)
    with Journal.open(folder) as journal:
        journal.update_facts(now())
        yield folder, journal


def test_a_follower_hears_what_the_run_itself_tells(working):
    folder, journal = working
    follower = Follower(folder)
    events = list(follower.look())
    kinds = [kind for kind, _ in events]
    assert kinds == [*["attempt", "verdict"] * 5, "attempt", "step"]
    attempts = [data["attempt"] for kind, data in events if kind == "attempt"]
    assert [a.state for a in attempts][3:] == [State.MET, State.SKIPPED, State.RUNNING]
    assert attempts[3].measurements["size"].ratio == 0.26
    assert (follower.working, follower.ending) == (True, None)
    assert list(follower.look()) == []
    journal.update_facts(now(done=60))
    ((kind, data),) = follower.look()
    assert (kind, data["done"]) == ("step", 60)
    assert data["left"] == pytest.approx(600, abs=5)
    journal.finish_attempt(5, State.FAILED, "diverged: at step 7")
    assert [kind for kind, _ in follower.look()] == ["verdict"]
    journal.amend_attempt(5, State.MISSED, "missed", journal.attempts()[3].verdict)
    assert [kind for kind, _ in follower.look()] == ["attempt", "verdict"], "judged again"


def test_an_end_is_seen_and_a_resumed_run_is_at_work_again(working):
    folder, journal = working
    follower = Follower(folder)
    journal.finish(Outcome.OUT_OF_BUDGET, 3, "more", 9.0)
    list(follower.look())
    assert follower.ending.outcome is Outcome.OUT_OF_BUDGET
    assert follower.working, "handing over"
    journal.close()
    list(follower.look())
    assert (follower.working, follower.ending.outcome) == (False, Outcome.OUT_OF_BUDGET)
    with Journal.open(folder) as again:
        again.update_facts(now(at=time.time() + 5))
        list(follower.look())
        assert (follower.working, follower.ending) == (True, None)


def test_a_run_that_was_cut_off_is_not_at_work(working):
    folder, journal = working
    journal.update_facts(now(at=time.time() - 100))
    journal.close()
    dead = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    (folder / "journal.lock").write_text(dead.stdout)
    follower = Follower(folder)
    list(follower.look())
    assert (follower.working, follower.ending) == (False, None)
    journal_of_elsewhere = Follower(folder, clock=lambda: time.time() - 90)
    list(journal_of_elsewhere.look())
    assert journal_of_elsewhere.working, "it gave a sign of life ten seconds ago, perhaps from another machine"


def test_following_leaves_the_lock_alone(working):
    folder, _journal = working
    list(Follower(folder).look())
    code = f"from boildown.journal import Journal; from pathlib import Path; Journal.open(Path({str(folder)!r}))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert f"being written by process {os.getpid()}" in result.stderr


def test_readers_see_whole_attempts_while_a_run_writes(tmp_path):
    folder = write_run(tmp_path / "run", outcome=None)
    code = f"""
import time
from pathlib import Path
from boildown.domain.outcome import State
from boildown.journal import Journal
with Journal.open(Path({str(folder)!r})) as journal:
    verdict = journal.attempts()[3].verdict
    for number in range(6, 22):
        journal.begin_attempt(number, f"rung {{number}}")
        journal.update_facts({{"now": {{"what": "w", "done": number, "total": None, "at": 1.0, "left": None}}}})
        journal.finish_attempt(number, State.MISSED, "missed", verdict=verdict)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    writer = subprocess.Popen([sys.executable, "-c", code], env=environment)
    follower, judged = Follower(folder), []
    while writer.poll() is None:
        judged += [data["attempt"].number for kind, data in follower.look() if kind == "verdict"]
        time.sleep(0.05)
    judged += [data["attempt"].number for kind, data in follower.look() if kind == "verdict"]
    assert writer.returncode == 0
    assert judged == [0, 1, 2, 3, 4, *range(6, 22)]


def test_a_journal_that_makes_no_sense_is_an_error_with_a_cure(working):
    folder, journal = working
    journal.update_facts({"now": {"what": "x"}})
    with pytest.raises(JournalError, match="does not write"):
        list(Follower(folder).look())


def test_attempts_are_told_in_lines_and_the_best_so_far_condition_by_condition(working):
    live = lines()
    with live:
        for kind, data in Follower(working[0]).look():
            live(kind, data)
    text = told(live)
    assert "first model: size 1.16 MB, accuracy 93.40 %, latency 0.79 ms" in text
    assert " 3 quantize-static: met All 3 conditions are met" in text
    assert " 4 distill: skipped distill needs train data" in text
    step, times, best = live.standing()
    assert step == "now: retrain: training, 40 of 100"
    assert times == "time: 10.0 min of the budget left"
    assert best.startswith("best so far: 3 quantize-static: accuracy drop <= 1 pp [green]met[/] (0.85 pp)")


def test_what_was_forecast_stands_beside_the_time_gone():
    clock = [0.0]
    live = Live(Console(file=io.StringIO()), clock=lambda: clock[0])
    attempt = type("Attempt", (), {"rung": "distill", "quote": {"minutes": 5.0}})()
    live("attempt", {"attempt": attempt, "gone": 30.0})
    clock[0] = 60.0
    assert live.standing() == ["time: 1.5 min of about 5.0 min by forecast"]


def test_a_terminal_shows_what_is_under_way_and_what_users_name_is_no_markup(working):
    folder, journal = working
    journal.begin_attempt(6, "distill(student=[red]mine[/]\x1b[2J)")
    journal.update_facts(now("[bold]train"))
    live = lines(terminal=True)
    with live:
        for kind, data in Follower(folder).look():
            live(kind, data)
        live._region.refresh()
    text = told(live)
    assert "distill(student=[red]mine[/]�[2J): [bold]train" in text
    assert "10.0 min of the budget left" in text
    assert plain("a\nb\x07[i]") == "a b�\\[i]"


def test_without_a_terminal_a_run_says_nothing():
    live = Live(Console(file=io.StringIO()))
    with live:
        live("notice", {"text": "something"})
        live("step", {"what": "x", "done": 1, "total": None})
    assert told(live) == ""


def test_where_nothing_is_said_for_ten_seconds_what_is_under_way_is_told():
    clock = [0.0]
    live = Live(Console(file=io.StringIO(), width=200, highlight=False), lines=True, clock=lambda: clock[0])
    live("step", {"what": "repair", "done": 3, "total": 31})
    for clock[0] in (9.0, 11.0, 12.0, 20.0, 22.0):
        live.beat()
    assert told(live).splitlines() == ["now: repair, 3 of 31, 11 s so far", "now: repair, 3 of 31, 22 s so far"]


# -- the command -----------------------------------------------------------------------------------


def test_watch_once_tells_how_it_stands(working, capsys):
    assert watch(str(working[0]), once=True) == 0
    out = capsys.readouterr().out
    assert out.startswith("run 20260101-000000-abcd, target accuracy drop <= 1 pp, size <= 0.3x")
    assert "now: retrain: training, 40 of 100" in out
    assert "best so far: 3 quantize-static" in out


def test_watch_ends_with_the_run_and_its_exit_code(working, capsys, monkeypatch):
    folder, journal = working
    pauses = []

    def pause(seconds):
        pauses.append(seconds)
        if len(pauses) == 2:
            journal.finish_attempt(5, State.FAILED, "diverged: at step 7")
            journal.finish(Outcome.TARGET_MISSED, 3, "None met it.", 9.0)
        if len(pauses) == 3:
            journal.close()

    monkeypatch.setattr(command.time, "sleep", pause)
    assert watch(str(folder), once=False) == 1
    assert len(pauses) == 3
    out = capsys.readouterr().out
    assert " 5 retrain: failed diverged: at step 7" in out
    assert out.endswith("TARGET_MISSED: None met it.\n")
    assert watch(str(folder), once=True) == 1


def test_a_run_that_nobody_works_on_can_be_resumed(working, capsys):
    folder, journal = working
    journal.update_facts(now(at=1.0))
    journal.close()
    assert watch(str(folder), once=False) == 1
    assert "boildown resume 20260101-000000-abcd" in capsys.readouterr().out


def test_ctrl_c_ends_the_watching_only(working, capsys, monkeypatch):
    def interrupt(_seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(command.time, "sleep", interrupt)
    assert watch(str(working[0]), once=False) == 130
    assert "the run goes on" in capsys.readouterr().err
    working[1].update_facts(now(done=41))
