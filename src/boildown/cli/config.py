"""Reading boildown.toml into the arguments of `compress`."""

from __future__ import annotations

import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boildown as bd
from boildown.cli.options import judged_on
from boildown.errors import ConfigError, Mistake
from boildown.execution.child import ordered
from boildown.files import real
from boildown.methods.registry import suggestion

_KEYS: dict[str, dict[str, tuple[type, ...]]] = {
    "model": {
        "factory": (str,),
        "onnx": (str,),
        "weights": (str,),
        "expected": (dict,),
        "students": (list,),
        "initial_student": (str,),
    },
    "task": {"factory": (str,), "validation": (dict,)},
    "target": {"conditions": (list, str), "goal": (str,), "confidence": (float, int)},
    "budget": {"time": (str, int, float)},
    "deployment": {
        "runtime": (str, list),
        "form": (str,),
        "hardware": (str,),
        "batch": (int,),
        "threads": (int,),
        "on": (str,),
    },
    "latency": {"batch": (int,), "threads": (int,)},
    "ladder": {"rungs": (str, list)},
    "run": {
        "runtime": (str, list),
        "hardware": (str,),
        "device": (str,),
        "seed": (int,),
        "batch_size": (int,),
        "runs": (str,),
        "samples": (bool,),
    },
}
_REQUIRED = (("model", "factory"), ("task", "factory"), ("target", "conditions"))


@dataclass(frozen=True)
class Config:
    """What the file says; `arguments` are those of `boildown.compress` apart from model, task and target."""

    model: str
    task: str
    target: list[str]
    arguments: dict[str, Any]


def read_config(path: Path, onnx: Path | None = None) -> Config:
    """Read a configuration file; its folder is put on the import path, so that factories beside it are found.

    onnx: the file that is the model, in place of what the configuration says of one. Raises ConfigError with every
    mistake: unreadable TOML, unknown or missing keys, wrong types.
    """
    tables = _parse(path)
    if onnx is not None and isinstance(tables.get("model", {}), dict):
        own = {key: value for key, value in tables.get("model", {}).items() if key not in _OF_A_NETWORK}
        tables["model"] = {**own, "onnx": str(onnx.absolute())}
    mistakes: list[Mistake] = []
    for table, values in tables.items():
        if table not in _KEYS:
            mistakes.append(Mistake(f"{path.name} has an unknown table [{table}].", suggestion(table, list(_KEYS))))
        elif not isinstance(values, dict):
            mistakes.append(Mistake(f"{path.name}: {table} is no table.", f"Write [{table}] and its keys below."))
        else:
            mistakes += _check_table(path.name, table, values)
    of_file = isinstance(tables.get("model"), dict) and "onnx" in tables["model"]
    for table, key in _REQUIRED[of_file:]:
        if not isinstance(tables.get(table), dict) or key not in tables[table]:
            mistakes.append(Mistake(f"{path.name} lacks {key} in [{table}].", _EXAMPLES[table, key]))
    mistakes += [*_said_twice(path.name, tables), *_no_paths(path.name, tables)]
    mistakes += _beside_a_file(path.name, tables["model"]) if of_file else ()
    if mistakes:
        raise ConfigError(*mistakes)
    folder = str(real(path).parent)
    if folder not in sys.path:
        sys.path[:] = ordered([folder, *sys.path], Path.cwd())
    return _config(tables, real(path).parent)


