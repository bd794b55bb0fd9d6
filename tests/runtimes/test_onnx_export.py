from __future__ import annotations

import io
import operator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from runtime_networks import Residual, batch, exported, values_of
from torch import nn

from boildown.errors import ExportError
from boildown.runtimes import get
from boildown.surgery.graph import capture
from boildown.surgery.plan import place

GONE: dict[str, set[str]] = {
    "residual": {"pad"},
    "encoder": set(),
    "joined": set(),
    "waves": set(),
    "film": set(),
    "recurrent": {"zeros_1", "getitem_1", "getitem_2"},
}
"""What the exporter folds or drops; every other tensor of the program is in the file."""


def _program(model: nn.Module, *args: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.export.save(torch.export.export(model, args), buffer)
    return buffer.getvalue()


@pytest.mark.parametrize("name", GONE)
def test_values_carry_the_names_of_the_program_and_its_numbers(name: str) -> None:
    """Every inner value is made an output of the file and held against torch's value of that name."""
    made = exported(name)
    x = batch(name, 3, seed=5)
    values = {key: value for key, value in values_of(made.graph, x).items() if isinstance(value, torch.Tensor)}
    model = onnx.load(made.path)
    shared = [output for node in model.graph.node for output in node.output if output in values]
    calls = {n.name for n in made.graph.module.graph.nodes if n.op == "call_function" and n.name in values}
    assert calls - set(shared) == GONE[name]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=output) for output in shared)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    results = session.run(shared, {session.get_inputs()[0].name: x.numpy()})
    for output, result in zip(shared, results, strict=True):
        np.testing.assert_allclose(result, values[output].numpy(), atol=2e-5, rtol=1e-4, err_msg=output)


def test_parts_of_a_split_and_what_loses_a_cast_keep_their_names(tmp_path: Path) -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.norm, self.right = nn.Linear(4, 6), nn.RMSNorm(3), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            left, right = self.first(x).chunk(2, 1)
            return self.right(self.norm(left)), self.right(right)

    _hold_against(tmp_path, Halves(), torch.randn(3, 4), "getitem_1", "rms_norm")


def test_what_is_computed_twice_from_the_same_has_one_name(tmp_path: Path) -> None:
    """The exporter keeps one of them, whichever parts are read."""

    class Paths(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.left, self.right = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            left, right = (torch.relu(x).split(3, 1)[place] for place in (0, 1))
            return self.left(left) + self.right(right)

    model, x = Paths(), torch.randn(3, 6)
    picked = [node.name for node in capture(model, (x,)).module.graph.nodes if node.target is operator.getitem]
    _hold_against(tmp_path, model, x, "relu", *picked)


def test_what_ends_with_a_step_that_did_nothing_keeps_its_name(tmp_path: Path) -> None:
    class Windows(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(4, 5), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.first(x.unfold(-1, 4, 2))
            return self.last(x[torch.arange(len(x)), x[..., 0].argmax(1)])

    _hold_against(tmp_path, Windows(), torch.randn(3, 12), "unfold", "index")


def test_parts_of_steps_on_the_way_do_not_take_the_names_of_results(tmp_path: Path) -> None:
    """The exporter takes the inputs of a recurrent layer apart, too, one for every time."""

    class Plain(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.out = nn.RNN(6, 8, batch_first=True), nn.Linear(8, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(self.layer(x)[0])

    graph = capture(Plain(), (torch.randn(2, 4, 6),))
    get("onnxruntime").export(graph.serialize(), tmp_path / "plain.onnx")
    file = onnx.load(tmp_path / "plain.onnx")
    named = {name for node in file.graph.node for name in node.output}
    assert "getitem" not in named, "it would be the first of the inputs"
    assert "getitem" not in place(graph).activations


def _hold_against(folder: Path, model: nn.Module, x: torch.Tensor, *names: str) -> None:
    """Hold these values of the exported file against torch's of the same names."""
    graph = capture(model, (x[:2],))
    get("onnxruntime").export(graph.serialize(), folder / "model.onnx")
    file = onnx.load(folder / "model.onnx")
    file.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = onnxruntime.InferenceSession(file.SerializeToString())
    found = session.run(names, {session.get_inputs()[0].name: x.numpy()})
    for name, result in zip(names, found, strict=True):
        expected = values_of(graph, x)[name]
        assert isinstance(expected, torch.Tensor)
        np.testing.assert_allclose(result, expected.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", GONE)
def test_weights_carry_the_names_of_the_parameters(name: str) -> None:
    made = exported(name)
    file = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(made.path).graph.initializer}
    weights = {k: v for k, v in made.graph.program.state_dict.items() if v.dim() > 1 and "lstm" not in k}
    for key, weight in weights.items():
        held = file[key] if key in file else file[f"{key}^T"].T
        np.testing.assert_array_equal(held, weight.numpy())


def test_layers_with_equal_weights_keep_one_each() -> None:
    model = nn.Sequential(*(nn.Linear(4, 4, bias=False) for _ in range(2)))
    model[1].weight.data.copy_(model[0].weight.data)
    path = exported("waves").path.with_name("equal.onnx")
    get("onnxruntime").export(_program(model, torch.randn(2, 3, 4)), path)
    assert {"0.weight^T", "1.weight^T"} <= {tensor.name for tensor in onnx.load(path).graph.initializer}


def test_large_rearranged_weights_are_constants() -> None:
    """An LSTM's gates are reordered once, at export, not at every inference."""
    model = onnx.load(exported("recurrent").path)
    (lstm,) = [node for node in model.graph.node if node.op_type == "LSTM"]
    assert set(lstm.input[1:3]) <= {tensor.name for tensor in model.graph.initializer}


class _Airy(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.special.airy_ai(x)


def test_attention_under_a_learned_mask_is_exported(tmp_path: Path) -> None:
    """Where its result is reshaped, the trace depends on whether gradients are asked for."""

    class Biased(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv, self.bias = nn.Linear(8, 24), nn.Embedding(9, 2)
            self.register_buffer("distance", torch.arange(5)[:, None] - torch.arange(5) + 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            q, k, v = (part.view(-1, 5, 2, 4).transpose(1, 2) for part in self.qkv(x).chunk(3, -1))
            bias = self.bias(self.distance).permute(2, 0, 1)[None] + torch.zeros(len(x), 1, 1, 1)
            y = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias)
            return y.reshape(-1, 2, 5, 4).transpose(1, 2).contiguous().reshape(len(x), 5, -1)

    model, x = Biased(), torch.randn(3, 5, 8)
    get("onnxruntime").export(capture(model, (x[:2],)).serialize(), tmp_path / "model.onnx")
    (found,) = get("onnxruntime").open(tmp_path / "model.onnx").run([x.numpy()])
    with torch.no_grad():
        np.testing.assert_allclose(found, model(x).numpy(), atol=1e-5)


def test_the_operator_that_cannot_be_exported_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"aten\.special_airy_ai"):
        get("onnxruntime").export(_program(_Airy(), torch.randn(3)), tmp_path / "x.onnx")
    assert not (tmp_path / "x.onnx").exists()


def test_exporting_says_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], recwarn: pytest.WarningsRecorder
) -> None:
    program = _program(Residual().eval(), torch.randn(2, 3, 32, 32))
    recwarn.clear()
    get("onnxruntime").export(program, tmp_path / "x.onnx")
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
