"""A candidate: a model with its lineage of edits and its quantization plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True)
class Edit:
    """One recorded change of architecture (or, for `Candidate.rewrite`, of the exported file)."""

    op: str
    version: int = 1
    args: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain data; `args` must be JSON-able."""
        return {"op": self.op, "version": self.version, "args": dict(self.args)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Edit:
        """The inverse of `to_json`."""
        return cls(str(data["op"]), int(data["version"]), dict(data["args"]))


@dataclass(frozen=True)
class Quantizer:
    """How one tensor is quantized: `q = clip(round(x / scale) + zero_point)`.

    `tensor` is the stable graph name: a value of the captured graph for activations, a parameter
    for weights. `scale` and `zero_point` have one entry, or one per channel along `axis`.
    What is unsigned has the full range; what is signed, as weights are, has
    -(2^(bits-1) - 1) .. 2^(bits-1) - 1. The zero point of a weight is 0.
    """

    tensor: str
    bits: int
    signed: bool
    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    axis: int | None = None

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of the grid."""
        if self.signed:
            top = 2 ** (self.bits - 1) - 1
            return -top, top
        return 0, 2**self.bits - 1

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "tensor": self.tensor,
            "bits": self.bits,
            "signed": self.signed,
            "scale": list(self.scale),
            "zero_point": list(self.zero_point),
            "axis": self.axis,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Quantizer:
        """The inverse of `to_json`."""
        return cls(**{**data, "scale": tuple(data["scale"]), "zero_point": tuple(data["zero_point"])})


@dataclass(frozen=True)
class Plan:
    """The quantization of a candidate as data.

    activations: by graph value name. Values that only move data (pad, slice, reshape, pooling by
        maximum) appear with their producer's scale and zero point.
    weights: by parameter name of the captured, batch-norm-folded graph.
    biases: by the same layer's weight name, the correction to add to the float bias (one number
        per output channel) before it is rounded to int32 with scale = input scale * weight scale.
    version: of the graph's names (see `surgery.graph.capture`).
    dynamic: the weights whose layers find the grids of what they read while they run: recurrent layers, and linear
        ones in a loop. One that is not among them, and reads what is on no grid, computes in float.

    Between two unsigned grids, what is inside of a function is on grids of its own (see `domain.functions`).
    """

    activations: Mapping[str, Quantizer] = field(default_factory=dict)
    weights: Mapping[str, Quantizer] = field(default_factory=dict)
    biases: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    version: int = 3
    dynamic: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {
            "version": self.version,
            "activations": [q.to_json() for q in self.activations.values()],
            "weights": [q.to_json() for q in self.weights.values()],
            "biases": {name: list(values) for name, values in self.biases.items()},
            **({"dynamic": list(self.dynamic)} if self.dynamic else {}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Plan:
        """The inverse of `to_json`."""
        activations = [Quantizer.from_json(q) for q in data["activations"]]
        weights = [Quantizer.from_json(q) for q in data["weights"]]
        return cls(
            {q.tensor: q for q in activations},
            {q.tensor: q for q in weights},
            {name: tuple(values) for name, values in data["biases"].items()},
            int(data["version"]),
            tuple(data.get("dynamic", ())),
        )


@dataclass(frozen=True)
class Candidate:
    """A model with its lineage.

    `model` is the float `torch.nn.Module` in eval mode, in the edited architecture. `plan` is how
    it is quantized, if it is. `rewrite` is a change made to the exported file itself; nothing may
    follow it. `parent` is the key of the candidate it was made from, `None` for the first model.
    """

    model: Any = field(repr=False, compare=False)
    method: str = "first"
    settings: Mapping[str, Any] = field(default_factory=dict)
    parent: str | None = None
    edits: tuple[Edit, ...] = ()
    plan: Plan | None = None
    rewrite: Edit | None = None
    notes: tuple[str, ...] = ()

    def derive(
        self,
        *,
        model: Any = None,
        edits: tuple[Edit, ...] = (),
        plan: Plan | None = None,
        rewrite: Edit | None = None,
        notes: tuple[str, ...] = (),
    ) -> Candidate:
        """A new candidate made from this one; `edits` are added to this one's."""
        return replace(
            self,
            model=self.model if model is None else model,
            edits=self.edits + tuple(edits),
            plan=plan if plan is not None else self.plan,
            rewrite=rewrite if rewrite is not None else self.rewrite,
            notes=notes,
        )
