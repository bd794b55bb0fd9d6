"""Samples that occur more than once: their inputs are equal, or as good as equal.

Samples are read once. A hash finds equal inputs. As good as equal are inputs that differ by no more than a thousandth
of a standard deviation anywhere: a few sums of each (a sketch) say which might be, and those alone are read again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.task import Samples
from boildown.tasks.data import IndexedSamples, content, evenly_spaced, leaves, one_thread

Labels = NDArray[np.intp]
Scales = dict[int, tuple[torch.Tensor, torch.Tensor]]
"""Middle and spread of the columns of every input that is a row of fractions, by its place among the inputs."""
Numbers = list[tuple[torch.Tensor, torch.Tensor]]
"""The fractions of one sample and their spreads, input by input."""

NEAR = 1e-3
"""As good as equal are numbers that differ by at most this many standard deviations."""
_AROUND = 4 * NEAR
"""Copies have only copies around them; where more are this near than near, nearness is chance."""
_SUMS = 6
_CELL = 0.05
"""How far apart sketches are told apart: the sums of as good as equal inputs differ by far less, of others by more."""
_AT_ONCE = 2**20
"""Numbers that are added up together: they stay in the processor's cache."""
_CROWD = 64
"""Of so many different inputs that are this alike no more are compared."""
_SCALED_BY = 512
_WIDEST = 4096
"""Longer rows are no table's, but flattened pictures or sounds."""
_AGREE = 0.9
"""Of so many pairs at least the targets agree where nearness is no chance."""
_LOOKED_AT, _COLUMNS = 4000, 256
_BY_CHANCE, _ONCE = 0.01, 0.1
"""Repeats are natural from such a share of made-up rows that there are, or of different rows that occur once."""


@dataclass(frozen=True)
class Look:
    """What one reading of samples shows of each.

    exact: a hash of its inputs. kind: a hash of what is the same in inputs that are as good as equal: types, shapes,
    and all that is no fraction. target: a hash of its target. sketch: sums of its fractions, shape (n, 6), in units of
    `scales`. bad: the first sample with a number that is NaN or infinite, in an input or a target.
    """

    exact: NDArray[np.int64]
    kind: NDArray[np.int64]
    target: NDArray[np.int64]
    sketch: NDArray[np.float64]
    scales: Scales
    bad: dict[str, int]


@dataclass(frozen=True)
class Repeats:
    """Which samples are equal.

    clusters: a label for each sample, the same for equal ones; None where all differ, or where repeats are natural.
    distinct: how many different samples there are. natural: rows repeat because their values are few.
    """

    clusters: Labels | None
    distinct: int
    natural: bool = False


def repeats(samples: Samples) -> Repeats:
    """Which samples have equal inputs, or as good as equal ones."""
    labels = equal(samples)
    distinct = len(np.unique(labels))
    natural = 2 * distinct < len(labels) and _natural(samples, labels)
    return Repeats(None if natural or distinct == len(labels) else labels, distinct, natural)


def within(clusters: Labels | None, indices: Sequence[int]) -> Labels | None:
    """The labels of some of the samples, None where these all differ."""
    if clusters is None:
        return None
    part: Labels = clusters[np.asarray(indices, np.intp)]
    return part if len(np.unique(part)) < len(part) else None


def equal(*parts: Samples) -> Labels:
    """A label for each sample of all parts, the same for equal inputs and for those that are as good as equal.

    Columns are measured by their spread in the first part.
    """
    first = look(parts[0])
    looks = [first, *(_look(part, first.scales) if first.scales else look(part) for part in parts[1:])]
    _, chosen, labels = np.unique(np.concatenate([at.exact for at in looks]), return_index=True, return_inverse=True)
    kind, target, sketch = (
        np.concatenate([getattr(at, name) for at in looks])[chosen] for name in ("kind", "target", "sketch")
    )
    different = replace(first, kind=kind, target=target, sketch=sketch)
    found: Labels = _nearest(parts, chosen, different)[labels]
    return found


def look(samples: Samples) -> Look:
    """What one reading of these samples shows; they are read the first time only."""
    if not isinstance(samples, IndexedSamples):
        return _look(samples)
    if samples not in _LOOKS:
        _LOOKS[samples] = _look(samples)
    return _LOOKS[samples]


