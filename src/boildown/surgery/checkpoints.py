"""Weights that others have written, fitted into a model: wrappers, prefixes and older names are undone and told."""

from __future__ import annotations

import json
import pickle
import re
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from boildown.errors import InputError, Mistake, ModelError, UntrustedFileError, in_words

_WRAPPERS = frozenset({"module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"})
"""Parts of names that belong to what a network, or a part of it, is wrapped in to train it."""

_PARAMETRIZED = (
    (re.compile(r"(^|\.)parametrizations\.(\w+)\.original0$"), r"\1\2_g"),
    (re.compile(r"(^|\.)parametrizations\.(\w+)\.original1$"), r"\1\2_v"),
    (re.compile(r"(^|\.)parametrizations\.(\w+)\.original$"), r"\1\2_orig"),
    (re.compile(r"(^|\.)parametrizations\.(\w+)\.\d+\._([uv])$"), r"\1\2_\3"),
)
"""Names of torch.nn.utils.parametrizations, and those of the older weight_norm and spectral_norm for the same."""

_COUNTED = "num_batches_tracked"
_BESIDE = frozenset({_COUNTED, "total_ops", "total_params", "n_averaged"})
"""Buffers that no network computes with: of batch norm, of counters of operations, of averaged models."""

_DEEPEST = 16
"""How many containers may lie in each other."""

_AVERAGE = re.compile(r"(^|[._])(ema|avg|averaged?|swa|shadow)($|[._])")


@dataclass(frozen=True)
class _Entry:
    """A tensor of the file, and the name from the root of the container that holds it, with a dot at its end."""

    inside: str
    value: Any


@dataclass
class _Content:
    """What a file holds: tensors by their name from the root; containers of tensors, and code that reaches them."""

    entries: dict[str, _Entry] = field(default_factory=dict)
    holders: dict[str, Mapping[Any, Any]] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)


@dataclass
class _Fit:
    """How the tensors under one prefix fit the model, and what was done to fit them.

    inside: the containers that they lie in.
    """

    prefix: str
    added: str
    state: dict[str, Any] = field(default_factory=dict)
    inside: set[str] = field(default_factory=set)
    left: list[str] = field(default_factory=list)
    tied: list[str] = field(default_factory=list)
    kept: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    shapes: list[str] = field(default_factory=list)
    types: list[str] = field(default_factory=list)
    dropped: set[str] = field(default_factory=set)
    renamed: bool = False

    @property
    def whole(self) -> bool:
        return not (self.missing or self.unexpected or self.shapes or self.types)


def load(model: nn.Module, path: Path) -> tuple[str, ...]:
    """Load a weights file into a freshly built model; returns notices of what was taken off, left out or filled in.

    `.safetensors`, the index of a sharded one, or a checkpoint that torch loads with `weights_only=True`. The state
    dict may lie in any container and under any prefix, in the names of a compiled or parallel model, and in the older
    or newer names of weight norm and spectral norm. Everything the model has must be there, and all that is taken fit.
    Raises ModelError naming every missing, unexpected and misshapen key, or the state dicts of which several fit;
    UntrustedFileError for a file that needs unpickling.
    """
    content = _read(path)
    found = _found(content)
    if not found.entries:
        raise ModelError.of(
            f"{path.name} holds no state dict, but {_outline(content)}.",
            "Save `model.state_dict()`, as safetensors if you can.",
        )
    own = model.state_dict()
    tried = [_fit(model, own, found.entries, prefix, added) for prefix, added in _places(own, found.entries)]
    fit = _chosen([each for each in tried if each.whole], found, path)
    if fit is None:
        cast = any(each.types for each in tried)  # PyTorch would cast without a word
        if not cast and (name := _as_torch_does(model, found)) is not None:
            return _told_place(name)
        raise _refusal(max(tried, key=lambda each: (len(each.state), -len(each.unexpected))), tried, path)
    state: dict[str, Any] = _Versioned(fit.state)
    state._metadata = _versions(found, fit)  # type: ignore[attr-defined]
    try:
        model.load_state_dict(state)
    except Exception as error:  # a model may have hooks of its own
        raise ModelError.of(f"{path.name} cannot be loaded: {in_words(error)}", _CURE.format(path.name)) from error
    return _told(fit)


