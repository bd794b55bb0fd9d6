"""The columns of a CSV or Parquet file: read as text, and found to hold numbers, categories or nothing of use."""

from __future__ import annotations

import csv
import io
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from boildown.errors import DataError, Mistake, install
from boildown.tasks.numbering import direction, row_number

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-", "nil", "missing"})
"""What stands for a missing value, in lower case."""

DELIMITERS = ",;\t|"
_MOST_CATEGORIES = 64
_NUMBERS_FROM = 0.95
_ROWS_NAMED = 3
_GLANCED = 50_000
_TIME = re.compile(
    r"[ T,]+\d{1,2}:\d{2}(:\d{2}([.,]\d+)?)?\s*([ap]\.?m\.?)?\s*(Z|UTC|GMT|[+-]\d{2}:?\d{2})?$", re.IGNORECASE
)
_DAY = re.compile(r"\d{1,2}([./-])\d{1,2}\1(\d{4}|\d{2})|\d{4}([./-])\d{1,2}\3\d{1,2}")
_MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".replace(" ", "|")
_NAMED_DAY = re.compile(
    rf"((mon|tue|wed|thu|fri|sat|sun)[a-z]*[,.]?\s+)?"
    rf"(\d{{1,2}}[.\s-]+({_MONTHS})[a-z]*[.,\s-]+\d{{2,4}}|({_MONTHS})[a-z]*\.?\s+\d{{1,2}}(,\s*|\s+)\d{{4}})",
    re.IGNORECASE,
)
_DECIMAL_COMMA = re.compile(r"[+-]?(([1-9]\d{0,2}(\.\d{3})+|\d+)(,\d*)?|,\d+)(e[+-]?\d+)?", re.IGNORECASE)
"""A number where the comma is the decimal mark, perhaps with points between thousands."""

Texts = dict[str, list[str]]


@dataclass(frozen=True)
class Sheet:
    """Every column as text, by its name.

    texts: numbers with decimal points. written: as the file has them. commas: the columns in which they differ, or
    could.
    """

    texts: Texts
    written: Texts
    commas: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Column:
    """How the values of one column become numbers.

    fill: stands in for a missing number. categories: a category's number is its place here, counted from 1;
    0 is a missing one or one that is not listed.
    """

    name: str
    kind: Literal["number", "category"]
    fill: float = 0.0
    categories: tuple[str, ...] = ()

    def encode(self, values: Sequence[str]) -> NDArray[np.float64]:
        """One number per value, none of them NaN."""
        if self.kind == "number":
            numbers = np.array([number(value) for value in values])
            return np.where(np.isfinite(numbers), numbers, self.fill)
        places = {category: float(place) for place, category in enumerate(self.categories, 1)}
        return np.array([places.get(value.strip(), 0.0) for value in values])


def read(path: Path) -> Texts:
    """The texts of `sheet`."""
    return sheet(path).texts


def sheet(path: Path) -> Sheet:
    """Every column as text, by its name; a missing value is an empty text, or one of `MISSING`.

    CSV in UTF-8 with a header; commas, semicolons, tabs or bars between the values, and with semicolons
    decimal commas too: where one column has them, points between groups of three digits are thousands in all.
    Parquet needs pyarrow. Raises DataError with every mistake.
    """
    if not path.is_file():
        raise DataError.of(f"There is no file {path}.", "Check the path.")
    with path.open("rb") as file:
        is_parquet = file.read(4) == b"PAR1"
    written, delimiter = (_read_parquet(path), "") if is_parquet else _read_csv(path)
    if not written or not next(iter(written.values())):
        raise DataError.of(f"{path.name} has no rows.", "Give a table with a header and some hundred rows.")
    return _with_points(written) if delimiter == ";" else Sheet(written, written)


