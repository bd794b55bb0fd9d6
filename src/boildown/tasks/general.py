"""A task of any kind: the user's loss and metrics on the user's data."""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import chain
from math import prod
from pathlib import Path
from types import CodeType, MappingProxyType
from typing import Any, ClassVar, TypedDict

import torch
from torch.utils import _pytree as pytree

from boildown.domain.axes import opened
from boildown.domain.preprocess import Output, Preprocess
from boildown.domain.rows import of_each
from boildown.domain.task import Metric, Runnable, Samples
from boildown.errors import Cancelled, DataError, InputError, Mistake, contained, in_words
from boildown.tasks.checks import READ_TWICE, check_samples, unlike_main
from boildown.tasks.corrupted import Own
from boildown.tasks.data import (
    IndexedSamples,
    as_float,
    evenly_spaced,
    in_float,
    leaves,
    map_leaves,
    samples_from,
    source_of,
)
from boildown.tasks.evaluating import Evaluate, Evaluated, parted
from boildown.tasks.groups import Ids, read_groups, without_groups
from boildown.tasks.likeness import Agreement, Divergence
from boildown.tasks.losses import Loss, as_loss, error_of_lists, relative_error
from boildown.tasks.metrics import as_metric
from boildown.tasks.named import Judged, Named, named, refuse_no_corruptions
from boildown.tasks.slices import Labels, Slices, mistakes_in, slices_for
from boildown.tasks.transforms import Described, describe, raw_of, refuse_no_description, transform_of

Forward = Callable[[Runnable, Any], Any]
"""`forward(model, inputs)` calls the model, or an artifact in its place, and returns the output."""

TrainingStep = Callable[[Any, Any, Any], torch.Tensor]
"""`training_step(model, inputs, target)` gives the loss of a batch that the model is trained by."""

Augment = Callable[[Any, Any], tuple[Any, Any]]
"""`augment(inputs, target)` changes a batch on its device; its random numbers are torch's, NumPy's or Python's."""

Collate = Callable[[list[Any]], Any]
"""`collate(items)` makes a batch of items, such as one that pads them to one length."""