class _Versioned(dict[str, Any]):
    """A state dict that can hold the versions of its modules, which PyTorch looks for."""


_CURE = "Use the factory that {} was trained with, or the weights of this factory's model."


# ---- what is in the file -----------------------------------------------------------------------


def _read(path: Path) -> Any:
    if not path.is_file():
        raise InputError.of(
            f"There is no weights file {path}.", "Check the path; in a config file it is relative to that file."
        )
    if path.name.endswith(".index.json"):
        return _shards(path)
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except Exception as error:  # a foreign file can fail anywhere
            raise ModelError.of(f"{path.name} is no readable safetensors file: {error}.", "Write it again.") from error
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of forms that are told below
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise UntrustedFileError.of(
            f"{path.name} holds more than tensors{_foreign(path)}: loading it could run code that is in the file.",
            "Save only the weights where you trust the file: "
            f'`safetensors.torch.save_file(model.state_dict(), "{path.stem}.safetensors")`.',
        ) from None
    except Exception as error:  # a foreign file can fail anywhere
        cure = "Write it again: torch.save(model.state_dict(), FILE)."
        if "TorchScript" in str(error):
            raise ModelError.of(f"{path.name} is a program of TorchScript, no checkpoint.", cure) from error
        raise ModelError.of(f"{path.name} is no readable checkpoint: {in_words(error)}", cure) from error


def _foreign(path: Path) -> str:
    """The classes that a checkpoint asks for, as far as they can be told without making any."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # noqa: BLE001 - an older format, which cannot be looked into
        return ""
    return f" ({_some(sorted(names), 3)})" if names else ""


def _shards(path: Path) -> dict[str, Any]:
    """The tensors of all files that an index names, which lie beside it."""
    try:
        names = set(json.loads(path.read_text(encoding="utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError.of(f"{path.name} is no index of weights: {in_words(error)}", "Write it again.") from error
    if outside := [name for name in names if not isinstance(name, str) or Path(name).name != name]:
        raise ModelError.of(f"{path.name} names files that do not lie beside it: {outside[0]!r}.", "Put them there.")
    tensors: dict[str, Any] = {}
    for name in sorted(names):
        tensors |= _read(path.parent / name)
    return tensors


def _found(content: Any) -> _Content:
    """Every tensor of a file that has a name, at any depth that people write."""
    found, seen = _Content(), set[int]()

    def look(part: Any, name: str, code: str, depth: int) -> None:
        if id(part) in seen or depth > _DEEPEST or not isinstance(part, Mapping | list | tuple):
            return
        seen.add(id(part))
        for key, value in part.items() if isinstance(part, Mapping) else enumerate(part):
            if isinstance(part, Mapping) and (isinstance(value, Tensor) or str(key).endswith("_extra_state")):
                found.entries[f"{name}{key}"] = _Entry(name, value)
                found.holders[name], found.codes[name] = part, code
            else:
                look(value, f"{name}{key}.", f"{code}[{key!r}]", depth + 1)

    look(content, "", "", 0)
    return found


def _outline(content: Any) -> str:
    if isinstance(content, Mapping):
        return f"a dict of {_some([str(key) for key in content])}" if content else "an empty dict"
    return f"a {type(content).__name__}"


# ---- how it fits -------------------------------------------------------------------------------


def _normal(name: str) -> str:
    """The name without what a part is wrapped in, and with the older name of what is computed from parameters."""
    if "parametrizations." in name:
        for newer, older in _PARAMETRIZED:
            name = newer.sub(older, name)
    return ".".join(part for part in name.split(".") if part not in _WRAPPERS)


def _places(own: Mapping[str, Any], entries: Mapping[str, _Entry]) -> list[tuple[str, str]]:
    """(prefix of the file, prefix of the model) under which tensors may belong together, most of them first.

    The model's is one that the file does not have: of a network that was saved without what holds it.
    """
    ours = [_normal(name) for name in own]
    theirs = dict.fromkeys(map(_normal, entries))
    shared = _shared(ours)
    found: Counter[tuple[str, str]] = Counter()
    for added in ("", *shared):
        short = {name.removeprefix(added) for name in ours}
        for name in theirs:
            parts = name.split(".")
            for at in range(len(parts)):
                prefix = "".join(f"{part}." for part in parts[:at])
                if ".".join(parts[at:]) in short and not (added and prefix.endswith(added)):
                    found[prefix, added] += 1
    places = [place for place, count in found.most_common() if 2 * count >= max(found.values())]
    return places or [("", "")]


def _shared(names: Sequence[str]) -> list[str]:
    """The prefixes that all names have, the shortest first."""
    parts = [name.split(".")[:-1] for name in names]
    prefixes: list[str] = []
    for level in zip(*parts, strict=False):
        if len(set(level)) > 1:
            break
        prefixes.append((prefixes[-1] if prefixes else "") + f"{level[0]}.")
    return prefixes


def _fit(model: nn.Module, own: Mapping[str, Any], entries: Mapping[str, _Entry], prefix: str, added: str) -> _Fit:
    """The tensors under a prefix held against the model's."""
    fit = _Fit(prefix, added)
    names = {_normal(name).removeprefix(added): name for name in own}
    beside = {_normal(name).removeprefix(added) for name, _ in model.named_buffers(remove_duplicate=False)}
    under, outside = {}, []
    for key, entry in entries.items():
        short = _normal(key)
        if not short.startswith(prefix):
            outside.append((key, entry))
        elif (name := names.get(short.removeprefix(prefix))) is None or name in fit.state:
            under[key] = entry
        else:
            fit.state[name] = entry.value
            fit.inside.add(entry.inside)
            fit.dropped |= _WRAPPERS.intersection(key.split(".")) - _WRAPPERS.intersection(name.split("."))
            fit.renamed |= ("parametrizations." in key) != ("parametrizations." in name)
    for key, entry in under.items():
        short = _normal(key).removeprefix(prefix)
        if entry.inside in fit.inside or not fit.inside:
            known = short.rpartition(".")[2] in _BESIDE or short in beside - names.keys()
            (fit.left if known else fit.unexpected).append(key.removeprefix(entry.inside))
    fit.left += [key.removeprefix(entry.inside) for key, entry in outside if entry.inside in fit.inside]
    _fill(fit, own)
    for name, value in fit.state.items():
        mine = own[name]
        if not isinstance(mine, Tensor) or not isinstance(value, Tensor) or torch.nn.parameter.is_lazy(mine):
            continue
        if value.shape != mine.shape:
            fit.shapes.append(f"{name} is {tuple(value.shape)} in the file and {tuple(mine.shape)} in the model")
        elif value.is_floating_point() != mine.is_floating_point() or value.is_complex() != mine.is_complex():
            fit.types.append(f"{name} is {value.dtype} in the file and {mine.dtype} in the model")
    return fit


