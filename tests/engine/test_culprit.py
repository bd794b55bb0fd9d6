"""Where a quantized candidate lost quality: told by quantizing the weights alone."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import pytest
from engine_fakes import DROP, SIZE, judged

from boildown.domain.candidate import Candidate
from boildown.domain.target import Target
from boildown.engine.diagnosis import Diagnosis, diagnose
from boildown.engine.probe import culprit, probe
from boildown.methods.base import Context, Data
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_aware import QuantizeAware
from boildown.methods.quantize_mixed import QuantizeMixed
from boildown.methods.quantize_static import QuantizeStatic
from boildown.testing import digits

QUALITY = frozenset({"accuracy"})


@pytest.mark.parametrize(
    ("method", "part"),
    [
        (LearnedRounding(bits=4, rounding="nearest", refit=False, samples=64), "weights"),
        (QuantizeStatic(bias_correction=False, samples=64), "activations"),
    ],
)
def test_what_was_quantized_too_roughly_is_found(digits_model, method, part):
    task = digits.task()
    context = Context(Data(task.train, task.train))
    made = method.apply(Candidate(digits_model), task, context)
    if part == "activations":
        rough = {name: replace(q, scale=(64 * q.scale[0],)) for name, q in made.plan.activations.items()}
        made = replace(made, plan=replace(made.plan, activations=rough))

    found = probe(made, Candidate(digits_model), asked(task))
    assert set(found) == {"weights", "activations"}
    assert culprit(found) == part


def asked(task):
    """What a probe asks of a job."""
    return SimpleNamespace(task=task, splits=SimpleNamespace(search=task.validation))


def test_a_candidate_without_a_plan_is_not_probed(digits_model):
    assert probe(Candidate(digits_model), Candidate(digits_model), asked(digits.task())) == {}


def test_neither_is_the_culprit_where_both_lose_alike():
    assert culprit({"weights": 0.01, "activations": 0.008}) is None
    assert culprit({"weights": 0.01, "activations": 0.03}) == "activations"
    assert culprit({}) is None


def test_the_culprit_decides_who_recovers_first():
    verdict = judged(1, "quantize-static", size=0.2, drop=0.05, target=Target((DROP, SIZE))).verdict
    by_weights = diagnose(verdict, QUALITY, {"weights": 0.05, "activations": 0.001})
    by_activations = diagnose(verdict, QUALITY, {"weights": 0.001, "activations": 0.05})
    unknown = diagnose(verdict, QUALITY)
    assert by_weights.sentence.endswith("recover quality at the same compression, which mostly the weights lost")
    rounding, mixed, aware = (method.card for method in (LearnedRounding, QuantizeMixed, QuantizeAware))
    tried = QuantizeStatic.card
    assert by_weights.suits(rounding, tried) > by_weights.suits(mixed, tried)
    assert by_activations.suits(mixed, tried) > by_activations.suits(rounding, tried)
    assert unknown.suits(mixed, tried) == unknown.suits(rounding, tried)
    assert by_weights.suits(aware, tried) == by_weights.suits(rounding, tried)
    assert Diagnosis("").suits(mixed, tried) == 0