_OF_CLASSES = ("cross_entropy", "bce")
"""The losses whose targets are classes; of a loss of the user's they may be."""

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""Positional and keyword arguments of one call of the model."""


class Options(TypedDict, total=False):
    """What every kind of task takes besides its data, its loss and its metrics; see `Task`."""

    example: Any
    forward: Forward | None
    training_step: TrainingStep | None
    augment: Augment | None
    collate: Collate | None
    preprocess: Any
    outputs: Sequence[str] | None
    slices: Mapping[str, Any] | None
    groups: Any
    corruptions: Mapping[str, Own] | None
    evaluate: Evaluate | None


class Task(Judged):
    """What the model is for: data, loss, metrics.

    loss: a name (cross_entropy, bce, mse, l1, huber) or `loss(output, target)`; only what trains needs one.
    metrics: names, Metric objects or torchmetrics objects; with `evaluate`, what it returns by name.
    train, calibration, validation, test: map-style data sets, lists, pairs of tensors or DataLoaders,
        of `(inputs, target)` or dicts. A tensor is given to the model as it is, a tuple or list
        as its positional arguments, a dict as its keyword arguments.
        validation may also be several of these by name, `{"clean": ..., "night": ...}`: the first is the main one, the
        others serve conditions that name them, `accuracy[night] drop <= 2 pp`; test then too.
    example: inputs for one call, where the first validation items will not do.
    forward: `forward(model, inputs)` instead of that convention; it must work with any callable.
    training_step: `training_step(model, inputs, target)` gives the loss to train by, in place of `forward` and
        `loss`, where a batch takes more than one call, or has auxiliary losses.
    augment: `augment(inputs, target)` changes every training batch at random, on the device: flips, crops, mixup.
    collate: `collate(items)` makes a batch of items, as a data collator of transformers does; a DataLoader's own
        comes first. Axes that then differ from batch to batch stay free in the file that is exported.
    preprocess: how a raw picture or text becomes a tensor: a description (`boildown.domain.preprocess`, its JSON as a
        dict or a path), a composition of torchvision, a processor or tokenizer of transformers, or timm's data
        configuration. By default it is read from the validation data's `transform`, where it has one of these.
    outputs: what the model's outputs are called in the file, in their order; by default the keys of a dict, else
        `logits` for classes and `output` for anything else.
    slices: what tells samples of different kinds apart, by what conditions call it (`accuracy[site=B] >= 90 %`,
        `worst site accuracy drop <= 5 pp`): a value for every validation sample, in its order; or
        `{"validation": values, "test": values}`; or a function that returns one, of a sample's inputs, and of its
        target if it takes two things. None is no slice. Slices by class are there where targets are classes.
    groups: which samples belong together, of one patient, video or speaker: they are never parted, and intervals count
        groups. One id (a text or a number) for each validation sample; a dict of such lists by the name of the data set
        (train, calibration, validation, test, those of several sets); or the key under which items hold theirs, which
        is no input then (or a column of a table, or an attribute of the data set with one for each item).
    corruptions: `{"fog": fn}`: functions of your own beside those that are shipped, for `accuracy[fog:2] >= 80 %`.
        `fn(inputs, severity, generator)` gets the inputs of one sample as a batch of one and a torch.Generator to draw
        all random numbers from, and returns them changed, in the same shapes and types.
    evaluate: an evaluation of your own: `evaluate(model)` gives a number, or numbers by name; `model` is the exported
        file, called as the torch module is. With an argument `indices` it is asked for parts of the validation (test)
        data too, by their positions, and its numbers get intervals. `metrics={"map": "higher", "error": "lower"}` says
        which way is better (or a metric whose direction, unit and range are meant); higher where nothing is said.
    divergence: `divergence(output, reference)` per sample; default: the relative squared error, of lists of what
        belongs to each sample by the sum of both squares.

    Validation without targets may be held against the first model alone: conditions on `agreement` and `divergence`.

    Raises InputError with every mistake at once.
    """

    train: Samples | None
    calibration: Samples | None
    validation: Samples
    test: Samples | None
    metrics: tuple[Metric, ...]
    training_step: TrainingStep | None = None
    augment: Augment | None = None
    evaluate: Evaluate | None = None
    evaluated: tuple[Evaluated, ...] = ()
    """What `evaluate` returns, as far as it is named."""
    word: ClassVar[str] = "output"
    """What an output is called that nobody has named."""
    by_class: bool = True
    """Whether there are slices by class, where every target is one."""
    columns: Mapping[str, Mapping[str, Sequence[str]]] = MappingProxyType({})
    """Of a table: by data set and name the values of all columns; each tells slices apart."""
    usual: ClassVar[tuple[str, ...]] = ()
    """The metrics where none is named."""

    def __init__(
        self,
        loss: str | Loss | None = None,
        metrics: Sequence[Any] | Mapping[str, Any] | Any = None,
        *,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        example: Any = None,
        forward: Forward | None = None,
        training_step: TrainingStep | None = None,
        augment: Augment | None = None,
        collate: Collate | None = None,
        preprocess: Any = None,
        outputs: Sequence[str] | None = None,
        slices: Mapping[str, Any] | None = None,
        groups: Any = None,
        corruptions: Mapping[str, Own] | None = None,
        evaluate: Evaluate | None = None,
        divergence: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        errors: list[InputError] = []

        def attempt(make: Callable[..., Any], *given: Any) -> Any:
            try:
                return make(*given)
            except InputError as error:
                errors.append(error)
                return None

        self._collate = collate
        if validation is None:
            errors.append(DataError(Mistake("There is no validation data.", "Give validation=, the data to judge on.")))
        self.train = attempt(self.read, "train", train)
        self.calibration = attempt(self.read, "calibration", calibration)
        sets: Named = attempt(named, validation, test, corruptions) or Named(None, None)
        self.main = sets.main
        self.validation = attempt(self.read, "validation", sets.validation)
        self.test = attempt(self.read, "test", sets.test)
        self.others = {name: attempt(self.read, f"validation[{name}]", data) for name, data in sets.others.items()}
        self.tests = {name: attempt(self.read, f"test[{name}]", data) for name, data in sets.tests.items()}
        groups = attempt(self.called_as_sets, groups)
        self._groups: Mapping[str, Ids] = attempt(read_groups, None if errors else groups, self.data())
        for name, samples in without_groups(groups, self.data()).items():
            self.put(name, samples)
        trains = train is not None and (training_step or self.training_step) is None
        self._loss: Loss = attempt(as_loss, loss) if loss is not None or trains else _no_loss
        self._named_loss = loss if isinstance(loss, str) else None
        attempt(refuse_no_description, preprocess)
        attempt(refuse_no_corruptions, corruptions)
        self.evaluate = evaluate or self.evaluate
        given, self.evaluated = attempt(parted, metrics, self.evaluate, self.usual) or ((), ())
        self.metrics = tuple(attempt(as_metric, metric) for metric in given)
        if metrics is not None and not (self.metrics or self.evaluate):
            errors.append(InputError.of("The task has no metric.", "Name at least one, such as 'accuracy'."))
        self.outputs: tuple[str, ...] = attempt(_names, outputs) or ()
        self.given_slices: Mapping[str, Any] = slices if slices is not None else {}
        known = [metric for metric in self.metrics if metric is not None]
        others = tuple(getattr(self, "others", ()))
        if self.validation is not None and (found := mistakes_in(self.given_slices, self.data(), known, others)):
            errors.append(DataError(*found))
        if errors:
            raise InputError.merge(errors)
        self._slices: dict[str, Slices] = {}
        if isinstance(loss, str) and loss not in _OF_CLASSES:
            self.by_class = False
        names = [m.name for m in (*self.metrics, *self.evaluated)]
        if len(set(names)) < len(names):
            raise InputError.of(f"Two metrics share a name: {', '.join(names)}.", "Give each its own.")
        self._example = example
        self.given_preprocess = preprocess
        self._forward = forward
        # A class of the user's may have either as a method.
        self.training_step = training_step or self.training_step
        self.augment = augment or self.augment
        self._divergence = divergence or relative_error
        self.corruptions = dict(corruptions or {})

    @property
    def ports(self) -> dict[str, Any]:
        """What outputs are called, as plain data: `word` where the model has no keys, `names` that the user gave."""
        return {"word": self.word, "names": list(self.outputs)}

    def __repr__(self) -> str:
        names = ", ".join(m.name for m in (*self.metrics, *self.evaluated))
        return f"{type(self).__name__}({names}; validation={len(self.validation)})"

    @property
    def recipe(self) -> str:
        """What training and scores depend on besides data and metrics, as text: the code of the loss, the calls, the
        augmentation and the divergence.

        What functions take from elsewhere (globals, closures) is not looked at.
        """
        kind = type(self)
        parts = (self._loss, self._forward, self.training_step, self.augment, self._divergence, kind.run, kind.loss)
        return " ".join([f"{kind.__module__}.{kind.__qualname__}", *map(written, parts)])

    def read(self, name: str, source: Any) -> IndexedSamples | None:
        """The samples of one named data set; a kind of task may read its targets otherwise. Raises DataError."""
        try:
            return None if source is None else samples_from(source, collate=self._collate)
        except DataError as error:
            raise DataError(*(Mistake(f"{name}: {m.cause}", m.cure) for m in error.mistakes)) from error

    def example(self) -> Call:
        """Positional and keyword arguments for one call of the model, batch of 2, on the CPU.

        Axes that differ from call to call are marked (`domain.axes`); items whose are the largest are the example.
        """
        inputs = self._example
        if inputs is None:
            inputs, _target = next(self.validation.subset(self._shapes[0]).batches(2))
        return self.opened(self.calls(inputs)[0])

    def opened(self, call: Call) -> Call:
        """A call for a batch of 2, with the axes marked that differ from call to call."""
        two = batch_of_two(call)
        tensors = [leaf for leaf in leaves(two) if isinstance(leaf, torch.Tensor)]
        for tensor, differing in zip(tensors, self._shapes[1], strict=False):
            opened(tensor, differing)
        return two

    @cached_property
    def _shapes(self) -> tuple[list[int], list[set[int]]]:
        """(the two largest of some validation items; for every input the axes in which items differ).

        Only a collator of the user's can make batches whose axes differ.
        """
        samples = self.validation
        first = list(range(min(2, len(samples))))
        if not isinstance(samples, IndexedSamples) or not samples.collated:
            return first, []
        sizes = []
        looked_at = evenly_spaced(len(samples), READ_TWICE)  # data may be sorted by length
        for inputs, _target in samples.subset(looked_at).batches(1):
            for call in self.calls(inputs):
                sizes.append([tuple(leaf.shape) for leaf in leaves(call) if isinstance(leaf, torch.Tensor)])
        axes = [
            {axis for axis, found in enumerate(zip(*shapes, strict=False)) if axis and len(set(found)) > 1}
            for shapes in zip(*sizes, strict=False)
        ]
        if not any(axes):
            return first, []
        calls = len(sizes) // len(looked_at)
        totals = [sum(map(prod, chain(*sizes[at : at + calls]))) for at in range(0, len(sizes), calls)]
        largest = sorted(sorted(range(len(totals)), key=totals.__getitem__)[-2:])
        return [looked_at[at] for at in largest], axes

    def run(self, model: Runnable, inputs: Any) -> Any:
        """The task's output for a batch of inputs; logits are taken out of Hugging Face outputs."""
        inputs = fresh(inputs)
        if self._forward is not None:
            return unwrap(self._forward(model, inputs))
        args, kwargs = as_call(inputs)
        return unwrap(model(*args, **kwargs))

    def calls(self, inputs: Any) -> Sequence[Call]:
        """The calls of the model that `run` makes; of a user's forward only the first can be known."""
        return [as_call(inputs) if self._forward is None else first_call(self._forward, inputs)]

    @property
    def slices(self) -> Mapping[str, Labels]:
        """What slice every validation sample is in, by what tells slices apart."""
        return self.slices_of("validation")

    def slices_of(self, name: str) -> Mapping[str, Labels]:
        """What slice every sample of a data set ("validation", "test") is in, by what tells slices apart; an empty text
        for none. Raises DataError where that cannot be read."""
        samples = self.data().get(name)
        if samples is None:
            return {}
        if name not in self._slices:
            columns, classes = self.columns.get(name, {}), getattr(self, "classes", None)
            self._slices[name] = slices_for(name, samples, self.given_slices, columns, self.by_class, classes)
        return self._slices[name]

    def loss(self, output: Any, target: Any) -> Any:
        """The training loss of a batch: a scalar tensor."""
        return self._loss(output, target)

    def divergence(self, output: Any, reference: Any) -> Any:
        """How far outputs are from the reference's, per sample, shape (n,); 0 is equal."""
        lists = isinstance(reference, list) and of_each(reference, len(reference)) is not None
        if lists and self._divergence is relative_error:
            return error_of_lists(output, reference)
        return self._divergence(output, reference)

    @property
    def likeness(self) -> tuple[Metric, ...]:
        """What holds outputs against the first model's, without labels: agreement where they decide on classes."""
        decides = self._named_loss in ("cross_entropy", "bce") or self.word == "logits"
        agreement = (Agreement(labels=self._named_loss == "bce"),) if decides else ()
        own = {metric.name for metric in (*self.metrics, *self.evaluated)}
        return tuple(m for m in (*agreement, Divergence(self.divergence)) if m.name not in own)

    @cached_property
    def labelled(self) -> bool:
        """Whether the data to judge on has targets; data that cannot be read counts as if it had."""
        return all(map(_has_targets, (self.validation, self.test)))

    def labelled_on(self, name: str) -> bool:
        """As `labelled`, of one of the other sets; a corruption has what the main set has."""
        if name not in self.others:
            return self.labelled
        return all(map(_has_targets, (self.others[name], self.tests.get(name))))

    def without_labels(self) -> Task:
        """The task with no metric that needs targets."""
        made = copy.copy(self)
        made.metrics = ()
        return made

    @cached_property
    def described(self) -> Described:
        """What is read of `preprocess=`, or of the validation data's own transform."""
        given = self.given_preprocess
        if given is None:
            given = transform_of(source_of(self.validation)[0])
        if given is None:
            return Described()
        args, kwargs = self.example()
        return describe(given, args, kwargs, self.answer())

    @cached_property
    def preprocess(self) -> Preprocess | None:
        """From the raw thing to the model's inputs, and from its output to an answer, where that is known."""
        return self.described.preprocess

    @cached_property
    def raw(self) -> Callable[[int], Any] | None:
        """The raw thing that an item of `validation` was made of: the path or the pixels of a picture, a row or texts
        by column."""
        said = self.preprocess
        if said is None or [raw.kind for raw in said.inputs] != ["picture"]:
            return None
        source, places = source_of(self.validation)
        found = raw_of(source)
        return None if found is None else lambda place: found(int(places[place]))

    @cached_property
    def beside(self) -> Mapping[str, Path]:
        """Files that steps of `preprocess` name, and where they are."""
        return self.described.beside

    def answer(self) -> Output:
        """What the model's output says, as data."""
        return Output("tensor")

    @property
    def takes_output_as_it_is(self) -> bool:
        """Whether loss and metrics see what the model returns, and nothing that is made of it."""
        return self._forward is None and type(self).run is Task.run

    def in_float(self, types: frozenset[torch.dtype]) -> tuple[Task, list[str]]:
        """The task with data of these floating-point types as float32, and what to tell: the model was turned so."""
        made, found = self.copied(), set[torch.dtype]()
        for name, samples in self.data().items():
            if isinstance(samples, IndexedSamples) and len(samples):
                first = pytree.tree_leaves(next(samples.subset([0]).batches(1)))
                found |= types & {leaf.dtype for leaf in first if isinstance(leaf, torch.Tensor)}
                made.put(name, as_float(samples, types))
        made._example = pytree.tree_map(partial(in_float, types=types), self._example)
        names = ", ".join(sorted(str(kind).removeprefix("torch.") for kind in found))
        return made, [f"data in {names} were turned into float32, as the model was"] if names else []

    def groups_of(self, name: str) -> Ids | None:
        """The id of every sample's group in a data set, by its name; None where it has none."""
        return self._groups.get(f"validation[{name}]" if name in self.others else name)

    def check(self) -> list[Mistake]:
        """Every mistake found in the first 256 items of each data set, and in all of those that are not trained on."""
        found: dict[str, list[Mistake]] = {}
        if not (self.metrics or self.evaluate) and self.labelled:
            found[""] = [Mistake("The task has no metric.", "Name at least one, such as metrics='accuracy'.")]
        for name, samples in self.data().items():
            part, other, inside = name.partition("[")
            judged = self.labelled_on(inside[:-1]) if other else self.labelled
            labelled = part == "train" or (part != "calibration" and judged)
            found[name] = check_samples(
                name, samples, labelled=labelled, scored=part in ("validation", "test"), every=name != "train"
            ) or (self.check_targets(name, samples) if labelled else [])
            if other and not (found["validation"] or found[name]):
                found[name] = unlike_main(name, samples, self.validation)
        return list(chain.from_iterable(found.values()))

    def check_targets(self, name: str, samples: Samples) -> list[Mistake]:
        """Mistakes in the targets that only this kind of task knows; called for readable data."""
        return []

    def data(self) -> dict[str, Samples]:
        """The data sets there are, by name."""
        every = {
            "train": self.train,
            "calibration": self.calibration,
            "validation": self.validation,
            "test": self.test,
            **self.judged_beside(),
        }
        return {name: samples for name, samples in every.items() if samples is not None}