_EXAMPLES = {
    (
        "model",
        "factory",
    ): 'For example: factory = "resnet:resnet56", a module:callable that returns the model; or onnx = "model.onnx".',
    ("task", "factory"): 'For example: factory = "task:cifar10", a module:callable that returns the task.',
    ("target", "conditions"): 'For example: conditions = ["accuracy drop <= 1 pp", "size <= 0.25x"].',
}


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError.of(f"There is no file {path}.", "`boildown init` writes one to start from.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError.of(f"{path} cannot be read: {error}.", "It must be a text file in UTF-8.") from None
    except RecursionError:
        raise ConfigError.of(f"{path} is nested too deep.", "A configuration has tables and short lists.") from None
    except ValueError as error:  # a TOMLDecodeError, or a number of too many digits
        raise ConfigError.of(f"{path} is no valid TOML: {error}.", "Mend that line; strings need quotes.") from None


def _check_table(file: str, table: str, values: dict[str, Any]) -> list[Mistake]:
    mistakes = []
    for key, value in values.items():
        kinds = _KEYS[table].get(key)
        if kinds is None:
            mistakes.append(
                Mistake(f"{file} has an unknown key {key!r} in [{table}].", suggestion(key, list(_KEYS[table])))
            )
        elif not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
            wanted = " or ".join(_TOML_NAMES[kind] for kind in kinds)
            mistakes.append(Mistake(f"{file}: {key} in [{table}] is {value!r}.", f"It must be {wanted}."))
    return mistakes


_PARTS = {"run": ("runtime", "hardware"), "latency": ("batch", "threads")}
"""What other tables may say of a deployment in its place."""


def _said_twice(file: str, tables: dict[str, Any]) -> list[Mistake]:
    """What [deployment] and another table say of the same."""
    said = tables.get("deployment", {})
    return [
        Mistake(f"{file}: {name} stands in [{table}] and in [deployment].", f"Leave it out of [{table}].")
        for table, names in _PARTS.items()
        for name in names
        if isinstance(said, dict) and isinstance(tables.get(table), dict) and name in said and name in tables[table]
    ]


def _no_paths(file: str, tables: dict[str, Any]) -> list[Mistake]:
    """Sets to judge on that are no paths."""
    task = tables.get("task")
    sets = task.get("validation") if isinstance(task, dict) else None
    return [
        Mistake(f"{file}: {name} in validation of [task] is {value!r}.", "It must be the path of a file or a folder.")
        for name, value in (sets.items() if isinstance(sets, dict) else ())
        if not isinstance(value, str)
    ]


def _beside_a_file(file: str, model: dict[str, Any]) -> list[Mistake]:
    """What does not go together with an ONNX file, or is none."""
    found = [
        Mistake(
            f"{file} names onnx and {key} in [model].", f"An ONNX file is the whole model: leave {key} out, or onnx."
        )
        for key in _OF_A_NETWORK
        if key in model
    ]
    if isinstance(model["onnx"], str) and not model["onnx"].lower().endswith(".onnx"):
        found.append(Mistake(f"{file}: onnx in [model] is {model['onnx']!r}.", "Name a file that ends in .onnx."))
    return found


_OF_A_NETWORK = ("factory", "weights")
_TOML_NAMES = {
    str: "a string",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}


def _config(tables: dict[str, Any], folder: Path) -> Config:
    model, target, run = tables["model"], tables["target"], dict(tables.get("run", {}))
    arguments: dict[str, Any] = {name: run[name] for name in run}
    for name, table, key in (
        ("goal", "target", "goal"),
        ("confidence", "target", "confidence"),
        ("budget", "budget", "time"),
        ("ladder", "ladder", "rungs"),
        ("expected", "model", "expected"),
        ("students", "model", "students"),
        ("initial_student", "model", "initial_student"),
    ):
        if key in tables.get(table, {}):
            arguments[name] = tables[table][key]
    if "weights" in model:
        arguments["weights"] = folder / model["weights"]
    if "deployment" in tables:
        parts = {name: arguments.pop(name) for name in _PARTS["run"] if name in arguments}
        arguments["deployment"] = bd.Deployment(**{**parts, **tables.get("latency", {}), **tables["deployment"]})
    elif "latency" in tables:
        arguments["latency"] = bd.Latency(**tables["latency"])
    conditions = target["conditions"]
    conditions = [conditions] if isinstance(conditions, str) else [str(condition) for condition in conditions]
    named = str(folder / model["onnx"]) if "onnx" in model else model["factory"]
    task = tables["task"]
    sets = {name: str(folder / path) for name, path in task.get("validation", {}).items()}
    return Config(named, judged_on(task["factory"], sets), conditions, arguments)
