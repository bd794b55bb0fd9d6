"""Checkpoints as people have them load or are refused with the reason; the page on them has a row for each."""

from __future__ import annotations

import argparse
import json
import re
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral
from torch.nn.utils import weight_norm as old_weight
from torch.optim.swa_utils import AveragedModel

from boildown.errors import InputError
from boildown.surgery.checkpoints import load

PAGE = Path(__file__).parents[2] / "docs/checkpoints.md"
_ROW = re.compile(r"^\| (?P<file>[^|]+) \| (?P<told>[^|]+) \|$", re.M)


def plain(width: int = 4) -> nn.Module:
    return nn.Sequential(OrderedDict(body=nn.Linear(3, width), norm=nn.BatchNorm1d(width), head=nn.Linear(width, 2)))


def seeded(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(1)
    model = make()
    model(torch.randn(8, 3))  # statistics of batch norm, vectors of spectral norm
    return model.eval()


def state() -> dict[str, Any]:
    return seeded(plain).state_dict()


def under(prefix: str, tensors: dict[str, Any] | None = None) -> dict[str, Any]:
    return {prefix + key: value for key, value in (tensors or state()).items()}


def other() -> dict[str, Any]:
    return {key: value + 1 for key, value in state().items()}


def normed(norm: Callable[[nn.Module], nn.Module]) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(norm(nn.Linear(3, 4)), nn.ReLU(), norm(nn.Linear(4, 2)))


class Held(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = plain()
        self.register_buffer("places", torch.arange(3), persistent=False)

    def forward(self, x: torch.Tensor) -> Any:
        return self.net(x)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)
        self.out.weight = self.embed.weight

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.embed(x).relu())


