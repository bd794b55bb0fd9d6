"""int8 weights with activations quantized at run time: the one method that works on the file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn
from torch.fx import GraphModule

from boildown.domain.candidate import Candidate, Edit
from boildown.domain.task import Task
from boildown.methods.base import Card, Context, Lowers, setting, settings_of
from boildown.surgery.graph import attribute_of, capture
from boildown.surgery.nodes import base_name

_LAYERS = (nn.Linear, nn.Bilinear, nn.LSTM, nn.RNN, nn.RNNCellBase, nn.Embedding, nn.MultiheadAttention)
_OPERATORS = frozenset(
    {
        *("linear", "bilinear", "embedding", "lstm", "rnn_tanh", "rnn_relu"),
        *("lstm_cell", "gru_cell", "rnn_tanh_cell", "rnn_relu_cell"),
    }
)
"""What the exported file holds as MatMul, LSTM or Gather. A GRU is an operator that ONNX Runtime runs in float."""
_LEAST_SHARE = 0.2


@dataclass(frozen=True)
class QuantizeDynamic:
    """Dynamic quantization of linear, recurrent and embedding layers by the runtime's own tool."""

    card: ClassVar[Card] = Card(
        name="quantize-dynamic",
        version=1,
        family="quantization",
        summary="int8 weights, activations quantized at run time; no calibration",
        when=(
            "Transformers, LSTMs and other models whose weights lie in linear, LSTM, RNN, cell or embedding layers. "
            "Where most lie in an embedding table, 4 bits for it take MiniLM from 0.25x to 0.20x size at the same "
            "score."
        ),
        when_not="Convolutional models: their layers would stay float.",
        source="onnxruntime.quantization.quantize_dynamic",
        lowers=("size", "latency", "memory"),
        minutes=0.1,
        order=10,
        harder={"embeddings": 4},
        terminal=True,
    )

    per_channel: bool = setting(True, "one scale per output channel instead of one per weight tensor")
    embeddings: int = setting(8, "bits of a number in an embedding table", choices=(8, 4))

    def applies_to(self, candidate: Candidate, task: Task) -> str | None:
        """Whether enough of the model's parameters lie where dynamic quantization works."""
        if candidate.plan is not None or candidate.rewrite is not None:
            return "the model is quantized already"
        total = sum(p.numel() for p in candidate.model.parameters())
        model = candidate.model
        if _multiplies(model):
            model = capture(model, *task.example()).module
        if self.embeddings < 8 and next(_tables(model), None) is None:
            return "the model has no embedding table"
        share = sum({id(p): p.numel() for p in _reached(model)}.values()) / max(total, 1)
        if share < _LEAST_SHARE:
            return (
                f"only {share:.0%} of the parameters lie in linear, LSTM, RNN, cell or embedding layers; "
                "convolutions and GRU would stay float"
            )
        return None

    def outline(self) -> Edit:
        """The rewrite that is asked of the runtime."""
        return Edit("quantize-dynamic", 1, settings_of(self))

    def apply(self, candidate: Candidate, task: Task, context: Context) -> Candidate:
        """The same model with a rewrite of its exported file."""
        return candidate.derive(rewrite=self.outline())

    sketch = apply

    def costs_as(self, *, behind: bool) -> Mapping[Lowers, str]:
        """Integers compute as much as floats did."""
        return {"params": "", "macs": ""}


def _multiplies(model: nn.Module) -> bool:
    """Whether modules that are not PyTorch's have matrices, which the graph may know as linear layers."""
    own = (module for module in model.modules() if not type(module).__module__.startswith("torch."))
    return any(parameter.ndim == 2 for module in own for parameter in module.parameters(recurse=False))


def _tables(model: nn.Module) -> Iterator[Tensor]:
    """The embedding tables of a model, or of a graph."""
    yield from (module.weight for module in model.modules() if isinstance(module, nn.Embedding))
    yield from _tensors_of(model, frozenset({"embedding"}))


def _reached(model: nn.Module) -> Iterator[Tensor]:
    """The parameters of the layers that become integer."""
    yield from _tensors_of(model, _OPERATORS)
    for module in model.modules():
        if isinstance(module, _LAYERS):
            yield from module.parameters()


def _tensors_of(model: nn.Module, operators: frozenset[str]) -> Iterator[Tensor]:
    """The tensors that operators of these kinds read, in a graph, which is what surgery returns."""
    if isinstance(model, GraphModule):
        for node in model.graph.nodes:
            if node.op == "call_function" and base_name(node) in operators:
                tensors = (attribute_of(value, model) for value in node.all_input_nodes)
                yield from (tensor for tensor in tensors if tensor is not None)
