"""What the benchmarks promise, in little: real networks, quantized by the first method that applies."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from benchmarks.real import data
from benchmarks.real.models import dscnn, mobilenet, resnet20, resnet56
from torch import Tensor, nn

import boildown as bd
from boildown.domain.candidate import Candidate
from boildown.engine.bench import signal_to_noise
from boildown.methods.base import Context, Data
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.graph import capture
from boildown.surgery.simulate import simulate

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def cifar10() -> data.Samples:
    return data.cifar10_test()


@pytest.fixture(scope="module")
def deep() -> nn.Module:
    """ResNet-56, one for all tests, so that it is captured once."""
    return resnet56()


@pytest.fixture(scope="module")
def run(cifar10: data.Samples, tmp_path_factory: pytest.TempPathFactory) -> bd.Run:
    """ResNet-20 from the trained network to a judged file; 256 images calibrate, 2,744 judge."""
    inputs, labels = cifar10
    task = bd.Classification(calibration=(inputs[:256], labels[:256]), validation=(inputs[256:3000], labels[256:3000]))
    target = ["accuracy drop <= 0.5 pp", "size <= 0.27x"]
    return bd.compress(resnet20(), task, target, expected={"accuracy": 0.916}, runs=tmp_path_factory.mktemp("runs"))


def run_file(path: Path, inputs: Tensor) -> Tensor:
    session = get("onnxruntime").open(path)
    return torch.cat([torch.from_numpy(session.run([batch.numpy()])[0]) for batch in inputs.split(100)])


@torch.no_grad()
def run_module(module: nn.Module, inputs: Tensor) -> Tensor:
    return torch.cat([module(batch) for batch in inputs.split(100)])


def quantized(model: nn.Module, samples: data.Samples, **settings: object) -> Candidate:
    task = bd.Classification(calibration=samples, validation=samples)
    context = Context(Data(None, task.calibration), seed=0)
    return QuantizeStatic(**settings).apply(Candidate(model), task, context)


def test_resnet20_meets_its_target_by_the_first_rung_that_applies(run: bd.Run) -> None:
    assert run.outcome is bd.Outcome.TARGET_MET
    assert run.best.rung == "quantize-static"
    assert [result.state.value for result in run.candidates[1:-1]] == ["skipped"] * (len(run.candidates) - 2)
    accuracy, size = run.best.measurements["accuracy"], run.best.measurements["size"]
    assert accuracy.drop <= 0.005
    assert size.value <= 0.27 * size.first


def test_what_is_reported_is_what_the_delivered_file_scores(run: bd.Run, cifar10: data.Samples) -> None:
    samples = run.job.splits.verdict
    outputs, labels = zip(*((run_file(run.best.artifact, x), y) for x, y in samples.batches(100)), strict=True)
    score = (torch.cat(outputs).argmax(1) == torch.cat(labels)).float().mean()
    # The last bit of a float sum depends on the number of threads: one image of 1,372 may turn.
    assert float(score) == pytest.approx(run.best.measurements["accuracy"].value, abs=1.5 / len(samples))


def test_the_simulation_and_the_file_agree(run: bd.Run, cifar10: data.Samples) -> None:
    inputs = cifar10[0][3000:3500]
    file, simulation = run_file(run.best.artifact, inputs), run_module(run.best.module(), inputs)
    assert (file.argmax(1) == simulation.argmax(1)).float().mean() >= 0.99
    assert signal_to_noise(simulation.numpy(), file.numpy()) >= 30


@pytest.mark.parametrize(("network", "shape", "millions"), [(resnet20, (3, 32, 32), 40.55), (dscnn, (1, 49, 10), 2.66)])
def test_operations_are_counted_as_published(network, shape: tuple[int, ...], millions: float) -> None:
    macs = capture(network(), (torch.zeros(2, *shape),), {}).macs()
    assert macs / 1e6 == pytest.approx(millions, abs=0.005)


def test_resnet56_has_125_million_operations(deep: nn.Module) -> None:
    assert round(capture(deep, (torch.zeros(2, 3, 32, 32),), {}).macs() / 1e6, 2) == 125.49


def test_every_convolution_of_resnet56_runs_on_integers(deep: nn.Module, cifar10: data.Samples, tmp_path: Path) -> None:
    inputs, labels = cifar10
    candidate = quantized(deep, (inputs[:32], labels[:32]))
    graph = capture(deep, (inputs[:2],), {})
    runtime = get("onnxruntime")
    runtime.export(graph.serialize(), tmp_path / "float.onnx")
    written = runtime.write(tmp_path / "float.onnx", tmp_path / "model.onnx", candidate.plan)
    assert sum(isinstance(module, nn.Conv2d) for module in deep.modules()) == 55
    assert written.facts["kernels"]["QLinearConv"] == 55
    judged = inputs[32:332]
    file, exact = run_file(tmp_path / "model.onnx", judged), run_module(deep, judged)
    assert (file.argmax(1) == exact.argmax(1)).float().mean() >= 0.97


def test_bias_correction_saves_mobilenet() -> None:
    """Per-channel int8 of a depthwise network shifts the means of its layers; correcting that is most of the cure."""
    inputs, labels = data.imagenet()
    model = mobilenet()
    graph = capture(model, (inputs[:2],), {})
    judged = inputs[100:140]
    exact = run_module(model, judged).numpy()
    decibel = {}
    for corrected in (False, True):
        plan = quantized(model, (inputs[:32], labels[:32]), bias_correction=corrected).plan
        decibel[corrected] = signal_to_noise(exact, run_module(simulate(graph, plan), judged).numpy())
    assert decibel[True] > decibel[False] + 5
