"""What a condition may name of a metric: a slice, the worst of some slices, another data set.

    METRIC    METRIC[KEY=VALUE]    worst KEY METRIC    METRIC[DATA SET]

A key, a value or the name of a data set may stand in quotes, single or double, with backslashes before quotes and
backslashes inside; without them it is read as it stands, up to the end of the bracket.
"""

from __future__ import annotations

import contextlib
import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from boildown.errors import InputError, Mistake, TargetError

WORST = "worst"

_QUOTED = re.compile(r"""\s*("(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')\s*""", re.DOTALL)
_BARE = re.compile(r"[\w.+/#@%:-]+")
_HIDDEN = "\0"
_SHOWN = 12


@dataclass(frozen=True)
class Name:
    """What a measurement of quality is of.

    base: the metric. key: what tells slices apart; value: the slice, None for the worst of all. within: another data
    set or a corruption. As text it is canonical.
    """

    base: str
    key: str = ""
    value: str | None = None
    within: str = ""

    @property
    def worst(self) -> bool:
        """Whether it is the worst of the slices of its key."""
        return bool(self.key) and self.value is None

    @property
    def slice(self) -> str:
        """The slice as it stands in a bracket; empty where there is none."""
        return "" if self.value is None else f"{written(self.key)}={written(self.value)}"

    def __str__(self) -> str:
        if self.worst:
            return f"{WORST} {written(self.key)} {self.base}"
        inside = self.slice or (written(self.within) if self.within else "")
        return f"{self.base}[{inside}]" if inside else self.base


def base_of(name: str) -> str:
    """The task's metric in the name of a measurement: `accuracy` of `accuracy[class=stop]`; a cost is its own."""
    found = name_of(name)
    return name if found is None else found.base


def set_of(name: str) -> str | None:
    """The data set that a measurement is of, where it is not the main one: `night` of `accuracy[night]`."""
    found = name_of(name)
    return None if found is None else found.within or None


@lru_cache(maxsize=4096)
def name_of(text: str) -> Name | None:
    """The name in a text; None where its bracket has no end, or nothing before it."""
    text = text.strip()
    shown = hidden(text)
    words = shown.split()
    if len(words) > 2 and words[0].casefold() == WORST:
        start, end = len(words[0]), len(text) - len(words[-1])
        return Name(text[end:], _word(text[start:end]))
    at = text.find("[")
    if at < 0:
        return Name(" ".join(text.split()))
    base, found = text[:at].strip(), _bracket(text, at)
    if not base or found is None or found[0] < len(text) or not found[1]:
        return None
    _, first, second = found
    return Name(base, within=first) if second is None else Name(base, first, second)


def hidden(text: str) -> str:
    """The text, as long as before, with all that stands in brackets or quotes made the same character: nothing in it
    is an operator, a comma or a space."""
    parts, at, last = list(text), 0, text.rfind("]")
    while at < len(text):
        end = at
        if text[at] == "[" and at < last:
            found = _bracket(text, at)
            end = at if found is None else found[0]
        elif text[at] in "\"'" and (at == 0 or text[at - 1].isspace()):
            quoted = _QUOTED.match(text, at)
            end = at if quoted is None else quoted.end(1)
        parts[at:end] = _HIDDEN * (end - at)
        at = max(end, at + 1)
    return "".join(parts)


def written(word: str) -> str:
    """A key or a value as text that is read back as the same."""
    if _BARE.fullmatch(word):
        return word
    escaped = word.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _bracket(text: str, start: int) -> tuple[int, str, str | None] | None:
    """(what is behind it, what stands before its =, what behind) of the bracket that opens at `start`."""
    first, at = _part(text, start + 1, "=]")
    if first is None or text[at] == "]":
        return None if first is None else (at + 1, first, None)
    second, at = _part(text, at + 1, "]")
    return None if second is None else (at + 1, first, second)


def _part(text: str, start: int, ends: str) -> tuple[str | None, int]:
    """(a word, in quotes or as it stands up to one of `ends`, where that is); None where none follows."""
    quoted = _QUOTED.match(text, start)
    if quoted is not None:
        at = quoted.end()
        return (_unquoted(quoted[1]), at) if text[at : at + 1] and text[at] in ends else (None, at)
    at = min((found for end in ends if (found := text.find(end, start)) >= 0), default=-1)
    return (None, len(text)) if at < 0 else (text[start:at].strip(), at)


def _word(text: str) -> str:
    quoted = _QUOTED.fullmatch(text)
    return " ".join(text.split()) if quoted is None else _unquoted(quoted[1])


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1], flags=re.DOTALL)


def resolved(name: Name, shown: str, slices: Mapping[str, Sequence[str]], sets: Sequence[str]) -> Name:
    """The name with its key, its value and its data set as they are known, in any case of letters.

    slices: the values of every key. sets: names of data sets and corruptions. Raises TargetError with near ones.
    """
    if name.within:
        within = _alike(name.within, sets)
        if within is None:
            raise TargetError(_no_set(name, shown, slices, sets))
        return replace(name, within=within)
    key = _alike(name.key, list(slices))
    if key is None:
        guess = _guess([written(near) for near in _near(name.key, list(slices))])
        there = f"Known here: {_some([written(each) for each in slices])}." if slices else "The task has none."
        cure = (
            f"{guess}{there} Give the task slices={{{name.key[:40]!r}: ...}}, a value for every sample or a function."
        )
        raise TargetError(Mistake(f"{shown}: there are no slices by {name.key[:40]!r}.", cure))
    if name.value is None:
        return replace(name, key=key)
    values = list(map(str, slices[key]))
    value = _alike(name.value, values)
    if value is None:
        asked = replace(name, key=key, value=name.value[:40])
        guess = _guess([str(replace(asked, value=near)) for near in _near(name.value, values)])
        cure = f"{guess}Known here: {_some([written(each) for each in values])}."
        raise TargetError(Mistake(f"{shown}: there is no slice {asked.slice}.", cure))
    return replace(name, key=key, value=value)


def _no_set(name: Name, shown: str, slices: Mapping[str, Sequence[str]], sets: Sequence[str]) -> Mistake:
    """A data set that is not there; its name may be that of a slice."""
    near = [str(replace(name, within=each)) for each in _near(name.within, sets)]
    for key in () if near else slices:
        with contextlib.suppress(InputError):  # slices that cannot be read are not what was asked for
            value = _alike(name.within, list(map(str, slices[key])))
            near += [] if value is None else [str(Name(name.base, key, value))]
    there = f"Known here: {_some([written(each) for each in sets])}." if sets else "The task has no other."
    cure = f"{_guess(near)}{there} A slice is written as {name.base}[KEY=VALUE]."
    return Mistake(f"{shown}: there is no data set {name.within[:40]!r}.", cure)


def _alike(word: str, known: Sequence[str]) -> str | None:
    """The known word that this is, in any case of letters where only one is."""
    if word in known:
        return word
    folded = [each for each in known if each.casefold() == word.casefold()]
    return folded[0] if len(folded) == 1 else None


def _near(word: str, known: Sequence[str]) -> list[str]:
    folded = {each.casefold(): each for each in known}
    return [folded[near] for near in difflib.get_close_matches(word.casefold(), folded, n=2, cutoff=0.6)]


def _guess(near: Sequence[str]) -> str:
    return f"Did you mean {' or '.join(f'`{each}`' for each in near)}? " if near else ""


def _some(words: Sequence[str]) -> str:
    more = f" and {len(words) - _SHOWN:,} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more
