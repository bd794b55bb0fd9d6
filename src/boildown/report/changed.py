"""What the best candidate gets wrong that the first model got right."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boildown.domain.grammar import format_value
from boildown.journal.rows import Record

_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}")
_PICTURES = 150_000  # characters: the report has to stay small


@dataclass(frozen=True)
class Sample:
    """One sample: its label, what the first model and the candidate said or scored, a picture (PNG in base64)."""

    index: int
    label: str
    first: str
    now: str
    picture: str


@dataclass(frozen=True)
class ClassLine:
    """One class that lost: its samples, and the mean of the metric before and after."""

    name: str
    samples: str
    before: str
    after: str


@dataclass(frozen=True)
class Changed:
    """Where the candidate is worse than the first model, and where better, on the samples of the verdict."""

    sentence: str
    classes: tuple[ClassLine, ...]
    samples: tuple[Sample, ...]


def changed(
    records: Sequence[Record], number: int, digest: str, known: Mapping[str, Any], unit: Mapping[str, str]
) -> Changed | None:
    """What was recorded of this attempt's file; None where nothing was, or on other samples.

    known: the facts of the run. unit: of every metric.
    """
    fitting = [
        r.data
        for r in records
        if r.kind == "changed" and r.attempt == number and r.data["artifact"] == digest
        and r.data["data"] == known.get("verdict data", r.data["data"])
    ]  # fmt: skip
    if not fitting:
        return None
    data, names = fitting[-1], known.get("classes") or ()
    metric = str(data["metric"])

    def words(value: Any) -> str:
        return format_value(float(value), unit.get(metric, ""))

    def name(label: Any) -> str:
        return str(names[label]) if isinstance(label, int) and 0 <= label < len(names) else f"class {label}"

    samples, room = [], _PICTURES
    for row in data["samples"]:
        picture = str(row.get("picture", ""))
        picture = picture if _BASE64.fullmatch(picture) and len(picture) <= room else ""
        room -= len(picture)
        label, first, now = (
            (name(row["label"]), name(row["first"]), name(row["now"]))
            if "label" in row
            else ("", f"{metric} {words(row['before'])}", f"{metric} {words(row['after'])}")
        )
        samples.append(Sample(int(row["index"]), label, first, now, picture))
    rows = [ClassLine(name(label), f"{count:,}", words(b), words(a)) for label, count, b, a in data["classes"]]
    sentence = (
        f"Of {data['of']:,} samples of the verdict it does worse than the first model on {data['worse']:,} "
        f"and better on {data['better']:,}, by {metric}."
    )
    return Changed(sentence, tuple(rows), tuple(samples))