def number(text: str) -> float:
    """The number in a text; NaN where there is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def is_missing(text: str) -> bool:
    """Whether a text stands for a missing value."""
    return text.strip().casefold() in MISSING


def judge(name: str, values: Sequence[str], *, keep: bool = False) -> tuple[Column | None, str]:
    """What a column holds, and what a person should know of it; None for one that is of no use, with the reason.

    keep: its numbers are of use, although they look as if they numbered the rows.
    """
    present = [value.strip() for value in values if not is_missing(value)]
    counts = Counter(present)
    if not present:
        return None, "it is empty"
    if len(counts) == 1 and len(present) == len(values):
        return None, f"it always holds {present[0]!r}"
    numbers = np.array([number(value) for value in present])
    finite = np.isfinite(numbers)
    if finite.mean() >= _NUMBERS_FROM:
        if not keep and (why := row_number(name, numbers[finite])):
            return None, f"{why}; where it measures something say --keep {shlex.quote(name)}"
        odd = [value for value, good in zip(present, finite, strict=True) if not good]
        told = [f"{len(odd)} values that are no numbers count as missing: {some(sorted(set(odd)))}"] if odd else []
        if not keep and (way := direction(numbers[finite])):
            told.append(f"it {way} from row to row; where it only counts them say --leave-out {shlex.quote(name)}")
        return Column(name, "number", fill=float(np.median(numbers[finite]))), "; ".join(told)
    if all(_is_date(value) for value in present[:100]):
        return None, "it holds dates; make numbers of them (age, weekday) if they matter"
    if len(counts) > max(20, len(present) // 2):
        return None, f"{len(counts):,} of its {len(present):,} values differ: it looks like a name or free text"
    kept = tuple(value for value, _count in counts.most_common(_MOST_CATEGORIES))
    rare = len(counts) - len(kept)
    return Column(name, "category", categories=kept), f"its {rare} rarest categories are taken as one" if rare else ""


def _read_csv(path: Path) -> tuple[Texts, str]:
    """Every column of a CSV, and its delimiter."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError.of(
            f"{path.name} is not UTF-8: {error}.", "Save it as UTF-8, in Excel as 'CSV UTF-8'."
        ) from None
    delimiter = _delimiter(text[:_GLANCED].splitlines()[:50])
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
    try:
        rows = [row for row in reader if any(row)]
    except csv.Error as error:
        raise DataError.of(
            f"{path.name} cannot be read from line {reader.line_num} on: {error}.",
            "Look for a quote that is never closed: it makes one value of all that follows. Shorten longer values.",
        ) from None
    if not rows:
        raise DataError.of(f"{path.name} is empty.", "Give a table with a header and some hundred rows.")
    header, *body = rows
    header = [name.strip() for name in header]
    if mistakes := list(_header_mistakes(path.name, header, body)):
        raise DataError(*mistakes)
    columns = dict(zip(header, map(list, zip(*body, strict=True)), strict=True)) if body else {}
    return columns, delimiter


def _header_mistakes(file: str, header: Sequence[str], body: Sequence[Sequence[str]]) -> Iterator[Mistake]:
    if all(not math.isnan(number(name)) for name in header):
        yield Mistake(
            f"{file} begins with numbers ({some(header)}), not with the names of its columns.",
            "Put a line with the names above it.",
        )
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        yield Mistake(f"{file} has columns of the same name: {some(twice)}.", "Give each its own.")
    ragged = [place for place, row in enumerate(body, 2) if len(row) != len(header)]
    if ragged:
        at = ", ".join(map(str, ragged[:_ROWS_NAMED]))
        yield Mistake(
            f"{file} has {len(header)} columns, and {len(ragged)} rows have another number of values (row {at}).",
            "Mend them: values that hold the delimiter need quotes.",
        )


def _delimiter(head: Sequence[str]) -> str:
    """The delimiter by which most of the first lines have as many values as the header, and that is more than one."""

    def fits(mark: str) -> tuple[int, int]:
        widths = [len(row) for row in csv.reader(head, delimiter=mark) if row]
        return (widths.count(widths[0]), widths[0]) if widths and widths[0] > 1 else (0, 0)

    return max(DELIMITERS, key=fits)


def _with_points(columns: Texts) -> Sheet:
    """Decimal commas as points, in columns that hold such numbers alone, where the file has decimal commas at all."""
    fitting = {
        name
        for name, values in columns.items()
        if all(is_missing(value) or _DECIMAL_COMMA.fullmatch(value.strip()) for value in values)
    }
    if not any("," in value or value.count(".") > 1 for name in fitting for value in columns[name]):
        return Sheet(columns, columns)
    pointed = {
        name: [value.replace(".", "").replace(",", ".") for value in values] if name in fitting else values
        for name, values in columns.items()
    }
    return Sheet(pointed, columns, frozenset(fitting))


def _read_parquet(path: Path) -> Texts:
    try:
        from pyarrow import parquet
    except ImportError:
        raise DataError.of("Parquet files are read with pyarrow, which is not installed.", install("parquet")) from None
    try:
        table: Mapping[str, list[Any]] = parquet.read_table(path).to_pydict()
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError.of(
            f"{path.name} is no readable Parquet file: {first}", "Write it again, or give a CSV."
        ) from error
    return {str(name): [_as_text(value) for value in values] for name, values in table.items()}


def _as_text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date | datetime) else str(value)


def _is_date(text: str) -> bool:
    """Whether a text is a date, perhaps with a time: 2024-05-31, 31.5.2024, 5/31/24, May 31, 2024, 31 May 2024 ..."""
    text = text.strip()
    try:
        datetime.fromisoformat(text)
    except ValueError:
        day = _TIME.sub("", text)
        return bool(_DAY.fullmatch(day) or _NAMED_DAY.fullmatch(day))
    return True


def some(names: Sequence[str], most: int = 5) -> str:
    """The first few names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
