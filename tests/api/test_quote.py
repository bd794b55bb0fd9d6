"""What a run would do and take, and what forecasts do to a ladder."""

from __future__ import annotations

import json
from math import isfinite

import pytest

import boildown as bd
from boildown.engine import auto
from boildown.journal.journal import Journal
from boildown.methods.registry import installed
from boildown.testing import digits

pytestmark = pytest.mark.usefixtures("still")

CHAIN = "prune(of=params, samples=64) + quantize-static(samples=64)"
TARGET = ["accuracy drop <= 90 pp", "size <= 0.2x"]


@pytest.fixture(scope="module")
def told():
    """The notices of the run below."""
    return []


@pytest.fixture(scope="module")
def climbed(digits_model, tmp_path_factory, told):
    """A chain whose ratio has to be found, and one that must miss, climbed all the same because the user says so."""
    return bd.compress(
        digits_model, digits.task(), TARGET, ladder=["learned-rounding(samples=64, steps=5)", CHAIN],
        runs=tmp_path_factory.mktemp("runs"),
        callbacks=[lambda event: told.append(event.data["text"]) if event.kind == "notice" else None],
    )  # fmt: skip


def test_the_forecast_of_a_chain_is_its_size(climbed):
    with Journal.open(climbed.path, readonly=True) as journal:
        row = journal.attempts()[2]
        variants = [record.data for record in journal.records("variant")]
    found = climbed.candidates[2]
    assert climbed.outcome is bd.Outcome.TARGET_MET
    assert variants
    assert all(variant["sketched"] for variant in variants), "costs alone are looked at: nothing need be repaired"
    for metric in ("size", "params", "macs"):
        assert row.quote[metric]["ratio"] == pytest.approx(found.measurements[metric].ratio, rel=0.02)
    assert f"settings found by measurement: {row.quote['rung']}" in found.notes
    assert found.measurements["size"].ratio <= 0.2


def test_a_run_that_reuses_a_chain_knows_the_ratio_that_was_found(climbed, digits_model):
    again = bd.compress(digits_model, digits.task(), TARGET, ladder=[CHAIN], runs=climbed.path.parent)
    with Journal.open(climbed.path, readonly=True) as before, Journal.open(again.path, readonly=True) as journal:
        assert journal.attempts()[1].quote["rung"] == before.attempts()[2].quote["rung"]
        assert not journal.records("variant")
    assert any(note.startswith("reused from run") for note in again.candidates[1].notes)


def test_every_link_of_a_chain_is_measured(climbed):
    with Journal.open(climbed.path, readonly=True) as journal:
        (link,) = [record.data for record in journal.records("link")]
    assert link["name"] == "link-1-prune"
    assert link["size"] > 2 * climbed.candidates[2].measurements["size"].ratio
    told = next(note for note in climbed.candidates[2].notes if "link by link" in note)
    assert told.startswith(f"divergence from the first model, link by link: prune {link['divergence']:+.3g}, quantize-")


def test_in_the_users_own_ladder_a_forecast_only_warns(climbed, told):
    assert climbed.candidates[1].state is bd.State.MISSED
    assert [text for text in told if text.startswith("hopeless by forecast: learned-rounding")]


def test_auto_leaves_out_what_must_miss_and_says_why(digits_model, tmp_path, monkeypatch):
    two = {name: method for name, method in installed().items() if name in ("quantize-static", "learned-rounding")}
    monkeypatch.setattr(auto, "installed", lambda: two)
    task = bd.Classification(validation=digits.validation_set(), calibration=digits.training_set())
    run = bd.compress(digits_model, task, ["accuracy drop <= 90 pp", "size <= 0.1x"], runs=tmp_path)
    found = {candidate.rung: candidate for candidate in run.candidates}
    assert found["quantize-static"].state is bd.State.MISSED, "it is climbed as quickly as it is sketched"
    for rung, size in (("learned-rounding(bits=4)", "0.1"), ("learned-rounding", "0.2")):
        assert found[rung].state is bd.State.SKIPPED
        assert f"hopeless by forecast: {rung} would have size {size}" in found[rung].sentence
    assert run.outcome is bd.Outcome.TARGET_MISSED
    assert run.best.rung == "quantize-static"


