"""What every runtime must hold to. Subclass `RuntimeSuite`, give the runtime, and pytest does the rest."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from runpy import run_path
from typing import Any, cast

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boildown.domain.artifact import Artifact
from boildown.domain.candidate import Edit, Plan
from boildown.domain.deployment import Deployment
from boildown.domain.target import Target
from boildown.engine.bench import Bench
from boildown.engine.job import Job
from boildown.errors import BoildownError, ExportError, InputError
from boildown.runtimes import get
from boildown.runtimes.base import Array, Runtime
from boildown.surgery.calibrate import calibrate
from boildown.surgery.graph import Graph, capture
from boildown.surgery.plan import place
from boildown.surgery.simulate import simulate


class TwoPorts(nn.Module):
    """Two inputs, two outputs, a residual connection: what a runtime has to get right."""

    def __init__(self) -> None:
        super().__init__()
        self.left = nn.Conv2d(3, 16, 3, padding=1)
        self.right = nn.Conv2d(1, 16, 3, padding=1)
        self.head = nn.Linear(16, 4)

    def forward(self, image: Tensor, depth: Tensor) -> tuple[Tensor, Tensor]:
        """Images (n, 3, 12, 12) and depths (n, 1, 12, 12) to scores (n, 4) and a summary (n, 16)."""
        left = torch.relu(self.left(image))
        both = torch.relu(left + self.right(depth)).mean((2, 3))
        return self.head(both), both


class RuntimeSuite:
    """Override `runtime`. `trusted` says whether files need trust to be opened."""

    trusted = False

    @pytest.fixture
    def runtime(self) -> Runtime:
        """The runtime under test."""
        raise NotImplementedError("a RuntimeSuite needs a `runtime` fixture")

    @pytest.fixture
    def graph(self) -> Graph:
        """A small captured model."""
        return _graph()

    @pytest.fixture
    def exported(self, runtime: Runtime, graph: Graph, tmp_path: Path) -> Path:
        """Its float export."""
        return _exported(runtime, graph, tmp_path / "exported")

    @staticmethod
    def inputs(count: int) -> tuple[Tensor, Tensor]:
        """A batch of `count` samples."""
        generator = torch.Generator().manual_seed(count)
        return torch.randn(count, 3, 12, 12, generator=generator), torch.randn(count, 1, 12, 12, generator=generator)

    def outputs(self, runtime: Runtime, path: Path, count: int) -> list[Array]:
        """What the artifact gives for a batch."""
        return runtime.open(path, trust=True).run([tensor.numpy() for tensor in self.inputs(count)])

    def test_has_a_name_a_suffix_and_a_version(self, runtime: Runtime) -> None:
        assert runtime.name == runtime.name.lower()
        assert runtime.suffix.startswith(".")
        assert any(character.isdigit() for character in runtime.version())

    @pytest.mark.parametrize("count", [1, 2, 5])
    def test_the_float_artifact_gives_the_models_outputs_at_any_batch(
        self, runtime: Runtime, graph: Graph, exported: Path, tmp_path: Path, count: int
    ) -> None:
        path = _place(runtime, tmp_path / "artifact")
        written = runtime.write(exported, path)
        assert 0 < written.size <= _whole(runtime, path).size
        for output, expected in zip(self.outputs(runtime, path, count), graph.module(*self.inputs(count)), strict=True):
            assert output.shape == tuple(expected.shape)
            assert _decibel(expected.detach().numpy(), output) > 60

    def test_ports_carry_names_types_and_a_dynamic_batch(
        self, runtime: Runtime, exported: Path, tmp_path: Path
    ) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        session = runtime.open(path, trust=True)
        assert [port.name for port in session.inputs] == ["image", "depth"]
        assert len(session.outputs) == 2
        assert all("float" in port.dtype for port in (*session.inputs, *session.outputs))
        assert isinstance(session.inputs[0].shape[0], str)
        assert session.inputs[0].shape[1:] == (3, 12, 12)

    def test_a_plan_is_followed_or_refused_before_it_is_made(
        self, runtime: Runtime, graph: Graph, exported: Path, tmp_path: Path
    ) -> None:
        refused = runtime.refuses(Plan(), None)
        path, plain = (_place(runtime, tmp_path / name) for name in ("quantized", "plain"))
        if refused is not None:
            assert len(refused.split()) > 3
            with pytest.raises(ExportError):
                runtime.write(exported, path, Plan())
            return
        plan = calibrate(graph, place(graph, runtime.rules), [(self.inputs(32), {})], rules=runtime.rules)
        runtime.write(exported, plain)
        runtime.write(exported, path, plan)
        assert _whole(runtime, path).size < _whole(runtime, plain).size
        expected = simulate(graph, plan)(*self.inputs(5))
        for output, wanted in zip(self.outputs(runtime, path, 5), expected, strict=True):
            assert _decibel(wanted.detach().numpy(), output) > 30

    def test_what_is_not_quantized_is_never_refused(self, runtime: Runtime) -> None:
        assert runtime.refuses(None, None) is None

    def test_other_weights_have_another_digest(self, runtime: Runtime, tmp_path: Path) -> None:
        digests = {_artifact(runtime, tmp_path / str(seed), seed).digest for seed in (0, 0, 1)}
        assert len(digests) == 2

    def test_an_artifact_survives_a_move(self, runtime: Runtime, exported: Path, tmp_path: Path) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        before = self.outputs(runtime, path, 3)
        moved = _whole(runtime, path).move(tmp_path / "elsewhere")
        shutil.rmtree(path.parent)
        shutil.rmtree(exported.parent)
        for output, wanted in zip(self.outputs(runtime, moved.path, 3), before, strict=True):
            np.testing.assert_array_equal(output, wanted)

    def test_it_names_the_files_of_an_artifact_that_lies_among_others(
        self, runtime: Runtime, exported: Path, tmp_path: Path
    ) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        whole = _whole(runtime, path)
        (path.parent / "notes.txt").write_text("not of it")
        assert Artifact.read(runtime.name, path, runtime.files(path)).digest == whole.digest

    def test_another_version_is_another_key(
        self, runtime: Runtime, exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        artifact = _whole(runtime, path)

        def key() -> str:
            job = Job(cast(Any, None), cast(Any, None), Target(()), deployment=Deployment(runtime.name))
            bench = Bench(job, tmp_path, check=lambda: None, progress=lambda _what, _done, _total: None)
            return bench.key("size", artifact)

        monkeypatch.setattr("boildown.engine.bench.get", lambda _name: runtime)
        assert key() == key()
        version = runtime.version()
        before = key()
        monkeypatch.setattr(type(runtime), "version", lambda _self: f"{version}.1")
        assert key() != before

    def test_its_loader_runs_where_the_artifact_was_handed_over(
        self, runtime: Runtime, exported: Path, tmp_path: Path
    ) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        if not (script := runtime.loader(_whole(runtime, path))):
            return
        session, arrays = runtime.open(path, trust=True), [tensor.numpy() for tensor in self.inputs(1)]
        sample = {f"input:{port.name}": array for port, array in zip(session.inputs, arrays, strict=True)}
        sample |= {
            f"output:{port.name}": array for port, array in zip(session.outputs, session.run(arrays), strict=True)
        }
        np.savez(path.parent / "sample.npz", **cast(Any, sample))
        (path.parent / "load.py").write_text(script, encoding="utf-8")
        run_path(str(path.parent / "load.py"), run_name="__main__")

    def test_it_tells_what_it_runs_or_nothing(self, runtime: Runtime, exported: Path, tmp_path: Path) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        steps = runtime.executed(path, [tensor.numpy() for tensor in self.inputs(2)])
        assert all(step.name and step.kind and step.seconds >= 0 for step in steps)
        heavy = [step for step in steps if step.weights >= 4 * 16]
        assert len(heavy) == (3 if steps else 0)
        assert all(step.precision.startswith(("float", "bfloat")) for step in heavy)

    def test_an_unknown_rewrite_is_refused(self, runtime: Runtime, exported: Path, tmp_path: Path) -> None:
        with pytest.raises(ExportError):
            runtime.write(exported, _place(runtime, tmp_path / "x"), rewrite=Edit("turn-into-gold"))

    def test_missing_and_damaged_files_are_the_users_to_mend(self, runtime: Runtime, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            runtime.open(tmp_path / f"missing{runtime.suffix}", trust=True)
        damaged = tmp_path / f"damaged{runtime.suffix}"
        damaged.write_bytes(b"not a model")
        with pytest.raises(InputError):
            runtime.open(damaged, trust=True)

    def test_inputs_that_do_not_fit_are_told_in_words(self, runtime: Runtime, exported: Path, tmp_path: Path) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        with pytest.raises(BoildownError):
            runtime.open(path, trust=True).run([np.zeros((1, 7), np.float32)])

    def test_trust_is_asked_for_where_a_file_could_run_code(
        self, runtime: Runtime, exported: Path, tmp_path: Path
    ) -> None:
        path = _place(runtime, tmp_path / "artifact")
        runtime.write(exported, path)
        if self.trusted:
            with pytest.raises(InputError, match="trust"):
                runtime.open(path)
        else:
            assert runtime.open(path).inputs


def _place(runtime: Runtime, folder: Path) -> Path:
    """Where to export or to write, in a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"model{runtime.suffix}"


def _exported(runtime: Runtime, graph: Graph, folder: Path) -> Path:
    exporter = get(runtime.exporter) if runtime.exporter else runtime
    path = _place(exporter, folder)
    exporter.export(graph.serialize(), path)
    return path


def _whole(runtime: Runtime, path: Path) -> Artifact:
    """Everything that lies in the folder of an artifact."""
    return Artifact.read(runtime.name, path, (file for file in path.parent.rglob("*") if file.is_file()))


def _artifact(runtime: Runtime, folder: Path, seed: int) -> Artifact:
    """That of a model with the weights of a seed."""
    path = _place(runtime, folder / "artifact")
    runtime.write(_exported(runtime, _graph(seed), folder / "exported"), path)
    return _whole(runtime, path)


@cache
def _graph(seed: int = 0) -> Graph:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return capture(TwoPorts().eval(), RuntimeSuite.inputs(2), {})


def _decibel(reference: Array, other: Array) -> float:
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    return 10 * float(np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-300)))
