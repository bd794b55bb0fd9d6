"""`boildown init`"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from boildown.errors import InputError

_CONFIG = """\
[model]
factory = "model:build"                # module:callable in this folder that returns the nn.Module
weights = "weights.safetensors"        # or a .pt file that holds only a state dict
# students = ["model:small"]            # small networks of your own for methods that train

[task]
factory = "task:build"                 # module:callable that returns the task

[target]
conditions = ["accuracy drop <= 1 pp", "size <= 0.3x"]
goal = "first"                         # first | smallest | fastest | best
# confidence = 0.95                    # conditions must be proven, not only observed

[budget]
time = "30 min"

[latency]
batch = 1
threads = 1

[ladder]
rungs = "auto"                         # or ["quantize-static", "distill + quantize-static"]
"""
_TASK = '''\
"""What the model is for: data, loss, metrics."""

import boildown as bd


def build() -> bd.Classification:
    # Map-style data sets or DataLoaders that yield (inputs, target).
    train, validation = ...
    return bd.Classification(train=train, validation=validation)
'''


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="Where to; here by default.", metavar="[DIR]")] = Path(),
) -> int:
    """Write a boildown.toml and a task.py to fill in."""
    files = {folder / "boildown.toml": _CONFIG, folder / "task.py": _TASK}
    there = [path.name for path in files if path.exists()]
    if there:
        raise InputError.of(f"{', '.join(there)} exists already in {folder.resolve()}.", "Choose another folder.")
    folder.mkdir(parents=True, exist_ok=True)
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
        typer.echo(path)
    typer.echo("Fill in task.py and the factories, then: boildown compress boildown.toml")
    return 0
