"""Models of two libraries as factories: `transformers:FOLDER` and `timm:NAME`. Nothing of a folder is run as code."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import torch
from torch import nn

from boildown.errors import InputError, Mistake, ModelError, UntrustedFileError, install
from boildown.files import real

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_SETTINGS: dict[str, Callable[[str], Any]] = {
    "num_classes": int,
    "in_chans": int,
    "img_size": int,
    "pretrained": lambda text: {"true": True, "false": False}[text],
}
"""What can be said of a timm network behind its name, and how it is read."""


def from_transformers(path: str) -> nn.Module:
    """The trained model of a local folder with config.json and safetensors, in eval mode.

    path: the folder, absolute or relative to the working directory or to where factories are looked for, such
    as the folder of the config file. The class is the one that config.json names, with transformers' own code.
    Raises ModelError for a folder that cannot be loaded, for a missing library, and for weights that do not fill
    the model; UntrustedFileError for weights that only a pickle holds.
    """
    folder = folder_of(path)
    config = _config(folder)
    transformers, kind, names = _kind(config)
    if kind is None:
        raise ModelError.of(
            f"{folder} holds a {names[0]}, which transformers {transformers.__version__} does not have.",
            "Code that comes with a model is never run: import its class in a factory of your own, module:callable."
            if "auto_map" in config
            else "Install the release that it was saved with: config.json tells transformers_version.",
        )
    try:
        with _quiet(transformers):
            model, told = kind.from_pretrained(
                folder, local_files_only=True, use_safetensors=True, trust_remote_code=False, output_loading_info=True,
                **_own_kernels(transformers, config),
            )  # fmt: skip
    except Exception as error:  # a foreign folder can fail anywhere
        raise ModelError.of(
            f"transformers cannot load {folder}: {said(error)}.",
            "Save it again with model.save_pretrained(FOLDER), or write a factory of your own, module:callable.",
        ) from error
    lacking = sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"])))
    if lacking and all(key.startswith("pooler.") for key in lacking):
        model.pooler, lacking = None, []  # models that embed texts are saved without
    if lacking:
        raise ModelError.of(
            f"The weights in {folder} do not fill a {type(model).__name__}: {', '.join(lacking[:5])} "
            f"{'are' if len(lacking) > 1 else 'is'} missing, and would be random.",
            "Save the trained model with model.save_pretrained(FOLDER): config.json then names its own class.",
        )
    network: nn.Module = model.eval()
    return network


def size_of(path: str) -> tuple[int, int]:
    """Bytes of the model that config.json of a folder describes, built without memory for it, and of its weights.

    It may take for ever, or all memory: for a child process with limits.
    """
    folder = folder_of(path)
    config = _config(folder)
    transformers, kind, _ = _kind(config)
    with _quiet(transformers), torch.device("meta"):
        if kind in (None, transformers.AutoModel):
            model = transformers.AutoModel.from_config(_read(transformers, config))
        else:
            model = kind(_read(transformers, config))
    made = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    return made, sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _kind(config: Mapping[str, Any]) -> tuple[Any, Any, list[str]]:
    """The library, the class that a configuration names, None where there is none, and the names."""
    transformers = _library("transformers", "Models of Hugging Face")
    names = [str(name) for name in config.get("architectures") or ()]
    return transformers, getattr(transformers, names[0], None) if names else transformers.AutoModel, names


def _own_kernels(transformers: Any, config: Mapping[str, Any]) -> dict[str, Any]:
    """What keeps a configuration from choosing code that is fetched from elsewhere."""
    foreign = any(word in json.dumps(config) for word in _FOREIGN)
    return {"config": _read(transformers, config)} if foreign else {}


def _read(transformers: Any, config: Mapping[str, Any]) -> Any:
    """A configuration without what chooses kernels."""
    return transformers.CONFIG_MAPPING[config["model_type"]].from_dict(_without(config))


def _without(config: Any) -> Any:
    if isinstance(config, Mapping):
        return {key: _without(value) for key, value in config.items() if not any(word in key for word in _FOREIGN)}
    return [_without(value) for value in config] if isinstance(config, list) else config


_FOREIGN = ("_implementation", "use_kernels", "kernel_config")
"""In the names of settings of config.json that choose kernels, which may be fetched and run."""


def from_timm(name: str) -> nn.Module:
    """A network of timm by name, in eval mode, with random weights: for `weights` of the user's own, and students.

    Settings follow a question mark: `resnet18?num_classes=10&in_chans=1`, also img_size, and pretrained=true for
    timm's weights, which it downloads. Raises ModelError for a missing library or an unknown name, InputError
    for settings that cannot be read.
    """
    network, _, asked = name.partition("?")
    settings, mistakes = {}, []
    for key, text in parse_qsl(asked, keep_blank_values=True):
        try:
            settings[key] = _SETTINGS[key](text)
        except (KeyError, ValueError):
            known = ", ".join(_SETTINGS)
            mistakes.append(Mistake(f"timm:{name} says {key}={text}.", f"Settings are {known}; whole numbers or true."))
    if mistakes:
        raise InputError(*mistakes)
    timm = _library("timm", "Networks of timm")
    if not timm.is_model(network):
        near = timm.list_models(f"*{network}*")[:3]
        guess = f"Did you mean {' or '.join(near)}? " if near else ""
        raise ModelError.of(f"timm has no network {network!r}.", f"{guess}`timm.list_models()` lists them.")
    try:
        made: nn.Module = timm.create_model(network, **settings)
    except Exception as error:  # whatever the network's code, or a download, raises
        raise ModelError.of(
            f"timm cannot make {name!r}: {said(error)}.", "Call timm.create_model by itself to see where."
        ) from error
    return made.eval()


def folder_of(path: str) -> Path:
    """The folder at `path`, or below one of the places where modules are looked for."""
    for place in (Path(), *map(Path, sys.path)):
        if (place / path).is_dir():
            return real(place / path)
    raise ModelError.of(
        f"There is no folder {path!r}.",
        "Nothing is downloaded here: fetch the model (`hf download NAME --local-dir FOLDER`), and name its folder.",
    )


def _config(folder: Path) -> dict[str, Any]:
    """config.json of a folder whose weights are safetensors."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError.of(
            f"{folder} has no config.json that can be read: {said(error)}.",
            "Name a folder that model.save_pretrained(FOLDER) wrote.",
        ) from error
    if not isinstance(config, dict):
        raise ModelError.of(f"{folder / 'config.json'} holds no settings.", "Save the model again.")
    if not any(folder.glob("*.safetensors")):
        pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
        if pickles:
            raise UntrustedFileError.of(
                f"{folder} holds its weights as {pickles[0]}: loading a pickle could run code that is in the file.",
                "Where you trust it, write them as safetensors once: load the model with transformers, and call "
                "model.save_pretrained(FOLDER).",
            )
        raise ModelError.of(
            f"{folder} holds no weights: there is no *.safetensors.",
            "Save the model with model.save_pretrained(FOLDER).",
        )
    return config


def _library(name: str, what: str) -> Any:
    """The library of an extra. Raises ModelError where it cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:  # a library may be there and fail, such as timm beside a torchvision for another torch
        raise ModelError.of(f"{what} need {name}, which cannot be imported: {said(error)}.", install(name)) from error


@contextmanager
def _quiet(transformers: Any) -> Iterator[None]:
    """Without transformers' remarks and bars: what matters in them is told as an error."""
    logs = transformers.utils.logging
    level, bars = logs.get_verbosity(), logs.is_progress_bar_enabled()
    logs.set_verbosity(logs.CRITICAL)
    logs.disable_progress_bar()
    try:
        yield
    finally:
        logs.set_verbosity(level)
        if bars:
            logs.enable_progress_bar()


def said(error: Exception) -> str:
    """The kind of an error and the first line of what it says."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0].rstrip('.')}" if lines else type(error).__name__
