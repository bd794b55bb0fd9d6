"""What is timed for a verdict, how often, at which level, and that no timing which chose something is in one."""

from __future__ import annotations

from collections import defaultdict

import pytest
from engine_fakes import DROP, LATENCY, SIZE, job

import boildown as bd
from boildown.domain.measurement import Interval, Measurement
from boildown.domain.target import Condition, Target
from boildown.engine import bench as benches
from boildown.engine.timing import in_doubt
from boildown.execution.child import Child
from boildown.journal import Journal
from boildown.measuring.statistics import level_at_look

SECONDS = Condition("latency", "value", "<=", 0.002, "latency <= 2 ms")
BEST = 99
ONE, TWO = level_at_look(0.95, 1), level_at_look(0.95, 2)


def timed(ratio, reach=0.03, look=1, value=1e-3):
    around = {"ratio": Interval(ratio - reach, ratio + reach, ONE, "order statistics of the median")}
    around["value"] = Interval(value * (1 - reach), value * (1 + reach), ONE, "order statistics of the median")
    return Measurement("latency", value, "s", first=value / ratio, ratio=ratio, intervals=around, look=look)


def found(latency, drop=0.0, size=0.2):
    lost = Measurement(
        "accuracy", 0.9 - drop, first=0.9, drop=drop, intervals={"drop": Interval(drop, drop, 0.95, "t")}
    )
    return {"latency": latency, "accuracy": lost, "size": Measurement("size", size, first=1.0, ratio=size)}


@pytest.mark.parametrize("confidence", [None, 0.95])
def test_what_the_first_look_leaves_open_is_in_doubt_and_nothing_else(confidence):
    asked = job(Target((DROP, SIZE, LATENCY)), confidence=confidence)
    for ratio in (0.48, 0.52):  # met by luck, missed by luck
        assert in_doubt(asked, found(timed(ratio)))
        assert not in_doubt(asked, found(timed(ratio, look=2))), "never a third time"
        assert not in_doubt(asked, found(timed(ratio, look=0))), "a glance, or of a journal that counted no looks"
        assert not in_doubt(asked, found(timed(ratio), drop=0.03))
        assert not in_doubt(asked, found(timed(ratio), size=0.3))
    assert not in_doubt(asked, found(timed(0.4)))
    assert not in_doubt(asked, found(timed(0.6)))
    assert in_doubt(asked, {"latency": timed(0.48)}), "what is not measured yet speaks against nothing"
    assert not in_doubt(asked, {})
    both = job(Target((LATENCY, SECONDS)), confidence=confidence)
    assert in_doubt(both, found(timed(0.48)))
    assert not in_doubt(both, found(timed(0.48, value=3e-3))), "another condition on it is missed for good"
    assert in_doubt(both, found(timed(0.3, value=2e-3)))


class Clock:
    """Tells the ratios that it was given, by attempt, in turn; remembers the levels it was asked for."""

    def __init__(self, **ratios):
        self.ratios = {int(name[1:]): list(values) for name, values in ratios.items()}
        self.levels = defaultdict(list)

    def __call__(self, path, level, **_how):
        number = int(path.parent.name[:2]) if path.parent.name != "best" else BEST
        self.levels[number].append(level)
        ratio = self.ratios[number].pop(0) if number in self.ratios else 1.0
        around = Interval(ratio - 0.03, ratio + 0.03, level, "order statistics of the median")
        return Measurement(
            "latency", ratio, "s", first=1.0, ratio=ratio, intervals={"ratio": around}, raw=(ratio,) * 8
        ).to_json()


@pytest.fixture
def climbed(plugged, tmp_path, monkeypatch):
    """Runs that ask the clock they are given."""
    monkeypatch.setattr(benches.Bench, "agree", lambda self, candidate, path: "not compared")

    def compress(clock, *rungs, target=("accuracy drop <= 2 pp", "latency <= 0.5x"), **options):
        class Timing(Child):
            def call(self, function, *args, **how):
                if function != "boildown.measuring.latency:compare":
                    return super().call(function, *args, **how)
                return clock(benches.Path(args[1]), level=how["level"])

        monkeypatch.setattr(benches, "Child", Timing)
        return bd.compress(
            plugged.model(), plugged.task(400), list(target), ladder=list(rungs), runs=tmp_path, runtime="mirror",
            **options,
        )  # fmt: skip

    return compress


def looks(run):
    with Journal.open(run.path, readonly=True) as journal:
        return [(look.attempt, look.data.split()[-1][:8], look.k) for look in journal.looks() if look.timed]


def timings(run, number):
    """The ratios of all timings of an attempt that its run has kept."""
    with Journal.open(run.path, readonly=True) as journal:
        return [m.ratio for m in journal.measurements(number) if m.metric == "latency"]


GOOD = "shrink(size=0.2)"


def test_an_open_latency_is_timed_once_more_and_its_own_blocks_decide(climbed):
    clock = Clock(_1=[0.49, 0.45])
    run = climbed(clock, GOOD, confidence=0.95)
    latency = run.best.measurements["latency"]
    assert (run.outcome, latency.ratio, latency.look) == (bd.Outcome.TARGET_MET, 0.45, 2)
    assert clock.levels[1] == [ONE, TWO]
    assert clock.levels[0] == [ONE]
    assert timings(run, 1) == [0.49, 0.45]
    assert any("look 2" in note for note in latency.notes)
    sha = run._attempts[1].artifact.digest[:8]
    assert [look for look in looks(run) if look[0] == 1] == [(1, sha, 1), (1, sha, 2)]
    assert "Latency was timed anew, of new blocks, for attempt 1, whose first look" in run.report().read_text()

    again = climbed(other := Clock(), GOOD, confidence=0.95)
    assert again.best.measurements["latency"] == latency
    assert not other.levels[1], "what an earlier run has timed is not timed until it is lucky"
    assert [look[2] for look in looks(again) if look[0] == 1] == [1, 2]


