"""A model that comes as an ONNX file: from the file to a judged and delivered one, or to a refusal that says why."""

from __future__ import annotations

import contextlib
import runpy
import shutil
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import boildown as bd
import no_clock
from boildown.engine import brought
from boildown.engine.bench import Bench, signal_to_noise
from boildown.engine.unread import Unread
from boildown.runtimes.base import Port
from boildown.surgery.onnx_file import OnnxFile, factory_of
from conftest import TASK, told

CONFIG = """
[model]
factory = "nowhere:build"
weights = "none.pt"
[task]
factory = "project_task:build"
[target]
conditions = ["accuracy drop <= 2 pp", "size <= 0.4x"]
goal = "smallest"
[ladder]
rungs = ["half", "quantize-dynamic", "prune(ratio=0.5)"]
"""
TARGET = ["accuracy drop <= 3 pp", "size <= 0.35x"]


def exported(model, path, *, axes=True, example=None):
    """The model as the TorchScript exporter writes it, with names that no Python argument has."""
    named = {"images.1": {0: "N"}, "scores:0": {0: "N"}} if axes else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            model, (torch.zeros(1, 1, 8, 8) if example is None else example,), path, dynamo=False, opset_version=17,
            input_names=["images.1"], output_names=["scores:0"], dynamic_axes=named,
        )  # fmt: skip
    return path


def answers(path, images):
    session = onnxruntime.InferenceSession(path)
    return session.run(None, {session.get_inputs()[0].name: images.numpy()})[0]


@pytest.fixture(scope="module", autouse=True)
def clockless():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "latency", no_clock.latency)
        yield


@pytest.fixture(scope="module")
def images(digits_task):
    return next(iter(digits_task.validation.batches(64)))[0]


@pytest.fixture(scope="module")
def file(digits_task, tmp_path_factory):
    return exported(learned(convolutional, digits_task), tmp_path_factory.mktemp("brought") / "digits.onnx")


@pytest.fixture(scope="module")
def run(file):
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(file.parent))
        (file.parent / "task_of_digits.py").write_text(TASK)
        yield bd.compress(  # candidates are made in a child process, which reads the file by itself
            file, "task_of_digits:build", TARGET, goal="smallest", ladder=["quantize-static", "prune(ratio=0.5)"],
            runs=file.parent / "runs", verbose=False,
        )  # fmt: skip


def test_attempt_0_is_the_file_to_the_byte(run, file):
    first = run.attempt(0)
    assert first.artifact.read_bytes() == file.read_bytes()
    assert first.measurements["size"].value == file.stat().st_size
    assert first.measurements["size"].ratio == 1.0
    (note,) = (note for note in first.notes if "agrees with the file" in note)
    assert float(note.split()[-2]) >= 90


def test_ratios_are_of_the_file_and_the_lean_one_stands_beside(run, file):
    assert run.outcome is bd.Outcome.TARGET_MET
    assert [result.state.value for result in run.candidates][:2] == ["missed", "met"]
    size = run.attempt(1).measurements["size"]
    assert size.ratio == run.attempt(1).artifact.stat().st_size / file.stat().st_size
    assert any("as boildown writes it in float" in note for note in size.notes)
    assert run.attempt(2).measurements["macs"].ratio == pytest.approx(0.5, abs=0.05)


def test_every_file_has_the_inputs_outputs_and_axes_of_the_users(run, file):
    wanted = onnxruntime.InferenceSession(file)
    for attempt in run.candidates:
        session = onnxruntime.InferenceSession(attempt.artifact)
        for side in ("get_inputs", "get_outputs"):
            ports, own = getattr(session, side)(), getattr(wanted, side)()
            assert [(p.name, p.type, p.shape) for p in ports] == [(p.name, p.type, p.shape) for p in own]


def test_the_module_is_the_network_and_trains(run, file, images):
    module = run.attempt(0).module()
    with torch.no_grad():
        assert signal_to_noise(answers(file, images), module(images).numpy()) >= 90
    module(images).sum().backward()
    assert any(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in module.parameters())
    simulated = run.attempt(1).module()
    with torch.no_grad():
        assert signal_to_noise(simulated(images).numpy(), answers(run.attempt(1).artifact, images)) >= 30


def test_what_is_handed_over_predicts(run):
    names = runpy.run_path(str(run.path / "best" / "predict.py"))
    with contextlib.redirect_stdout(None):
        names["check"](names["Model"]())


