"""What is checked of each architecture: a cell does one thing to it and raises unless the result is right.

Cells of one architecture run in one process, which keeps the model, the candidates made of it and the export.
"""

from __future__ import annotations

import random
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.utils import _pytree as pytree

import boildown as bd
from benchmarks.zoo.entry import Entry, load
from boildown.domain.candidate import Candidate
from boildown.engine.artifact import flatten
from boildown.engine.bench import signal_to_noise
from boildown.errors import AttemptError, BoildownError
from boildown.methods.base import Context, Data, Method
from boildown.methods.depth import Depth
from boildown.methods.distill import Distill
from boildown.methods.low_rank import LowRank
from boildown.methods.prune import Prune
from boildown.methods.quantize_aware import QuantizeAware
from boildown.methods.quantize_dynamic import QuantizeDynamic
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.channels import Channels, find_channels, remove
from boildown.surgery.graph import Graph, captured
from boildown.surgery.simulate import simulate
from boildown.surgery.store import load_candidate, save_candidate
from boildown.tasks.general import as_call, unwrap

EXACT = 1e-4
"""How far outputs may be apart that have to be equal, relative to the largest of them."""

FILE_DECIBEL = 60.0
"""A float file against the model."""

PLAN_DECIBEL = 20.0
"""An int8 file against its simulation; the two round in different places."""

NEAR_DECIBEL = 10.0
"""int8 against float. Random weights are harder on integers than trained ones."""

LEFT_MACS = 0.6
"""What pruning to half of the multiply-accumulates may leave: whole channels do not add up to a half."""

_TRAIN, _CALIBRATION, _STEPS = 48, 24, 6


class Wrong(Exception):
    """A cell's result is not what it has to be."""


class Left(Exception):
    """The method does not apply, in its own words."""


METHODS: dict[str, Method] = {
    "static": QuantizeStatic(),
    "dynamic": QuantizeDynamic(),
    "aware": QuantizeAware(steps=_STEPS, lr=1e-4, batch=16),
    "prune": Prune(ratio=0.5, multiple=1),
    "depth": Depth(ratio=0.6),
    "low-rank": LowRank(ratio=0.7, of="params", multiple=1),
    "distil": Distill(student="narrower", steps=_STEPS, batch=16),
}


class Subject:
    """An architecture with its task, the candidates made of it, and its files in a folder of their own."""

    def __init__(self, entry: Entry) -> None:
        self.entry = entry
        self.first = Candidate(entry.build())
        self.runtime = get("onnxruntime")
        self.folder = Path(tempfile.mkdtemp(prefix=f"zoo-{entry.name}-"))
        self.task = make_task(entry, self.first.model)
        data = Data(self.task.train, self.task.calibration)
        self.context = Context(data, steps=_STEPS, first=self.first)
        self._made: dict[str, Candidate] = {}
        self._files: dict[int, tuple[nn.Module, Path]] = {}

    # ---- making ----------------------------------------------------------------------------------

    def made(self, cell: str) -> Candidate:
        """The candidate of a cell's method, made once. Raises Left in the method's words."""
        if cell not in self._made:
            self._made[cell] = self._apply(METHODS[cell], self.first)
        return self._made[cell]

    def _apply(self, method: Method, candidate: Candidate) -> Candidate:
        if (reason := method.applies_to(candidate, self.task)) is not None:
            raise Left(reason)
        try:
            return method.apply(candidate, self.task, self.context)
        except AttemptError as error:
            raise Left(str(error).splitlines()[0]) from error

    def pruned_int8(self) -> Candidate:
        """The pruned candidate, quantized."""
        return self._apply(METHODS["static"], self.made("prune"))

    # ---- running ---------------------------------------------------------------------------------

    def graph(self, candidate: Candidate) -> Graph:
        """The captured graph of a candidate."""
        return captured(candidate, *self.task.example())

    def write(self, candidate: Candidate) -> tuple[Path, int]:
        """The candidate's file and its bytes; candidates with the same model share an export."""
        model = candidate.model
        if id(model) not in self._files:
            exported = self.folder / f"export{len(self._files)}.onnx"
            self.runtime.export(self.graph(candidate).serialize(), exported)
            self._files[id(model)] = (model, exported)  # an id is unique while its object lives
        path = self.folder / "candidate.onnx"
        written = self.runtime.write(self._files[id(model)][1], path, candidate.plan, candidate.rewrite)
        return path, written.size

    def batches(self, candidate: Candidate) -> list[int]:
        """Batch sizes to compare with: others than the captured one, where it is not fixed."""
        return [2] if self.graph(candidate).static_batch else [3, 5]

    def by_file(self, path: Path, batch: int) -> list[Tensor]:
        """What the file computes of a batch of samples that nobody has seen."""
        args, kwargs = self.call(batch)
        session = self.runtime.open(path)
        return [torch.from_numpy(array) for array in session.run(flatten(args, kwargs, self.task.example()))]

    def by_module(self, module: Callable[..., Any], batch: int) -> list[Tensor]:
        """What a module computes of the same samples."""
        args, kwargs = self.call(batch)
        with torch.no_grad():
            return tensors(module(*args, **kwargs))

    def call(self, batch: int) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments for a batch of samples that nobody has seen."""
        args, kwargs = as_call(self.entry.samples(batch, seed=100 + batch))
        return args, dict(kwargs)

    # ---- checking --------------------------------------------------------------------------------

    def agreement(self, candidate: Candidate, path: Path) -> float:
        """Decibels between the file and what it has to compute: the model, or the plan's simulation."""
        graph = self.graph(candidate)
        module: Any = candidate.model if candidate.plan is None else simulate(graph, candidate.plan)
        pairs = [(self.by_module(module, size), self.by_file(path, size)) for size in self.batches(candidate)]
        return min(decibel(ours, theirs) for ours, theirs in pairs)

    def nearness(self, module: Callable[..., Any], other: nn.Module) -> float:
        """Decibels between two modules."""
        return decibel(self.by_module(other, 2), self.by_module(module, 2))


