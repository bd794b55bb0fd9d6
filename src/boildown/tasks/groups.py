"""Samples that belong together (of one patient, video or speaker): their ids as the user gives them, and what is one.

Ids are kept as texts, so that 7, 7.0 and "7" are one group, and the same in every data set.
"""

from __future__ import annotations

import contextlib
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.task import Samples, Task
from boildown.errors import DataError, InputError, Mistake, Mistakes, in_words
from boildown.tasks.columns import is_missing, some
from boildown.tasks.data import IndexedSamples, held_by, source_of, without_key
from boildown.tasks.repeats import Labels, Repeats, repeats, within

Ids = NDArray[np.str_]

_LEARNED = ("train", "calibration")
_MISSING = frozenset({"None", "nan", "NaN", "NaT", "<NA>"})
_WHOLE = re.compile(r"[+-]?\d+\.0+")
_EVIDENT = re.compile(
    r"(?:patient|subject|speaker|user|person|participant|client|customer|animal|video|clip|movie|recording|session|scene|"
    r"sequence|site|hospital|author|document|doc|family|household|group)s?(?:[_ -]?(?:ids?|nr|no|numbers?|names?))?",
    re.IGNORECASE,
)
"""What a column, a key of items or an attribute is called that may say which samples belong together."""


def is_evident(name: str, ids: Sequence[object]) -> bool:
    """Whether values may say which samples belong together: by their name, and because they repeat."""
    return _EVIDENT.fullmatch(name.strip()) is not None and 1 < len(set(ids)) <= len(ids) / 2


def groups_of(task: Task, name: str) -> Ids | None:
    """The id of every sample's group in a data set of a task, where it has any."""
    found = getattr(task, "groups_of", None)
    return None if found is None else found(name)


# -- what the user gives ----------------------------------------------------------------------------


def read_groups(given: Any, data: Mapping[str, Samples]) -> dict[str, Ids]:
    """The id of every sample's group, by the name of the data set.

    given: one id for each validation sample; a mapping from names of data sets to these; or the key of the items (the
    column, the attribute of the data set) that holds them. Raises InputError with every mistake.
    """
    if given is None:
        return {}
    mistakes, found = Mistakes(), dict[str, Ids]()
    for name, ids in _by_name(given, data).items():
        called, tested = _plain(name), "test" + name.removeprefix("validation")
        with mistakes:
            read = _column(called, data[name], ids) if isinstance(ids, str) else _listed(called, ids)
            judged = name not in _LEARNED and (name.startswith("test") or tested not in data)
            found[name] = _checked(called, read, len(data[name]), judged=judged)
    mistakes.raise_all()
    return found


def without_groups(given: Any, data: Mapping[str, Samples]) -> dict[str, Samples]:
    """The data sets whose items hold the ids of groups under a key, read without it: it is no input of the model."""
    keys = given if isinstance(given, Mapping) else dict.fromkeys(data, given)
    return {
        name: without_key(samples, key)
        for name, samples in data.items()
        if isinstance(key := keys.get(name), str) and isinstance(samples, IndexedSamples)
    }


def _by_name(given: Any, data: Mapping[str, Samples]) -> dict[str, Any]:
    """What is given for each data set that there is. Raises DataError for one that there is not."""
    if isinstance(given, Mapping):
        if strange := [str(name) for name in given if name not in data]:
            raise DataError.of(
                f"groups names {', '.join(strange)}, and the task has no such data.",
                f"Its data sets are: {', '.join(map(_plain, data)) or 'none'}.",
            )
        return {str(name): ids for name, ids in given.items() if ids is not None}
    if isinstance(given, str):
        return {name: given for name, part in data.items() if name not in _LEARNED or _held(part, given) is not None}
    if "test" in data:
        raise DataError.of(
            "groups holds ids for the validation data, and the verdict is found on the test data.",
            'Give both: groups={"validation": ids, "test": ids}.',
        )
    return {"validation": given} if "validation" in data else {}


