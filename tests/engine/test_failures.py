"""Whatever a method, a metric or a child process does, the attempt says so and the run goes on."""

from __future__ import annotations

from pathlib import Path

import pytest

import boildown as bd
import no_clock
from boildown.engine import bench, budget
from boildown.journal.journal import Journal
from boildown.methods import registry

TARGET = ["accuracy drop <= 2 pp", "size <= 0.3x"]
GOOD = "shrink(size=0.2)"


@pytest.fixture
def climb(plugged, still, tmp_path, monkeypatch):
    """Runs a ladder on the fakes in this process."""

    monkeypatch.setattr(budget, "_WITHOUT_BUDGET", 0.0)

    def climbed(*rungs, target=TARGET):
        return bd.compress(plugged.model(), plugged.task(), target, ladder=list(rungs), runtime="mirror", runs=tmp_path)

    return climbed


@pytest.fixture(scope="module")
def in_children(tmp_path_factory):
    """One run whose rungs are climbed in child processes, and go wrong there in every way."""
    folder = tmp_path_factory.mktemp("children")
    rungs = [
        "shrink(how=raise)",
        "shrink(how=die)",
        "stall(checks=false)",
        "shrink(how=exit)",
        "shrink(how='exit at once')",
        f"shrink(size=0.2, how='die once', marker='{folder / 'marker'}')",
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "plugged"))
        patch.setattr(bench.Bench, "latency", no_clock.latency)
        patch.setattr(budget, "_WITHOUT_BUDGET", 0.0)
        registry.installed.cache_clear()
        yield bd.compress(
            "boildown_fakes:model", "boildown_fakes:task", TARGET, ladder=rungs, runtime="mirror", runs=folder / "runs"
        )
    registry.installed.cache_clear()


def states(run):
    return [result.state.value for result in run.candidates]


def traces(run):
    with Journal.open(run.path, readonly=True) as journal:
        return {record.attempt: record.data["text"] for record in journal.records("traceback")}


def test_a_method_that_raises_is_recorded_and_the_next_rung_is_tried(climb):
    run = climb("shrink(how=raise)", GOOD)
    assert states(run) == ["missed", "failed", "met"]
    assert run.outcome is bd.Outcome.TARGET_MET
    assert "ZeroDivisionError" in run.candidates[1].sentence
    assert "this model is too round" in run.candidates[1].sentence
    assert "boildown_fakes.py" in traces(run)[1]
    assert run.candidates[1].artifact is None
    assert "too round" in str(run)


def test_a_method_that_refuses_late_fails_its_attempt_alone(climb):
    run = climb("shrink(how='input error')", GOOD)
    assert states(run) == ["missed", "failed", "met"]
    assert "this model is not for me" in run.candidates[1].sentence


def test_a_method_that_does_not_apply_is_skipped_with_its_reason(climb):
    run = climb("shrink(how=refuse)", GOOD)
    assert states(run) == ["missed", "skipped", "met"]
    assert run.candidates[1].sentence == "shrink does not apply: it was told not to"


def test_a_method_that_waits_in_this_process_is_stopped_by_its_checks(climb):
    run = climb("stall", GOOD)
    assert states(run) == ["missed", "failed", "met"]
    assert run.candidates[1].sentence.startswith("out of time: ")


def test_in_children_every_failure_is_of_its_attempt_alone(in_children):
    assert states(in_children) == ["missed", *["failed"] * 5, "met"]
    assert in_children.outcome is bd.Outcome.TARGET_MET


def test_a_method_that_raises_in_a_child_is_recorded_with_its_trace(in_children):
    assert "ZeroDivisionError: this model is too round" in in_children.candidates[1].sentence
    assert "boildown_fakes.py" in traces(in_children)[1]


def test_a_child_that_dies_again_is_a_failure_that_says_how(in_children):
    assert in_children.candidates[2].sentence.startswith("worker lost: ")
    assert "SIGKILL" in in_children.candidates[2].sentence


def test_a_method_that_hangs_in_a_child_is_stopped_at_its_limit(in_children):
    assert in_children.candidates[3].sentence.startswith("out of time: ")


def test_a_child_that_is_ended_from_inside_is_a_failure_that_says_where(in_children):
    assert "boildown_fakes.py, line " in in_children.candidates[4].sentence
    assert "in apply, would have ended the program: SystemExit(0)" in in_children.candidates[4].sentence
    assert in_children.candidates[5].sentence.startswith("worker lost: ")
    assert "ended by itself with exit code 0" in in_children.candidates[5].sentence


def test_a_killed_child_is_tried_again(in_children):
    assert (in_children.path.parents[1] / "marker").read_text() == "died"
    assert (in_children.best.number, in_children.best.state.value) == (6, "met")


def test_what_a_method_records_in_a_child_reaches_the_journal(in_children):
    with Journal.open(in_children.path, readonly=True) as journal:
        assert [(r.attempt, r.data) for r in journal.records("tried")] == [(6, {"how": "die once"})]
    assert "shrunk" in in_children.best.notes


def test_a_metric_that_raises_while_scoring_fails_the_attempt(climb):
    run = climb("shrink(size=0.2, how=poison)", GOOD)
    assert states(run) == ["missed", "failed", "met"]
    assert run.candidates[1].sentence == "ArithmeticError: cannot stand 12345"
    assert "Fragile" in traces(run)[1] or "statistic" in traces(run)[1]


def test_outputs_that_are_no_numbers_never_meet_a_target(climb):
    run = climb("shrink(size=0.2, how='nan')", GOOD)
    assert states(run)[1] in ("missed", "failed")
    assert run.best.number == 2


def test_a_full_disk_ends_the_run_with_a_cure_and_an_intact_journal(climb, tmp_path):
    with pytest.raises(bd.BoildownError, match=r"disk is full\. Free space, then resume"):
        climb("shrink(how='full disk')", GOOD)
    (folder,) = tmp_path.glob("2*")
    with Journal.open(folder) as journal:
        assert [row.state.value for row in journal.attempts()] == ["missed", "running"]


def test_a_first_model_that_cannot_be_measured_ends_the_run_and_can_be_resumed(climb, plugged, tmp_path, monkeypatch):
    def broken(*_arguments, **_options):
        raise bd.AttemptError("the clock stands still")

    with monkeypatch.context() as patch:
        patch.setattr(bench.Bench, "latency", broken)
        with pytest.raises(bd.BoildownError, match="first model could not be measured: failed: the clock stands"):
            climb(GOOD)
    assert bd.resume("latest", plugged.model(), plugged.task(), runs=tmp_path).outcome is bd.Outcome.TARGET_MET


def test_native_code_that_crashes_in_the_writer_fails_the_attempt_alone(climb):
    run = climb("shrink(size=0.2, how=crash)", GOOD)
    assert states(run) == ["missed", "failed", "met"]
    assert run.candidates[1].sentence.startswith("worker lost: ")
    assert "SIGSEGV" in run.candidates[1].sentence
    assert "native code crashed" in run.candidates[1].sentence
