"""Data sets as indexed samples: read in index order, split, hashed."""

from __future__ import annotations

import contextlib
import copy
import hashlib
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils._pytree import tree_map
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
    default_convert,
)
from torch.utils.data.distributed import DistributedSampler

from boildown.domain.task import Samples
from boildown.errors import DataError, InputError, Mistake, contained
from boildown.tasks.pauses import between
from boildown.tasks.watch import begin, in_time

TARGET_KEYS = ("labels", "label", "targets", "target")
"""Where a dict keeps its target; the rest are the inputs."""

_BATCH_SIZE = 64
_FINGERPRINT_ITEMS = 256
_READ_TWICE = 32
_ROWS_AT_ONCE = 256
_WHOLE = (SequentialSampler, RandomSampler, WeightedRandomSampler, DistributedSampler)


class IndexedSamples:
    """A data set read in index order; `domain.task.Samples` for anything map-style.

    read: indices to one collated batch, `(inputs, target)`, `(a, b, ..., target)`, a dict with its
        target under one of `TARGET_KEYS`, or inputs alone (target None).
    indices: which items of the source, in order.
    places: where each is in the data set that the user gave, for messages; by default all of it, in order.
    """

    def __init__(
        self,
        read: Rows | Items | Relabelled,
        indices: Sequence[int] | NDArray[np.int64],
        batch_size: int = _BATCH_SIZE,
        workers: int = 0,
        places: NDArray[np.int64] | None = None,
    ) -> None:
        self.read = read
        self.indices = np.asarray(indices, dtype=np.int64)
        self.places = np.arange(len(self.indices)) if places is None else places
        self.batch_size = batch_size
        self.workers = workers
        self._fingerprints: dict[bool, str] = {}

    def __len__(self) -> int:
        return len(self.indices)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} items of {self.read.name})"

    def batches(self, size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Batches of (inputs, target), collated, in index order; the last may be smaller."""
        chunks = _Chunks(self.read, self.indices, size or self.batch_size)
        if self.workers and len(chunks) > 1:
            # Its own generator, because a loader draws a seed from the global one.
            loader: Iterable[Any] = DataLoader(
                chunks, batch_size=None, num_workers=self.workers, generator=torch.Generator()
            )
        else:
            loader = (chunks[index] for index in range(len(chunks)))
        for batch in loader:
            between()
            if isinstance(batch, InputError):
                raise batch
            yield split_target(batch)

    def untouched(self, size: int) -> Iterator[tuple[Any, Any]]:
        """As `batches`, for who writes into none: tensors may be parts of the user's own."""
        if not isinstance(self.read, Rows):
            yield from self.batches(size)
            return
        for start in range(0, len(self), size):
            yield split_target(self.read.untouched(self.indices[start : start + size]))

    def items(self) -> Iterator[tuple[Any, Any]]:
        """Every sample as a batch of one, as `batches(1)`; tensors are read many at a time, 20 times faster.

        For who writes into none, as of `untouched`.
        """
        if not isinstance(self.read, Rows):
            yield from self.batches(1)
            return
        for start in range(0, len(self), _ROWS_AT_ONCE):
            between()
            rows = self.read.untouched(self.indices[start : start + _ROWS_AT_ONCE])
            for row in zip(*(tensor.split(1) for tensor in rows), strict=True):
                yield split_target(row)

    def subset(self, indices: Sequence[int]) -> IndexedSamples:
        """The samples at these positions, in the order given."""
        chosen = np.asarray(indices, dtype=np.int64)
        return type(self)(self.read, self.indices[chosen], self.batch_size, self.workers, self.places[chosen])

    def relabelled(self, change: Callable[[Any, Any], Any]) -> IndexedSamples:
        """The same samples with the target that `change(inputs, target)` gives a batch; None where there was none.

        In place of what another task changed: a target is changed once.
        """
        read = self.read.read if isinstance(self.read, Relabelled) else self.read
        return IndexedSamples(Relabelled(read, change), self.indices, self.batch_size, self.workers, self.places)

    def fingerprint(self, *, every: bool) -> str:
        """SHA-256 over the length and the items' types, shapes and bytes: all, or 256 evenly spaced.

        The same items give the same fingerprint whatever kind of data set holds them, and so do items
        augmented at random with the generators of torch, NumPy and Python.
        """
        if every not in self._fingerprints:
            chosen = self if every else self.subset(evenly_spaced(len(self), _FINGERPRINT_ITEMS))
            digest = hashlib.sha256(str(len(self)).encode())
            with _random_from_zero():
                for item in chosen.items():
                    feed(digest.update, item)
            self._fingerprints[every] = digest.hexdigest()
        return self._fingerprints[every]

    @property
    def collated(self) -> bool:
        """Whether batches are made by a function of the user's, which may pad them to different sizes."""
        return self.read.collated

    def targets(self) -> NDArray[Any] | None:
        """All targets, shape (n, ...), where they can be had without reading every item; else None."""
        found = self.read.targets()
        return None if found is None else found[self.indices]


@contextmanager
def _random_from_zero() -> Iterator[None]:
    """Random numbers that start at the same place every time; the caller's go on afterwards where they were."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


@contextmanager
def one_thread() -> Iterator[None]:
    """Torch on one thread: under load by others, threads that wait for each other at small steps take ten times."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class Rows:
    """Tensors of equal length read by slicing: a whole batch at once."""

    name = "tensors"
    collated = False

    def __init__(self, tensors: Sequence[torch.Tensor]) -> None:
        self.tensors = tuple(tensors)

    def __call__(self, indices: Sequence[int]) -> Any:
        chosen = torch.as_tensor(indices)
        with one_thread():
            return tuple(tensor[chosen.to(tensor.device)] for tensor in self.tensors)

    def untouched(self, indices: NDArray[np.int64]) -> Any:
        """The same, in their place where they follow each other."""
        first, last = int(indices[0]), int(indices[-1]) + 1
        if first >= 0 and last - first == len(indices) and bool((np.diff(indices) == 1).all()):
            return tuple(tensor[first:last] for tensor in self.tensors)
        return self(cast(Sequence[int], indices))

    def targets(self) -> NDArray[Any] | None:
        """The last tensor, if there are two or more."""
        return self.tensors[-1].detach().cpu().numpy() if len(self.tensors) > 1 else None


class Items:
    """A map-style data set read item by item and collated."""

    def __init__(self, source: Any, collate: Callable[[list[Any]], Any] | None = None) -> None:
        self.source = source
        self.collate = collate or stack
        self.collated = collate is not None
        self.left_out = ""
        """A key of the items that is no input."""

    @property
    def name(self) -> str:
        """The data set's type."""
        return type(self.source).__name__

    def __call__(self, indices: Sequence[int]) -> Any:
        places = [int(index) for index in indices]
        if hasattr(self.source, "__getitems__"):
            items = self.source.__getitems__(places)
        else:
            items = [self._item(index) for index in places]
        if self.left_out:
            items = [_without(item, self.left_out) for item in items]
        return default_convert(self.collate(items))  # type: ignore[no-untyped-call]

    def _item(self, index: int) -> Any:
        begin(index)
        between()
        return self.source[index]

    def targets(self) -> NDArray[Any] | None:
        """A list's own, or the `targets` or `labels` a data set declares, if its items bear them out."""
        if isinstance(self.source, list | tuple):
            return _numbers([split_target(item)[1] for item in self.source])
        for key in ("targets", "labels"):
            declared = _numbers(getattr(self.source, key, None))
            if declared is None or len(declared) != len(self.source):
                continue
            sample = evenly_spaced(len(declared), 8)
            seen = _numbers([split_target(self.source[index])[1] for index in sample])
            if seen is not None and np.array_equal(seen, declared[sample]):
                return declared
        return None


class Relabelled:
    """Batches read as before, with another target."""

    def __init__(self, read: Rows | Items, change: Callable[[Any, Any], Any]) -> None:
        self.read, self.change = read, change
        self.collated: bool = read.collated

    @property
    def name(self) -> str:
        """That of what is read."""
        return self.read.name

    def __call__(self, indices: Sequence[int]) -> Any:
        inputs, target = split_target(self.read(indices))
        return inputs, self.change(inputs, target)

    def targets(self) -> NDArray[Any] | None:
        """None: they follow from what is read."""
        return None


def in_float(leaf: Any, types: frozenset[torch.dtype]) -> Any:
    """A leaf of a tree, in float32 where it is a tensor of one of these types."""
    return leaf.float() if isinstance(leaf, torch.Tensor) and leaf.dtype in types else leaf


def _collated_in_float(items: list[Any], collate: Callable[[list[Any]], Any], types: frozenset[torch.dtype]) -> Any:
    batch = default_convert(collate(items))  # type: ignore[no-untyped-call]
    return tree_map(partial(in_float, types=types), batch)


def as_float(samples: IndexedSamples, types: frozenset[torch.dtype]) -> IndexedSamples:
    """The same samples with what is of these floating-point types as float32."""

    def cast(read: Any) -> Any:
        if isinstance(read, Rows):
            return Rows([in_float(tensor, types) for tensor in read.tensors])
        found = copy.copy(read)
        if isinstance(read, Relabelled):
            found.read = cast(read.read)
        else:
            found.collate = partial(_collated_in_float, collate=read.collate, types=types)
        return found

    made = copy.copy(samples)
    made.read, made._fingerprints = cast(samples.read), {}
    return made


def without_key(samples: IndexedSamples, key: str) -> IndexedSamples:
    """The same samples, read without what items hold under a key."""

    def bare(read: Any) -> Any:
        found = copy.copy(read)
        if isinstance(read, Relabelled):
            found.read = bare(read.read)
        elif isinstance(read, Items):
            found.left_out = key
        return found

    return IndexedSamples(bare(samples.read), samples.indices, samples.batch_size, samples.workers, samples.places)


def held_by(item: Any) -> Mapping[Any, Any]:
    """What an item holds by key: a dict itself, or its inputs where these are one."""
    inputs = item[0] if isinstance(item, tuple | list) and len(item) > 1 else item
    return inputs if isinstance(inputs, Mapping) else {}


def _without(item: Any, key: str) -> Any:
    held = held_by(item)
    if key not in held:
        return item
    bare = {name: value for name, value in held.items() if name != key}
    return bare if isinstance(item, Mapping) else (bare, *item[1:])


class Unlabelled:
    """The same samples with every target None, for a search that must not look at labels."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def batches(self, size: int | None = None) -> Iterator[tuple[Any, Any]]:
        """Batches of (inputs, None)."""
        for inputs, _target in self.samples.batches(size):
            yield inputs, None

    def subset(self, indices: Sequence[int]) -> Unlabelled:
        """The samples at these positions, without labels."""
        return Unlabelled(self.samples.subset(indices))

    @property
    def places(self) -> NDArray[np.int64]:
        """Those of the samples behind it."""
        return places_of(self.samples)

    def fingerprint(self, *, every: bool) -> str:
        """The fingerprint of the samples behind it."""
        return self.samples.fingerprint(every=every)


def stack(items: list[Any]) -> Any:
    """A batch of items as PyTorch makes it; lists of numbers in dicts are tensors, as those of tokenizers are."""
    return default_collate([_with_tensors(item) if isinstance(item, Mapping) else item for item in items])


def samples_from(
    source: Any, batch_size: int | None = None, *, collate: Callable[[list[Any]], Any] | None = None
) -> IndexedSamples:
    """Samples from a map-style data set, a list, a TensorDataset, a pair of arrays or a DataLoader.

    A DataLoader gives its data set, collate_fn, batch size and workers; its shuffling is ignored,
    its SubsetRandomSampler's choice is kept. batch_size: overrides the source's own. collate: makes
    batches where the source says nothing of it. Raises DataError for data that cannot be read by index.
    """
    if isinstance(source, IndexedSamples):
        size = batch_size or source.batch_size
        return IndexedSamples(source.read, source.indices, size, source.workers, source.places)
    if isinstance(source, DataLoader):
        return _from_loader(source, batch_size, collate)
    if isinstance(source, tuple) and len(source) == 2:
        source = _pair(*source, collate) or source
    if isinstance(source, tuple) and _are_arrays(source):
        if texts := [array for array in source if isinstance(array, np.ndarray) and array.dtype.kind in "USO"]:
            raise DataError(
                Mistake(
                    f"An array of the data is {texts[0].dtype}, such as {str(texts[0].flat[0])[:40]!r}, not numbers.",
                    "Number the classes in the order of the model's outputs, and convert other values to float32.",
                )
            )
        source = TensorDataset(*(torch.as_tensor(array) for array in source))
    if isinstance(source, Mapping | str):
        raise DataError(
            Mistake(
                f"A {type(source).__name__} is not a data set of (inputs, target).",
                "Choose its split (data['train']), or give a list, a Dataset, or a pair of tensors.",
            )
        )
    countable = hasattr(source, "__getitem__") and hasattr(source, "__len__")
    if isinstance(source, IterableDataset) or not countable:
        raise DataError(
            Mistake(
                f"{type(source).__name__} can only be iterated; a comparison needs the same items again.",
                "Give a data set with __getitem__ and __len__, or a list of the items: "
                "list(itertools.islice(data, 5000)).",
            )
        )
    return _indexed(source, collate, batch_size or _BATCH_SIZE)


def repeated_fingerprint(samples: Samples) -> str | None:
    """The fingerprint of 256 samples; None where they cannot be read, or differ whenever they are read."""
    head = evenly_spaced(len(samples), _READ_TWICE)
    try:
        once, again = (samples.subset(head).fingerprint(every=True) for _ in range(2))
        return samples.fingerprint(every=False) if once == again else None
    except Exception:  # noqa: BLE001 - an attempt that needs them meets it again, and tells
        return None


def places_of(samples: Samples) -> NDArray[np.int64]:
    """Where each sample is in the data set that the user gave."""
    places: NDArray[np.int64] = getattr(samples, "places", np.arange(len(samples)))
    return places


def source_of(samples: Samples) -> tuple[Any, NDArray[np.int64]]:
    """The data set behind samples that are read item by item, and the place of each there; None where there is none."""
    read = getattr(samples, "read", None)
    read = read.read if isinstance(read, Relabelled) else read
    return (read.source, samples.indices) if isinstance(read, Items) else (None, np.arange(0))  # type: ignore[attr-defined]


def split_target(item: Any) -> tuple[Any, Any]:
    """(inputs, target) of an item or of a batch; target is None where there is none."""
    if isinstance(item, Mapping):
        key = next((key for key in TARGET_KEYS if key in item), None)
        return {name: item[name] for name in item if name != key}, None if key is None else item[key]
    if isinstance(item, tuple | list):
        if len(item) < 2:
            return (item[0] if item else item), None
        return (item[0] if len(item) == 2 else tuple(item[:-1])), item[-1]
    return item, None


def leaves(tree: Any) -> Iterator[Any]:
    """The leaves of nested mappings, tuples and lists, in order; mappings by key."""
    if isinstance(tree, Mapping):
        for key in sorted(tree, key=str):
            yield from leaves(tree[key])
    elif isinstance(tree, tuple | list):
        for branch in tree:
            yield from leaves(branch)
    else:
        yield tree


def map_leaves(change: Callable[[Any], Any], tree: Any) -> Any:
    """The same tree (mappings as dicts, the rest as tuples) with every leaf changed."""
    if isinstance(tree, Mapping):
        return {key: map_leaves(change, tree[key]) for key in tree}
    if isinstance(tree, tuple | list):
        return tuple(map_leaves(change, branch) for branch in tree)
    return change(tree)


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced, the first and the last among them."""
    return [int(i) for i in np.unique(np.linspace(0, count - 1, min(count, most)).round())]


def read_targets(samples: Samples) -> NDArray[Any] | None:
    """All targets, shape (n, ...): cheaply where possible, else by reading every item.

    None if there are none, or if they differ in length, as those of padded texts do.
    """
    if isinstance(samples, IndexedSamples):
        cheap = samples.targets()
        if cheap is not None:
            return cheap
    parts = []
    for _inputs, target in samples.batches():
        if not isinstance(target, torch.Tensor | np.ndarray):
            return None
        parts.append(target.detach().cpu().numpy() if isinstance(target, torch.Tensor) else target)
    return np.concatenate(parts) if len({part.shape[1:] for part in parts}) == 1 else None


class _Chunks(Dataset[Any]):
    """Batches as items, so that a loader's workers read whole batches; a mistake comes out of a worker as an item."""

    def __init__(self, read: Rows | Items | Relabelled, indices: NDArray[np.int64], size: int) -> None:
        self.read, self.indices, self.size = read, indices, size

    def __len__(self) -> int:
        return -(-len(self.indices) // self.size)

    def __getitem__(self, index: int) -> Any:
        try:
            chosen = cast(Sequence[int], self.indices[index * self.size : (index + 1) * self.size])
            with contained(), in_time(self.read.name, chosen):
                return self.read(chosen)
        except InputError as error:
            return error


def _indexed(
    source: Any, collate: Callable[[list[Any]], Any] | None, batch_size: int, workers: int = 0
) -> IndexedSamples:
    """Samples of a map-style source; tensors are read by slicing where nothing but collation is asked for."""
    if type(source) is Subset:
        inner = _indexed(source.dataset, collate, batch_size, workers)
        # A subset is the data set that the user gave: places count in it.
        return IndexedSamples(inner.read, inner.indices[np.asarray(source.indices)], batch_size, workers)
    if type(source) is TensorDataset and collate is None:
        return IndexedSamples(Rows(source.tensors), np.arange(len(source)), batch_size)
    return IndexedSamples(Items(source, collate), np.arange(len(source)), batch_size, workers)


def _from_loader(
    loader: DataLoader[Any], batch_size: int | None, collate: Callable[[list[Any]], Any] | None
) -> IndexedSamples:
    if isinstance(loader.dataset, IterableDataset):
        return samples_from(loader.dataset)
    if loader.batch_sampler is None:
        raise DataError(
            Mistake(
                "A DataLoader with batch_size=None hides where one item ends.",
                "Give the data set itself, or a DataLoader with a batch size.",
            )
        )
    size = batch_size or loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or _BATCH_SIZE
    own = collate if loader.collate_fn is default_collate else loader.collate_fn
    samples = _indexed(loader.dataset, own, size, loader.num_workers)
    sampler = getattr(loader.batch_sampler, "sampler", None)
    if isinstance(sampler, SubsetRandomSampler):
        return samples.subset(sorted(sampler.indices))
    if sampler is None or isinstance(sampler, _WHOLE) or len(sampler) == len(samples):
        return samples
    raise DataError(
        Mistake(
            f"The DataLoader's {type(sampler).__name__} chooses {len(sampler)} of {len(samples)} items.",
            "Choose them with torch.utils.data.Subset(dataset, indices) instead.",
        )
    )


def _with_tensors(item: Mapping[str, Any]) -> dict[str, Any]:
    """The same dict with tensors in the place of lists of numbers."""
    lists = {key for key, value in item.items() if isinstance(value, list) and _numbers(value) is not None}
    return {key: torch.tensor(value) if key in lists else value for key, value in item.items()}


def _pair(inputs: Any, targets: Any, collate: Callable[[list[Any]], Any] | None) -> Any:
    """Inputs and targets of which a list holds one or both, such as (tensor, list of labels), as arrays.

    As a list of items where they are collated, or have no shape in common. None for what is no pair: two items, say.
    Raises DataError where one is longer than the other.
    """
    both = (inputs, targets)
    if not all(isinstance(part, list) or (_is_array(part) and part.ndim) for part in both) or _are_arrays(both):
        return None
    if len(inputs) != len(targets):
        if not _is_array(inputs) and not _is_array(targets):
            return None
        raise DataError(
            Mistake(
                f"There are {len(inputs):,} inputs and {len(targets):,} targets.",
                "Give as many of one as of the other, in the same order: (inputs, targets).",
            )
        )
    if len(inputs) <= len(both):
        return None
    if collate is None:
        with contextlib.suppress(TypeError, ValueError, RuntimeError):
            return _as_array(inputs), _as_array(targets)
    return list(zip(inputs, targets, strict=True))


def _as_array(part: Any) -> Any:
    if not isinstance(part, list):
        return part
    if isinstance(part[0], torch.Tensor):
        return torch.stack(part)
    return np.asarray(part) if isinstance(part[0], np.ndarray | np.generic | str) else torch.as_tensor(part)


def _is_array(part: Any) -> bool:
    return isinstance(part, torch.Tensor | np.ndarray)


def _are_arrays(source: tuple[Any, ...]) -> bool:
    arrays = len(source) >= 2 and all(map(_is_array, source))
    return arrays and all(array.ndim and len(array) == len(source[0]) for array in source)


def _numbers(values: Any) -> NDArray[Any] | None:
    """Values as one numeric array, or None."""
    if values is None:
        return None
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError):
        return None
    return array if array.dtype.kind in "biuf" and array.ndim else None


def content(tensor: torch.Tensor) -> NDArray[np.uint8]:
    """The bytes of a tensor's numbers, in their place where they are contiguous."""
    # Viewed as bytes, because NumPy knows no bfloat16.
    flat: NDArray[np.uint8] = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return flat


def feed(update: Callable[[Any], None], tree: Any) -> None:
    """Feed every leaf's type, shape and content to a hash."""
    for leaf in leaves(tree):
        if isinstance(leaf, torch.Tensor):
            update(f"{leaf.dtype}{tuple(leaf.shape)}".encode())
            update(content(leaf))
        else:
            # Text and numbers; anything else has no value that could be compared.
            update(f"{type(leaf).__name__} {leaf!r}".encode())
