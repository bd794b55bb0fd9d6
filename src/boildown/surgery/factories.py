"""Factories: `"module:callable"`, the names by which a child process builds what it needs."""

from __future__ import annotations

import importlib
from typing import Any

from boildown.errors import InputError


def call_factory(name: str) -> Any:
    """Call `module:callable`. Raises InputError naming what cannot be imported, found or called."""
    module_name, _, attribute = name.partition(":")
    if not module_name or not attribute:
        raise InputError.of(f"The factory {name!r} cannot be read.", 'Write "module:callable".')
    try:
        value: Any = importlib.import_module(module_name)
    except Exception as error:
        absent = isinstance(error, ModuleNotFoundError) and module_name.startswith(error.name or "\0")
        raise InputError.of(
            f"The factory {name!r} cannot be imported: {_said(error)}.",
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
        return value()
    except InputError:
        raise
    except Exception as error:
        raise InputError.of(
            f"The factory {name!r} failed: {_said(error)}.",
            f"Call it by itself to see where: `python -c 'import {module_name}; {module_name}.{attribute}()'`.",
        ) from error


def _said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
