"""What ONNX Runtime ends up running of a file is told by the layers of the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from runtime_networks import batch, exported, plan_of

from boildown.domain.candidate import Candidate, Edit, Plan
from boildown.engine.floats import floats
from boildown.engine.layers import layers
from boildown.errors import AttemptError
from boildown.runtimes import get
from boildown.runtimes.base import Executed
from boildown.surgery.calibrate import calibrate
from boildown.surgery.plan import place

RUNTIME = get("onnxruntime")


def looked_into(
    name: str, folder: Path, plan: Plan | None = None, rewrite: Edit | None = None, method: str = "quantize-static"
) -> tuple[dict[str, Any], tuple[Executed, ...]]:
    """What stayed float of a written network, and all that runs."""
    made, path = exported(name), folder / "model.onnx"
    written = RUNTIME.write(made.path, path, plan, rewrite)
    executed = RUNTIME.executed(path, [batch(name, 2, seed=2).numpy()])
    candidate = Candidate(None, method, plan=plan, rewrite=rewrite)
    return floats(made.graph, candidate, executed, written.facts.get("names", {}), RUNTIME.rules), executed


def of_weights(found: dict[str, Any]) -> dict[str, float]:
    """The shares of weights of the layers that hold any."""
    return {layer["name"]: layer["weights"] for layer in found["layers"] if layer["weights"]}


@pytest.mark.parametrize(("name", "count"), [("residual", 4), ("joined", 5), ("waves", 3), ("film", 3), ("encoder", 8)])
def test_every_layer_is_known_again_in_what_runs(name: str, count: int, tmp_path: Path) -> None:
    found, executed = looked_into(name, tmp_path, plan_of(name))
    assert found["of"] == count
    assert found["lost"] == []
    assert all(step.precision for step in executed)
    assert sum(step.seconds for step in executed) > 0


def test_of_a_network_of_integers_nothing_with_weights_is_float(tmp_path: Path) -> None:
    found, executed = looked_into("residual", tmp_path, plan_of("residual"))
    assert of_weights(found) == {}
    assert found["weights"] == 0
    heavy = [step for step in executed if step.weights]
    assert {(step.precision, step.stored) for step in heavy} == {("int8", "int8")}
    assert {step.weights for step in heavy} == {16 * 3 * 9, 32 * 16 * 9, 32 * 8 * 9, 10 * 32}


def test_what_the_runtime_has_no_integer_kernel_for_is_float(tmp_path: Path) -> None:
    graph = exported("sensor").graph
    found, _executed = looked_into("sensor", tmp_path, plan_of("sensor"))
    total = sum(size(layer["shape"]) for layer in layers(graph, None))
    assert found["lost"] == []
    assert of_weights(found) == {"gru": pytest.approx((3 * 32 * 24 + 3 * 32 * 32) / total)}
    (gru,) = [layer for layer in found["layers"] if layer["name"] == "gru"]
    assert (gru["kind"], "no integer kernel for GRU" in gru["reason"]) == ("GRU", True)
    assert 0 < gru["time"] < found["time"] <= 1


def test_shares_of_what_is_float_and_of_the_rest_add_up(tmp_path: Path) -> None:
    """All of the small U-Net's layers but one are float."""
    graph = exported("joined").graph
    placement = place(graph, skip=["a.weight", "b.weight"])
    plan = calibrate(graph, placement, [((batch("joined", 16),), {})])
    found, _executed = looked_into("joined", tmp_path, plan, method="quantize-mixed")
    sizes = {layer["name"]: size(layer["shape"]) for layer in layers(graph, None)}
    assert of_weights(found).keys() == sizes.keys() - {"c"}
    assert found["weights"] == pytest.approx(sum(of_weights(found).values()))
    assert found["weights"] + sizes["c"] / sum(sizes.values()) == pytest.approx(1)
    assert sum(layer["time"] for layer in found["layers"]) <= found["time"] < 1


@pytest.mark.parametrize("name", ["encoder", "recurrent"])
def test_a_file_rewritten_to_int8_has_its_layers_in_integers(name: str, tmp_path: Path) -> None:
    found, executed = looked_into(name, tmp_path, rewrite=Edit("quantize-dynamic"), method="quantize-dynamic")
    assert of_weights(found) == {}
    assert found["lost"] == []
    kinds = {step.kind for step in executed if step.weights}
    assert {"encoder": "Gather", "recurrent": "DynamicQuantizeLSTM"}[name] in kinds