def _plain(name: str) -> str:
    """What a user calls a data set: `night` in the place of `validation[night]`."""
    return name.removeprefix("validation[").removesuffix("]") if name.startswith("validation[") else name


def _listed(name: str, given: Any) -> list[str | None]:
    """Ids that were given one by one, as texts; None for one that is missing. Raises DataError for what is no list."""
    values = given.detach().cpu().numpy() if isinstance(given, torch.Tensor) else given
    if isinstance(values, np.ndarray) and values.ndim != 1:
        if values.size != len(np.atleast_1d(values)):
            raise DataError.of(
                f"groups of the {name} data has the shape {values.shape}.", "Give one id for each sample, (n,)."
            )
        values = values.reshape(-1)
    if isinstance(values, bytes | Mapping | set | frozenset) or not hasattr(values, "__len__"):
        raise DataError.of(
            f"groups of the {name} data is {type(given).__name__}, no list of ids.",
            "Give one id for each sample, in the order of the data: a list, an array, a tensor or a column.",
        )
    return [_text(value, name) for value in (values.tolist() if isinstance(values, np.ndarray) else values)]


def _text(value: Any, name: str) -> str | None:
    """An id as text; None for one that is missing."""
    if isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.ndim == 0):
        value = value.item()
    if isinstance(value, float) and value.is_integer():
        value = int(value)  # what whole numbers become in a column where one is missing
    if isinstance(value, str | bytes):
        text = value.decode(errors="backslashreplace") if isinstance(value, bytes) else value
        return text.strip() or None
    text = str(value)
    if isinstance(value, list | dict | set | torch.Tensor | np.ndarray) or " at 0x" in text:
        raise DataError.of(
            f"An id in groups of the {name} data is {type(value).__name__}, {text[:40]}.",
            "Give texts or numbers: equal ones mark samples that belong together.",
        )
    return None if text in _MISSING else text


def _held(samples: Samples, key: str) -> tuple[Any, bool] | None:
    """(ids that data hold under a key, whether there is one for each item of the source and not for each sample).

    A column of a table, a key of the items or of their inputs, or an attribute of the data set. None without any.
    """
    source, indices = source_of(samples)
    if source is None or not len(indices):
        return None
    if key in (getattr(source, "column_names", None) or ()):
        return source[key], True
    if key in held_by(source[int(indices[0])]):
        return [held_by(source[int(index)]).get(key) for index in indices], False
    found = getattr(source, key, None)
    return (found, True) if hasattr(found, "__len__") and not isinstance(found, str | bytes) else None


def _column(name: str, samples: Samples, key: str) -> list[str | None]:
    """The ids that data hold under a key. Raises DataError where there are none."""
    try:
        held = _held(samples, key)
    except Exception as error:
        raise DataError.of(f"The {name} data cannot be read: {in_words(error)}", "Mend that item.") from error
    if held is None:
        raise DataError.of(
            f"groups = {key!r} names nothing in the {name} data.",
            "Name a key of its items, or an attribute of the data set with one id for each; or give the ids, "
            "groups={name of the data: ids}, of those whose samples belong together.",
        )
    (column, whole), (source, indices) = held, source_of(samples)
    ids = _listed(name, column if isinstance(column, np.ndarray | torch.Tensor) else list(column))
    if not whole:
        return ids
    if len(ids) != len(source):
        raise DataError.of(
            f"{key!r} of the {name} data has {len(ids):,} ids for {len(source):,} items.", "Give one for each item."
        )
    return [ids[int(index)] for index in indices]


