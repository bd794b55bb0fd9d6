"""`boildown init`: a project that runs as it is, begun with the user's data and model, or one to fill in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from boildown.errors import InputError, Mistake
from boildown.files import real
from boildown.report.words import visible

if TYPE_CHECKING:
    from boildown.api.starting import Start

_CONFIG = """\
[model]
{model}

[task]
factory = "task:build"                 # module:callable in this folder that returns the task

[target]
conditions = [{conditions}]
goal = "first"                         # first | smallest | fastest | best
# confidence = 0.95                    # conditions must be proven, not only observed

[budget]
time = "30 min"

[deployment]
hardware = "this machine"              # or x86-vnni | x86-any | arm64
batch = 1                              # samples per call, and threads, when it is timed
threads = 1

[ladder]
rungs = "auto"                         # or ["quantize-static", "distill + quantize-static"]
"""
_FACTORY_NOTE = "                # module:callable in this folder that returns the nn.Module"
_WEIGHTS = "weights.safetensors"
_NO_WEIGHTS = '# weights = "weights.safetensors"      # or a .pt file that holds only a state dict'
_TASK = '''\
"""What the model is for: data, loss, metrics."""

import boildown as bd


def build() -> bd.Classification:
    # Map-style data sets or DataLoaders that yield (inputs, target).
    train, validation = ...
    return bd.Classification(train=train, validation=validation)
'''
_OWN = ("accuracy drop <= 1 pp", "size <= 0.3x")


@dataclass(frozen=True)
class _Asked:
    """The options of the command, as they were given."""

    folder: Path
    csv: Path | None
    parquet: Path | None
    image_folder: Path | None
    predict: str | None
    kind: str | None
    text: tuple[str, ...]
    keep: tuple[str, ...]
    leave_out: tuple[str, ...]
    model: str | None
    weights: Path | None
    onnx: Path | None
    transformers: Path | None
    timm: str | None
    size: int | None
    skip_broken: bool
    groups: str

    @property
    def table(self) -> Path | None:
        """The file of a table, of either kind."""
        return self.csv or self.parquet


def add_to(app: typer.Typer) -> None:
    """Register the command."""
    app.command("init")(init)


def init(
    folder: Annotated[Path, typer.Argument(help="Where to; here by default.", metavar="[DIR]")] = Path(),
    csv: Annotated[Path | None, typer.Option("--csv", help="A CSV file with a header to learn from.")] = None,
    parquet: Annotated[Path | None, typer.Option("--parquet", help="The same as a Parquet file.")] = None,
    image_folder: Annotated[
        Path | None, typer.Option("--image-folder", help="A folder with a folder of images for every class.")
    ] = None,
    predict: Annotated[str | None, typer.Option("--predict", help="The column of the table to predict.")] = None,
    kind: Annotated[
        str | None, typer.Option("--kind", help="classification or regression, where the values do not tell.")
    ] = None,
    text: Annotated[
        list[str] | None,
        typer.Option("--text", help="A column that holds text, for --transformers. May be given again."),
    ] = None,
    keep: Annotated[
        list[str] | None,
        typer.Option("--keep", help="A column that looks like a row number and is none. May be given again."),
    ] = None,
    leave_out: Annotated[
        list[str] | None,
        typer.Option("--leave-out", help="A column to predict nothing from. May be given again."),
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Your model, module:callable; without one a small one is trained.")
    ] = None,
    weights: Annotated[Path | None, typer.Option("--weights", help="Its weights: safetensors or a state dict.")] = None,
    onnx: Annotated[Path | None, typer.Option("--onnx", help="Your model as an ONNX file.")] = None,
    transformers: Annotated[
        Path | None, typer.Option("--transformers", help="The folder of a Hugging Face model, with its tokenizer.")
    ] = None,
    timm: Annotated[str | None, typer.Option("--timm", help="The name of a timm network.")] = None,
    size: Annotated[int | None, typer.Option("--size", help="Pixels of a side of the images.")] = None,
    skip_broken: Annotated[
        bool, typer.Option("--skip-broken", help="Leave out images that cannot be read, instead of ending there.")
    ] = False,
    groups: Annotated[
        str,
        typer.Option(
            "--groups",
            help="The column that says which rows belong together; of images `folder`, or a pattern of their paths.",
        ),
    ] = "",
    minutes: Annotated[float, typer.Option("--minutes", help="The most minutes to train a small model.")] = 2.0,
) -> int:
    """Begin a project: a boildown.toml and a task.py, from your data where you name it, else to fill in."""
    asked = _Asked(
        folder, csv, parquet, image_folder, predict, kind, tuple(text or ()), tuple(keep or ()), tuple(leave_out or ()),
        model, weights, onnx, transformers, timm, size, skip_broken, groups,
    )  # fmt: skip
    if mistakes := list(_mistakes(asked)):
        raise InputError(*mistakes)
    start = _start(asked)
    files = {"boildown.toml": _config(asked, start), "task.py": _TASK if start is None else start.code}
    files |= {} if start is None else start.files
    _refuse_existing(folder, [*files, _WEIGHTS])
    for line in () if start is None else start.told:
        typer.echo(visible(line))
    trained = None if start is None or start.network is None else _trained(start, minutes)
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_text(content, encoding="utf-8")
        typer.echo(folder / name)
    if trained is not None:
        from boildown.surgery.weights import save

        save(trained, folder / _WEIGHTS)
        typer.echo(folder / _WEIGHTS)
    todo = "Then:" if start is not None else "Fill in task.py and the factories, then:"
    typer.echo(f"{todo} boildown compress {folder / 'boildown.toml'}")
    return 0


def _mistakes(asked: _Asked) -> Iterator[Mistake]:
    """What does not go together, or is not there."""
    place = real(asked.folder)
    there = next(path for path in (place, *place.parents) if path.exists())
    if not there.is_dir():
        yield Mistake(f"{there} is a file, and no folder to begin a project in.", "Name another folder.")
    sources = {"--csv": asked.csv, "--parquet": asked.parquet, "--image-folder": asked.image_folder}
    given = [name for name, value in sources.items() if value is not None]
    models = {"--model": asked.model, "--onnx": asked.onnx, "--transformers": asked.transformers, "--timm": asked.timm}
    named = [name for name, value in models.items() if value is not None]
    for names, what in ((given, "data"), (named, "model")):
        if len(names) > 1:
            yield Mistake(f"{' and '.join(names)} are two kinds of {what}.", "Give one of them.")
    if asked.table is not None and asked.predict is None:
        yield Mistake("--predict is not given: the column to predict.", _columns(asked.table))
    about_tables = {
        "--predict": asked.predict, "--kind": asked.kind, "--text": asked.text, "--keep": asked.keep,
        "--leave-out": asked.leave_out,
    }  # fmt: skip
    for option, value in about_tables.items():
        if value and asked.table is None:
            yield Mistake(f"{option} is about a table, and none is given.", "Give --csv FILE or --parquet FILE.")
    if asked.transformers is not None and (asked.keep or asked.leave_out):
        yield Mistake("--transformers reads texts alone; --keep and --leave-out are of no use.", "Say --text NAME.")
    if asked.text and asked.transformers is None:
        yield Mistake("--text is about a model that reads text, and none is given.", "Give --transformers FOLDER.")
    if asked.kind not in (None, "classification", "regression"):
        yield Mistake(f"--kind {asked.kind} is not known.", "Say classification or regression.")
    if asked.transformers is not None and asked.image_folder is not None:
        yield Mistake("--transformers reads text here, and --image-folder holds images.", "Give --csv, or --timm.")
    if asked.timm is not None and asked.table is not None:
        yield Mistake("--timm networks read images, and a table holds none.", "Give --image-folder.")
    if asked.size is not None and (asked.image_folder is None or asked.size < 8):
        yield Mistake(f"--size {asked.size} is no size of images in a folder.", "Give --image-folder, and 8 or more.")
    if asked.skip_broken and asked.image_folder is None:
        yield Mistake("--skip-broken is about a folder of images, and none is given.", "Give --image-folder DIR.")
    if asked.groups and asked.table is None and asked.image_folder is None:
        yield Mistake("--groups says which samples belong together, and there are no data.", "Give --csv FILE as well.")
    if asked.model is not None and not all(part.strip() for part in (*asked.model.partition(":"),)):
        yield Mistake(f"--model {asked.model} cannot be read.", "Write module:callable, such as model:build.")
    if asked.weights is not None and not asked.weights.is_file():
        yield Mistake(f"There is no weights file {asked.weights}.", "Check the path.")
    if asked.weights is not None and not named:
        yield Mistake("--weights belong to a model, and none is given.", "Give --model module:callable as well.")
    if asked.onnx is not None and not asked.onnx.is_file():
        yield Mistake(f"There is no file {asked.onnx}.", "Check the path.")
    elif asked.onnx is not None and asked.onnx.suffix.lower() != ".onnx":
        yield Mistake(f"--onnx {asked.onnx} is no ONNX file.", "Name a file that ends in .onnx.")
    if asked.weights is not None and asked.onnx is not None:
        yield Mistake("--onnx brings its weights along.", "Leave --weights out.")
    if asked.weights is not None and asked.transformers is not None:
        yield Mistake("--transformers brings its weights along.", "Leave --weights out.")


def _columns(path: Path) -> str:
    """The cure for a target that was not named: the columns there are."""
    from boildown.tasks.columns import read

    try:
        return f"Name one of: {', '.join(read(path))}."
    except InputError as error:
        return str(error)


def _start(asked: _Asked) -> Start | None:
    """The project of the user's data, or None without any."""
    from boildown.api import starting

    if asked.table is not None and asked.predict is not None and asked.transformers is not None:
        return starting.start_text(
            asked.table, asked.predict, asked.transformers, asked.folder, asked.text, groups=asked.groups
        )
    if asked.table is not None and asked.predict is not None:
        return starting.start_table(
            asked.table, asked.predict, asked.folder, asked.kind,  # type: ignore[arg-type]
            train=asked.model is None and asked.onnx is None, keep=asked.keep, leave_out=asked.leave_out,
            groups=asked.groups,
        )  # fmt: skip
    if asked.image_folder is not None:
        if asked.timm is not None:
            return starting.start_timm(
                asked.image_folder, asked.folder, asked.timm,
                size=asked.size, train=asked.weights is None, skip_broken=asked.skip_broken,
                groups=asked.groups,
            )  # fmt: skip
        look = starting.usual_look() if asked.model else None
        look = look if asked.onnx is None else starting.look_of(asked.onnx)
        start = starting.start_images(
            asked.image_folder, asked.folder, look, size=asked.size, skip_broken=asked.skip_broken, groups=asked.groups
        )
        return start if asked.onnx is None else starting.told_of_look(start, asked.onnx)
    return None


