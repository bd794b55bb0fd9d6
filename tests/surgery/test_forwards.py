"""Forwards as people write them are captured: in place on their input, under blocks, with more than tensors given."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from boildown.errors import ExportError
from boildown.runtimes.eager import Eager
from boildown.runtimes.onnx.runtime import OnnxRuntime
from boildown.surgery.graph import capture
from boildown.surgery.trainable import trainable
from boildown.surgery.weights import copied, plain
from boildown.tasks.classification import Classification

X = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))


class Blocked(nn.Module):
    def __init__(self, block: Callable[[], Any]) -> None:
        super().__init__()
        self.body, self.head, self.block = nn.Linear(3, 4), nn.Linear(4, 2), block

    def forward(self, x: torch.Tensor) -> Any:
        with self.block():
            x = self.body(x).relu()
            with torch.no_grad():
                x = x + 1
        return self.head(x)


class InPlace(nn.Module):
    def __init__(self, change: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.head, self.change = nn.Linear(3, 2), change

    def forward(self, x: torch.Tensor) -> Any:
        self.change(x)
        return self.head(x)


@dataclasses.dataclass
class Answer:
    logits: torch.Tensor
    loss: torch.Tensor | None = None
    steps: int = 2


class Beside(nn.Module):
    def __init__(self, make: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.head, self.make = nn.Linear(3, 2), make

    def forward(self, x: torch.Tensor) -> Any:
        return self.make(self.head(x))


BLOCKS = (torch.no_grad, torch.enable_grad, torch.inference_mode, lambda: torch.autocast("cpu", enabled=False))


@pytest.mark.parametrize("block", BLOCKS)
def test_blocks_inside_forward_leave_plain_operators(block: Callable[[], Any]) -> None:
    torch.manual_seed(0)
    model = Blocked(block).eval()
    with torch.no_grad():
        expected = model(X)
    graph, (module, _) = capture(model, (X,)), trainable(model, (X,), {})
    for found in (graph.module, module):
        assert not any("wrap" in str(node.target) for node in found.graph.nodes)
        torch.testing.assert_close(found(X), expected)
    assert {node.target for node in module.graph.nodes} >= {torch.ops.aten.linear.default, torch.ops.aten.relu.default}


def test_autocast_is_left_out_of_the_graph() -> None:
    model = Blocked(lambda: torch.autocast("cpu", dtype=torch.bfloat16)).eval()
    module = capture(model, (X,)).module
    assert {node.meta["val"].dtype for node in module.graph.nodes if "val" in node.meta} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        assert model.body(X).dtype is torch.bfloat16, "blocks work again afterwards"


CHANGES = (
    lambda x: x.sub_(0.3).div_(0.5),
    lambda x: x[:, 0].mul_(2),
    lambda x: x.view(-1).clamp_(min=0),
    lambda x: x.__setitem__((slice(None), 1), 0.0),
)


@pytest.mark.parametrize("change", CHANGES)
def test_a_forward_in_place_leaves_its_input_alone(change: Callable[[Any], Any]) -> None:
    torch.manual_seed(0)
    model, given = InPlace(change).eval(), X.clone()
    with torch.no_grad():
        expected = model(X.clone())
    for found in (capture(model, (given,)).module, trainable(model, (given,), {})[0]):
        torch.testing.assert_close(found(given), expected)
        assert torch.equal(given, X)
    task = Classification(validation=[(row, at % 2) for at, row in enumerate(X)])
    task.run(model, given)
    assert torch.equal(given, X)


OUTPUTS = (
    lambda y: {"out": y, "aux": None},
    lambda y: (None, y),
    lambda y: (y, 3, 0.5, "text", True),
    lambda y: {"a": [y, None, {"n": 2, "second": y + 1}], "b": (None,)},
    Answer,
)


@pytest.mark.parametrize("make", OUTPUTS)
def test_what_is_no_tensor_stays_beside_the_logits(make: Callable[[Any], Any], tmp_path: Any) -> None:
    torch.manual_seed(0)
    model = Beside(make).eval()
    with torch.no_grad():
        expected = model(X)
    graph = capture(model, (X,))
    Eager().export(graph.serialize(), tmp_path / "model.pt2")
    Eager().write(tmp_path / "model.pt2", tmp_path / "best.pt2")
    session = Eager().open(tmp_path / "best.pt2", trust=True)
    arrays = session.run([X.numpy()])
    assert len(arrays) == len(session.outputs)
    assert all(isinstance(array, np.ndarray) for array in arrays)
    rebuilt = graph.outputs([torch.from_numpy(array) for array in arrays])
    assert type(rebuilt) is type(expected)
    if dataclasses.is_dataclass(rebuilt):
        rebuilt, expected = vars(rebuilt), vars(expected)
    torch.testing.assert_close(rebuilt, expected, atol=1e-5, rtol=1e-5) if not _texts(expected) else None
    assert repr(torch.utils._pytree.tree_structure(rebuilt)) == repr(torch.utils._pytree.tree_structure(expected))


def _texts(tree: Any) -> bool:
    return any(leaf is None or isinstance(leaf, str) for leaf in torch.utils._pytree.tree_leaves(tree))


class Keeping(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)
        self.kept: dict[str, Any] = {}

    def forward(self, x: torch.Tensor) -> Any:
        self.kept["output"] = self.layer(x)
        return self.kept["output"]


NORMS = (torch.nn.utils.weight_norm, torch.nn.utils.spectral_norm)


@pytest.mark.parametrize("make", [*(lambda norm=norm: norm(nn.Linear(3, 2)) for norm in NORMS), Keeping])
def test_models_that_keep_what_they_computed_are_copied(make: Callable[[], nn.Module]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = make().train()
    model(X)
    other = copied(model)
    found, notices = plain(model)
    assert notices == ("the model was in train mode: judged in eval mode",)
    with torch.no_grad():
        torch.testing.assert_close(found(X), model.eval()(X))
        next(other.parameters()).add_(1)
        torch.testing.assert_close(found(X), model(X))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.bfloat16])
def test_data_are_turned_into_float_with_the_model(kind: torch.dtype) -> None:
    rows, labels = X.to(kind), torch.arange(4) % 2
    for data in ((rows, labels), list(zip(rows, labels, strict=True)), [{"x": r, "label": 1} for r in rows]):
        task, told = Classification(validation=data).in_float(frozenset({kind}))
        assert told == [f"data in {str(kind).removeprefix('torch.')} were turned into float32, as the model was"]
        inputs, target = next(task.validation.batches(4))
        assert (inputs["x"] if isinstance(inputs, dict) else inputs).dtype is torch.float32
        assert target.dtype is torch.int64
        assert Classification(validation=data).in_float(frozenset({torch.complex64}))[1] == []


class GroupedByBatch(nn.Module):
    """Each sample has a filter of its own, as in networks that make their weights."""

    def __init__(self) -> None:
        super().__init__()
        self.make = nn.Linear(3, 9)

    def forward(self, x: torch.Tensor) -> Any:
        n = x.shape[0]
        filters = self.make(x.mean((2, 3))).view(n * 3, 1, 3, 1)
        return nn.functional.conv2d(x.reshape(1, n * 3, *x.shape[2:]), filters, groups=n * 3).view(n, -1)


def test_a_convolution_in_groups_over_the_batch_is_named(tmp_path: Any) -> None:
    program = capture(GroupedByBatch().eval(), (torch.randn(2, 3, 5, 5),)).serialize()
    with pytest.raises(ExportError, match="as many groups as follow from the size of the batch"):
        OnnxRuntime().export(program, tmp_path / "model.onnx")


class Scripted(nn.Module):
    """A network of which a part, and what it is asked through, may be TorchScript."""

    def __init__(self, made: Callable[[nn.Module], Any] = lambda part: part) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = made(nn.Sequential(nn.Linear(6, 5), nn.ReLU()).eval())
        self.head = nn.Linear(5, 3)

    def forward(self, x: torch.Tensor) -> Any:
        return doubled(self.head(self.body(x)))


@torch.jit.script
def doubled(x: torch.Tensor) -> torch.Tensor:
    return 2 * x if x.size(1) > 1 else x


def test_traced_parts_and_scripted_functions_are_captured_and_scripted_parts_are_named() -> None:
    x = torch.randn(4, 6)
    plain, traced = Scripted().eval(), Scripted(lambda part: torch.jit.trace(part, torch.zeros(2, 6))).eval()
    graph = capture(traced, (x[:2],))
    with torch.no_grad():
        torch.testing.assert_close(graph.module(x), plain(x))
    assert graph.macs() == 6 * 5 + 5 * 3
    with pytest.raises(ExportError, match=r"its part 'body' is TorchScript\.\n.*scripted from"):
        capture(Scripted(torch.jit.script).eval(), (x[:2],))