@pytest.mark.parametrize(
    ("confidence", "ratios", "state"),
    [
        (0.95, [0.49, 0.51], bd.State.UNDECIDED),
        (0.95, [0.51, 0.40], bd.State.MET),
        (0.95, [0.40], bd.State.MET),
        (None, [0.49, 0.52], bd.State.MISSED),
        (None, [0.51, 0.48], bd.State.MET),
        (None, [0.6], bd.State.MISSED),
    ],
)
def test_there_is_no_third_look(climbed, confidence, ratios, state):
    clock = Clock(_1=ratios)
    run = climbed(clock, GOOD, confidence=confidence)
    assert run.candidates[1].state is state
    assert run.candidates[1].measurements["latency"].ratio == ratios[-1]
    assert clock.levels[1] == [ONE, TWO][: len(ratios)]


def test_what_something_else_speaks_against_is_timed_once(climbed):
    clock = Clock(_1=[0.49])
    target = ("accuracy drop <= 2 pp", "latency <= 0.5x", "size <= 0.1x")
    assert climbed(clock, GOOD, target=target).outcome is bd.Outcome.TARGET_MISSED
    assert clock.levels[1] == [ONE]


def test_the_fastest_is_judged_by_a_timing_that_did_not_choose_it(climbed, plugged, tmp_path):
    clock = Clock(_1=[0.30, 0.60], _2=[0.35, 0.42], _3=[0.45])
    run = climbed(clock, GOOD, "shrink(size=0.3)", "shrink(size=0.4)", goal="fastest", confidence=0.95)
    assert (run.best.number, run.best.measurements["latency"].ratio) == (2, 0.42)
    assert [attempt.state.value for attempt in run.candidates[1:]] == ["missed", "met", "met"]
    assert clock.levels == {0: [ONE], 1: [ONE, ONE], 2: [ONE, TWO], 3: [ONE]}
    assert [look for look in looks(run) if look[1] == "fastest"] == [(1, "fastest", 1), (2, "fastest", 2)]
    assert timings(run, 2) == [0.35, 0.42]
    with Journal.open(run.path, readonly=True) as journal:
        assert journal.attempts()[2].verdict["measurements"]["latency"]["ratio"] == 0.42
        assert journal.attempts()[1].state is bd.State.MISSED
    assert "chosen for being the fastest" in run.report().read_text()

    resumed = bd.resume(run.path, plugged.model(), plugged.task(400), runs=tmp_path)
    assert (resumed.best.number, resumed.best.measurements["latency"].ratio) == (2, 0.42)
    assert sum(map(len, clock.levels.values())) == 6


def test_the_fastest_by_a_glance_is_looked_at_anew(climbed):
    clock = Clock(_1=[0.5, 0.7], _2=[0.6, 0.65])
    target = ("accuracy drop <= 2 pp", "size <= 0.35x")
    run = climbed(clock, GOOD, "shrink(size=0.3)", goal="fastest", target=target)
    assert (run.best.number, run.best.measurements["latency"].ratio) == (2, 0.65)
    assert run.outcome is bd.Outcome.TARGET_MET


def test_who_measures_or_verifies_looks_twice_as_well(climbed, plugged, tmp_path):
    clock = Clock(_1=[0.40], _99=[0.51, 0.45, 0.49, 0.51])
    run = climbed(clock, GOOD, confidence=0.95)
    found = bd.measure(
        run.best.artifact, plugged.task(400), ["latency <= 0.5x"], runtime="mirror", confidence=0.95, trust=True
    )
    assert (found.status.value, found.measurements["latency"].look) == ("met", 2)
    again = bd.verify(run.path, plugged.model(), plugged.task(400), trust=True)
    assert "latency <= 0.5x: undecided, 0.51x" in str(again)
    assert clock.levels[BEST] == [ONE, TWO] * 2


@pytest.mark.parametrize("target", [("latency <= 0.5x",), ("size <= 0.5x",)])
def test_no_two_purposes_and_no_two_looks_share_a_timing(plugged, tmp_path, target):
    from boildown.domain.artifact import Artifact
    from boildown.domain.deployment import Deployment
    from boildown.domain.grammar import parse_target
    from boildown.engine.job import Job
    from boildown.tasks.splits import resolve

    task = plugged.task(64)
    bench = benches.Bench(
        Job(task, resolve(task, 0), parse_target(target, task.metrics), deployment=Deployment(runtime="mirror")),
        tmp_path, check=lambda: None, progress=lambda *_: None,
    )  # fmt: skip
    bench.first = Artifact("mirror", tmp_path, "first", {"first": "0" * 64})
    keys = []
    bench.recall = lambda key: keys.append(key) or timed(1.0)
    for purpose, look in (("search", 1), ("verdict", 1), ("verdict", 2), ("fastest", 1), ("fastest", 2)):
        bench.latency(bench.first, purpose=purpose, look=look)
    assert len(set(keys)) == len(keys)
