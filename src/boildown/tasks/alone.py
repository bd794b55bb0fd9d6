"""How much of the answer one column of a table gives away, measured by a small tree on that column alone."""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Places = NDArray[np.intp]
Answers = NDArray[np.float64] | NDArray[np.int64]
"""Numbers where they are floats, classes counted from 0 where they are whole."""

_MOST_LEAVES = 64
_LEAST_IN_LEAF = 5
_NOISE = 10.0
_SHARE, _SHARE_OF_GAIN = 0.99, 0.9
_ERRORS = 2.0


@dataclass(frozen=True)
class Alone:
    """What one column alone tells of the answers of the rows that are judged on.

    loss: its mean error, the share of wrong classes or a squared distance. blind: that of one answer for all rows.
    sure: it is nearer to the answer of more rows, and that is not chance. filled: all it tells is told by whether it
    holds a value.
    """

    name: str
    loss: float
    blind: float
    sure: bool
    filled: bool = False

    def gives_away(self, loss: float, *, regression: bool) -> bool:
        """Whether it does nearly as well as a network with this loss does from all columns.

        Its score (accuracy, or the explained share of the variance) is 0.99 of the network's at least. Where one
        class is frequent every column has that, so it must also make up 0.9 of what the network is better than one
        answer for all rows, and that by more than chance.
        """
        gain, whole = self.blind - self.loss, self.blind - loss
        own, all_columns = (gain, whole) if regression else (1 - self.loss, 1 - loss)
        return self.sure and own >= _SHARE * all_columns and gain >= _SHARE_OF_GAIN * whole


def rated(name: str, values: Floats, answers: Answers, train: Places, held: Places) -> Alone:
    """What one column tells of the rows held, learned from those to train on; NaN where a value is missing."""
    alone = _rated(name, values, answers, train, held)
    missing = np.isnan(values)
    if not missing.any():
        return alone
    filled = _rated(name, missing.astype(np.float64), answers, train, held)
    return replace(alone, filled=filled.gives_away(alone.loss, regression=_numeric(answers)))


def predict(values: Floats, answers: Answers, asked: Floats) -> Answers:
    """Answers for the values asked, by a tree with missing values in a leaf of their own and lines in the others."""
    missing, wanted = np.isnan(values), np.isnan(asked)
    found = np.full(len(asked), _middle(answers))
    if missing.any():
        found[wanted] = _middle(answers[missing])
    if missing.all():
        return found
    order = np.argsort(values[~missing], kind="stable")
    values, answers = values[~missing][order], answers[~missing][order]
    bounds = _bounds(values, answers)
    inner = bounds[1:-1]
    leaves = np.searchsorted((values[inner - 1] + values[inner]) / 2, asked)
    for leaf, (start, stop) in enumerate(pairwise(bounds)):
        here = (leaves == leaf) & ~wanted
        found[here] = _in_leaf(values[start:stop], answers[start:stop], asked[here])
    return found


def _rated(name: str, values: Floats, answers: Answers, train: Places, held: Places) -> Alone:
    right = answers[held]
    losses = _losses(predict(values[train], answers[train], values[held]), right)
    blind = _losses(np.full(len(held), _middle(answers[train])), right)
    nearer, farther = int((losses < blind).sum()), int((losses > blind).sum())
    sure = nearer - farther > _ERRORS * np.sqrt(nearer + farther)
    return Alone(name, float(losses.mean()), float(blind.mean()), bool(sure))


def _bounds(values: Floats, answers: Answers) -> Places:
    """Where the leaves of a tree begin and end in rows sorted by their value: the best cut of all is made first.

    Of noise any cut saves the error of one average row, give or take less the more classes there are, and the best
    of many up to eight times that: a cut must save more.
    """
    apart = np.concatenate([[False], values[1:] > values[:-1]])
    classes = 2 if _numeric(answers) else int(answers.max()) + 1
    most, needed = max(_MOST_LEAVES, classes), 1 + _NOISE / math.sqrt(classes)

    def best(start: int, stop: int) -> tuple[float, int, int, int]:
        """What the best cut of some rows saves, less than 0 for a heap, its place, and the rows."""
        part, count = answers[start:stop], stop - start
        left, right = _squares(part), _squares(part[::-1])[::-1]
        places = np.arange(_LEAST_IN_LEAF, count - _LEAST_IN_LEAF + 1)
        places = places[apart[start + places]]
        if not len(places):
            return 0.0, 0, start, stop
        whole = left[-1] / count
        saved = left[places - 1] / places + right[places] / (count - places) - whole
        at = int(saved.argmax())
        error = (float((part**2).sum()) if _numeric(answers) else count) - whole
        enough = saved[at] * count > needed * error
        return (-float(saved[at]) if enough else 0.0), start + int(places[at]), start, stop

    bounds, waiting = [0, len(values)], [best(0, len(values))]
    while waiting and len(bounds) <= most:
        saved, place, start, stop = heapq.heappop(waiting)
        if not saved:
            break
        bounds.append(place)
        for part in (best(start, place), best(place, stop)):
            heapq.heappush(waiting, part)
    return np.array(sorted(bounds))


def _squares(answers: Answers) -> Floats:
    """The squared sum of the first answers, for each count of them; of classes the squared counts, added up."""
    if _numeric(answers):
        return np.asarray(answers.cumsum() ** 2, np.float64)
    order = np.argsort(answers, kind="stable")
    before = np.empty(len(answers))
    before[order] = np.arange(len(answers)) - np.searchsorted(answers[order], answers[order])
    return (2 * before + 1).cumsum()


def _in_leaf(values: Floats, answers: Answers, asked: Floats) -> Answers:
    """The most frequent class, or a straight line."""
    if not _numeric(answers):
        return np.full(len(asked), _middle(answers))
    center = values.mean()
    spread = float(((values - center) ** 2).sum())
    slope = float(((values - center) * answers).sum()) / spread if spread > 0 else 0.0
    return np.asarray(answers.mean() + slope * (asked - center), np.float64)


def _middle(answers: Answers) -> float | int:
    return float(answers.mean()) if _numeric(answers) else int(np.bincount(answers).argmax())


def _losses(predicted: Answers, answers: Answers) -> Floats:
    """The error of each row: 1 for a wrong class, the squared distance of a number."""
    if _numeric(answers):
        return np.asarray((predicted - answers) ** 2, np.float64)
    return np.asarray(predicted != answers, np.float64)


def _numeric(answers: Answers) -> bool:
    return answers.dtype.kind == "f"
