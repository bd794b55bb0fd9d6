"""OpenVINO runs what it is given as PyTorch does, in int8 where that was planned, and says what it cannot."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F
from runtime_networks import batch, exported, sqnr
from safetensors.torch import save_file
from test_names import CASES
from torch import Tensor, nn
from typer.testing import CliRunner

import boildown as bd
from boildown.cli import app
from boildown.domain.candidate import Edit, Plan
from boildown.engine.parity import first_apart
from boildown.errors import ExportError, InputError
from boildown.runtimes import get
from boildown.runtimes.base import Runtime
from boildown.runtimes.openvino import OpenVino
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate
from boildown.testing.runtime import RuntimeSuite

DYNAMIC = Edit("quantize-dynamic", 1, {})


class TestOpenVino(RuntimeSuite):
    @pytest.fixture
    def runtime(self) -> Runtime:
        return get("openvino")


class Depthwise(nn.Module):
    """Depthwise and pointwise convolutions whose channels are unlike each other: hard for few digits."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU6()]
        for _ in range(4):
            layers += [nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.ReLU6(), nn.Conv2d(16, 16, 1), nn.ReLU6()]
        self.layers, self.head = nn.Sequential(*layers), nn.Linear(16, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layers(x).mean((2, 3)))


class Mixed(nn.Module):
    """A dict of pictures and whole numbers in; numbers, whole numbers and truths out."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.table, self.head = nn.Conv2d(3, 8, 3), nn.Embedding(20, 8), nn.Linear(8, 6)

    def forward(self, inputs: dict[str, Tensor], scale: Tensor) -> dict[str, Tensor]:
        x = F.relu(self.conv(inputs["picture"])).mean((2, 3)) + self.table(inputs["ids"]).sum(1) * scale
        scores = self.head(x)
        return {"scores": scores, "label": scores.argmax(1), "sure": scores.max(1).values > 0.5}


def written(model: nn.Module | Graph, folder: Path, *args: Any, **how: Any) -> Path:
    """The artifact of a model."""
    graph = model if isinstance(model, Graph) else capture(model.eval(), args)
    runtime, path = get("openvino"), folder / "model.onnx"
    runtime.export(graph.serialize(), folder / "exported.onnx")
    runtime.write(folder / "exported.onnx", path, **how)
    return path


def planned(graph: Graph, *calls: Tensor) -> Plan:
    """A plan by OpenVINO's rules, as the methods make it."""
    placement, batches = place(graph, OpenVino.rules), [((call,), {}) for call in calls]
    plan = calibrate(graph, placement, batches, rules=OpenVino.rules)
    return correct_biases(graph, placement, plan, batches)


@pytest.mark.parametrize("name", ["encoder", "waves", "recurrent"])
def test_float_files_give_the_networks_outputs_at_any_size(name: str, tmp_path: Path) -> None:
    made, runtime = exported(name), get("openvino")
    runtime.write(made.path, tmp_path / "m.onnx")
    session = runtime.open(tmp_path / "m.onnx")
    many = name == "waves"
    for size in (1, 2, 5, 3, 7, 6, 2) if many else (3,):
        x = batch(name, size, seed=size)
        (result,) = session.run([x.numpy()])
        assert sqnr(made.graph.module(x).detach().numpy(), result) > 90
    assert len(session._requests) == (5 if many else 1), "four shapes have a model of their own, all others share one"


@pytest.mark.parametrize("name", ["residual", "encoder", "joined"])
def test_a_plan_is_run_on_integers_as_it_is_simulated(name: str, tmp_path: Path) -> None:
    made, runtime = exported(name), get("openvino")
    plan = planned(made.graph, batch(name, 64, seed=1))
    lean = runtime.write(made.path, tmp_path / "float.onnx")
    told = runtime.write(made.path, tmp_path / "int8.onnx", plan)
    assert told.notes == ()
    assert told.size < 0.45 * lean.size
    x = batch(name, 64, seed=2)
    (result,) = runtime.open(tmp_path / "int8.onnx").run([x.numpy()])
    with torch.no_grad():
        own, simulated = made.graph.module(x).numpy(), simulate(made.graph, plan)(x).numpy()
    assert sqnr(simulated, result) > 26
    assert sqnr(own, result) > sqnr(own, simulated) - 1


