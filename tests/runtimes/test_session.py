from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, external_data_helper, helper
from onnx import numpy_helper as nph
from runtime_networks import batch, exported, values_of
from torch import nn

import boildown.runtimes
from boildown.domain.candidate import Edit, Plan
from boildown.errors import ExportError, InputError, UntrustedFileError
from boildown.runtimes import Port, get, names
from boildown.runtimes.eager import Eager
from boildown.surgery.graph import capture

_WITHOUT_TORCH = """
import sys, types
package = types.ModuleType("boildown")
package.__path__ = [sys.argv[1]]
sys.modules |= {"boildown": package, "torch": None, "onnx": None}
from pathlib import Path
import boildown.runtimes
assert "onnxruntime" not in sys.modules
session = boildown.runtimes.get("onnxruntime").open(Path(sys.argv[2]))
assert [port.name for port in session.inputs] == ["x"]
"""


def test_a_session_opens_without_torch() -> None:
    """And without onnx: a child that times an artifact starts at once."""
    package = Path(boildown.runtimes.__file__).parent.parent
    command = [sys.executable, "-c", _WITHOUT_TORCH, str(package), str(exported("waves").path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_runtimes_by_name() -> None:
    assert set(names()) >= {"onnxruntime", "eager"}
    assert (get("onnxruntime").name, get("onnxruntime").suffix) == ("onnxruntime", ".onnx")
    assert get("onnxruntime").version().startswith("onnxruntime 1.")
    with pytest.raises(InputError, match=r"'tensorrt'[\s\S]*onnxruntime, eager"):
        get("tensorrt")


def test_plug_ins_are_found_by_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    class Point:
        name = "mine"

        def load(self) -> type[Eager]:
            return Eager

    found = [Point()]
    monkeypatch.setattr(boildown.runtimes, "entry_points", lambda group, name="mine": found if name == "mine" else [])
    assert names()[-1] == "mine"
    assert isinstance(get("mine"), Eager)


def test_ports_and_flat_runs() -> None:
    session = get("onnxruntime").open(exported("waves").path, threads=2)
    (given,), (made,) = session.inputs, session.outputs
    assert (given.name, given.dtype, given.shape[1:]) == ("x", "float32", (4, 64))
    assert isinstance(given.shape[0], str)
    assert (made.name, made.dtype, made.shape[1:]) == ("linear", "float32", (6,))
    (result,) = session.run([batch("waves", 5).numpy()])
    assert result.shape == (5, 6)
    assert get("onnxruntime").open(exported("encoder").path).inputs[0].dtype == "int64"


@pytest.mark.parametrize(
    "arrays",
    [[], [np.zeros((1, 4, 64))], [np.zeros((1, 3, 64), np.float32)], [np.zeros(4, np.float32)]],
    ids=["none", "float64", "channels", "rank"],
)
def test_arrays_that_do_not_fit_are_the_users_mistake(arrays: list[np.ndarray]) -> None:
    with pytest.raises(InputError, match="x"):
        get("onnxruntime").open(exported("waves").path).run(arrays)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    runtime, damaged = get("onnxruntime"), tmp_path / "damaged.onnx"
    with pytest.raises(InputError, match="no file"):
        runtime.open(tmp_path / "missing.onnx")
    for data in (b"", b"location", b"not a model", exported("waves").path.read_bytes()[:5000]):
        damaged.write_bytes(data)
        with pytest.raises(InputError, match=r"damaged\.onnx"):
            runtime.open(damaged)


def _with_external_data(path: Path, location: str) -> None:
    weight = nph.from_array(np.ones((1, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("Add", ["x", "w"], ["y"])],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, (1, 4))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, (1, 4))],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    tensor = model.graph.initializer[0]
    external_data_helper.set_external_data(tensor, location)
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize("outside", ["../secret.bin", "{root}/secret.bin"])
def test_external_data_outside_the_folder_is_refused(outside: str, tmp_path: Path) -> None:
    folder = tmp_path / "given"
    folder.mkdir()
    (tmp_path / "secret.bin").write_bytes(np.ones(4, np.float32).tobytes())
    _with_external_data(folder / "model.onnx", outside.format(root=tmp_path))
    with pytest.raises(InputError, match="outside its folder"):
        get("onnxruntime").open(folder / "model.onnx")


def test_external_data_beside_the_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "weights.bin").write_bytes(np.full(4, 2, np.float32).tobytes())
    _with_external_data(tmp_path / "model.onnx", "weights.bin")
    (result,) = get("onnxruntime").open(tmp_path / "model.onnx").run([np.ones((1, 4), np.float32)])
    assert result.tolist() == [[3.0] * 4]