def _fill(fit: _Fit, own: Mapping[str, Any]) -> None:
    """Fill in what a file need not hold: tensors that are another of the same model, and counts of batches."""
    places = {_place(own[name]): name for name in fit.state}
    for name in own.keys() - fit.state.keys():
        first = places.get(_place(own[name]))
        if first is not None and isinstance(own[name], Tensor) and own[name].numel():
            fit.state[name] = fit.state[first]
            fit.tied.append(name)
        elif name.rpartition(".")[2] == _COUNTED:
            fit.state[name] = own[name]
            fit.kept.append(name)
    fit.missing = [name for name in own if name not in fit.state]


def _place(value: Any) -> Any:
    """Where a tensor lies: tied ones lie at the same place."""
    if not isinstance(value, Tensor) or torch.nn.parameter.is_lazy(value) or value.is_meta:
        return id(value)
    return value.data_ptr(), value.shape, value.stride(), value.dtype


def _chosen(fits: Sequence[_Fit], found: _Content, path: Path) -> _Fit | None:
    """The only one that fits, or the only average of a training: it is what is deployed."""
    different = [fit for at, fit in enumerate(fits) if not any(_equal(fit, other) for other in fits[:at])]
    averages = [fit for fit in different if _AVERAGE.search(fit.prefix)]
    if len(different) > 1 and len(averages) != 1:
        names = [repr(fit.prefix.rstrip(".")) for fit in different]
        raise ModelError.of(
            f"{path.name} holds several state dicts that fit the model: {_some(names)}.",
            f"Save the one you mean by itself, such as {_by_itself(different[0], found, path)}.",
        )
    chosen = averages if len(different) > 1 else different
    return chosen[0] if chosen else None


