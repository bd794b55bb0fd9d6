"""A rung: a method or a chain of methods with settings.

Written `quantize-static`, `quantize-static(ranges=mse, samples=100)` or `prune + quantize-static`; where it is not made
for the first runtime of the deployment, with its name: `quantize-static @ openvino`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from boildown.errors import InputError, Mistake
from boildown.methods.base import Method, settings_of
from boildown.methods.registry import build, installed

_PLAIN = re.compile(r"(?!true$|false$|nan$|inf)[A-Za-z_][\w.-]*", re.IGNORECASE)
_LINK = re.compile(r"^\s*([A-Za-z0-9_-]+)\s*(?:\((.*)\))?\s*$", re.DOTALL)


@dataclass(frozen=True)
class Rung:
    """Methods to apply one after the other, the first to the first model.

    runtime: that it is made for; empty for the first of the deployment.
    """

    methods: tuple[Method, ...]
    runtime: str = ""

    def __str__(self) -> str:
        chain = " + ".join(_written(method) for method in self.methods)
        return f"{chain} @ {self.runtime}" if self.runtime else chain

    @property
    def minutes(self) -> float:
        """What the cards say it takes, or more where a method has a setting for it."""
        return sum(max(method.card.minutes, float(getattr(method, "minutes", 0.0))) for method in self.methods)

    @property
    def lowers(self) -> frozenset[str]:
        """What some link of the chain lowers."""
        return frozenset(what for method in self.methods for what in method.card.lowers)


def parse_rung(text: str | Mapping[str, Any]) -> Rung:
    """A rung from its written form, or from `{method = ..., setting = ..., runtime = ...}`.

    Raises InputError with every mistake: unknown methods, settings and values, impossible chains.
    """
    mistakes: list[Mistake] = []
    methods: list[Method] = []
    chain, runtime = _parted(text)
    for name, settings in _links(chain, mistakes):
        try:
            methods.append(build(name, settings))
        except InputError as error:
            mistakes += error.mistakes
    if runtime == "":
        mistakes.append(
            Mistake(f"The rung {text!r} names no runtime.", 'Write "method @ runtime", or leave the @ out.')
        )
    for method in methods[:-1]:
        if method.card.terminal:
            mistakes.append(
                Mistake(
                    f"Nothing can follow {method.card.name} in a chain: it works on the exported file.",
                    "Put it last, or use quantize-static.",
                )
            )
    if mistakes:
        raise InputError(*mistakes)
    return Rung(tuple(methods), runtime or "")


def runtime_of(rung: str) -> str:
    """The runtime that a written rung names; empty where it names none."""
    return _parted(rung)[1] or ""


def parse_rungs(texts: Sequence[str | Mapping[str, Any]]) -> tuple[Rung, ...]:
    """Rungs in order; InputError carries the mistakes of all of them."""
    rungs, errors = [], []
    for text in texts:
        try:
            rungs.append(parse_rung(text))
        except InputError as error:
            errors.append(error)
    if not texts:
        errors.append(InputError.of("The ladder has no rungs.", 'Name some, or say "auto".'))
    if errors:
        raise InputError.merge(errors)
    return tuple(rungs)


def _parted(text: str | Mapping[str, Any]) -> tuple[str | Mapping[str, Any], str | None]:
    """(the chain of methods, the runtime that it is made for; None where none is named)."""
    if isinstance(text, Mapping):
        named = text.get("runtime")
        return {key: text[key] for key in text if key != "runtime"}, None if named is None else str(named).strip()
    chain, *behind = _outside_brackets(str(text), "@")
    return chain, "@".join(behind).strip() if behind else None


def _links(text: str | Mapping[str, Any], mistakes: list[Mistake]) -> list[tuple[str, dict[str, Any]]]:
    if isinstance(text, Mapping):
        settings = dict(text)
        if "method" not in settings:
            mistakes.append(Mistake(f"The rung {settings!r} names no method.", 'Add method = "quantize-static".'))
            return []
        return [(str(settings.pop("method")), settings)]
    links = []
    for part in _outside_brackets(str(text), "+"):
        match = _LINK.match(part)
        if match is None:
            mistakes.append(
                Mistake(
                    f"The rung {text!r} cannot be read.",
                    'Write "method", "method(setting=value)", "method + method" or "method @ runtime". '
                    f"There are: {', '.join(installed())}.",
                )
            )
            continue
        settings = {}
        for pair in _outside_brackets(match[2] or "", ","):
            key, equals, value = pair.partition("=")
            if pair.strip() and not equals:
                mistakes.append(Mistake(f"In {text!r}, {pair.strip()!r} has no value.", "Write setting=value."))
            elif equals:
                settings[key.strip().replace("-", "_")] = _value(value.strip())
        links.append((match[1], settings))
    return links


def _outside_brackets(text: str, separator: str) -> list[str]:
    """The parts between separators that stand in no brackets and in no quotes."""
    parts, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        else:
            depth += (character in "([") - (character in ")]")
        if character == separator and depth == 0 and not quote:
            parts.append("")
        else:
            parts[-1] += character
    return parts


def _value(text: str) -> Any:
    if len(text) > 1 and text[0] in "'\"" and text[-1] == text[0]:
        return text[1:-1]
    if text.startswith("[") and text.endswith("]"):
        return tuple(_value(part.strip()) for part in _outside_brackets(text[1:-1], ",") if part.strip())
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _written(method: Method) -> str:
    defaults = settings_of(type(method)())
    changed = {key: value for key, value in settings_of(method).items() if value != defaults[key]}
    inside = ", ".join(f"{key}={_shown(value)}" for key, value in changed.items())
    return f"{method.card.name}({inside})" if inside else method.card.name


def _shown(value: Any) -> str:
    """A setting's value as it is read again; text is quoted where it would be read as something else."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_shown, value))}]"
    if isinstance(value, str) and not _PLAIN.fullmatch(value):
        return f'"{value}"' if "'" in value else f"'{value}'"
    return str(value)