@pytest.mark.parametrize("name", ["residual", "encoder", "joined"])
@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
def test_the_layer_that_differs_is_found_in_a_portable_file(runtime: str, name: str, tmp_path: Path) -> None:
    made, path, x = exported(name), tmp_path / "m.onnx", batch(name, 4, seed=3)
    plan = planned(made.graph, batch(name, 64, seed=1))
    told = get(runtime).write(made.path, path, plan, form="portable")
    names = {value: called for called, value in told.facts["names"].items()}

    def apart(of: Plan) -> str | None:
        return first_apart(made.graph, of, names, [x], 4, lambda called: get(runtime).inside(path, called, [x.numpy()]))

    assert apart(plan) == ""
    weight = list(plan.weights)[-1]
    other = replace(plan.weights[weight], scale=tuple(3 * scale for scale in plan.weights[weight].scale))
    assert weight.replace("_", ".").split(".")[0] in (
        apart(replace(plan, weights={**plan.weights, weight: other})) or ""
    )


def test_depthwise_convolutions_are_computed_in_float32(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, x = Depthwise().eval(), torch.randn(4, 3, 32, 32)
    (result,) = get("openvino").open(written(model, tmp_path, x[:2])).run([x.numpy()])
    assert sqnr(model(x).detach().numpy(), result) > 90


def test_dicts_whole_numbers_and_truths_go_in_and_come_out(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Mixed().eval()
    args = ({"picture": torch.randn(3, 3, 8, 8), "ids": torch.randint(0, 20, (3, 4))}, torch.tensor(0.5))
    session = get("openvino").open(written(model, tmp_path, *args))
    assert [(p.name, p.dtype) for p in session.inputs] == [
        ("inputs_picture", "float32"), ("inputs_ids", "int64"), ("scale", "float32")
    ]  # fmt: skip
    assert [(p.name, p.dtype) for p in session.outputs] == [("scores", "float32"), ("label", "int64"), ("sure", "bool")]
    results = session.run([args[0]["picture"].numpy(), args[0]["ids"].numpy(), args[1].numpy()])
    for own, (name, wanted) in zip(results, model(*args).items(), strict=True):
        np.testing.assert_allclose(own, wanted.detach().numpy(), atol=1e-5, err_msg=name)


@pytest.mark.parametrize("case", ["tree", "taken", "letters"])
def test_ports_are_called_by_the_models_own_words(case: str, tmp_path: Path) -> None:
    model, args, inputs, outputs = CASES[case]
    session = get("openvino").open(_named(model, tmp_path, args))
    assert [port.name for port in session.inputs] == inputs
    assert [port.name for port in session.outputs] == outputs
    leaves = torch.utils._pytree.tree_leaves
    expected = [leaf for leaf in leaves(model(*args)) if leaf is not None]
    for ours, theirs in zip(session.run([leaf.numpy() for leaf in leaves(args)]), expected, strict=True):
        np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)


def _named(model: nn.Module, folder: Path, args: Any) -> Path:
    runtime = get("openvino")
    runtime.export(capture(model.eval(), args).serialize({"word": "logits"}), folder / "e.onnx")
    runtime.write(folder / "e.onnx", folder / "m.onnx")
    return folder / "m.onnx"


@pytest.mark.parametrize(("name", "ratio", "decibel"), [("encoder", 0.4, 35), ("recurrent", 0.3, 35)])
def test_weights_are_stored_in_8_bits(name: str, ratio: float, decibel: float, tmp_path: Path) -> None:
    made, runtime = exported(name), get("openvino")
    lean = runtime.write(made.path, tmp_path / "float.onnx")
    told = runtime.write(made.path, tmp_path / "int8.onnx", rewrite=DYNAMIC)
    assert told.size < ratio * lean.size
    model = onnx.load(tmp_path / "int8.onnx")
    assert {node.domain for node in model.graph.node} == {""}
    x = batch(name, 16, seed=2)
    (result,) = runtime.open(tmp_path / "int8.onnx").run([x.numpy()])
    assert sqnr(made.graph.module(x).detach().numpy(), result) > decibel


@pytest.mark.parametrize("edit", [Edit("quantize"), Edit("quantize-dynamic", 2), replace(DYNAMIC, args={"bit": 4})])
def test_an_unknown_rewrite_is_refused(edit: Edit, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="No file can be rewritten"):
        get("openvino").write(exported("encoder").path, tmp_path / "x.onnx", rewrite=edit)


def test_what_executes_is_told_layer_by_layer(tmp_path: Path) -> None:
    made, runtime = exported("residual"), get("openvino")
    for kind, plan in (("float32", None), ("int8", planned(made.graph, batch("residual", 64, seed=1)))):
        runtime.write(made.path, tmp_path / "m.onnx", plan)
        found = runtime.executed(tmp_path / "m.onnx", [batch("residual", 1).numpy()])
        layers = [step for step in found if step.weights]
        assert [step.precision for step in layers] == [kind] * 4
        assert sum(step.weights for step in layers) >= 16 * 27 + 32 * 16 * 9 + 32 * 8 * 9 + 320
        assert sum(step.seconds for step in found) > 0
        assert {step.stored for step in layers} == {kind}
        weights = {tensor.name for tensor in onnx.load(tmp_path / "m.onnx").graph.initializer}
        assert {step.name for step in layers} <= weights


def test_of_recurrent_layers_it_is_told_how_their_weights_are_stored(tmp_path: Path) -> None:
    runtime, made = get("openvino"), exported("recurrent")
    for rewrite, stored in ((None, "float32"), (DYNAMIC, "int8")):
        runtime.write(made.path, tmp_path / "m.onnx", rewrite=rewrite)
        found = runtime.executed(tmp_path / "m.onnx", [batch("recurrent", 1).numpy()])
        (layer,) = [step for step in found if step.kind == "RNNSeq"]
        assert (layer.precision, layer.stored, layer.weights > 1024) == ("float32", stored, True)


def test_an_operator_that_it_lacks_is_named_with_its_layer(tmp_path: Path) -> None:
    class Determinant(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 4)

        def forward(self, x: Tensor) -> Tensor:
            return torch.det(self.linear(x))

    with pytest.raises(ExportError, match=r"cannot run the operator Det \(layer .*det"):
        written(Determinant(), tmp_path, torch.randn(2, 4, 4))
    assert not (tmp_path / "model.onnx").exists()


@pytest.mark.parametrize(
    "array", [np.zeros((1, 4, 64)), np.zeros((1, 3, 64), np.float32), np.zeros(4, np.float32)], ids=str
)
def test_arrays_that_do_not_fit_are_the_users_mistake(array: np.ndarray, tmp_path: Path) -> None:
    get("openvino").write(exported("waves").path, tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"expected: x float32\['batch', 4, 64\]"):
        get("openvino").open(tmp_path / "m.onnx").run([array])


def test_whole_numbers_beyond_32_bits_are_refused_as_it_has_none(tmp_path: Path) -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + 1

    session = get("openvino").open(written(Sum(), tmp_path, torch.arange(6).view(2, 3)))
    assert session.run([np.array([[2**31 - 2, -(2**31), 0]])])[0].tolist() == [[2**31 - 1, 1 - 2**31, 1]]
    with pytest.raises(InputError, match="32 bits"):
        session.run([np.array([[2**31, 0, 0]])])


WITHOUT_TORCH = """
import sys, types, socket
def refuse(*_): raise AssertionError("it reaches for the network")
socket.socket.connect = socket.create_connection = refuse
package = types.ModuleType("boildown")
package.__path__ = [sys.argv[1]]
sys.modules |= {"boildown": package, "torch": None, "onnx": None, "onnxruntime": None}
from pathlib import Path
import boildown.runtimes
assert "openvino" not in sys.modules
session = boildown.runtimes.get("openvino").open(Path(sys.argv[2]))
assert [port.name for port in session.inputs] == ["x"]
exec(Path(sys.argv[3]).read_text(), {"__name__": "loader", "__file__": sys.argv[3]})
assert sys.modules["openvino_telemetry"] is None
"""


def test_a_session_opens_without_torch_and_reports_to_nobody(tmp_path: Path) -> None:
    runtime, path = get("openvino"), tmp_path / "model.onnx"
    runtime.write(exported("waves").path, path)
    (tmp_path / "load.py").write_text(runtime.loader(bd.Artifact.read("openvino", path)))
    package = str(Path(bd.__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, package, str(path), str(tmp_path / "load.py")],
        capture_output=True, text=True, check=False, env={"HOME": str(tmp_path), "PATH": ""},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "intel").exists(), "the telemetry of OpenVINO keeps a name for the machine there"


def test_without_the_package_nothing_begins(monkeypatch: pytest.MonkeyPatch, plugged: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("boildown.runtimes.openvino.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"needs OpenVINO, which is not installed[\s\S]*\[openvino\]"):
        bd.compress(
            plugged.model(), plugged.task(), "size <= 0.5x", deployment=bd.Deployment("openvino"),
            runs=tmp_path / "runs",
        )  # fmt: skip
    assert not (tmp_path / "runs").exists()


def test_a_version_that_computes_wrongly_is_refused_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    runtime = get("openvino")
    for machine, version, refused in (
        ("aarch64", "2026.2.1", True),
        ("aarch64", "2026.4.0", False),
        ("x86_64", "2025.0", False),
    ):
        monkeypatch.setattr("platform.machine", lambda machine=machine: machine)
        monkeypatch.setattr("importlib.metadata.version", lambda _name, version=version: version)
        told = runtime.refuses(Plan(), None)
        assert (told is not None) == refused
        assert told is None or re.search(r"OpenVINO 2026\.2\.1 .*openvino>=2026\.4", told)
        assert runtime.refuses(None, DYNAMIC) is None


# ---- whole runs --------------------------------------------------------------------------------

CONFIG = """
[model]
factory = "ov_model:build"
weights = "weights.safetensors"
[task]
factory = "ov_task:build"
[target]
conditions = ["accuracy drop <= 3 pp", "size <= 0.35x"]
[deployment]
runtime = "openvino"
[ladder]
rungs = ["quantize-static"]
"""


def test_a_run_from_its_configuration_to_predictions(
    digits_model: nn.Module, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, still: None
) -> None:
    """Compress, verify, take, measure and predict, as by hand."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    for file, factory in (("ov_model", "network(width=16)"), ("ov_task", "task()")):
        Path(f"{file}.py").write_text(f"from boildown.testing import digits\ndef build(): return digits.{factory}\n")
    save_file(digits_model.state_dict(), "weights.safetensors")
    Path("boildown.toml").write_text(CONFIG)

    def told(*arguments: str) -> str:
        result = CliRunner().invoke(app, arguments)
        assert result.exit_code == 0, result.output
        return result.output

    assert "TARGET MET" in told("compress", "boildown.toml")
    (best,) = Path("runs").glob("*/best")
    card = json.loads((best / "card.json").read_text())
    assert (card["artifact"]["runtime"], card["packages"]) == ("openvino", ["openvino", "numpy"])
    assert card["needs"].startswith("ONNX, opset 21; ONNX Runtime, OpenVINO")
    assert card["deployment"]["runtime"] == "openvino"
    assert card["artifact"]["version"] == get("openvino").version()
    assert card["artifact"]["version"] in (best / "README.md").read_text()
    assert "agrees" in told("verify", "latest")
    told("take", "latest", "1", "--to", "taken")
    assert "agrees" in told("verify", "taken")
    told("measure", "taken/model.onnx", "--config", "boildown.toml", "--target", "accuracy >= 90 %")
    for runtime in ("openvino", "onnxruntime"):
        conditions = ("--target", "accuracy >= 90 %")
        told("measure", "taken/model.onnx", "--config", "boildown.toml", "--runtime", runtime, *conditions)
    done = subprocess.run(
        [sys.executable, "-I", "taken/predict.py", "--check"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