def make_task(entry: Entry, model: nn.Module) -> bd.Task:
    """A task on random inputs: the model's own classes where it gives class scores, else numbers to come near to."""

    def rows(count: int, seed: int) -> tuple[list[Any], Any]:
        inputs = entry.samples(count, seed)
        items = [pytree.tree_map(lambda tensor, row=row: tensor[row], inputs) for row in range(count)]
        args, kwargs = as_call(inputs)
        with torch.no_grad():
            return items, unwrap(model(*args, **kwargs))

    parts, scores = {}, False
    for seed, (name, count) in enumerate({"train": _TRAIN, "calibration": _CALIBRATION, "validation": 16}.items()):
        items, output = rows(count, seed)
        spread(tensors(output))
        scores = isinstance(output, Tensor) and output.ndim == 2 and 1 < output.shape[1] <= 100
        targets = output.argmax(1) if scores else torch.linspace(-1, 1, count)
        parts[name] = list(zip(items, targets, strict=True))
    return bd.Classification(**parts) if scores else bd.Task(toward, [Distance()], **parts)


def toward(output: Any, target: Tensor) -> Tensor:
    """How far the means of a sample's outputs are from its number."""
    means = [leaf.float().flatten(1).mean(1) for leaf in tensors(output) if leaf.is_floating_point() and leaf.ndim]
    return torch.stack([(mean - target).square().mean() for mean in means]).mean()


class Distance:
    """`toward` as a metric."""

    name, higher_is_better, unit, decomposable = "distance", False, "", True
    range = (0.0, float("inf"))

    def statistic(self, output: Any, target: Any) -> Any:
        """Squared distances, shape (n,)."""
        first = tensors(output)[0]
        return np.asarray((first.float().flatten(1).mean(1) - target).square())

    def compute(self, statistics: Any) -> float:
        """Their mean."""
        return float(np.mean(statistics))


def tensors(output: Any) -> list[Tensor]:
    """The tensors of an output, in order."""
    return [leaf for leaf in pytree.tree_leaves(output) if isinstance(leaf, Tensor)]


def spread(outputs: Sequence[Tensor]) -> None:
    """Raises Wrong unless the outputs depend on the inputs: else nothing here would prove anything."""
    shares = [float(leaf.float().std(0).mean() / leaf.float().abs().mean()) for leaf in outputs if leaf.ndim]
    if not max(shares) > 1e-2:
        raise Wrong(f"the zoo's own model hardly depends on its inputs: {max(shares):.1e}")


