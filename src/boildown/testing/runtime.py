"""What every runtime must hold to. Subclass `RuntimeSuite`, give the runtime, and pytest does the rest."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from boildown.domain.candidate import Edit
from boildown.errors import BoildownError, ExportError, InputError
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
        path = tmp_path / f"exported{runtime.suffix}"
        runtime.export(graph.serialize(), path)
        return path

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
        path = tmp_path / f"artifact{runtime.suffix}"
        written = runtime.write(exported, path)
        assert written.size == path.stat().st_size
        for output, expected in zip(self.outputs(runtime, path, count), graph.module(*self.inputs(count)), strict=True):
            assert output.shape == tuple(expected.shape)
            assert _decibel(expected.detach().numpy(), output) > 60

    def test_ports_carry_names_types_and_a_dynamic_batch(
        self, runtime: Runtime, exported: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / f"artifact{runtime.suffix}"
        runtime.write(exported, path)
        session = runtime.open(path, trust=True)
        assert [port.name for port in session.inputs] == ["image", "depth"]
        assert len(session.outputs) == 2
        assert all("float" in port.dtype for port in (*session.inputs, *session.outputs))
        assert isinstance(session.inputs[0].shape[0], str)
        assert session.inputs[0].shape[1:] == (3, 12, 12)

    def test_a_plan_is_followed_or_refused(
        self, runtime: Runtime, graph: Graph, exported: Path, tmp_path: Path
    ) -> None:
        plan = calibrate(graph, place(graph), [(self.inputs(32), {})])
        path, plain = tmp_path / f"quantized{runtime.suffix}", tmp_path / f"plain{runtime.suffix}"
        runtime.write(exported, plain)
        try:
            written = runtime.write(exported, path, plan)
        except ExportError as refused:
            assert len(str(refused).split()) > 4  # noqa: PT017 - a refusal is a result here
            return
        assert written.size < plain.stat().st_size
        expected = simulate(graph, plan)(*self.inputs(5))
        for output, wanted in zip(self.outputs(runtime, path, 5), expected, strict=True):
            assert _decibel(wanted.detach().numpy(), output) > 30

    def test_an_unknown_rewrite_is_refused(self, runtime: Runtime, exported: Path, tmp_path: Path) -> None:
        with pytest.raises(ExportError):
            runtime.write(exported, tmp_path / f"x{runtime.suffix}", rewrite=Edit("turn-into-gold"))

    def test_missing_and_damaged_files_are_the_users_to_mend(self, runtime: Runtime, tmp_path: Path) -> None:
        with pytest.raises(InputError):
            runtime.open(tmp_path / f"missing{runtime.suffix}", trust=True)
        damaged = tmp_path / f"damaged{runtime.suffix}"
        damaged.write_bytes(b"not a model")
        with pytest.raises(InputError):
            runtime.open(damaged, trust=True)

    def test_inputs_that_do_not_fit_are_told_in_words(self, runtime: Runtime, exported: Path, tmp_path: Path) -> None:
        path = tmp_path / f"artifact{runtime.suffix}"
        runtime.write(exported, path)
        with pytest.raises(BoildownError):
            runtime.open(path, trust=True).run([np.zeros((1, 7), np.float32)])

    def test_trust_is_asked_for_where_a_file_could_run_code(
        self, runtime: Runtime, exported: Path, tmp_path: Path
    ) -> None:
        path = tmp_path / f"artifact{runtime.suffix}"
        runtime.write(exported, path)
        if self.trusted:
            with pytest.raises(InputError, match="trust"):
                runtime.open(path)
        else:
            assert runtime.open(path).inputs


@cache
def _graph() -> Graph:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return capture(TwoPorts().eval(), RuntimeSuite.inputs(2), {})


def _decibel(reference: Array, other: Array) -> float:
    noise = float(np.square(reference.astype(np.float64) - other).sum())
    return 10 * float(np.log10(np.square(reference.astype(np.float64)).sum() / max(noise, 1e-300)))
