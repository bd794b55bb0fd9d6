"""Inputs and outputs are called by the model's own words, whatever the graph calls its nodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from boildown.domain.axes import opened
from boildown.domain.candidate import Edit
from boildown.runtimes import get
from boildown.surgery.calibrate import calibrate
from boildown.surgery.graph import capture
from boildown.surgery.plan import place


class Tree(nn.Module):
    """A dict in, a tree out; a part of it passes through."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Any:
        return {"score.a": self.linear(inputs["ids.x"]), "b": [self.linear(inputs["c"]), inputs["c"]]}


class Taken(nn.Module):
    """An input called like the output, an output twice, one that is none, and one called like a short inner name."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, logits: Tensor) -> Any:
        y = self.linear(logits)
        return logits, y, y, None, y.sum(1)


class Letters(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)

    def forward(self, input: Tensor) -> Any:
        y = torch.relu(self.linear(input))
        return {"a": self.linear(y), 0: y, "": y + 1, "größe": y + 2}


class Tokens(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(9, 4)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.table(input_ids) * attention_mask[..., None]


def rows() -> Tensor:
    return torch.randn(2, 4)


def texts() -> tuple[Tensor, Tensor]:
    ids = torch.randint(0, 9, (2, 5))
    return opened(ids, [1]), opened(torch.ones_like(ids, dtype=torch.float32), [1])


CASES: dict[str, tuple[nn.Module, Any, list[str], list[str]]] = {
    "tree": (
        Tree(), ({"ids.x": rows(), "c": rows()},), ["inputs_ids_x", "inputs_c"], ["score_a", "b_0", "b_1"],
    ),
    "one": (nn.Sequential(nn.Linear(4, 3)), (rows(),), ["input"], ["logits"]),
    "taken": (Taken(), (rows(),), ["logits"], ["logits_0", "logits_1", "logits_2", "logits_3"]),
    "letters": (Letters(), (rows(),), ["input"], ["a", "logits_0", "logits", "gr_e"]),
    "text": (Tokens(), texts(), ["input_ids", "attention_mask"], ["logits"]),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("runtime", ["onnxruntime", "eager"])
def test_ports_are_called_by_the_models_own_words(case: str, runtime: str, tmp_path: Path) -> None:
    model, args, inputs, outputs = CASES[case]
    graph, chosen = capture(model.eval(), args), get(runtime)
    exported, path = tmp_path / "exported", tmp_path / f"model{chosen.suffix}"
    chosen.export(graph.serialize({"word": "logits"}), exported)
    chosen.write(exported, path)
    session = chosen.open(path, trust=True)
    assert [port.name for port in session.inputs] == inputs
    assert [port.name for port in session.outputs] == outputs
    expected = torch.utils._pytree.tree_leaves(model(*args))
    given = [leaf.numpy() for leaf in torch.utils._pytree.tree_leaves(args)]
    for ours, theirs in zip(session.run(given), [e for e in expected if e is not None], strict=True):
        assert np.allclose(ours, theirs.detach().numpy(), atol=1e-5)
    if runtime == "onnxruntime":
        onnx.checker.check_model(str(path), full_check=True)


def test_open_axes_have_words_for_names(tmp_path: Path) -> None:
    pictures = opened(torch.randn(2, 3, 16, 16), [2, 3])
    for model, args, shape, result in (
        (Tokens(), texts(), ("batch", "length"), ("batch", "length", 4)),
        (nn.Conv2d(3, 4, 3, stride=2), (pictures,), ("batch", 3, "height", "width"), None),
    ):
        get("onnxruntime").export(capture(model.eval(), args).serialize(), tmp_path / "e.onnx")
        get("onnxruntime").write(tmp_path / "e.onnx", tmp_path / "m.onnx")
        session = get("onnxruntime").open(tmp_path / "m.onnx")
        assert session.inputs[0].shape == shape
        assert result is None or session.outputs[0].shape == result
        shown = str([port.shape for port in (*session.inputs, *session.outputs)])
        assert not any(f"{letter}{digit}" in shown for letter in "su" for digit in range(10)), shown


@pytest.mark.parametrize("form", ["plan", "dynamic"])
def test_quantized_files_have_the_same_names_and_those_that_the_user_gave(form: str, tmp_path: Path) -> None:
    model, runtime = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 3)).eval(), get("onnxruntime")
    batch = torch.randn(32, 4)
    graph = capture(model, (batch,))
    runtime.export(graph.serialize({"word": "logits", "names": ["score"]}), tmp_path / "e.onnx")
    plan = calibrate(graph, place(graph), [((batch,), {})]) if form == "plan" else None
    runtime.write(tmp_path / "e.onnx", tmp_path / "m.onnx", plan, None if plan else Edit("quantize-dynamic"))
    session = runtime.open(tmp_path / "m.onnx")
    assert ([p.name for p in session.inputs], [p.name for p in session.outputs]) == (["input"], ["score"])
    onnx.checker.check_model(str(tmp_path / "m.onnx"), full_check=True)
