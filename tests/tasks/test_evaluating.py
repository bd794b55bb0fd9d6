"""What an evaluation may return, and what is known of it beforehand."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import boildown as bd
from boildown.api.wanted import wanted
from boildown.errors import InputError, TargetError
from boildown.tasks.evaluating import takes_indices, values_of

DATA = (torch.rand(20, 3), torch.arange(20) % 3)


def task(**options: Any) -> bd.Task:
    return bd.Classification(validation=DATA, **{"evaluate": lambda model: 0.5, **options})


def evaluated(given: bd.Task) -> dict[str, tuple[bool, str]]:
    return {metric.name: (metric.higher_is_better, metric.unit) for metric in given.evaluated}


def test_a_task_with_an_evaluation_needs_neither_loss_nor_metrics() -> None:
    plain = bd.Task(evaluate=lambda model: 0.5, validation=DATA)
    assert (plain.metrics, plain.evaluated, plain.check()) == ((), (), [])
    assert task().metrics == ()
    assert [m.name for m in task(metrics=["accuracy", "map"]).metrics] == ["accuracy"]
    with pytest.raises(InputError, match="no loss"):
        plain.loss(DATA[0], DATA[1])
    with pytest.raises(InputError, match="loss"):
        bd.Task(evaluate=lambda model: 0.5, train=DATA, validation=DATA)


def test_directions_are_said_in_words_by_a_shipped_name_or_by_an_object() -> None:
    own = SimpleNamespace(higher_is_better=False, unit="px", range=(0.0, math.inf))
    found = task(metrics={"map": "higher", "error": "lower", "accuracy": "higher", "top": "accuracy", "gap": own})
    assert evaluated(found) == {
        "map": (True, ""), "error": (False, ""), "accuracy": (True, "fraction"), "top": (True, "fraction"),
        "gap": (False, "px"),
    }  # fmt: skip


def test_all_that_cannot_be_meant_is_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        task(metrics={"size": "higher", "map": "up", "f 1": "lower"})
    assert len(caught.value.mistakes) == 3
    with pytest.raises(InputError, match="there is no evaluate"):
        bd.Classification(validation=DATA, metrics={"map": "higher"})
    with pytest.raises(InputError, match="cannot be called"):
        task(evaluate="accuracy")
    with pytest.raises(InputError, match="share a name"):
        task(metrics=["map", "accuracy", "accuracy"])


def test_a_target_names_what_nobody_has_said_and_the_unit_tells_a_share() -> None:
    made, target, notices = wanted(task(), ["map drop <= 1 pp", "recall >= 0.4", "rmse <= 3", "size <= 0.5x"])
    assert evaluated(made) == {"map": (True, "fraction"), "recall": (True, ""), "rmse": (False, "")}
    assert [c.bound for c in target.conditions] == [0.01, 0.4, 3.0, 0.5]
    assert "higher is taken to be better of map, recall" in notices[0]
    assert "no interval" in notices[1]
    assert task().evaluated == ()
    said = task(metrics={"map": "higher", "error": "lower", "mine": "rmse"})
    made, target, _ = wanted(said, ["map drop <= 1 pp", "Error <= 5 %", "mine <= 3"])
    assert evaluated(made) == {"map": (True, "fraction"), "error": (False, "fraction"), "mine": (False, "")}
    assert [c.bound for c in target.conditions] == [0.01, 0.05, 3.0]
    assert evaluated(wanted(said, ["map drop <= 0.01"])[0])["map"] == (True, "")


def test_a_slip_in_the_name_of_a_cost_is_no_name_of_an_evaluation() -> None:
    with pytest.raises(TargetError, match="latency"):
        wanted(task(), ["latncy <= 0.5x"])
    with pytest.raises(TargetError, match="wrong side"):
        wanted(task(), ["map <= 0.5"])


def test_labels_that_are_missing_are_told_where_a_condition_needs_them() -> None:
    bare = bd.Classification(validation=DATA[0])
    made, target, notices = wanted(bare, ["agreement >= 99 %", "divergence <= 0.01", "size <= 0.5x"])
    assert made.metrics == ()
    assert target.conditions[0].bound == 0.99
    assert "no targets" in notices[0]
    with pytest.raises(InputError, match="no targets, which accuracy drop <= 1 pp needs"):
        wanted(bare, ["accuracy drop <= 1 pp"])
    with pytest.raises(TargetError, match="no metric 'agreement'"):
        wanted(bd.Regression(validation=(DATA[0], DATA[0][:, 0])), ["agreement >= 99 %"])


def test_indices_are_seen_in_any_kind_of_callable() -> None:
    class Scorer:
        def __call__(self, model: Any, indices: Any = None) -> float:
            return 0.0

    assert takes_indices(Scorer())
    assert takes_indices(lambda model, *, indices: 0.0)
    assert not takes_indices(lambda model: 0.0)
    assert not takes_indices(print)


@pytest.mark.parametrize(
    "number", [0.5, np.float32(0.5), torch.tensor(0.5), np.array([0.5]), torch.tensor([[0.5]], requires_grad=True)]
)
def test_numbers_of_every_library_are_taken(number: Any) -> None:
    assert values_of(number, ()) == {"score": 0.5}
    assert values_of(number, ("map",)) == {"map": 0.5}
    assert values_of({"map": number, "per class": [1, 2], "empty": math.nan}, ("map",)) == {"map": 0.5}


@pytest.mark.parametrize(
    ("returned", "names", "says"),
    [
        (math.nan, (), "nan as score"),
        ({"map": math.inf, "n": 3}, ("map",), "inf as map"),
        ("0.93", (), "'0.93' as score, no number"),
        (None, (), "NoneType as score"),
        (True, (), "bool as score"),
        (torch.rand(3), (), "Tensor of shape (3,)"),
        ({}, (), "no number"),
        ({"mAP": 0.3}, ("map",), "Did you mean 'mAP'"),
        ({"map": 0.3}, ("accuracy",), "with metrics=['accuracy'] boildown scores accuracy itself"),
        (0.3, ("map", "recall"), "names map, recall"),
        ({"a b": 0.3}, (), "cannot be called"),
    ],
)
def test_what_is_no_finite_number_is_refused_by_name(returned: Any, names: tuple[str, ...], says: str) -> None:
    with pytest.raises(InputError) as caught:
        values_of(returned, names)
    assert says in str(caught.value)


@settings(max_examples=40, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(), lambda x: st.dictionaries(st.text(), x)))
def test_anything_at_all_is_finite_numbers_or_an_input_error(returned: Any) -> None:
    try:
        found = values_of(returned, ())
    except InputError:
        return
    assert found
    assert all(math.isfinite(value) for value in found.values())
