"""boildown.toml is read with every mistake at once."""

from __future__ import annotations

import sys
import sysconfig
from urllib.parse import parse_qsl

import pytest

from boildown.cli.config import read_config
from boildown.cli.options import judged_on, sets_of
from boildown.domain.deployment import Deployment, Latency
from boildown.errors import ConfigError

GOOD = """
[model]
factory = "resnet:resnet56"
weights = "resnet56.safetensors"
expected = {accuracy = 0.934}
[task]
factory = "task:cifar10"
[target]
conditions = ["accuracy drop <= 1 pp", "size <= 0.25x"]
goal = "smallest"
confidence = 0.95
[budget]
time = "2 h"
[latency]
batch = 4
threads = 2
[ladder]
rungs = ["quantize-static", {method = "quantize-static", ranges = "mse"}]
[run]
seed = 3
"""


@pytest.fixture
def write(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))

    def written(text):
        path = tmp_path / "boildown.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def test_a_whole_file_becomes_the_arguments_of_compress(write, tmp_path):
    read = read_config(write(GOOD))
    assert (read.model, read.task) == ("resnet:resnet56", "task:cifar10")
    assert read.target == ["accuracy drop <= 1 pp", "size <= 0.25x"]
    assert read.arguments == {
        "weights": tmp_path / "resnet56.safetensors",
        "expected": {"accuracy": 0.934},
        "goal": "smallest",
        "confidence": 0.95,
        "budget": "2 h",
        "latency": Latency(4, 2),
        "ladder": ["quantize-static", {"method": "quantize-static", "ranges": "mse"}],
        "seed": 3,
    }
    place = sys.path.index(str(tmp_path))
    assert place > sys.path.index(sysconfig.get_path("stdlib")), "a random.py beside the file is no part of Python"
    assert all("site-packages" not in entry for entry in sys.path[:place]), "factories beside the file are found"


def test_the_least_file_leaves_everything_to_the_defaults(write):
    read = read_config(
        write('[model]\nfactory="m:f"\n[task]\nfactory="t:f"\n[target]\nconditions="size <= 0.5x"\n[latency]\n')
    )
    assert read.target == ["size <= 0.5x"]
    assert read.arguments == {"latency": Latency()}


def test_a_deployment_is_one_table_and_takes_what_others_say_of_it(write):
    least = '[model]\nfactory="m:f"\n[task]\nfactory="t:f"\n[target]\nconditions="size <= 0.5x"\n'
    table = '[deployment]\nruntime = "eager"\nbatch = 8\n'
    read = read_config(write(f'{least}{table}[latency]\nthreads = 2\n[run]\nhardware = "arm64"\nseed = 3\n'))
    assert read.arguments == {"deployment": Deployment("eager", hardware="arm64", batch=8, threads=2), "seed": 3}
    with pytest.raises(ConfigError) as caught:
        read_config(write(f'{least}{table}[latency]\nbatch = 8\n[run]\nruntime = "onnxruntime"\n'))
    assert {"batch stands in [latency]", "runtime stands in [run]"} <= {
        mistake.cause.partition(": ")[2].partition(" and")[0] for mistake in caught.value.mistakes
    }


def test_every_mistake_is_told_at_once(write):
    path = write("""
title = 5
[modle]
factory = "m:f"
[task]
factory = 3
[target]
goal = "first"
gaol = "first"
[latency]
batch = true
""")
    with pytest.raises(ConfigError) as caught:
        read_config(path)
    told = str(caught.value)
    for part in (
        "unknown table [title]", "unknown table [modle]", "Did you mean 'model'?", "factory in [task] is 3",
        "must be a string", "unknown key 'gaol'", "Did you mean 'goal'?", "batch in [latency] is True",
        "a whole number", "lacks factory in [model]", "lacks conditions in [target]", 'conditions = ["accuracy',
    ):  # fmt: skip
        assert part in told
    assert all(mistake.cure for mistake in caught.value.mistakes)


@pytest.mark.parametrize(
    ("text", "told"),
    [("[model", "no valid TOML"), ('[model]\nfactory = m:f"', "no valid TOML"), ("model = 3", "is no table")],
)
def test_what_is_no_configuration_is_refused(write, text, told):
    with pytest.raises(ConfigError, match=told):
        read_config(write(text))


def test_a_missing_or_unreadable_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match="There is no file"):
        read_config(tmp_path / "absent.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_config(tmp_path / "binary.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        read_config(tmp_path)


def test_the_file_that_init_writes_can_be_read(tmp_path, monkeypatch, capsys):
    from boildown.cli.init import init

    monkeypatch.setattr(sys, "path", list(sys.path))
    assert init(tmp_path / "new") == 0
    read = read_config(tmp_path / "new" / "boildown.toml")
    assert (read.model, read.task) == ("model:build", "task:build")
    assert "boildown compress" in capsys.readouterr().out


def test_what_is_nested_or_long_beyond_measure_is_refused(write):
    for text, told in (("a = " + "[" * 5000, "nested too deep"), ("a = " + "9" * 5000, "no valid TOML")):
        with pytest.raises(ConfigError, match=told):
            read_config(write(text))


def test_further_sets_to_judge_on_are_paths_beside_the_file(write, tmp_path):
    least = '[model]\nfactory="m:f"\n[task]\nfactory="t:f"\n[target]\nconditions="accuracy[night] >= 90 %"\n'
    read = read_config(write(f'{least}[task.validation]\nnight = "at night/"\nfog = "/data/fog?.csv"\n'))
    module, _, sets = read.task.partition("?")
    assert module == "t:f"
    assert parse_qsl(sets) == [("night", str(tmp_path / "at night")), ("fog", "/data/fog?.csv")]
    with pytest.raises(ConfigError, match=r"night in validation of \[task\] is 3"):
        read_config(write(f"{least}[task.validation]\nnight = 3\n"))
    with pytest.raises(ConfigError, match=r"validation in \[task\] is 'night\.csv'"):
        read_config(write(least.replace("[target]", 'validation = "night.csv"\n[target]')))


def test_the_command_line_adds_sets_to_those_of_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sets = sets_of(["night=b c.csv"])
    assert sets == {"night": str(tmp_path / "b c.csv")}
    assert parse_qsl(judged_on("t:f?fog=a", sets).partition("?")[2]) == [("fog", "a"), *sets.items()]
    assert judged_on("t:f", sets_of(None)) == "t:f"


def test_a_model_may_be_a_file(write, tmp_path):
    rest = '[task]\nfactory="t:f"\n[target]\nconditions="size <= 0.5x"\n'
    assert read_config(write(f'[model]\nonnx = "nets/a.onnx"\n{rest}')).model == str(tmp_path / "nets/a.onnx")
    named = read_config(
        write(f'[model]\nfactory = "m:f"\nweights = "w.pt"\nexpected = {{a = 1.0}}\n{rest}'), tmp_path / "b.onnx"
    )
    assert (named.model, named.arguments) == (str(tmp_path / "b.onnx"), {"expected": {"a": 1.0}})
    assert read_config(write(rest), tmp_path / "b.onnx").model == str(tmp_path / "b.onnx")
    with pytest.raises(ConfigError) as caught:
        read_config(write(f'[model]\nonnx = "a.pt"\nfactory = "m:f"\nweights = "w.pt"\n{rest}'))
    assert [mistake.cause.partition(": ")[2] or mistake.cause for mistake in caught.value.mistakes] == [
        "boildown.toml names onnx and factory in [model].", "boildown.toml names onnx and weights in [model].",
        "onnx in [model] is 'a.pt'.",
    ]  # fmt: skip