def _by_itself(fit: _Fit, found: _Content, path: Path) -> str:
    """Code that saves one state dict of a file alone."""
    inside = min(fit.inside)
    state, rest = f"torch.load({path.name!r}){found.codes[inside]}", fit.prefix.removeprefix(_normal(inside))
    if rest:
        state = f"{{k.removeprefix({rest!r}): v for k, v in {state}.items() if k.startswith({rest!r})}}"
    return f"torch.save({state}, 'weights.pt')"


def _equal(first: _Fit, second: _Fit) -> bool:
    pairs = ((value, second.state[name]) for name, value in first.state.items())
    return all(
        ours is theirs or (isinstance(ours, Tensor) and isinstance(theirs, Tensor) and torch.equal(ours, theirs))
        for ours, theirs in pairs
    )


def _as_torch_does(model: nn.Module, found: _Content) -> str | None:
    """The name of the container that the model itself loads, by hooks of its own that know other names."""
    for name, holder in found.holders.items():
        with suppress(Exception):  # hooks of the user's raise anything
            if not model.load_state_dict(holder).missing_keys:
                return name
    return None


def _versions(found: _Content, fit: _Fit) -> Any:
    """The versions that PyTorch writes beside a state dict, by which modules know the names of earlier ones."""
    if len(fit.inside) != 1 or fit.added:
        return None
    (inside,) = fit.inside
    versions = getattr(found.holders[inside], "_metadata", None)
    if not isinstance(versions, Mapping):
        return None
    rest = fit.prefix.removeprefix(_normal(inside))
    names = {name: _normal(f"{name}.") for name in versions if isinstance(name, str)}
    return {
        short.removeprefix(rest).rstrip("."): versions[name] for name, short in names.items() if short.startswith(rest)
    }


# ---- what is told ------------------------------------------------------------------------------


def _told(fit: _Fit) -> tuple[str, ...]:
    wrapped = " and ".join(repr(f"{part}.") for part in sorted(fit.dropped))
    told = (
        (fit.added, f"put {fit.added!r} before the names of the weights file, which lack it"),
        (wrapped, f"took {wrapped} out of the names of the weights"),
        (fit.renamed, "took weight norm or spectral norm under the names of another version of PyTorch"),
        (fit.left, f"left out of the weights file: {_some(fit.left)}"),
        (fit.tied, f"not in the weights file, and tied to what is: {_some(fit.tied)}"),
        (fit.kept, f"not in the weights file, and not needed: {_some(fit.kept)}"),
    )
    return (*_told_place(fit.prefix), *(text for said, text in told if said))


def _told_place(prefix: str) -> tuple[str, ...]:
    return (f"took the weights that the file holds as {prefix!r}",) if prefix else ()


def _refusal(fit: _Fit, tried: Sequence[_Fit], path: Path) -> ModelError:
    """Everything that keeps the closest of several from fitting."""
    cure = _CURE.format(path.name)
    normed = {name.removesuffix(end) for end in ("_g", "_orig") for name in map(_normal, fit.unexpected)}
    if any(_normal(name) in {other.removeprefix(fit.prefix) for other in normed} for name in fit.missing):
        cure = (
            "Its weights are normed and the model's are not: load them into the model as it was trained, take the norm "
            "off there (remove_weight_norm, remove_parametrizations), and save that one."
        )
    held = f", under {fit.prefix.rstrip('.')!r}," if fit.prefix else ""
    if others := [repr(each.prefix.rstrip(".")) for each in tried if each.prefix not in ("", fit.prefix)]:
        cure += f" The file also holds {_some(others)}, which do not fit either."
    wrong = (
        ("missing keys", fit.missing),
        ("unexpected keys", fit.unexpected),
        ("wrong shapes", fit.shapes),
        ("wrong types", fit.types),
    )
    return ModelError(
        *(
            Mistake(f"{path.name}{held} does not fit the model: {what}: {_some(keys)}.", cure)
            for what, keys in wrong
            if keys
        )
    )


def _some(names: Sequence[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