def test_a_convolution_that_is_rewritten_with_the_rest_stays_float(tmp_path: Path) -> None:
    found, _executed = looked_into("sensor", tmp_path, rewrite=Edit("quantize-dynamic"), method="quantize-dynamic")
    assert list(of_weights(found)) == ["a", "b", "gru"]
    reasons = {layer["name"]: layer["reason"] for layer in found["layers"]}
    assert reasons["gru"] == "no integer kernel for GRU"
    assert reasons["a"].startswith("quantize-dynamic leaves")


@pytest.mark.parametrize(
    ("name", "skipped", "reason"),
    [
        ("residual", ["first.1"], "one of the first layers, left float by quantize-mixed"),
        ("residual", ["b"], "left float by quantize-mixed"),
        ("joined", ["a", "b"], "one of the first layers, left float by quantize-mixed"),
    ],
)
def test_layers_that_were_left_out_are_named_with_the_reason(
    name: str, skipped: list[str], reason: str, tmp_path: Path
) -> None:
    graph = exported(name).graph
    placement = place(graph, skip=[f"{layer}.weight" for layer in skipped])
    plan = calibrate(graph, placement, [((batch(name, 16),), {})])
    found, _executed = looked_into(name, tmp_path, plan, method="quantize-mixed")
    assert [layer for layer in of_weights(found) if layer not in ("up", "out")] == skipped
    assert {layer["reason"] for layer in found["layers"] if layer["name"] in skipped} == {reason}


def test_a_transposed_convolution_is_told(tmp_path: Path) -> None:
    found, _executed = looked_into("joined", tmp_path, plan_of("joined"))
    assert "up" in of_weights(found)


@pytest.mark.parametrize(("bits", "stored"), [(8, "int8"), (4, "int4")])
def test_weights_that_are_integers_in_the_file_alone_are_told(bits: int, stored: str, tmp_path: Path) -> None:
    plan = replace(plan_of("waves", bits), activations={}, biases={})
    found, _executed = looked_into("waves", tmp_path, plan)
    assert list(of_weights(found)) == ["a", "b", "head"]
    reasons = {layer["reason"] for layer in found["layers"] if layer["weights"]}
    assert reasons == {f"stored in {stored}, computed in float: only weights are quantized"}


def test_a_convolution_whose_output_is_on_no_grid_is_told(tmp_path: Path) -> None:
    plan = plan_of("joined")
    found, _executed = looked_into("joined", tmp_path, plan)
    (out,) = [layer for layer in found["layers"] if layer["name"] == "out"]
    assert out["reason"] == "stored in int8, computed in float: its output is on no grid"


def test_names_that_lead_nowhere_are_an_error_and_no_empty_table() -> None:
    candidate = Candidate(None, "quantize-static", plan=plan_of("residual"))
    executed = [Executed("x", "QLinearConv", "int8", 1e-3, 432)]
    with pytest.raises(AttemptError, match="known again"):
        floats(exported("residual").graph, candidate, executed, {}, RUNTIME.rules)


def test_a_layer_that_the_runtime_gives_a_name_of_its_own_is_known_by_its_place() -> None:
    """As OpenVINO does with recurrent layers, and with products that it transforms."""
    graph, plan = exported("sensor").graph, plan_of("sensor")
    steps = [
        Executed("Convert_3", "Convert", "float32", 1e-3),
        Executed("relu", "Convolution", "int8", 1e-3),
        Executed("b.weight", "Convolution", "int8", 1e-3, 1152),
        Executed("GRUSequence_7", "RNNSeq", "float32", 6e-3),
        Executed("mean,linear", "FullyConnected", "int8", 2e-3),
    ]
    found = floats(graph, Candidate(None, "quantize-static", plan=plan), steps, {}, RUNTIME.rules)
    assert (list(of_weights(found)), found["lost"], found["time"]) == (["gru"], [], pytest.approx(7 / 11))
    found = floats(graph, Candidate(None, "quantize-static", plan=plan), steps[:3] + steps[4:], {}, RUNTIME.rules)
    assert ([layer["name"] for layer in found["layers"]], found["lost"]) == (["Convert"], ["gru"])


def size(shape: list[int]) -> int:
    total = 1
    for each in shape:
        total *= each
    return total