def _has_targets(samples: Samples | None) -> bool:
    """Whether samples have targets; none, and what cannot be read, count as if they had."""
    try:
        with contained():
            return not samples or next(samples.subset([0]).batches(1))[1] is not None
    except Cancelled:
        raise
    except Exception:  # noqa: BLE001 - a user's data set may raise anything: `check` tells
        return True


def _names(outputs: Any) -> tuple[str, ...]:
    """Names of outputs that the user gave. Raises InputError for what cannot be a name."""
    given = (outputs,) if isinstance(outputs, str) else tuple(outputs or ())
    if not all(isinstance(name, str) and re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.]*", name) for name in given) or len(
        set(given)
    ) < len(given):
        raise InputError.of(
            f"outputs = {outputs!r} does not name outputs.",
            "Give each a name of its own, of letters, digits, _ and dots.",
        )
    return given


def _no_loss(_output: Any, _target: Any) -> torch.Tensor:
    """The loss of a task that has none."""
    raise InputError.of("The task has no loss.", "Give loss=, such as 'cross_entropy' or a function.")


def written(part: Any) -> str:
    """A function, or an object that is called, as text that is equal where its code is."""
    if isinstance(part, partial):
        return f"{written(part.func)}{part.args}{part.keywords}"
    code = getattr(part, "__code__", None) or getattr(type(part).__call__, "__code__", None)
    made = repr(part) if isinstance(part, torch.nn.Module) else type(part).__name__
    name = getattr(part, "__qualname__", made)
    return f"{name}:{_digest(code)}" if isinstance(code, CodeType) else str(name)


