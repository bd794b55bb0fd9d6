"""Plain data as strict JSON, with the numbers that JSON has no word for.

`nan`, `inf` and `-inf` become `{"$float": "nan"}` and so on; keys that start with `$` get a second
one. Tuples become lists, paths text, numpy's numbers Python's.
"""

from __future__ import annotations

import json
import math
import numbers
import os
from collections.abc import Mapping
from typing import Any

_FLOAT = "$float"


def dumps(value: Any, *, canonical: bool = False) -> str:
    """Plain data as JSON; `canonical` sorts keys, so that equal data are equal text.

    Raises TypeError for anything that is not plain data, naming where it is.
    """
    return json.dumps(_out(value, "the data"), sort_keys=canonical, separators=(",", ":"), allow_nan=False)


def loads(text: str) -> Any:
    """The inverse of `dumps`, but for tuples, which come back as lists."""
    return json.loads(text, object_hook=_in)


def _out(value: Any, where: str) -> Any:
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, numbers.Integral):
        return int(value)
    if isinstance(value, numbers.Real):
        number = float(value)
        return number if math.isfinite(number) else {_FLOAT: str(number)}
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{where} has the key {key!r}: keys must be text to be kept as plain data.")
        return {_doubled(key): _out(inner, f"{where}[{key!r}]") for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_out(inner, f"{where}[{index}]") for index, inner in enumerate(value)]
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(
        f"{where} is a {type(value).__name__}: plain data are None, text, numbers, lists and dicts; "
        "convert it before it is kept."
    )


def _doubled(key: str) -> str:
    return "$" + key if key.startswith("$") else key


def _in(pairs: dict[str, Any]) -> Any:
    if _FLOAT in pairs:
        return float(pairs[_FLOAT])
    return {key.removeprefix("$") if key.startswith("$") else key: value for key, value in pairs.items()}