class Renamed(nn.Module):
    """A network that reads the names of its earlier version."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(3, 2)

    def _load_from_state_dict(self, state: Any, prefix: str, *rest: Any) -> None:
        for part in ("weight", "bias"):
            if f"{prefix}old_{part}" in state:
                state[f"{prefix}layer.{part}"] = state.pop(f"{prefix}old_{part}")
        super()._load_from_state_dict(state, prefix, *rest)

    def forward(self, x: torch.Tensor) -> Any:
        return self.layer(x)


def part_compiled() -> dict[str, Any]:
    return {key.replace("body.", "body._orig_mod."): value for key, value in state().items()}


def without(end: str) -> dict[str, Any]:
    return {key: value for key, value in state().items() if not key.endswith(end)}


def averaged() -> dict[str, Any]:
    return AveragedModel(seeded(plain)).state_dict()


def cast(kind: torch.dtype) -> dict[str, Any]:
    return {key: value.to(kind) if value.is_floating_point() else value for key, value in state().items()}


def optimizer() -> Any:
    model = seeded(plain)
    made = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 3)).sum().backward()
    made.step()
    return made.state_dict()


def parts() -> dict[str, Any]:
    found = state()
    return {
        name: {key.partition(".")[2]: value for key, value in found.items() if key.startswith(name)}
        for name in ("body", "norm", "head")
    }


def old_names() -> dict[str, Any]:
    return {f"old_{key.partition('.')[2]}": value for key, value in seeded(Renamed).state_dict().items()}


def tensors_of(make: Callable[[], nn.Module]) -> Callable[[], Any]:
    return lambda: seeded(make).state_dict()


NEW_WEIGHT, NEW_SPECTRAL = normed(parametrizations.weight_norm), normed(parametrizations.spectral_norm)
OLD_WEIGHT, OLD_SPECTRAL = normed(old_weight), normed(old_spectral)

LOADED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any], Callable[[], nn.Module]]] = {
    # what the page calls it: (the model, what is saved, the model it was saved of)
    "`model.state_dict()`": (plain, state, plain),
    '`{"state_dict": …, "epoch": 3, "optimizer": …}`': (
        plain, lambda: {"state_dict": state(), "epoch": 3, "optimizer": optimizer()}, plain,
    ),
    **{
        f'`{{"{key}": …}}`': (plain, lambda key=key: {key: state(), "epoch": 1}, plain)
        for key in ("model", "model_state_dict", "params", "params_ema", "ema", "net", "network", "module", "generator")
    },
    'one in another: `{"ema": {"module": …}}`': (plain, lambda: {"ema": {"module": state()}}, plain),
    'in a list: `[{"model": …}, 3]`': (plain, lambda: [{"model": state()}, 3], plain),
    'part by part: `{"body": …, "head": …}`': (plain, parts, plain),
    'beside their average: `{"model": …, "model_ema": …}`': (
        plain, lambda: {"model": other(), "model_ema": state()}, plain,
    ),
    'twice the same: `{"model": …, "best": …}`': (plain, lambda: {"model": state(), "best": dict(state())}, plain),
    'beside another network: `{"generator": …, "discriminator": …}`': (
        plain, lambda: {"discriminator": plain(5).state_dict(), "generator": state()}, plain,
    ),
    "Lightning: `model.…`, beside the loss's own weight": (
        plain,
        lambda: {"state_dict": {**under("model."), "loss.weight": torch.ones(3)}, "hyper_parameters": {"lr": 0.1}},
        plain,
    ),
    "a part of a larger network: `encoder.net.…`": (
        plain, lambda: {**under("encoder.net."), "decoder.weight": torch.ones(3)}, plain,
    ),
    "without the prefix that the model has": (Held, state, lambda: Held()),
    "`module.…` of DataParallel": (plain, lambda: under("module."), plain),
    "`_orig_mod.…` of torch.compile": (plain, lambda: under("_orig_mod."), plain),
    "`_orig_mod.module.…`": (plain, lambda: under("_orig_mod.module."), plain),
    "`module._orig_mod.…`": (plain, lambda: under("module._orig_mod."), plain),
    "`model._orig_mod.…`": (plain, lambda: {"state_dict": under("model._orig_mod.")}, plain),
    "a compiled part: `body._orig_mod.weight`": (plain, part_compiled, plain),
    "an `AveragedModel`, with `n_averaged`": (plain, averaged, plain),
    "weight norm of before PyTorch 2, for parametrizations": (NEW_WEIGHT, tensors_of(OLD_WEIGHT), OLD_WEIGHT),
    "weight norm as parametrizations, for the older one": (OLD_WEIGHT, tensors_of(NEW_WEIGHT), NEW_WEIGHT),
    "spectral norm of before PyTorch 2, for parametrizations": (NEW_SPECTRAL, tensors_of(OLD_SPECTRAL), OLD_SPECTRAL),
    "spectral norm as parametrizations, for the older one": (OLD_SPECTRAL, tensors_of(NEW_SPECTRAL), NEW_SPECTRAL),
    "older weight norm of a network in parallel": (
        NEW_WEIGHT, lambda: {"model": under("module.", seeded(OLD_WEIGHT).state_dict())}, OLD_WEIGHT,
    ),
    "without `num_batches_tracked`": (plain, lambda: without("num_batches_tracked"), plain),
    "tied weights, saved once": (Tied, lambda: {"embed.weight": seeded(Tied).state_dict()["embed.weight"]}, Tied),
    "with `total_ops` and `total_params` of a counter": (
        plain, lambda: {**state(), "total_ops": torch.zeros(1), "body.total_params": torch.zeros(1)}, plain,
    ),
    "with a buffer that is no longer saved": (
        Held, lambda: {**seeded(Held).state_dict(), "places": torch.arange(3)}, Held,
    ),
    "with names that the model itself knows of an earlier version": (Renamed, lambda: {"net": old_names()}, Renamed),
    "in float64": (plain, lambda: cast(torch.float64), plain),
}  # fmt: skip

ROUNDED: dict[str, Callable[[], Any]] = {
    "in float16": lambda: cast(torch.float16),
    "in bfloat16": lambda: {"model": cast(torch.bfloat16)},
}

REFUSED: dict[str, tuple[Callable[[], nn.Module], Callable[[], Any]]] = {
    "lacks a layer": (plain, lambda: {k: v for k, v in state().items() if not k.startswith("head")}),
    "holds a layer more": (plain, lambda: {**state(), "extra.weight": torch.ones(2)}),
    "of another width": (plain, lambda: plain(5).state_dict()),
    "in integers, of a quantized network": (plain, lambda: {k: (v * 9).to(torch.int8) for k, v in state().items()}),
    'two that fit: `{"student": …, "teacher": …}`': (plain, lambda: {"student": state(), "teacher": other()}),
    'two that fit in one: `online.…`, `target.…`': (plain, lambda: {**under("online."), **under("target.", other())}),
    "normed, for a model without the norm": (
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), tensors_of(OLD_WEIGHT),
    ),
    "the optimizer alone": (plain, optimizer),
    "scores alone": (plain, lambda: {"accuracy": 0.9, "epoch": 3}),
    "an average without names: `{\"shadow_params\": […]}`": (plain, lambda: {"shadow_params": [torch.ones(2)]}),
    "with a pickled `argparse.Namespace`": (plain, lambda: {"model": state(), "args": argparse.Namespace(lr=1)}),
    "a whole pickled model": (plain, lambda: seeded(plain)),
}  # fmt: skip

FILES = (
    "safetensors with metadata",
    "sharded safetensors: `model.safetensors.index.json`",
    "an index that names files elsewhere",
    "a file cut off in the middle",
    "a program of TorchScript",
)


def rows() -> dict[str, str]:
    return {row["file"]: row["told"] for row in _ROW.finditer(PAGE.read_text(encoding="utf-8"))}


def holds(told: str, said: str) -> bool:
    """Whether the page's sentence, with `…` for what differs, is in what was said."""
    quoted = re.findall(r"`([^`]+)`", told) or [told]
    return all(re.search(".*".join(map(re.escape, text.split("…"))), said, re.S) for text in quoted)