def decibel(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The least agreement of any output. Raises Wrong where number, shape or a whole number differs."""
    if [leaf.shape for leaf in ours] != [leaf.shape for leaf in theirs]:
        raise Wrong(f"outputs {[tuple(x.shape) for x in theirs]} in place of {[tuple(x.shape) for x in ours]}")
    pairs = [(one, two) for one, two in zip(ours, theirs, strict=True) if one.is_floating_point()]
    finite = [(one.isfinite(), two) for one, two in pairs]
    if any(not torch.equal(mask, two.isfinite()) for mask, two in finite):
        raise Wrong("outputs are not finite")
    return min(
        signal_to_noise(one[m].float().numpy(), two[m].float().numpy())
        for (m, _), (one, two) in zip(finite, pairs, strict=True)
    )


def apart(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> float:
    """The largest difference of any output, relative to its largest number."""
    decibel(ours, theirs)  # shapes
    floats = [(one, two) for one, two in zip(ours, theirs, strict=True) if one.is_floating_point() and one.numel()]
    return max(
        float((one - two).nan_to_num().abs().max() / one.nan_to_num().abs().max().clamp_min(1e-6))
        for one, two in floats
    )


def need(holds: bool, why: str) -> None:
    """Raises Wrong unless it holds."""
    if not holds:
        raise Wrong(why)


# ---- the cells -----------------------------------------------------------------------------------


def export(subject: Subject) -> str:
    """The ONNX file computes what the model does, for other inputs and batch sizes than it was captured with."""
    path, size = subject.write(subject.first)
    found = subject.agreement(subject.first, path)
    need(found >= FILE_DECIBEL, f"file and model agree to {found:.0f} dB only")
    fixed = ", for batches of 2 only" if subject.graph(subject.first).static_batch else ""
    return f"{found:.0f} dB, {size} B{fixed}"


def _int8(subject: Subject, candidate: Candidate, floats: nn.Module) -> str:
    """The file agrees with its simulation, is near the float model and is smaller."""
    _, plain = subject.write(replace(candidate, plan=None))
    path, size = subject.write(candidate)
    assert candidate.plan is not None
    simulated = simulate(subject.graph(candidate), candidate.plan)
    found, near = subject.agreement(candidate, path), subject.nearness(simulated, floats)
    need(found >= PLAN_DECIBEL, f"file and simulation agree to {found:.0f} dB only")
    need(near >= NEAR_DECIBEL, f"int8 and float agree to {near:.0f} dB only")
    need(size < plain, f"{size} B in int8, {plain} B in float")
    return f"{found:.0f} dB to the simulation, {near:.0f} dB to float, {size / plain:.2f}x"


def static(subject: Subject) -> str:
    """int8 with calibrated ranges."""
    return _int8(subject, subject.made("static"), subject.first.model)


def dynamic(subject: Subject) -> str:
    """int8 weights, ranges at run time: the file is near the float model and smaller."""
    candidate = subject.made("dynamic")
    _, plain = subject.write(subject.first)
    path, size = subject.write(candidate)
    pairs = [(subject.by_module(subject.first.model, n), subject.by_file(path, n)) for n in subject.batches(candidate)]
    near = min(decibel(ours, theirs) for ours, theirs in pairs)
    need(near >= NEAR_DECIBEL, f"int8 and float agree to {near:.0f} dB only")
    need(size < plain, f"{size} B in int8, {plain} B in float")
    return f"{near:.0f} dB to float, {size / plain:.2f}x"


def aware(subject: Subject) -> str:
    """A few steps of training with quantization; its file agrees with its simulation."""
    candidate = subject.made("aware")
    return f"{_int8(subject, candidate, subject.first.model)}; {'; '.join(candidate.notes)}"


def _smaller(subject: Subject, candidate: Candidate, of: str, most: float) -> str:
    """Fewer multiply-accumulates or parameters, recounted on what is left, and sound outputs."""
    first, model = subject.first.model, candidate.model
    if of == "macs":
        ratio = subject.graph(candidate).macs() / subject.graph(subject.first).macs()
    else:
        ratio = parameters(model) / parameters(first)
    near = subject.nearness(model, first)  # raises on shapes and what is not finite
    if ratio > most:
        raise Left(f"{ratio:.2f}x the {of} is the least it comes to, asked for {most:g}x")
    return f"{ratio:.2f}x the {of}, {near:.0f} dB to the first model"


def prune(subject: Subject) -> str:
    """Half of the multiply-accumulates, repaired."""
    return _smaller(subject, subject.made("prune"), "macs", LEFT_MACS)


def depth(subject: Subject) -> str:
    """Repeated blocks out."""
    return _smaller(subject, subject.made("depth"), "macs", 0.99)


def low_rank(subject: Subject) -> str:
    """Layers as two."""
    return _smaller(subject, subject.made("low-rank"), "params", 0.95)


def distil(subject: Subject) -> str:
    """The model teaches its narrower twin for a few steps, which then has learned something."""
    candidate = subject.made("distil")
    told = _smaller(subject, candidate, "params", 0.95)
    need(all(p.isfinite().all() for p in candidate.model.parameters()), "weights are not finite")
    return f"{told}; {'; '.join(candidate.notes)}"


def prune_int8(subject: Subject) -> str:
    """int8 on what is left after pruning."""
    candidate = subject.pruned_int8()
    return _int8(subject, candidate, candidate.model)


def zero(subject: Subject) -> str:
    """Channels that are exactly zero go, and nothing changes: checked on the user's own module with zeros in it."""
    call = subject.task.example()
    channels, _ = find_channels(subject.first.model, *call)
    if not channels.groups:
        told = "; ".join(f"{name}: {why}" for name, why in list(channels.left_alone.items())[:3])
        raise Left(f"no layer of the model has channels that could go ({told})")
    worst, removed = 0.0, 0
    for seed, share in enumerate((0.25, 0.5)):
        gone = drawn(channels, share, seed)
        pruned, _ = remove(channels, gone, call)
        zeroed, own = with_zeros(subject.entry.build(), channels, gone)
        for size in subject.batches(subject.first):
            worst = max(worst, apart(subject.by_module(zeroed, size), subject.by_module(pruned.eval(), size)))
        removed = max(removed, len(gone))
    need(worst <= EXACT, f"outputs differ by {worst:.1e}")
    where = "" if own else ", held against the graph with zeros, as its weights are computed"
    return f"{removed} of {sum(group.width for group in channels.groups)} channels, {worst:.0e} apart{where}"


def with_zeros(model: nn.Module, channels: Channels, gone: Sequence[int]) -> tuple[nn.Module, bool]:
    """The user's own module with zeros for channels, and True; the graph with zeros where its weights are computed.

    Parametrizations are removed by PyTorch itself, from the module that is given: copies have its class.
    """
    for part in [module for module in model.modules() if parametrize.is_parametrized(module)]:
        for name in list(part.parametrizations):
            parametrize.remove_parametrizations(part, name)
    own, before, after = model.state_dict(), channels.module.state_dict(), channels.silenced(gone)
    for name, zeros in after.state_dict().items():
        turned = name in own and own[name].ndim == 2 and own[name].shape == before[name].T.shape
        if name in own and torch.equal(own[name], before[name]):
            own[name] = zeros
        elif turned and torch.equal(own[name].T, before[name]):
            own[name] = zeros.T
        else:
            return after.eval(), False
    model.load_state_dict(own)
    return model, True


def drawn(channels: Channels, share: float, seed: int) -> list[int]:
    """Some channels of every group, never all of one."""
    chosen = random.Random(seed)
    counts = [(group, min(max(1, round(share * group.width)), group.width - 1)) for group in channels.groups]
    return [number for group, count in counts for number in chosen.sample(group.channels, count)]


def reload(subject: Subject) -> str:
    """Every candidate made before is the same again from a fresh first model, its edits and its weights."""
    first, names = Candidate(subject.entry.build()), []
    for name, candidate in subject._made.items():
        save_candidate(candidate, subject.folder / name, subject.first, subject.folder / "first")
        if candidate.model is subject.first.model:
            save_candidate(subject.first, subject.folder / "first", subject.first, subject.folder / "first")
        again = load_candidate(subject.folder / name, first)
        need(again.plan == candidate.plan and again.rewrite == candidate.rewrite, f"{name}: another plan")
        for size in subject.batches(candidate):
            pair = subject.by_module(candidate.model, size), subject.by_module(again.model, size)
            need(all(map(torch.equal, *pair)), f"{name}: outputs differ by {apart(*pair):.1e}")
        names.append(name)
    need(bool(names), "no candidate was made")
    return ", ".join(names)


def parameters(model: nn.Module) -> int:
    """How many numbers are learned."""
    return sum(parameter.numel() for parameter in model.parameters())


CELLS: dict[str, Callable[[Subject], str]] = {
    "export": export,
    "static": static,
    "dynamic": dynamic,
    "aware": aware,
    "zero": zero,
    "prune": prune,
    "depth": depth,
    "low-rank": low_rank,
    "distil": distil,
    "prune+int8": prune_int8,
    "reload": reload,
}
"""By name, in the order in which they run."""


@cache
def _subject(name: str) -> Subject:
    return Subject(load()[name])


def fill_all(name: str, cells: Sequence[str], pipe: Connection) -> None:
    """Fill some cells of one architecture and send each as soon as it is done: what a process of its own does."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for cell in cells:
        pipe.send(fill(name, cell))


def fill(name: str, cell: str) -> dict[str, Any]:
    """One cell of one architecture as plain data: its state (ok, skipped or failed), the facts or the reason."""
    start = time.perf_counter()
    expected = load()[name].left.get(cell)
    try:
        state, text = "ok", CELLS[cell](_subject(name))
    except Left as left:
        state, text = ("skipped", str(left)) if expected else ("failed", f"left alone: {left}")
    except Exception as error:  # noqa: BLE001  whatever happens to a model is what is looked for here
        kind = "" if isinstance(error, Wrong | BoildownError) else f"{type(error).__name__}: "
        state, text = "failed", f"{kind}{str(error).strip() or traceback.format_exc(limit=-1)}"
    return {"state": state, "text": text, "seconds": round(time.perf_counter() - start, 1)}
