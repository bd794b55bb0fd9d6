"""Static convolutions beside recurrent layers on grids found at run time, made by every method that makes a plan."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from tempfile import mkdtemp

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from boildown.domain.candidate import Candidate
from boildown.domain.rules import Rules
from boildown.methods.base import Context, Data, Method, keyed_settings
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_aware import QuantizeAware
from boildown.methods.quantize_mixed import QuantizeMixed
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.graph import capture
from boildown.surgery.store import load_candidate, save_candidate
from boildown.testing import digits

RULES = replace(get("onnxruntime").rules, dynamic_from=0)


class Reader(nn.Module):
    """Reads a digit row by row: a convolution along the rows, a recurrent layer or a loop, a head."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, self.conv, self.head = kind, nn.Conv1d(8, 32, 3, padding=1), nn.Linear(48, 10)
        cells = {"lstm": nn.LSTM(32, 48, batch_first=True), "gru": nn.GRU(32, 48, batch_first=True)}
        self.layer = cells.get(kind) or nn.Linear(80, 192)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.conv(x.flatten(1, 2))).transpose(1, 2)
        if self.kind != "loop":
            return self.head(self.layer(x)[0][:, -1])
        state = memory = x.new_zeros(len(x), 48)
        for now in x.unbind(1):
            into, forget, new, out = self.layer(torch.cat([now, state], 1)).chunk(4, 1)
            memory = forget.sigmoid() * memory + into.sigmoid() * new.tanh()
            state = out.sigmoid() * memory.tanh()
        return self.head(state)


@cache
def reader(kind: str) -> nn.Module:
    """One that was trained for a second; about 95 % accurate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, (x, y) = Reader(kind), digits.training_set().tensors
        optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
        for _ in range(10):
            for batch in torch.randperm(len(x)).split(50):
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
    return model.eval()


@cache
def exported(model: nn.Module) -> Path:
    path = Path(mkdtemp()) / "exported.onnx"
    get("onnxruntime").export(capture(model, *digits.task().example()).serialize(), path)
    return path


def written(candidate: Candidate, folder: Path) -> tuple[float, int]:
    """The accuracy of a candidate's file, and its bytes."""
    x, y = digits.validation_set().tensors
    size = get("onnxruntime").write(exported(candidate.model), folder / "model.onnx", candidate.plan).size
    (outputs,) = get("onnxruntime").open(folder / "model.onnx").run([x.numpy()])
    return float((torch.from_numpy(outputs).argmax(1) == y).double().mean()), size


def made(method: Method, kind: str, folder: Path) -> tuple[Candidate, float, float]:
    """What a method makes of a network, and its file beside the float one: accuracy lost, and relative size."""
    task, first = digits.task(), Candidate(reader(kind))
    context = Context(Data(task.train, task.train), rules=RULES, steps=8 if method.card.trains else None)
    candidate = method.apply(first, task, context)
    (before, bytes_before), (after, bytes_after) = written(first, folder), written(candidate, folder)
    return candidate, before - after, bytes_after / bytes_before


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (QuantizeStatic(), "lstm"), (QuantizeStatic(), "gru"), (QuantizeStatic(), "loop"),
        (QuantizeMixed(prefix=1, layers=0), "lstm"), (LearnedRounding(steps=5), "gru"),
        (QuantizeAware(minutes=0), "lstm"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.card.name,
)  # fmt: skip
def test_every_method_that_makes_a_plan_takes_recurrent_layers_along(method, kind, tmp_path):
    candidate, drop, size = made(method, kind, tmp_path)
    own = {"layer.weight"} if kind == "loop" else {"layer.weight_ih_l0", "layer.weight_hh_l0"}
    assert own <= set(candidate.plan.weights)
    assert set(candidate.plan.dynamic) == (own if kind != "gru" else set())
    assert drop <= 0.01
    assert size <= 0.4
    for_size = "layer: int8 weights for size only: computed in float"
    assert (for_size if kind == "gru" else "layer: in int8, grids found while it runs") in candidate.notes


def test_it_can_be_turned_off_and_made_weights_only(tmp_path):
    names = {"layer.weight_ih_l0", "layer.weight_hh_l0"}
    weights = made(QuantizeStatic(recurrent="weights"), "lstm", tmp_path)[0]
    assert names <= set(weights.plan.weights)
    assert not weights.plan.dynamic
    floating, _, size = made(QuantizeStatic(recurrent="float"), "lstm", tmp_path)
    assert not names & set(floating.plan.weights)
    assert size > 0.5
    assert floating.notes == ()
    looped = made(QuantizeStatic(recurrent="float"), "loop", tmp_path)[0]
    assert "layer.weight" in looped.plan.weights, "as any other linear layer"
    assert not looped.plan.dynamic


def test_weights_alone_where_activations_stay_float():
    task = digits.task()
    plan = LearnedRounding(activations="float", steps=5).apply(
        Candidate(reader("lstm")), task, Context(Data(None, task.train), rules=RULES)
    ).plan  # fmt: skip
    assert "layer.weight_hh_l0" in plan.weights
    assert (plan.dynamic, plan.activations) == ((), {})


def test_a_network_of_recurrent_layers_alone_is_quantized():
    class Alone(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.GRU(8, 32, batch_first=True)

        def forward(self, x):
            return self.layer(x.flatten(1, 2))[0][:, -1]

    task, candidate = digits.task(), Candidate(Alone().eval())
    assert QuantizeStatic().applies_to(candidate, task) is None
    assert "no convolution or linear layer" in QuantizeStatic(recurrent="float").applies_to(candidate, task)
    assert "no convolution or linear layer" in QuantizeAware().applies_to(candidate, task)
    plan = QuantizeStatic().apply(candidate, task, Context(Data(None, task.train), rules=RULES)).plan
    assert set(plan.weights) == {"layer.weight_ih_l0", "layer.weight_hh_l0"}
    assert plan.activations == {}


def test_a_candidate_on_disk_keeps_its_plan(tmp_path):
    task, first = digits.task(), Candidate(reader("lstm"))
    candidate = QuantizeStatic().apply(first, task, Context(Data(None, task.train), rules=RULES))
    save_candidate(candidate, tmp_path / "1", first, tmp_path / "0")
    save_candidate(first, tmp_path / "0", first, tmp_path / "0")
    assert load_candidate(tmp_path / "1", first).plan == candidate.plan


def test_candidates_of_before_there_was_a_choice_keep_their_keys():
    assert "recurrent" not in keyed_settings(QuantizeStatic())
    assert keyed_settings(QuantizeStatic(recurrent="float"))["recurrent"] == "float"
    assert Rules().to_json().keys().isdisjoint({"dynamic", "dynamic_from", "stored"})
    assert get("onnxruntime").rules.to_json()["dynamic_from"] > 0
