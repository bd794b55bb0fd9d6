"""What every method must hold to. Subclass `MethodSuite`, give the fixtures, and pytest does the rest."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from typing import Any

import pytest
import torch
from torch import nn

from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.engine.rung import Rung, parse_rung
from boildown.methods.base import Context, Data, Method, Sketching, settings_of
from boildown.methods.registry import installed
from boildown.surgery.graph import capture
from boildown.surgery.weights import weights_hash


class MethodSuite:
    """Override `method`, and `model` and `task` with ones the method applies to.

    `alone` is a model that the method must leave alone: it has to refuse it in words. `sketch_within` is how far
    parameters and multiply-accumulates of a sketch may be off, relative.
    """

    sketch_within = 0.02

    @pytest.fixture
    def method(self) -> Method:
        """The method under test."""
        raise NotImplementedError("a MethodSuite needs a `method` fixture")

    @pytest.fixture
    def model(self) -> nn.Module:
        """A model that the method applies to."""
        raise NotImplementedError("a MethodSuite needs a `model` fixture")

    @pytest.fixture
    def task(self) -> Task:
        """A task for the models."""
        raise NotImplementedError("a MethodSuite needs a `task` fixture")

    @pytest.fixture
    def alone(self) -> nn.Module:
        """A model that the method must leave alone."""
        raise NotImplementedError("a MethodSuite needs an `alone` fixture")

    @pytest.fixture
    def context(self, task: Task) -> Context:
        """A context with the task's own data."""
        return Context(Data(task.train, task.calibration or task.train))

    def test_card_can_be_read_by_a_person(self, method: Method) -> None:
        card = method.card
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", card.name)
        assert card.version >= 1
        for text in (card.summary, card.when, card.when_not, card.source):
            assert len(text) > 10
        assert card.lowers
        assert card.minutes > 0

    def test_settings_are_plain_data_and_explained(self, method: Method) -> None:
        assert json.loads(json.dumps(settings_of(method))) == settings_of(method)
        for field in fields(method):  # type: ignore[arg-type]
            assert field.metadata.get("summary"), f"setting {field.name} is not explained"

    def test_a_rung_with_its_settings_reads_back(self, method: Method) -> None:
        """A child process, a resumed run and a ladder in a file know the method by this text."""
        if installed().get(method.card.name) is not type(method):
            pytest.skip("the method is not installed")
        assert parse_rung(str(Rung((method,)))) == Rung((method,))

    def test_applies_to_its_model(self, method: Method, model: nn.Module, task: Task) -> None:
        assert method.applies_to(Candidate(model.eval()), task) is None

    def test_must_not_touch(self, method: Method, alone: nn.Module, task: Task) -> None:
        reason = method.applies_to(Candidate(alone.eval()), task)
        assert isinstance(reason, str)
        assert len(reason.split()) >= 3

    def test_apply_gives_a_new_candidate_and_leaves_the_old_one(
        self, method: Method, model: nn.Module, task: Task, context: Context
    ) -> None:
        candidate = Candidate(model.eval())
        before, modes = weights_hash(model), [module.training for module in model.modules()]
        made = method.apply(candidate, task, context)
        assert weights_hash(model) == before
        assert [module.training for module in model.modules()] == modes
        assert candidate == Candidate(model)
        assert (made.edits, made.plan, made.rewrite) != (
            candidate.edits,
            candidate.plan,
            candidate.rewrite,
        ) or (weights_hash(made.model) != before)

    def test_same_seed_gives_the_same_candidate(
        self, method: Method, model: nn.Module, task: Task, context: Context
    ) -> None:
        def made() -> tuple[Any, ...]:
            result = method.apply(Candidate(model.eval()), task, context)
            return result.edits, result.plan, result.rewrite, weights_hash(result.model)

        torch.manual_seed(1)
        first = made()
        torch.manual_seed(2)
        assert made() == first

    def test_a_sketch_is_as_small_as_what_is_made(
        self, method: Method, model: nn.Module, task: Task, context: Context
    ) -> None:
        """A forecast reads sizes and operations from it."""
        if not isinstance(method, Sketching):
            pytest.skip("the method makes no sketch")
        before = weights_hash(model)
        made, sketch = (make(Candidate(model.eval()), task, context) for make in (method.apply, method.sketch))
        assert weights_hash(model) == before
        told = {"params", "macs"} & set(method.card.sketched)
        for metric, real, shown in zip(("params", "macs"), _counts(made, task), _counts(sketch, task), strict=True):
            assert metric not in told or shown == pytest.approx(real, rel=self.sketch_within)
        if "latency" in method.card.sketched:
            assert _bits(sketch) == _bits(made)
        assert sketch.rewrite == made.rewrite

    def test_stops_when_asked(self, method: Method, model: nn.Module, task: Task, context: Context) -> None:
        """A method that takes long asks `check`; one that raises there must not leave a changed model."""

        class Asked(Exception):
            pass

        def check() -> None:
            raise Asked

        before = weights_hash(model)
        asking = Context(context.data, seed=context.seed, check=check)
        try:
            method.apply(Candidate(model.eval()), task, asking)
        except Asked:
            stopped = True
        else:
            stopped = False
        assert weights_hash(model) == before
        assert stopped or method.card.minutes <= 0.2, "a method of more than some seconds must call context.check()"


def _counts(candidate: Candidate, task: Task) -> tuple[float, float]:
    """Parameters and multiply-accumulates."""
    params = float(sum(parameter.numel() for parameter in candidate.model.parameters()))
    return params, capture(candidate.model, *task.example()).macs()


def _bits(candidate: Candidate) -> list[tuple[int, int]]:
    """Bits and number of scales of every quantized weight."""
    weights = {} if candidate.plan is None else candidate.plan.weights
    return sorted((quantizer.bits, len(quantizer.scale)) for quantizer in weights.values())