def test_a_run_goes_on_with_the_file_it_began_with_and_no_other(run, file, digits_task, tmp_path):
    elsewhere = tmp_path / "moved.onnx"
    shutil.copy(file, elsewhere)
    changed = onnx.load(file)
    changed.graph.node[-1].attribute.extend([])
    weight = next(tensor for tensor in changed.graph.initializer if len(tensor.dims) == 2)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * 1.5, weight.name))
    kept = file.read_bytes()
    try:
        onnx.save(changed, file)
        with pytest.raises(bd.InputError, match="is not the file that the run began with"):
            bd.resume(run.path, task=digits_task, verbose=False)
        with pytest.raises(bd.InputError, match="The model is not what run"):
            bd.resume(run.path, file, digits_task, verbose=False)
        again = bd.resume(run.path, elsewhere, digits_task, verbose=False)
        assert again.outcome is bd.Outcome.TARGET_MET
    finally:
        file.write_bytes(kept)
    assert bd.verify(run.path, task=digits_task).agrees


def convolutional():
    return nn.Sequential(
        nn.Conv2d(1, 24, 3, padding=1), nn.BatchNorm2d(24), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(24, 48, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10),
    )  # fmt: skip


class Fixed(nn.Module):
    """Its forward takes the batch for a constant once it is traced."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(64, 64), nn.Linear(64, 10)

    def forward(self, x):
        return self.last(torch.relu(self.first(x.reshape(x.shape[0], 64))))


@pytest.fixture(scope="module")
def trained(digits_task):
    return learned(Fixed, digits_task)


def learned(make, task):
    torch.manual_seed(0)
    model, (x, y) = make(), next(iter(task.train.batches(1000)))
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return model.eval()


def test_a_file_for_one_sample_with_weights_beside_it_keeps_that_and_is_scored(trained, digits_task, tmp_path):
    file = exported(trained, tmp_path / "one.onnx", axes=False)
    onnx.save(onnx.load(file), file, save_as_external_data=True, location="one.bin", size_threshold=0)
    run = bd.compress(file, digits_task, TARGET, ladder=["quantize-static"], runs=tmp_path / "runs", verbose=False)
    assert run.outcome is bd.Outcome.TARGET_MET
    (port,) = onnxruntime.InferenceSession(run.best.artifact).get_inputs()
    assert (port.name, port.shape) == ("images.1", [1, 1, 8, 8])
    assert run.attempt(0).measurements["accuracy"].value > 0.9
    assert {*run.attempt(0).files.files} == {"model.onnx", "one.bin"}
    assert {*run.best.files.files} == {"model.onnx"}
    with pytest.raises(bd.InputError, match="takes 1 samples at a time"):
        bd.compress(file, digits_task, TARGET, latency=bd.Latency(batch=4), runs=tmp_path / "others", verbose=False)
    assert not (tmp_path / "others").exists()


def with_spectrum(path, model):
    """A file with an operator that is not read into a network."""
    weights = {name: value.numpy() for name, value in model.state_dict().items()}
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Gemm", ["flat", "first.weight", "first.bias"], ["inner"], transB=1),
        helper.make_node("Relu", ["inner"], ["active"]),
        helper.make_node("Gemm", ["active", "last.weight", "last.bias"], ["logits"], transB=1),
        helper.make_node("Unsqueeze", ["flat", "two"], ["signal"]),
        helper.make_node("DFT", ["signal"], ["spectrum"], name="odd", axis=1),
        helper.make_node("ReduceSum", ["spectrum", "one"], ["sums"]),
        helper.make_node("ReduceSum", ["sums", "two"], ["volume"], keepdims=0),
        helper.make_node("Mul", ["volume", "nothing"], ["none"]),
        helper.make_node("Add", ["logits", "none"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 1, 8, 8])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["N", 10])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()]
        + [numpy_helper.from_array(np.zeros((), np.float32), "nothing")]
        + [numpy_helper.from_array(np.array([axis]), name) for axis, name in ((1, "one"), (2, "two"))],
    )  # fmt: skip
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_a_file_that_cannot_be_read_stays_one_and_is_lightened_as_such(trained, digits_task, tmp_path, monkeypatch):
    file = with_spectrum(tmp_path / "odd.onnx", trained)
    monkeypatch.chdir(tmp_path)
    Path("project_task.py").write_text(TASK)
    Path("boildown.toml").write_text(CONFIG)
    done = told("compress", "odd.onnx", "--json")
    assert (done.code, done.data["outcome"]) == (0, "TARGET_MET"), done.err
    run = bd.resume("latest", verbose=False)
    assert [result.state.value for result in run.candidates] == ["missed", "missed", "met", "skipped"]
    assert run.attempt(0).artifact.read_bytes() == file.read_bytes()
    assert 0.5 < run.attempt(1).measurements["size"].ratio < 0.6
    assert "DFT" in run.attempt(3).sentence
    assert "odd" in run.attempt(3).sentence
    assert "stays a file" in str(run)
    (port,) = onnxruntime.InferenceSession(run.best.artifact).get_inputs()
    assert (port.name, port.shape) == ("x", ["N", 1, 8, 8])
    with pytest.raises(bd.InputError, match="stays a file"):
        run.attempt(0).module()
    wrong = told("compress", "boildown.toml", "--config", "boildown.toml")
    assert wrong.code == 2
    assert "which is no ONNX file" in wrong.err
    with pytest.raises(bd.InputError, match="counted on the network"):
        bd.compress(file, digits_task, ["macs <= 0.5x"], runs=tmp_path / "others", verbose=False)
    assert not (tmp_path / "others").exists()


def test_a_file_in_integers_is_made_float_again_and_told(run, digits_task):
    model, task, _ = brought.fit(brought.opened(factory_of(run.attempt(1).artifact)), digits_task)
    file = brought.held(model, task, task.validation).file
    assert file.quantized
    assert "made float again" in " ".join(file.notes)
    assert "whose weights are integers" in file.agreement


def test_what_computes_something_else_than_the_file_is_not_taken_for_it(file, digits_task):
    model, task, _ = brought.fit(brought.opened(factory_of(file)), digits_task)
    assert isinstance(brought.held(model, task, task.validation), OnnxFile)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)
    stayed = brought.held(model, task, task.validation)
    assert isinstance(stayed, Unread)
    assert "gives other outputs than the file" in stayed.reason


def foreign(path):
    node = helper.make_node("Frobnicate", ["x"], ["y"], name="strange", domain="com.example")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", 1, 8, 8]) for name in "xy")
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(helper.make_graph([node], "g", [x], [y]), opset_imports=opsets, ir_version=8), path)
    return path


def test_what_cannot_be_used_is_refused_before_a_run_exists(file, digits_task, images, tmp_path):
    runs = tmp_path / "runs"

    def mistakes(model, task=digits_task, **options):
        with pytest.raises(bd.InputError) as caught:
            bd.compress(model, task, TARGET, runs=runs, verbose=False, **options)
        assert not runs.exists()
        assert all(mistake.cause and mistake.cure for mistake in caught.value.mistakes), caught.value
        return str(caught.value)

    def judged(inputs):
        return bd.Classification(validation=(inputs, torch.arange(64) % 10))

    (tmp_path / "damaged.onnx").write_bytes(file.read_bytes()[:-900])
    assert "There is no file" in mistakes(tmp_path / "none.onnx")
    assert "damaged.onnx" in mistakes(str(tmp_path / "damaged.onnx"))
    assert "Frobnicate" in (said := mistakes(foreign(tmp_path / "foreign.onnx")))
    assert "strange" in said
    assert "weights are given" in mistakes(file, weights="weights.pt")
    assert "onnx.save" in mistakes(onnx.load(file))
    assert "float32 (N, 1, 8, 8), and is given float32 (n, 1, 16, 16)" in mistakes(
        file, judged(torch.nn.functional.interpolate(images, scale_factor=2))
    )
    assert "and is given uint8" in mistakes(file, judged(images.byte()))
    assert "The file takes 'images.1', and the data gives 'image'" in mistakes(
        file, bd.Classification(validation=[({"image": x}, at % 10) for at, x in enumerate(images)])
    )


def test_a_port_of_texts_is_named_with_its_type():
    with pytest.raises(bd.AttemptError, match="'label' holds values of type string, no numbers"):
        brought._port(Port(name="label", shape=("n",), dtype="string"))
    assert brought._port(Port(name="x", shape=("n", "?"), dtype="float32")).shape == ("n", None)
