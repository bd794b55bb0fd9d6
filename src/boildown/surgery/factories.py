"""Factories: names by which a child process builds what it needs.

`"module:callable"`, `"transformers:FOLDER"`, `"timm:NAME"` or `"onnx:FILE"`. What a callable makes may take settings
behind a question mark: `"task:build?night=night.csv"` is a task that is judged on the file night.csv too, by the name
`night`.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl

from boildown.errors import InputError, contained
from boildown.surgery.hub import from_timm, from_transformers, said
from boildown.surgery.onnx_file import from_onnx

_LIBRARIES = {"transformers": from_transformers, "timm": from_timm, "onnx": from_onnx}
"""What stands before the colon in place of a module, and what makes a model of the rest."""


@contained()
def call_factory(name: str) -> Any:
    """Call `module:callable`, or load a model of a library or a file; see `hub` and `onnx_file`.

    Raises InputError naming what cannot be imported, found, loaded or called.
    """
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError.of(
            f"The factory {name!r} cannot be read.",
            'Write "module:callable", "transformers:FOLDER", "timm:NAME" or "onnx:FILE".',
        )
    if module_name in _LIBRARIES:
        return _LIBRARIES[module_name](attribute)
    attribute, _, sets = attribute.partition("?")
    try:
        value: Any = importlib.import_module(module_name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or "\0")
        raise InputError.of(
            f"The factory {name!r} cannot be imported: {said(error)}.",
            f"Put {module_name.split('.')[0]}.py beside the config file or install it."
            if absent
            else f"Mend {module_name}, or what it imports: `python -c 'import {module_name}'` shows where it fails.",
        ) from error
    for part in attribute.split("."):
        if not hasattr(value, part):
            raise InputError.of(f"{module_name} has no {attribute!r}.", "Check the name after the colon.")
        value = getattr(value, part)
    if not callable(value):
        raise InputError.of(
            f"{name!r} is {type(value).__name__}, not a function.", "Name a function without arguments that returns it."
        )
    try:
        made = value()
    except InputError:
        raise
    except Exception as error:
        raise InputError.of(
            f"The factory {name!r} failed: {said(error)}.",
            f"Call it by itself to see where: `python -c 'import {module_name}; {module_name}.{attribute}()'`.",
        ) from error
    return judged_on(made, dict(parse_qsl(sets, keep_blank_values=True)), name) if sets else made


def judged_on(task: Any, sets: Mapping[str, str], name: str) -> Any:
    """A task that is judged on more sets, by name and path. Raises InputError for what takes none."""
    if not hasattr(task, "judged_on"):
        raise InputError.of(
            f"What {name!r} makes takes no data sets to judge on: it is {type(task).__name__}, no task of boildown.",
            "Leave out what follows the question mark, or validation in [task].",
        )
    return task.judged_on(sets)