def test_a_word_across_two_blocks_is_found(tmp_path: Path) -> None:
    from boildown.runtimes.onnx.external import _contains

    path = tmp_path / "x"
    path.write_bytes(b"....loca" + b"tion....")
    assert _contains(path, b"location", block=8)
    assert not _contains(path, b"locations", block=8)


# ---- eager -----------------------------------------------------------------------------------


class _Two(nn.Module):
    def forward(self, a: torch.Tensor, pair: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {"sum": a + pair["b"], "product": a * pair["c"]}


def test_eager_runs_the_program_on_flat_arrays(tmp_path: Path) -> None:
    runtime, arrays = get("eager"), [np.full((2, 3), k, np.float32) for k in (2, 3, 4)]
    a, b, c = map(torch.from_numpy, arrays)
    runtime.export(capture(_Two(), (a, {"b": b, "c": c})).serialize(), tmp_path / "e.pt2")
    written = runtime.write(tmp_path / "e.pt2", tmp_path / "x.pt2")
    assert (written.form, written.size) == ("float", (tmp_path / "x.pt2").stat().st_size)
    session = Eager().open(tmp_path / "x.pt2", trust=True)
    assert [port.shape[1:] for port in session.inputs] == [(3,)] * 3
    assert [isinstance(port, Port) and port.dtype for port in session.outputs] == ["float32"] * 2
    total, product = session.run([array[:1] for array in arrays])
    assert total.tolist() == [[5.0] * 3]
    assert product.tolist() == [[8.0] * 3]
    with pytest.raises(InputError, match="takes 3 inputs and was given 1"):
        session.run(arrays[:1])


def test_eager_agrees_with_torch_and_onnxruntime(tmp_path: Path) -> None:
    made, x = exported("residual"), batch("residual", 4, seed=1)
    (tmp_path / "x.pt2").write_bytes(made.graph.serialize())
    (result,) = Eager().open(tmp_path / "x.pt2", trust=True).run([x.numpy()])
    np.testing.assert_array_equal(result, values_of(made.graph, x)["linear"].numpy())
    np.testing.assert_allclose(result, get("onnxruntime").open(made.path).run([x.numpy()])[0], atol=1e-4)


def test_eager_opens_nothing_without_trust(tmp_path: Path) -> None:
    with pytest.raises(UntrustedFileError, match="trust=True"):
        get("eager").open(tmp_path / "x.pt2")
    with pytest.raises(InputError, match="no file"):
        Eager().open(tmp_path / "x.pt2", trust=True)
    (tmp_path / "x.pt2").write_bytes(b"nothing")
    with pytest.raises(InputError, match=r"not a torch\.export program"):
        Eager().open(tmp_path / "x.pt2", trust=True)


@pytest.mark.parametrize("asked", [{"plan": Plan()}, {"rewrite": Edit("quantize-dynamic")}])
def test_eager_is_float_only(asked: dict, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="float candidates only"):
        get("eager").write(tmp_path / "e.pt2", tmp_path / "x.pt2", **asked)


def test_onnx_is_what_the_exported_file_is() -> None:
    assert onnx.load(exported("waves").path).opset_import[0].version == 21
