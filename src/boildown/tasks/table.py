"""A CSV or Parquet file as a task: which column is predicted from which, found once and kept as JSON."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from boildown.domain.preprocess import ColumnOf, Columns, Preprocess, Raw
from boildown.domain.task import Samples
from boildown.errors import DataError, Mistake, Mistakes
from boildown.tasks.alone import Alone, rated
from boildown.tasks.classification import Classification
from boildown.tasks.columns import (
    DELIMITERS,
    MISSING,
    Column,
    Sheet,
    Texts,
    is_missing,
    judge,
    number,
    read,
    sheet,
    some,
)
from boildown.tasks.data import samples_from
from boildown.tasks.groups import about_groups, group_ids, told_of_groups
from boildown.tasks.regression import Regression

Kind = Literal["classification", "regression"]

_MOST_WHOLE_CLASSES, _ROWS_PER_CLASS = 20, 10
_MOST_CLASSES = 1000
_LOPSIDED = 0.8
_LEAST_ROWS = 20
_LEARNED_FROM = 5000


@dataclass(frozen=True)
class Table:
    """What is predicted from which columns.

    A sample is one row of float32 numbers, one for each of `columns` in their order: numbers as they are, and
    categories as their number in the list. rows: how many there were to begin with. classes: the texts of the
    target, in the order of the outputs. lopsided: one class has most of the rows, so that accuracy says little.
    groups: the column that says which rows belong together, and how many groups there were.
    """

    target: str
    kind: Kind
    columns: tuple[Column, ...]
    rows: int
    classes: tuple[str, ...] = ()
    lopsided: bool = False
    groups: str = ""
    group_count: int = 0

    @classmethod
    def find(
        cls,
        path: Path,
        target: str,
        kind: Kind | None = None,
        *,
        keep: Collection[str] = (),
        leave_out: Collection[str] = (),
        groups: str = "",
    ) -> tuple[Table, list[str]]:
        """What a file holds, and what a person should know of it, in sentences.

        kind: in place of what the target's values look like. keep: columns that number rows only by their looks.
        leave_out: columns that no prediction is to be made from. groups: the column that says which rows belong
        together; no prediction is made from it either. Raises DataError with every mistake.
        """
        texts = read(path)
        if target not in texts:
            raise DataError.of(
                f"{path.name} has no column {target!r} to predict.", f"Its columns are: {some(list(texts), 30)}."
            )
        rows = labelled(texts, target)
        answers = rows.pop(target)
        told = [f"Column {name!r} is left out, as you said." for name in rows if name in leave_out]
        if unlabelled := len(texts[target]) - len(answers):
            told.append(f"{unlabelled:,} rows without a value of {target!r} are left out.")
        chosen, mistakes = _kind(target, answers, kind)
        if len(answers) < _LEAST_ROWS:
            cure = "Some hundred are needed, 5,000 are better: a fifth of them will be judged on."
            mistakes.insert(0, Mistake(f"{path.name} has {len(answers)} rows with a value of {target!r}.", cure))
        mistakes += _unknown(path.name, rows, keep, leave_out)
        mistakes += about_groups(path.name, {target: answers, **rows}, groups, target)
        if groups and groups in keep:
            mistakes.append(Mistake(f"{groups!r} cannot be kept: it says which rows belong together.", "Say one."))
        told += told_of_groups(rows, groups)
        columns = []
        for name, values in rows.items():
            if name in leave_out or (groups and name == groups):
                continue
            kept = name in keep
            column, why = (None, "it repeats the target") if values == answers else judge(name, values, keep=kept)
            columns += [] if column is None else [column]
            if column is None and kept:
                mistakes.append(Mistake(f"Column {name!r} cannot be kept: {why}.", "Do not ask for it."))
            elif why:
                told.append(f"Column {name!r} is left out: {why}." if column is None else f"Column {name!r}: {why}.")
        if not columns:
            mistakes.append(Mistake(f"{path.name} has no column to predict {target!r} from.", " ".join(told)))
        if mistakes:
            raise DataError(*mistakes)
        columns.sort(key=lambda column: column.kind == "category")
        counts = Counter(map(_plain, answers))
        if chosen == "classification" and kind is None and len(counts) > 2 and all(map(str.isdecimal, counts)):
            told.append(f"{target!r} holds whole numbers, taken as classes; where it counts say --kind regression.")
        lopsided = chosen == "classification" and max(counts.values()) >= _LOPSIDED * len(answers)
        classes = tuple(sorted(counts, key=_in_order)) if chosen == "classification" else ()
        count = len(set(group_ids(rows[groups]))) if groups else 0
        return cls(target, chosen, tuple(columns), len(answers), classes, lopsided, groups, count), told

    @classmethod
    def load(cls, path: Path) -> Table:
        """The inverse of `dump`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        columns = tuple(Column(**{**column, "categories": tuple(column["categories"])}) for column in data["columns"])
        return cls(**{**data, "columns": columns, "classes": tuple(data["classes"])})

    def dump(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def encode(self, rows: Mapping[str, Sequence[str]]) -> NDArray[np.float32]:
        """Rows, given as the texts of every column, as the network's inputs, shape (rows, columns).

        Raises DataError for columns that are not there.
        """
        absent = [column.name for column in self.columns if column.name not in rows]
        if absent:
            raise DataError.of(
                f"The table lacks the columns {some(absent)}.", "Give a file with the columns it began with."
            )
        encoded = [column.encode(rows[column.name]) for column in self.columns]
        return np.stack(encoded, 1).astype(np.float32)

    def task(
        self,
        path: Path,
        *,
        validation: float = 0.2,
        test: Path | None = None,
        seed: int = 0,
        slices: Sequence[str] = (),
    ) -> Classification | Regression:
        """The task: train and validation from one file, and if you like the data for the verdict from another.

        validation: the share of rows that is judged on. A row's values and the seed decide where it goes, so that
        it stays there when rows are added, and equal rows stay together; where there are groups, a group's id and the
        seed decide. slices: columns by which the report tells slices apart; conditions may name any column of the file.
        Raises DataError with every mistake.
        """
        mistakes, data = Mistakes(), dict[str, Any]()
        ids, columns = dict[str, Any](), dict[str, Texts]()
        with mistakes:
            samples, rows = self._samples(path)
            if absent := [name for name in slices if name not in rows.texts]:
                cure = f"Its columns are: {some(list(rows.texts), 30)}."
                raise DataError.of(f"{path.name} has no column {some(absent)} to tell slices apart by.", cure)
        with mistakes:
            if test is not None:
                data["test"], judged = self._samples(test)
                columns["test"] = _values(judged, range(len(data["test"])))
                ids |= {"test": group_ids(judged.texts[self.groups])} if self.groups else {}
        mistakes.raise_all()
        train, held = self._split(path.name, rows.texts, validation, seed)
        data |= {"train": samples.subset(train.tolist()), "validation": samples.subset(held.tolist())}
        columns["validation"] = _values(rows, held.tolist())
        given = {key: {part: texts[key] for part, texts in columns.items() if key in texts} for key in slices}
        if self.groups:
            of_rows = np.array(group_ids(rows.texts[self.groups]))
            data["groups"] = ids | {"train": of_rows[train], "validation": of_rows[held]}
        task: Classification | Regression
        if self.kind == "regression":
            task = Regression(**data, slices=given)
        else:
            metrics = ("accuracy", "f1") if self.lopsided else ("accuracy",)
            task = Classification(**data, metrics=metrics, classes=self.classes, slices=given)
        task.columns = columns
        task.preprocess = Preprocess((Raw("row", (self._columns(rows),)),), replace(task.answer(), target=self.target))
        task.raw = lambda place: {name: values[held[place]] for name, values in rows.written.items()}
        task.reads = lambda other: self._samples(other)[0]
        return task

    def _columns(self, rows: Sheet) -> Columns:
        """How rows become numbers, as data."""
        described = []
        for column in self.columns:
            values = rows.texts[column.name]
            gaps = any(
                is_missing(value) or (column.kind == "number" and not np.isfinite(number(value))) for value in values
            )
            described.append(ColumnOf(**asdict(column), comma=column.name in rows.commas, gaps=gaps))
        return Columns(tuple(described), tuple(sorted(MISSING)), DELIMITERS)

    def alone(self, path: Path, *, validation: float = 0.2, seed: int = 0) -> tuple[Alone, ...]:
        """What each column by itself tells of the rows that `task` judges on. Raises DataError with every mistake."""
        rows = labelled(read(path), self.target)
        answers = self._targets(path.name, [_plain(value) for value in rows[self.target]]).numpy()
        if self.kind == "regression":
            answers = answers.astype(np.float64) - answers.mean(dtype=np.float64)
        train, held = self._split(path.name, rows, validation, seed)
        train = np.random.default_rng(seed).permutation(train)[:_LEARNED_FROM]
        found = []
        for column in self.columns:
            values = replace(column, fill=np.nan).encode(rows[column.name])
            values[[is_missing(value) for value in rows[column.name]]] = np.nan
            found.append(rated(column.name, values, answers, train, held))
        return tuple(found)

    def _samples(self, path: Path) -> tuple[Samples, Sheet]:
        """The samples of a file, and the rows they were made of."""
        found = sheet(path)
        if self.target not in found.texts:
            raise DataError.of(f"{path.name} has no column {self.target!r}.", "Give a file with the target in it.")
        rows = labelled(found.texts, self.target)
        mistakes = Mistakes()
        with mistakes:
            if wrong := about_groups(path.name, rows, self.groups, self.target):
                raise DataError(*wrong)
        with mistakes:
            inputs = torch.from_numpy(self.encode(rows))
        with mistakes:
            targets = self._targets(path.name, [_plain(value) for value in rows[self.target]])
        mistakes.raise_all()
        return samples_from((inputs, targets)), Sheet(rows, labelled(found.written, self.target), found.commas)

    def _split(self, file: str, rows: Texts, validation: float, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The rows to train on, and those to judge on. Raises DataError where there are none."""
        if self.groups:
            judged = judged_groups(group_ids(rows[self.groups]), validation, seed)
        else:
            judged = _hashed(rows, seed) < validation
        train, held = np.flatnonzero(~judged), np.flatnonzero(judged)
        if not len(train) or not len(held):
            what = "groups" if self.groups else "rows"
            raise DataError.of(f"{file} has too few {what} to be split.", "Give more, or another share.")
        return train, held

    def _targets(self, file: str, answers: Sequence[str]) -> torch.Tensor:
        """Targets as numbers. Raises DataError for those that were not there to begin with."""
        if self.kind == "regression":
            return torch.tensor([number(value) for value in answers], dtype=torch.float32)
        unknown = sorted(set(answers) - set(self.classes))
        if unknown:
            raise DataError.of(
                f"{file} has classes that were not there: {some(unknown)}.", "Begin with `boildown init`."
            )
        places = {name: place for place, name in enumerate(self.classes)}
        return torch.tensor([places[value] for value in answers])


def _values(rows: Sheet, places: Sequence[int]) -> Texts:
    """Every column of some rows, as the file has it; a missing value is an empty text."""
    return {
        name: ["" if is_missing(values[place]) else values[place] for place in places]
        for name, values in rows.written.items()
    }


def validation_share(count: int) -> float:
    """The share to judge on: 1,000 samples where they are no more than two fifths, else a fifth at least."""
    return round(min(0.4, max(0.2, 1000 / max(count, 1))), 2)


def fractions(keys: Sequence[str], seed: int) -> NDArray[np.float64]:
    """For each key a number from 0 to 1 that depends on it and on the seed alone."""
    digests = (hashlib.blake2b(f"{seed}|{key}".encode(), digest_size=8).digest() for key in keys)
    return np.array([int.from_bytes(digest, "big") / 2**64 for digest in digests])


def judged_groups(ids: Sequence[str], validation: float, seed: int) -> NDArray[np.bool_]:
    """For each sample whether its group is judged on, by the group's id and the seed; of two groups at least."""
    where = fractions(ids, seed)
    second = np.unique(where)[:2].max(initial=0.0)
    found: NDArray[np.bool_] = where < max(validation, float(np.nextafter(second, 1.0)))
    return found


def _hashed(rows: Texts, seed: int) -> NDArray[np.float64]:
    return fractions(["\x1f".join(values) for values in zip(*rows.values(), strict=True)], seed)


def _unknown(file: str, rows: Texts, keep: Collection[str], leave_out: Collection[str]) -> list[Mistake]:
    """What is asked of columns, and cannot be."""
    absent = [name for name in (*keep, *leave_out) if name not in rows]
    both = [name for name in keep if name in leave_out]
    mistakes = []
    if absent:
        cure = f"Its columns are: {some(list(rows), 30)}."
        mistakes.append(Mistake(f"{file} has no column {some(absent)} to keep or leave out.", cure))
    if both:
        mistakes.append(Mistake(f"{some(both)} cannot be kept and left out.", "Say one of them."))
    return mistakes


def labelled(texts: Texts, target: str) -> Texts:
    """The rows that have a value of the target."""
    kept = [place for place, value in enumerate(texts[target]) if not is_missing(value)]
    return {name: [values[place] for place in kept] for name, values in texts.items()}


def _kind(target: str, answers: Sequence[str], asked: Kind | None) -> tuple[Kind, list[Mistake]]:
    """What is predicted, by the target's values; and what speaks against it."""
    counts = Counter(map(_plain, answers))
    numbers = np.array([number(value) for value in answers])
    numeric, whole = bool(np.isfinite(numbers).all()), bool(np.isfinite(numbers).all() and (numbers % 1 == 0).all())
    few = len(counts) <= _MOST_WHOLE_CLASSES and len(answers) >= _ROWS_PER_CLASS * len(counts)
    kind = asked or ("regression" if numeric and not (whole and few) else "classification")
    mistakes = []
    if len(counts) == 1:
        mistakes.append(Mistake(f"{target!r} is {next(iter(counts))!r} in every row.", "Predict another column."))
    elif kind == "regression" and not numeric:
        odd = [value for value, good in zip(answers, np.isfinite(numbers), strict=True) if not good]
        mistakes.append(
            Mistake(
                f"{target!r} holds values that are no numbers: {some(sorted(set(odd)))}.",
                "Leave them empty, or predict classes.",
            )
        )
    elif kind == "classification" and len(counts) > min(_MOST_CLASSES, len(answers) // 2):
        mistakes.append(
            Mistake(
                f"{target!r} has {len(counts):,} different values in {len(answers):,} rows: too many for classes.",
                "Predict another column, or join rare values; for numbers say --kind regression.",
            )
        )
    elif kind == "classification" and (rare := [name for name, count in counts.items() if count < 2]):
        numbers_too = "; for numbers say --kind regression" if whole else ""
        cure = f"Leave those rows out, or add to them{numbers_too}."
        mistakes.append(Mistake(f"{target!r} has classes with one row only: {some(rare)}.", cure))
    return kind, mistakes


def _plain(value: str) -> str:
    """A class as it is called: 1.0 is 1."""
    text = value.strip()
    found = number(text)
    return str(int(found)) if np.isfinite(found) and found % 1 == 0 else text


def _in_order(name: str) -> tuple[float, str]:
    """Numbers by their size, then texts."""
    found = number(name)
    return (found if np.isfinite(found) else np.inf, name)
