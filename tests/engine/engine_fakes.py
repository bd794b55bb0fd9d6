"""Attempts, jobs and climbers that no model stands behind."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from boildown.domain.artifact import Artifact
from boildown.domain.measurement import Interval, Measurement
from boildown.domain.outcome import State
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Status, judge
from boildown.engine.attempt import Attempt
from boildown.engine.budget import Budget
from boildown.engine.job import Job

SIZE = Condition("size", "ratio", "<=", 0.25, "size <= 0.25x")
DROP = Condition("accuracy", "drop", "<=", 0.01, "accuracy drop <= 1 pp")
LATENCY = Condition("latency", "ratio", "<=", 0.5, "latency <= 0.5x")
TARGET = Target((DROP, SIZE))

_STATES = {Status.MET: State.MET, Status.MISSED: State.MISSED, Status.UNDECIDED: State.UNDECIDED}


def judged(number, rung="a", size=1.0, drop=0.0, latency=1.0, target=TARGET, confidence=None, spread=0.0):
    """An attempt with a verdict from these figures."""
    found = {
        "size": Measurement("size", size * 1e6, "B", first=1e6, ratio=size),
        "latency": Measurement("latency", latency, "s", first=1.0, ratio=latency),
        "accuracy": Measurement(
            "accuracy", 0.9 - drop, "fraction", first=0.9, drop=drop, samples=1000, data="verdict",
            intervals={"drop": Interval(drop - spread, drop + spread, 0.95, "tango")}, standard_error=spread / 2,
        ),
    }  # fmt: skip
    verdict = judge(target, found, confidence)
    return Attempt(
        number, rung, "", Path(), state=_STATES[verdict.status], verdict=verdict, measurements=found,
        candidate=SimpleNamespace(), artifact=Artifact("onnxruntime", Path(), "model.onnx", {"model.onnx": "a" * 64}),
    )  # fmt: skip


def failed(number, rung="a", state=State.FAILED):
    """An attempt that ended before it was measured."""
    return Attempt(number, rung, "", Path(), state=state, failure="error: something")


def job(target=TARGET, goal="first", confidence=None, **options):
    """A job of a task that is scored by accuracy, without data."""
    task = SimpleNamespace(metrics=[SimpleNamespace(name="accuracy")])
    return Job(task, None, target, goal=goal, confidence=confidence, **options)


class FakeClimber:
    """Gives the attempts it was told to, in order."""

    quality = "accuracy"

    def __init__(self, *attempts, goal="first", budget=None, raises=None, target=TARGET, again=()):
        self.job, self.budget = job(target, goal=goal), budget or Budget()
        self.coming, self.in_full, self.asked, self.raises = list(attempts), [], [], raises
        self.anew, self.again, self.last = [], list(again), []

    def measure_first(self):
        return self._next("first")

    def climb(self, number, rung, reason, *, skip=False, last=False):
        if last:
            self.last.append(number)
        return self._next(rung)

    def climbable(self, rungs):
        assert set(self.again[:1]) <= set(rungs)
        return self.again.pop(0) if self.again else None

    def judge_in_full(self, attempt):
        self.in_full.append(attempt.number)

    def time_anew(self, attempt):
        self.anew.append(attempt.number)

    def _next(self, rung):
        if not self.coming:
            raise self.raises
        self.asked.append(str(rung))
        return self.coming.pop(0)


class Rungs:
    """A ladder of so many rungs."""

    skips = False

    def __init__(self, count):
        self.count = count

    def next(self, attempts):
        done = len(attempts) - 1
        return (f"rung {done + 1}", "because") if done < self.count else None

    def ends(self, attempts):
        return len(attempts) == self.count