def test_auto_leaves_what_takes_longer_than_is_left_to_a_larger_budget(plugged, tmp_path, monkeypatch):
    monkeypatch.setattr(auto, "installed", lambda: {"shrink": plugged.Shrink})
    given = (plugged.model(), plugged.task())
    run = bd.compress(*given, ["size <= 0.6x"], runtime="mirror", runs=tmp_path, budget="40 s")
    (late,) = run.candidates[1:]
    assert late.state is bd.State.FAILED
    assert "It takes about 1 min by forecast" in late.sentence
    assert run.outcome is bd.Outcome.OUT_OF_BUDGET
    again = bd.resume(run.path, *given, budget="1 h")
    assert [candidate.state for candidate in again.candidates[1:]] == [bd.State.FAILED, bd.State.MET]


def test_a_quote_of_a_model_that_meets_the_target_says_so(plugged, tmp_path):
    found = bd.quote(
        plugged.model(), plugged.task(), ["size <= 1x"], ladder=["shrink"], runtime="mirror", runs=tmp_path
    )
    assert "the first model meets the target already: nothing would be climbed" in str(found)
    assert "attempts run in this process" in str(found)
    assert tmp_path.exists(), "a folder of the user's stays, and an empty one too"


def test_a_quote_without_time_says_what_it_did_not_forecast(plugged, tmp_path):
    given = (plugged.model(), plugged.task(), ["size <= 0.9x"])
    found = bd.quote(*given, ladder=["shrink"], runtime="mirror", runs=tmp_path, budget=0.01)
    assert [line.late for line in found.lines] == [True]
    assert "a larger budget leaves time for more" in str(found)
    assert not list(tmp_path.iterdir())


def test_a_quote_says_that_nothing_can_meet_the_target(digits_model, tmp_path):
    found = bd.quote(digits_model, digits.task(), ["size <= 0.1x"], ladder=["quantize-static"], runs=tmp_path)
    assert "nothing here can meet the target by forecast" in str(found)


def test_a_quote_lists_the_rungs_with_costs_and_minutes_and_keeps_nothing(digits_model, tmp_path):
    runs = tmp_path / "runs"
    found = bd.quote(digits_model, digits.task(), TARGET, ladder=["quantize-static", "quantize-dynamic"], runs=runs)
    static, dynamic = found.lines
    assert static.forecast.costs["size"].ratio == pytest.approx(0.26, abs=0.03)
    assert static.refusal == "", "the user's own ladder is climbed as it is"
    assert "does not apply" in dynamic.refusal
    assert found.minutes == pytest.approx(static.minutes)
    assert static.minutes > 0
    assert "about" in str(found)
    assert "not climbed: quantize-dynamic does not apply" in str(found)
    assert json.loads(json.dumps(found.to_json()))["rungs"][0]["size"]["ratio"] == static.forecast.costs["size"].ratio
    assert not runs.exists() or not list(runs.iterdir())


def test_dry_run_stops_at_the_quote(command, project, tmp_path):
    shown = command("compress", project / "boildown.toml", "--runs", tmp_path / "runs", "--dry-run", "--json")
    assert shown.code == 0
    assert [line["asked"] for line in shown.data["rungs"]] == ["quantize-dynamic", "quantize-static"]
    assert shown.data["rungs"][1]["size"]["ratio"] < 0.35
    assert not (tmp_path / "runs").exists()


def test_what_costs_too_much_is_not_scored(digits_model, still, tmp_path):
    target = ["accuracy drop <= 3 pp", "size <= 0.5x"]
    run = bd.compress(digits_model, digits.task(), target, ladder=["quantize-mixed(layers=0)"], runs=tmp_path)
    with Journal.open(run.path, readonly=True) as journal:
        variants = [record.data for record in journal.records("variant")]
    assert len(variants) >= 3
    assert {variant["excess"] <= 0 for variant in variants} == {True, False}
    assert all((variant["excess"] <= 0) == isfinite(variant["divergence"]) for variant in variants)
