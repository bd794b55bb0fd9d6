"""Whether a runtime that is a plug-in does what a runtime must: tried on a tiny network before any work."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from boildown.domain.artifact import Artifact
from boildown.domain.deployment import FORMS, LEAN
from boildown.engine.deliver import deliver, save_sample
from boildown.errors import ExportError, InputError, Mistakes, contained, text_of
from boildown.execution.child import Child
from boildown.runtimes import get, plugged
from boildown.runtimes.base import Runtime
from boildown.surgery.graph import capture

_SECONDS = 120.0
_CURE = "Mend or uninstall the package that it comes from, or choose another runtime."


def check_runtimes(names: Sequence[str], form: str) -> tuple[Runtime, ...]:
    """The runtimes of a deployment, in order. Raises InputError with what is wrong with each.

    Where they are several, each writes the form that it has.
    """
    mistakes, found = Mistakes(), []
    for name in names:
        with mistakes:
            found.append(check_runtime(name, form if len(names) == 1 else ""))
    mistakes.raise_all()
    return tuple(found)


def check_runtime(name: str, form: str = LEAN) -> Runtime:
    """The runtime of this name.

    Raises InputError where there is none, where it writes no files of a form that there is, and for a plug-in that
    breaks the protocol, naming its entry point and the member.
    """
    runtime = get(name)
    if form in FORMS and form not in runtime.forms:
        raise InputError.of(
            f"The runtime {name} writes no files of the form {form!r}.", f"One of: {', '.join(runtime.forms)}."
        )
    if called := plugged(name):
        with _member(called, "version"):
            version = runtime.version()
            if not (isinstance(version, str) and version):
                raise TypeError(f"it gives {version!r}, no text")
        _try(name, called, version)
    return runtime


@cache
def _try(name: str, called: str, _version: str) -> None:
    """Write two artifacts, open one in another folder, and run its loader. A version that passed is not tried again."""
    runtime = get(name)
    exporter = runtime.exporter or name
    with tempfile.TemporaryDirectory() as scratch, Child() as child:
        folder = Path(scratch)

        def call(function: str, *args: Any, **kwargs: Any) -> None:
            child.call(f"boildown.runtimes.calls:{function}", *args, deadline=_SECONDS, doing="it", **kwargs)

        def written(seed: int) -> Artifact:
            """The artifact of a tiny network with the weights of a seed, in a folder of its own."""
            place = folder / str(seed)
            path = place / "artifact" / f"model{runtime.suffix}"
            exported = place / "exported" / f"model{get(exporter).suffix}"
            for made in (path, exported):
                made.parent.mkdir(parents=True)
            with _member(called, "export"):
                call("export", exporter, _program(seed), str(exported))
            with _member(called, "write"):
                call("write", name, str(exported), str(path), None, None)
                return Artifact.read(name, path, (file for file in path.parent.rglob("*") if file.is_file()))

        try:
            first, other = written(1), written(2)
        except ExportError:  # it says that it cannot take such a network, and may take the user's
            return
        with _member(called, "write"):
            if first.digest == other.digest:
                raise ValueError(
                    "networks of other weights make the same files: what an artifact needs must lie beside the path "
                    "that it is given"
                )
        moved = first.move(folder / "moved")
        shutil.rmtree(folder / "1")
        with _member(called, "open"):
            call("ports", name, str(moved.path), 1, trust=True)
            call("run", name, str(moved.path), 1, [_inputs().numpy()], trust=True)
        with _member(called, "loader"):
            script = runtime.loader(moved)
            if not isinstance(script, str):
                raise TypeError(f"it gives {script!r}, no text")
            if script:
                save_sample([_inputs().numpy()], folder)
                deliver(moved, folder, folder / "best")
                call("load", str(folder / "best" / "load.py"))


def _program(seed: int) -> bytes:
    """A tiny network with the weights of a seed, captured."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return capture(nn.Sequential(nn.Linear(4, 3)).eval(), (_inputs(),)).serialize()


def _inputs() -> torch.Tensor:
    return torch.linspace(-1, 1, 8).reshape(2, 4)


@contextmanager
def _member(called: str, member: str) -> Iterator[None]:
    """Whatever fails inside is the fault of this member of the plug-in."""
    try:
        with contained():
            yield
    except ExportError:
        raise
    except Exception as error:
        said = text_of(error).partition("\n")[0].rstrip(" .") or type(error).__name__
        raise InputError.of(f"{called} breaks what a runtime must do, in {member}: {said}.", _CURE) from error