def _digest(code: CodeType) -> str:
    constants = [_digest(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return hashlib.sha256(f"{code.co_code!r}{constants}{code.co_names}".encode()).hexdigest()[:16]


def as_call(inputs: Any) -> Call:
    """The call convention: a tensor is one argument, a sequence positional ones, a mapping keyword ones."""
    if isinstance(inputs, Mapping):
        return (), dict(inputs)
    if isinstance(inputs, tuple | list):
        return tuple(inputs), {}
    return (inputs,), {}


def fresh(inputs: Any) -> Any:
    """The inputs with tensors of their own: a model may work in place, and the next call is given the same."""
    return pytree.tree_map_only(torch.Tensor, torch.Tensor.clone, inputs)


def unwrap(output: Any) -> Any:
    """The logits of a Hugging Face output or a dict, the only member of a tuple or dict; else the output.

    A list of one dict, or of one list, is what belongs to a single sample, as of detections, and stays one.
    """
    if isinstance(output, list) and all(isinstance(each, Mapping | list | tuple) for each in output):
        return output
    if isinstance(output, Mapping):
        if "logits" in output:
            return output["logits"]
        return next(iter(output.values())) if len(output) == 1 else output
    if isinstance(output, tuple | list) and len(output) == 1:
        return output[0]
    return getattr(output, "logits", output)


class _Seen(BaseException):
    """Carries a call out of a user's forward; no `except Exception` there can swallow it."""

    def __init__(self, call: Call) -> None:
        self.call = call


def first_call(forward: Forward, inputs: Any) -> Call:
    """The arguments of the first call of the model that a user's forward makes. Raises InputError."""

    def model(*args: Any, **kwargs: Any) -> Any:
        raise _Seen((args, kwargs))

    try:
        forward(model, inputs)
    except _Seen as seen:
        return seen.call
    except AttributeError as error:
        raise InputError.of(
            f"forward uses the model as more than a callable: {in_words(error)}.",
            "Only call it, model(...): an exported artifact takes its place.",
        ) from error
    raise InputError.of("forward never calls the model.", "Let it return model(...) or what follows from it.")


def batch_of_two(call: Call) -> Call:
    """The same call for a batch of 2 on the CPU: a batch of 1 is doubled, a larger one cut."""
    args, kwargs = call
    return map_leaves(_two, args), map_leaves(_two, kwargs)


def _two(leaf: Any) -> Any:
    if not isinstance(leaf, torch.Tensor):
        return leaf
    leaf = leaf.detach().cpu()
    return leaf.expand(2, *leaf.shape[1:]).contiguous() if leaf.ndim and len(leaf) == 1 else leaf[:2]
