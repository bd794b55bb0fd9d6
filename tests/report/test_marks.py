"""A timing whose blocks lie far apart is marked wherever its figure is shown."""

from __future__ import annotations

import io
import json

import pytest
from made_up_run import write_run
from rich.console import Console

from boildown.api.run import show
from boildown.domain.deployment import Deployment
from boildown.domain.measurement import LEGEND, NOISE, Measurement
from boildown.domain.target import Condition, Target
from boildown.domain.verdict import Verdict, judge
from boildown.engine.forecast import Forecast, from_quote
from boildown.engine.quote import Line, Quote
from boildown.journal import Journal
from boildown.report import facts, fragment, render, summary
from boildown.report.compare import compare
from boildown.report.follow import Follower
from boildown.report.junit import junit
from boildown.report.live import Live

RESTLESS, STILL = (0.3, 0.5, 0.55, 0.9), (0.52, 0.53, 0.53, 0.54)
TARGET = Target((Condition("latency", "ratio", "<=", 0.6, "latency <= 0.6x"),))


def latency(raw, **figures):
    return Measurement("latency", 1e-3, "s", first=2e-3, ratio=0.53, raw=raw, **figures)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run whose timings were noisy, and the same on a machine that did nothing else."""
    folder = tmp_path_factory.mktemp("runs")
    noisy = write_run(folder / "20260101-000000-aaaa", raw=RESTLESS)
    return noisy, write_run(folder / "20260102-000000-bbbb", raw=STILL)


def read(folder):
    with Journal.open(folder, readonly=True) as journal:
        return facts(journal)


def test_the_spread_is_of_the_blocks_and_more_than_a_quarter_is_noise():
    assert latency((1.0, 1.0, 1.25, 1.5)).spread == pytest.approx(0.3125 / 1.125)
    assert [latency(raw).noisy for raw in (RESTLESS, STILL, (1.0, 1.25), (1.0, 2.0), (1.0,), ())] == [
        True, False, False, True, False, False,
    ]  # fmt: skip
    assert Measurement("memory", 1e6, "B", ratio=0.5, raw=(1e6, 2e6, 3e6)).spread is None


def test_json_tells_it_and_older_journals_are_read_with_it():
    told = json.loads(json.dumps(latency(RESTLESS).to_json()))
    assert (told["noisy"], told["look"]) == (True, 0)
    assert told["spread"] == pytest.approx(latency(RESTLESS).spread)
    assert Measurement.from_json(told) == latency(RESTLESS)
    older = {name: value for name, value in told.items() if name not in ("noisy", "spread", "look")}
    assert Measurement.from_json(older) == latency(RESTLESS)


def test_a_finding_says_it_beside_the_figure_and_in_words():
    verdict = judge(TARGET, {"latency": latency(RESTLESS)})
    (finding,) = verdict.findings
    assert (finding.shown, finding.noisy) == ("0.53x ~", True)
    assert finding.sentence() == f"latency <= 0.6x is met: latency is 0.53x ~ ({NOISE})"
    assert Verdict.from_json(json.loads(json.dumps(verdict.to_json()))) == verdict
    assert NOISE in junit(verdict, "model.onnx")
    assert "~" not in judge(TARGET, {"latency": latency(STILL)}).findings[0].sentence()


@pytest.mark.parametrize("shown", [summary, render, fragment])
def test_a_run_is_shown_with_marks_and_what_they_mean(runs, shown):
    noisy, still = (shown(read(folder)) for folder in runs)
    assert "0.53x ~" in noisy
    assert LEGEND in noisy
    assert "0.53x ~" not in still
    assert LEGEND not in still


def test_every_figure_of_the_run_is_marked(runs):
    found = read(runs[0])
    assert [attempt.latency for attempt in found.attempts] == ["0.79 ms", "1.1x ~", "0.55x ~", "0.53x ~", ""]
    (figure,) = (figure for figure in found.best_figures if figure.metric == "latency")
    assert (figure.value, figure.ratio) == ("0.42 ms ~", "0.53x ~")
    (finding,) = (finding for finding in found.findings if finding.condition.startswith("latency"))
    assert (finding.observed, NOISE in finding.doubt) == ("0.53x ~", True)
    assert "latency 0.53x ~" in render(found), "the chart's points"
    assert {a["number"] for a in show(runs[0])["attempts"] if a["verdict"]
            and a["verdict"]["measurements"]["latency"]["noisy"]} == {1, 2, 3}  # fmt: skip


def test_a_run_of_before_is_marked_as_well(tmp_path):
    folder = write_run(tmp_path / "20260101-000000-aaaa", raw=RESTLESS)
    with Journal.open(folder) as journal:
        row = journal.attempts()[3]
        verdict = json.loads(json.dumps(row.verdict))
        for finding in verdict["findings"]:
            finding["shown"] = finding["shown"].removesuffix(" ~")
            del finding["noisy"]
        for measurement in verdict["measurements"].values():
            for name in ("noisy", "spread", "look"):
                del measurement[name]
        journal.amend_attempt(3, row.state, row.sentence, verdict)
    assert summary(read(folder)).count("0.53x ~") == 2, "in the table and beside the condition"


def test_runs_side_by_side_are_marked(runs):
    found = compare(runs)
    told = {row[0]: row[1:] for _, rows in found.tables() for row in rows}
    assert told["latency"] == ("0.42 ms ~ (0.53x ~)", "0.42 ms (0.53x)")
    assert told["latency <= 0.6x"] == ("met (0.53x ~)", "met (0.53x)")
    assert str(found).endswith(LEGEND)
    assert compare(runs[1:]).legend == ""


def test_who_watches_is_told_once_what_the_mark_means(runs):
    console = Console(file=io.StringIO(), width=300, highlight=False, color_system=None)
    with Live(console, lines=True) as live:
        for kind, data in Follower(runs[0]).look():
            live(kind, data)
        assert "0.53x ~" in " ".join(live.standing())
    assert console.file.getvalue().count(f"{LEGEND}\n") == 1


def test_a_forecast_is_marked_and_stays_so():
    costs = {"latency": latency(RESTLESS)}
    forecast = Forecast("shrink", 1.0, costs)
    told = str(Quote((Line("shrink", 1.0, forecast),)))
    assert "0.53x ~" in told
    assert LEGEND in told
    known = from_quote(
        {**forecast.quote(), "rung": "prune"},
        type("Job", (), {"target": Target(()), "quality": (), "deployment": Deployment()})(),
    )
    assert known.costs["latency"].noisy
    assert LEGEND not in str(Quote((Line("shrink", 1.0, Forecast("shrink", 1.0, {"latency": latency(STILL)})),)))