def first_not_finite(tree: Any) -> int | None:
    """The first sample of a batch with a number that is NaN or infinite; a list may hold a dict for each sample."""
    if isinstance(tree, list | tuple) and tree and all(isinstance(each, Mapping) for each in tree):
        return next((at for at, each in enumerate(tree) if first_not_finite(each) is not None), None)
    for leaf in leaves(tree):
        if isinstance(leaf, torch.Tensor) and leaf.ndim and (leaf.is_floating_point() or leaf.is_complex()):
            if torch.isfinite(leaf.sum()):  # as nearly always, and twice as fast
                continue
            bad = ~torch.isfinite(leaf).reshape(len(leaf), -1).all(1)
            if bad.any():
                return int(bad.nonzero()[0])
    return None


_LOOKS: WeakKeyDictionary[IndexedSamples, Look] = WeakKeyDictionary()


def _look(samples: Samples, scales: Scales | None = None) -> Look:
    """What one reading shows; scales: by default the samples' own."""
    with one_thread():
        return _seen(samples, _scales(samples) if scales is None else scales)


def _seen(samples: Samples, scales: Scales) -> Look:
    hashes, sketches, bad = list[tuple[int, int, int]](), list[NDArray[np.float64]](), dict[str, int]()
    for count, inputs, target in _batches(samples):
        for what, tree in (("an input", inputs), ("a target", target)):
            place = None if what in bad else first_not_finite(tree)
            if place is not None:
                bad[what] = len(hashes) + min(place, count - 1)
        whole, rest, answer = (list[tuple[int, ...]]([()] * count) for _ in range(3))
        for leaf in leaves(inputs):
            parts = _hashes(leaf, count)
            whole = [known + part for known, part in zip(whole, parts, strict=True)]
            same = 1 if _is_fraction(leaf) else 2
            rest = [known + part[:same] for known, part in zip(rest, parts, strict=True)]
        for leaf in leaves(target):
            answer = [known + part for known, part in zip(answer, _hashes(leaf, count), strict=True)]
        hashes += [(hash(one), hash(two), hash(three)) for one, two, three in zip(whole, rest, answer, strict=True)]
        sketches.append(_sketch(inputs, count, scales))
    exact, kind, targets = np.array(hashes, np.int64).T
    return Look(exact, kind, targets, np.concatenate(sketches), scales, bad)


def _batches(samples: Samples) -> Iterator[tuple[int, Any, Any]]:
    """(how many, inputs, targets); one by one where a function of the user's makes the batches, which may pad them."""
    left, size = len(samples), 1
    if isinstance(samples, IndexedSamples) and not samples.collated:
        size = samples.batch_size
    for inputs, target in samples.untouched(size) if isinstance(samples, IndexedSamples) else samples.batches(size):
        yield min(size, left), inputs, target
        left -= size


def _hashes(leaf: Any, count: int) -> list[tuple[int, int]]:
    """Hashes of (type and shape, content) of each sample's part of one input of a batch, for this process alone."""
    if not isinstance(leaf, torch.Tensor):
        return [(hash(type(leaf).__name__), hash(repr(leaf)))] * count
    data = content(leaf)
    if not _by_sample(leaf, count):
        return [(hash(f"{leaf.dtype}{tuple(leaf.shape)}"), hash(data.tobytes()))] * count
    head, size = hash(f"{leaf.dtype}{tuple(leaf.shape[1:])}"), len(data) // count
    return [(head, hash(data[at * size : (at + 1) * size].tobytes())) for at in range(count)]


def _by_sample(leaf: torch.Tensor, count: int) -> bool:
    return leaf.ndim > 0 and len(leaf) == count


