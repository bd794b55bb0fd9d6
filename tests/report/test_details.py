"""What was recorded beside the verdicts is told: trainings, tournaments, layers, samples."""

from __future__ import annotations

import math

import pytest

from boildown.journal.rows import Record
from boildown.report.changed import changed
from boildown.report.course import curves, rankings
from boildown.report.layers import layers

SHA = "ab" * 32


def record(kind, data, attempt=1):
    return Record(attempt, kind, data, "")


def curve(points, losses=("kd",), of=10):
    return record("curve", {"losses": list(losses), "of": of, "lr": 0.01, "points": points})


def test_a_training_that_is_told_again_replaces_itself_and_comes_last():
    found = curves([curve([[5, 2.0], [10, 1.0]]), curve([[5, 3.0], [9, 2.0]], of=9), curve([[5, 2.0], [10, 0.5]])])
    assert [(c.title, c.points[-1]) for c in found[1]] == [
        ("kd, 9 steps, learning rate 0.01", (9, 2.0)),
        ("kd, 10 steps, learning rate 0.01", (10, 0.5)),
    ]


def test_a_curve_of_one_point_is_none_and_what_is_not_finite_is_left_out():
    assert curves([curve([[5, 1.0]]), curve([[5, math.nan], [10, 1.0]])]) == {}
    ((found,),) = curves([curve([[5, math.inf], [10, 1.0], [15, 0.5]], losses=())]).values()
    assert found.points == ((10, 1.0), (15, 0.5))
    assert found.title.startswith("task loss alone")


def test_of_many_curves_fewer_points_are_kept_with_their_ends():
    points = [[step, float(step)] for step in range(1, 121)]
    found = curves([curve(points, of=number) for number in range(100, 300)])[1]
    assert {len(c.points) for c in found} == {40}
    assert {(c.points[0], c.points[-1]) for c in found} == {((1, 1.0), (120, 120.0))}


def test_tournaments_are_told_by_round():
    survivors = {"step": 60, "losses": ["kd"], "scores": {"hint": None, "dist": 0.5, "kd": 0.9}}
    told = [record("survivors", survivors), record("loss", {"round": 0, "loss": "kd"})]
    cut = [record("survivors", {**survivors, "step": 70})]
    found = rankings([*told, *told, *cut])[1]
    assert [(ranking.round, ranking.steps) for ranking in found] == [(0, 60), (None, 70)]
    assert found[0].scores == (("kd", 0.9), ("dist", 0.5), ("hint", None))
    assert str(found[0]) == "losses after 60 steps: kd 0.9, dist 0.5, hint failed"
    assert rankings([record("loss", {"round": 0, "loss": "kd"})]) == {}


def layer(name, shape, bits=None, node=None):
    return {"name": name, "node": node or name, "kind": "conv2d", "shape": shape, "bits": bits, "input bits": bits}


def test_layers_stand_beside_those_of_the_first_model():
    first = [layer("a", [8, 3, 3, 3]), layer("b", [8, 8, 3, 3]), layer("head", [10, 8])]
    own = [layer("a", [4, 3, 3, 3], 8), layer("head", [10, 4])]
    found = layers([record("layers", {"layers": first}, 0), record("layers", {"layers": own})], 1)
    told = [(line.name, line.before, line.after, line.bits) for line in found.lines]
    assert told == [("a", "8", "4", "8, inputs 8"), ("b", "8", "", "gone"), ("head", "10", "10", "float")]
    assert [line.share for line in found.lines] == [pytest.approx(108 / 148), 0.0, pytest.approx(40 / 148)]
    assert found.most == 0.0
    assert layers([], 1) is None


def test_a_student_of_other_layers_has_none_that_are_gone():
    first, own = [layer("a", [8, 3]), layer("b", [8, 8])], [layer("x", [2, 3]), layer("y", [2, 2])]
    found = layers([record("layers", {"layers": first}, 0), record("layers", {"layers": own})], 1)
    assert [(line.name, line.before) for line in found.lines] == [("x", ""), ("y", "")]


def test_sensitivity_is_of_this_attempt_or_of_another_with_the_same_layers():
    same, other = [layer("a", [8, 3]), layer("b", [8, 8])], [layer("a", [4, 3]), layer("b", [8, 4])]
    records = [
        *(record("layers", {"layers": found}, n) for n, found in enumerate([same, same, other, same])),
        record("sensitivity", {"layers": {"a": 0.5, "b": math.inf}}, 1),
        record("sensitivity", {"layers": {"a": 9.0, "b": 9.0}}, 2),
    ]
    borrowed = layers(records, 3)
    assert borrowed.measured == "attempt 1"
    assert [line.sensitivity for line in borrowed.lines] == [0.5, None]
    own = layers(records, 2)
    assert (own.measured, own.most) == ("", 9.0)


DATA = {
    "artifact": SHA, "data": "these", "metric": "accuracy", "of": 100, "worse": 3, "better": 1,
    "classes": [[1, 10, 0.9, 0.6]],
    "samples": [{"index": 4, "before": 1.0, "after": 0.0, "label": 1, "first": 1, "now": 0, "picture": "AAAA"}],
}  # fmt: skip
KNOWN = {"verdict data": "these", "classes": ["cat", "dog"]}


def test_samples_are_told_with_the_names_of_classes():
    found = changed([record("changed", DATA)], 1, SHA, KNOWN, {"accuracy": "fraction"})
    assert found.sentence.startswith(
        "Of 100 samples of the verdict it does worse than the first model on 3 and better on 1"
    )
    (sample,) = found.samples
    assert (sample.label, sample.first, sample.now, sample.picture) == ("dog", "dog", "cat", "AAAA")
    (line,) = found.classes
    assert (line.name, line.samples, line.before, line.after) == ("dog", "10", "90.00 %", "60.00 %")


def test_scores_are_told_where_there_are_no_classes():
    data = {**DATA, "metric": "mae", "classes": [], "samples": [{"index": 4, "before": 0.5, "after": 1.25}]}
    (sample,) = changed([record("changed", data)], 1, SHA, {}, {"mae": "m"}).samples
    assert (sample.first, sample.now) == ("mae 0.5 m", "mae 1.25 m")


@pytest.mark.parametrize(("sha", "known"), [("cd" * 32, KNOWN), (SHA, {"verdict data": "others"})])
def test_what_is_of_another_file_or_of_other_samples_is_not_told(sha, known):
    assert changed([record("changed", DATA)], 1, sha, known, {}) is None


@pytest.mark.parametrize("picture", ['A" onerror="x', "javascript:alert(1)", "A" * 300_000, ""])
def test_only_small_base64_is_a_picture(picture):
    data = {**DATA, "samples": [{**DATA["samples"][0], "picture": picture}, {**DATA["samples"][0], "picture": "BBBB"}]}
    found = changed([record("changed", data)], 1, SHA, KNOWN, {}).samples
    assert [sample.picture for sample in found] == ["", "BBBB"]