def test_the_page_has_a_row_for_each() -> None:
    listed = [*LOADED, *ROUNDED, *REFUSED, *FILES]
    assert len(listed) >= 40
    assert [name for name in rows() if name != "file" and not name.startswith("---")] == listed


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize("name", [*LOADED, *ROUNDED])
def test_what_loads(name: str, tmp_path: Path) -> None:
    model, content, source = LOADED.get(name) or (plain, ROUNDED[name], plain)
    torch.save(content(), tmp_path / "w.pt")
    torch.manual_seed(2)
    made = model()
    said = load(made.eval(), tmp_path / "w.pt")
    told = rows()[name]
    assert (told == "loads") == (not said)
    assert holds(told.removeprefix("loads").removeprefix(": "), "; ".join(said))
    x = torch.randn(8, 3)
    wanted = seeded(source)
    if name == "without the prefix that the model has":
        wanted = Held().eval()
        wanted.net.load_state_dict(state())
    tolerance = 0.02 if name in ROUNDED else 1e-5
    torch.testing.assert_close(made(x), wanted(x), atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_refused(name: str, tmp_path: Path) -> None:
    model, content = REFUSED[name]
    torch.save(content(), tmp_path / "w.pt")
    with pytest.raises(InputError) as refused:
        load(model(), tmp_path / "w.pt")
    assert holds(rows()[name], str(refused.value))


def test_the_code_that_tells_several_apart_gives_one_that_loads(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    for name in REFUSED:
        if not name.startswith("two that fit"):
            continue
        torch.save(REFUSED[name][1](), "w.pt")
        with pytest.raises(InputError) as refused:
            load(plain(), tmp_path / "w.pt")
        exec(str(refused.value).partition("such as ")[2].rpartition(".")[0])
        load(plain(), tmp_path / "weights.pt")


def test_files_of_other_forms(tmp_path: Path) -> None:
    tensors, told = state(), rows()
    save_file(tensors, tmp_path / "w.safetensors", metadata={"format": "pt", "author": "someone"})
    assert load(plain(), tmp_path / "w.safetensors") == ()
    index = tmp_path / "model.safetensors.index.json"
    names = {key: f"model-0000{1 + at % 2}-of-00002.safetensors" for at, key in enumerate(tensors)}
    for shard in set(names.values()):
        save_file({key: tensors[key] for key in tensors if names[key] == shard}, tmp_path / shard)
    index.write_text(json.dumps({"metadata": {}, "weight_map": names}))
    made = plain()
    assert load(made, index) == ()
    assert all(torch.equal(value, tensors[key]) for key, value in made.state_dict().items())
    refused = {}
    index.write_text(json.dumps({"weight_map": {"body.weight": "../w.safetensors"}}))
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04" + b"\0" * 50)
    torch.jit.script(plain()).save(str(tmp_path / "script.pt"))
    for name, path in zip(FILES[2:], (index, tmp_path / "cut.pt", tmp_path / "script.pt"), strict=True):
        with pytest.raises(InputError) as error:
            load(plain(), path)
        refused[name] = str(error.value)
    assert all(holds(told[name], said) for name, said in refused.items()), refused


def test_containers_that_hold_themselves_end() -> None:
    from boildown.surgery.checkpoints import _found

    around: dict[str, Any] = {"weight": torch.ones(1)}
    around |= {"self": around, "again": [around]}
    assert list(_found(around).entries) == ["weight"]