def _checked(name: str, ids: Sequence[str | None], count: int, *, judged: bool) -> Ids:
    """Ids, one for each sample. Raises DataError where they are not that, or all one."""
    if len(ids) != count:
        raise DataError.of(
            f"groups has {len(ids):,} ids for {count:,} {name} samples.",
            "Give one id for each sample, in the order of the data.",
        )
    if missing := [place for place, text in enumerate(ids) if text is None]:
        raise DataError.of(
            f"{len(missing):,} of {count:,} {name} samples have no id in groups, the first is item {missing[0]}.",
            "Leave them out, or give each that belongs to no other an id of its own.",
        )
    if judged and len(set(ids)) == 1:
        raise DataError.of(
            f"All {count:,} {name} samples are of one group, {str(ids[0])[:40]!r}, which says nothing of others.",
            "Give samples of at least two groups, better of thirty; leave groups out where samples are independent.",
        )
    return np.array([str(text) for text in ids], np.str_)


def whole_first(order: NDArray[np.int64], groups: Ids, count: int) -> tuple[NDArray[np.int64], int]:
    """(the order, beginning with whole groups of `count` samples together at most; how many samples those have).

    The smallest group where none is as small; as it was where one has more than half of the samples.
    """
    sizes, taken, total = Counter(groups.tolist()), set[str](), 0
    for each in dict.fromkeys(groups[order].tolist()):
        if total + sizes[each] <= count:
            taken, total = taken | {each}, total + sizes[each]
    if not taken:
        smallest = min(sizes, key=sizes.__getitem__)
        if 2 * sizes[smallest] > len(order):
            return order, count
        taken = {smallest}
    first = np.isin(groups[order], list(taken))
    return np.concatenate([order[first], order[~first]]), int(first.sum())


# -- columns of a table -----------------------------------------------------------------------------


def group_ids(values: Sequence[str]) -> list[str]:
    """Ids as texts, from a column of texts: 7.0 is 7."""
    return [text.partition(".")[0] if _WHOLE.fullmatch(text) else text for text in map(str.strip, values)]


def about_groups(file: str, rows: Mapping[str, Sequence[str]], groups: str, target: str) -> list[Mistake]:
    """What is wrong with the column that says which rows belong together, where one is named."""
    if not groups:
        return []
    if groups not in rows:
        return [Mistake(f"{file} has no column {groups!r} of groups.", f"Its columns are: {some(list(rows), 30)}.")]
    if groups == target:
        return [Mistake(f"{groups!r} is predicted, and cannot say which rows belong together.", "Name another column.")]
    missing, count = sum(map(is_missing, rows[groups])), len(rows[groups])
    if missing:
        cause = (
            f"{missing:,} of {count:,} rows of {file} have no value of {groups!r}, which says what belongs together."
        )
        return [Mistake(cause, "Leave them out, or give each that belongs to no other an id of its own.")]
    if len(set(group_ids(rows[groups]))) == 1:
        cause = f"All rows of {file} are of one group, {groups!r} = {rows[groups][0].strip()[:40]!r}."
        return [Mistake(cause, "Name another column, or none where rows are independent.")]
    return []


def told_of_groups(rows: Mapping[str, Sequence[str]], groups: str) -> list[str]:
    """What a person should know of groups in a table, in sentences: those that are named, or may be there."""
    if groups and groups in rows:
        count = len(set(group_ids(rows[groups])))
        return [f"Column {groups!r} says which rows belong together ({count:,} groups): it predicts nothing."]
    name = next((name for name, values in rows.items() if is_evident(name, values)), None)
    if name is None:
        return []
    count = len(set(rows[name]))
    return [
        f"Column {name!r} may say which rows belong together ({len(rows[name]):,} rows, {count:,} values): then begin "
        f"again with --groups {shlex.quote(name)}, for rows that are alike prove less than as many that are not."
    ]


# -- what counts as one -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Units:
    """What is independent among samples.

    clusters: a label for each sample, the same for those that are one unit; None where each is one. count: of units.
    grouped: units are groups, whose samples need not be equal. notes: what a person should know, in sentences.
    found: which samples are equal.
    """

    clusters: Labels | None
    count: int
    grouped: bool
    notes: tuple[str, ...]
    found: Repeats

    def of(self, indices: NDArray[np.int64]) -> Labels | None:
        """The labels of some of the samples; None where each is one unit, and no groups are given."""
        if self.clusters is None or not self.grouped:
            return within(self.clusters, indices.tolist())
        part: Labels = self.clusters[indices]
        return part