def _is_fraction(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.is_floating_point()


def _rows(inputs: Any, count: int) -> Iterator[tuple[int, torch.Tensor]]:
    """(place among the inputs, numbers of each sample) of the inputs that are fractions; rows of a table as double."""
    for place, leaf in enumerate(leaves(inputs)):
        if _is_fraction(leaf) and (count == 1 or _by_sample(leaf, count)):
            flat = leaf.detach().cpu().reshape(count, -1)
            table = leaf.ndim <= 2 and flat.shape[1] <= _WIDEST
            flat = flat.double() if table else flat.float()
            yield place, flat if torch.isfinite(flat.sum()) else torch.nan_to_num(flat)


def _sketch(inputs: Any, count: int, scales: Scales) -> NDArray[np.float64]:
    """Sums of the numbers of each sample, with random signs, whose spread is about that of one number."""
    sums, numbers = torch.zeros(count, _SUMS, dtype=torch.float64), 0
    for place, rows in _rows(inputs, count):
        size = rows.shape[1]
        signs, columns = _signs(size, place).to(rows.dtype), _columns(size, place, scales)
        parts = []
        for part in torch.split(rows, max(1, _AT_ONCE // max(1, size))):
            if columns is not None:
                parts.append((part - columns[0]) / columns[1] @ signs)
            else:
                part = part - part.mean(1, keepdim=True)
                parts.append(part @ signs / _own(part))
        sums += torch.cat(parts).roll(place, 1)
        numbers += size
    sums = sums.nan_to_num(0.0, 0.0, 0.0) / max(1.0, numbers / _SUMS) ** 0.5
    found: NDArray[np.float64] = sums.clamp(-1e12, 1e12).numpy()
    return found


@lru_cache(maxsize=16)
def _signs(count: int, place: int) -> torch.Tensor:
    """Which numbers are added to which sum, and their signs: shape (count, 6)."""
    signs = np.zeros((count, _SUMS), np.float32)
    signs[np.arange(count), np.arange(count) % _SUMS] = np.random.default_rng([count, place]).choice([-1, 1], count)
    return torch.from_numpy(signs)


def _columns(size: int, place: int, scales: Scales) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Middle and spread of the columns of an input, None where it has none."""
    found = scales.get(place)
    return found if found is not None and len(found[0]) == size else None


def _own(centred: torch.Tensor) -> torch.Tensor:
    """The standard deviation of each sample, shape (n, 1), of numbers whose mean is 0; 1 where that is 0."""
    spread = torch.linalg.vector_norm(centred, dim=1, keepdim=True) / max(1, centred.shape[1]) ** 0.5
    return torch.where(spread > 0, spread, 1.0)


def _scales(samples: Samples) -> Scales:
    """The scales of the columns in 512 evenly spaced samples."""
    parts: defaultdict[int, list[torch.Tensor]] = defaultdict(list)
    for count, inputs, _target in _batches(samples.subset(evenly_spaced(len(samples), _SCALED_BY))):
        for place, rows in _rows(inputs, count):
            if rows.dtype == torch.float64:
                parts[place].append(rows)
        if not parts:
            break
    return {place: _spread(torch.cat(rows)) for place, rows in parts.items() if len({r.shape[1] for r in rows}) == 1}


def _spread(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The median of each column, and its standard deviation, or less where a few values hold most of that."""
    middle, spread = rows.median(0).values, rows.std(0, correction=0)
    away = (rows - middle).abs()
    for _ in range(3):
        usual = away.masked_fill(away <= NEAR * spread, torch.nan).nanmedian(0).values
        spread = torch.fmin(spread, 1.4826 * usual)
    # A column without spread is compared exactly.
    return middle, torch.where(spread > 0, spread, 1e-9 * middle.abs().clamp_min(1.0))


def _nearest(parts: Sequence[Samples], chosen: Labels, look: Look) -> Labels:
    """For each of the chosen samples, all different, the one among them that it is as good as equal to."""
    nearest = np.arange(len(chosen))
    component = _alike(look)
    order = np.argsort(component, kind="stable")
    order = order[np.bincount(component)[component[order]] > 1]
    near, around, agree, found = 0, 0, 0, dict[int, int]()
    different: list[tuple[int, Numbers]] = []
    for at, inputs in zip(order.tolist(), _read(parts, chosen[order]), strict=True):
        if different and component[different[0][0]] != component[at]:
            different = []
        if len(different) > _CROWD:
            continue
        own = list(_scaled(inputs, look.scales))
        gaps = [_gap(own, other) for _, other in different]
        near += sum(gap <= NEAR for gap in gaps)
        around += sum(NEAR < gap <= _AROUND for gap in gaps)
        if gaps and min(gaps) <= NEAR:
            found[at] = different[int(np.argmin(gaps))][0]
            agree += int(look.target[at] == look.target[found[at]])
        else:
            different.append((at, own))
    if near > around and agree >= _AGREE * len(found):
        nearest[list(found)] = list(found.values())
    return nearest


def _alike(look: Look) -> Labels:
    """A label for each sample, the same for those that may be as good as equal."""
    # Two grids, half a cell apart: what a border of one parts lies well within a cell of the other.
    one, other = (
        np.unique(
            np.column_stack([look.kind, np.floor(look.sketch / _CELL + shift).astype(np.int64)]),
            axis=0, return_inverse=True,
        )[1].reshape(-1)
        for shift in (0.0, 0.5)
    )  # fmt: skip
    if len(np.unique(one)) == len(one) == len(np.unique(other)):
        return np.arange(len(one))
    from scipy.sparse import coo_array  # half a second to load: when first used
    from scipy.sparse.csgraph import connected_components

    other = other + one.max() + 1
    size = int(other.max()) + 1
    graph = coo_array((np.ones(len(one)), (one, other)), shape=(size, size))
    labels: Labels = connected_components(graph, directed=False)[1][one]
    return labels


def _scaled(inputs: Any, scales: Scales) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Numbers and spreads of one sample."""
    for place, rows in _rows(inputs, 1):
        columns = _columns(rows.shape[1], place, scales)
        yield rows[0], _own(rows - rows.mean())[0] if columns is None else columns[1]


def _gap(ours: Numbers, theirs: Numbers) -> float:
    """The largest difference anywhere, in standard deviations."""
    gaps = [((a - b).abs() / spread).max() for (a, _), (b, spread) in zip(ours, theirs, strict=True) if a.numel()]
    return max(map(float, gaps), default=float("inf"))


def _read(parts: Sequence[Samples], chosen: Labels) -> Iterator[Any]:
    """The inputs of these samples, one by one, counted through all parts."""
    ends = np.cumsum([len(part) for part in parts])
    owners = np.searchsorted(ends, chosen, side="right")
    readers = []
    for number, (part, end) in enumerate(zip(parts, ends, strict=True)):
        some = part.subset((chosen[owners == number] - (end - len(part))).tolist())
        readers.append(iter(some.items() if isinstance(some, IndexedSamples) else some.batches(1)))
    for owner in owners:
        yield next(readers[owner])[0]


def _natural(samples: Samples, labels: Labels) -> bool:
    """Whether rows repeat because their values are few: people with the same answers, texts of few words.

    Every column must be discrete. And rows must repeat by chance: the beginning of one and the end of another are often
    a third that there is; or some rows of a table occur only once, as no copies would.
    """
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    flat, found = True, list[NDArray[np.float64]]()
    for inputs in _read([samples], first[evenly_spaced(len(first), _LOOKED_AT)]):
        tensors = [leaf.detach().cpu() for leaf in leaves(inputs) if isinstance(leaf, torch.Tensor)]
        numbers = np.concatenate([tensor.double().reshape(-1).numpy() for tensor in tensors])
        found.append(numbers[evenly_spaced(len(numbers), _COLUMNS)])
        flat = flat and all(tensor.ndim <= 2 for tensor in tensors)
    rows = np.zeros((len(found), max(map(len, found))))
    for at, numbers in enumerate(found):
        rows[at, : len(numbers)] = numbers
    if not all(map(_discrete, rows.T)):
        return False
    return (flat and (counts == 1).mean() >= _ONCE) or _by_chance(rows)


def _by_chance(rows: NDArray[np.float64]) -> bool:
    """Whether rows that are made of two others are rows that there are."""
    random = np.random.default_rng(0)
    one, other = rows[random.integers(len(rows), size=(2, _LOOKED_AT))]
    cuts = random.integers(rows.shape[1] + 1, size=(_LOOKED_AT, 1))
    made = np.where(np.arange(rows.shape[1]) < cuts, one, other)
    made = made[(made != one).any(1) & (made != other).any(1)]
    there = {row.tobytes() for row in rows}
    return not len(made) or float(np.mean([row.tobytes() in there for row in made])) >= _BY_CHANCE


def _discrete(column: NDArray[np.float64]) -> bool:
    """Whether the numbers of different rows have at most three decimals, or are often the same."""
    few = 2 * len(np.unique(column)) <= len(column)
    return few or bool((np.round(column, 3).astype(np.float32) == column.astype(np.float32)).all())