def _config(asked: _Asked, start: Start | None) -> str:
    from boildown.api.starting import quoted

    conditions = _OWN if start is None else start.conditions
    return _CONFIG.format(model=_model(asked, start), conditions=", ".join(map(quoted, conditions)))


def _model(asked: _Asked, start: Start | None) -> str:
    """What the configuration says of the model."""
    from boildown.api.starting import quoted

    if asked.onnx is not None:
        return f"onnx = {quoted(_relative(asked.onnx, asked.folder))}"
    weights = _NO_WEIGHTS
    if asked.weights is not None:
        weights = f"weights = {quoted(_relative(asked.weights, asked.folder))}"
    elif start is None or start.network is not None:
        weights = f'weights = "{_WEIGHTS}"        # or a .pt file that holds only a state dict'
    factory = asked.model or (_factory(asked) if start is None else start.factory)
    return f"factory = {quoted(factory)}{_FACTORY_NOTE if factory == 'model:build' else ''}\n{weights}"


def _factory(asked: _Asked) -> str:
    """The factory where nothing is known of the data."""
    if asked.transformers is not None:
        return f"transformers:{_relative(asked.transformers, asked.folder)}"
    return "model:build" if asked.timm is None else f"timm:{asked.timm}"


def _trained(start: Start, minutes: float) -> Any:
    """The small network, trained while its progress is shown."""
    from boildown.api.starting import giving_away, shown, train_first
    from boildown.report.live import Live

    assert start.network is not None
    parameters = sum(parameter.numel() for parameter in start.network.parameters())
    typer.echo(
        f"There is no model: training a small one of {parameters:,} parameters, for {minutes:g} minutes at most."
    )
    with Live() as live:

        def progress(what: str, done: int, total: int | None) -> None:
            live("step", {"what": what, "done": done, "total": total})

        trained, scores = train_first(start, minutes, progress=progress)
    typer.echo(f"On the data to judge on it shows: {shown(start.task, scores)}.")
    for line in giving_away(start.alone, start.task, scores[start.task.metrics[0].name]):
        typer.echo(visible(line))
    return trained


def _refuse_existing(folder: Path, names: list[str]) -> None:
    there = [name for name in names if (folder / name).exists()]
    if there:
        raise InputError.of(f"{', '.join(there)} exists already in {real(folder)}.", "Choose another folder.")


def _relative(path: Path, folder: Path) -> str:
    """A path as the configuration names it: relative to it where that is near, else absolute."""
    resolved, base = real(path), real(folder)
    return Path(os.path.relpath(resolved, base)).as_posix() if resolved.is_relative_to(base) else resolved.as_posix()