def units_of(name: str, samples: Samples, ids: Ids | None) -> Units:
    """What is independent among samples: groups where there are any; equal samples are one in any case."""
    found = repeats(samples)
    if ids is None:
        count = len(samples) if found.clusters is None else found.distinct
        return Units(found.clusters, count, False, tuple(_evident(name, samples)), found)
    labels = _numbered(ids)
    groups = together = int(labels.max(initial=-1)) + 1
    notes = [
        f"Each of the {groups:,} {name} samples is a group of its own: groups changes nothing."
        if groups == len(samples)
        else f"The {len(samples):,} {name} samples are in {groups:,} groups, never parted, which count in their place."
    ]
    if found.clusters is not None:
        joined = _joined(labels, found.clusters)
        together = int(joined.max()) + 1
        if 2 * together < groups:  # one picture that is in all of them, such as a black one, would leave a single group
            together = groups
            notes.append(f"Equal {name} samples are in most of the groups; each group counts as one all the same.")
        else:
            labels = joined
            if together < groups:
                notes.append(f"Groups that share an equal {name} sample count as one: they are {together:,}.")
    return Units(labels, together, True, tuple(notes), found)


def shared_groups(task: Task) -> Iterator[str]:
    """Notices where groups to judge on also serve something else."""
    learned, searched = "train: scores may flatter every model", "validation, on which candidates are chosen"
    pairs = [("validation", "train", learned)] if task.test is None else [("test", "train", learned)]
    pairs += [] if task.test is None else [("test", "validation", searched)]
    tests = getattr(task, "tests", {})
    pairs += [(f"test[{name}]" if name in tests else name, "train", learned) for name in getattr(task, "others", {})]
    pairs += [(f"test[{name}]", name, f"validation[{name}], on which candidates are chosen") for name in tests]
    for judged, other, what in pairs:
        ours, theirs = groups_of(task, judged), groups_of(task, other)
        if ours is not None and theirs is not None and (both := np.intersect1d(ours, theirs)).size:
            where = "" if judged in ("validation", "test") else f" ({judged})"
            yield (
                f"{both.size:,} of {np.unique(ours).size:,} groups to judge on{where} are also in {what}. Part the "
                "data by group, not by sample"
            )


def _evident(name: str, samples: Samples) -> Iterator[str]:
    """A word where data without groups hold something that may tell them."""
    source, indices = source_of(samples)
    if source is None or not len(indices):
        return
    names = [str(column) for column in getattr(source, "column_names", None) or ()]
    if not names and isinstance(source, list | tuple):
        names = [str(key) for key in held_by(source[int(indices[0])])]
    for key in filter(_EVIDENT.fullmatch, [*names, *getattr(source, "__dict__", {})]):
        with contextlib.suppress(InputError):
            if is_evident(key, _column(name, samples, key)):
                yield (
                    f"The {name} data hold {key!r}: where it says which samples belong together, groups={key!r} keeps "
                    "these together and lets groups count. Now every sample counts."
                )
                return


def _joined(groups: Labels, equal: Labels) -> Labels:
    """The same label for samples that share a group or are equal, directly or by way of others."""
    from scipy.sparse import coo_array  # half a second to load: when first used
    from scipy.sparse.csgraph import connected_components

    others = _numbered(equal) + int(groups.max()) + 1
    size = int(others.max()) + 1
    graph = coo_array((np.ones(len(groups)), (groups, others)), shape=(size, size))
    return _numbered(connected_components(graph, directed=False)[1][groups])


def _numbered(values: NDArray[Any]) -> Labels:
    """The place of each value among the different ones."""
    labels: Labels = np.unique(values, return_inverse=True)[1].reshape(-1).astype(np.intp)
    return labels
