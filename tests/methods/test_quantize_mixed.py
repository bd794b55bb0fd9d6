"""quantize-mixed: its plans, its search driven with made-up standings, and the written files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.domain.candidate import Candidate
from boildown.domain.task import Task
from boildown.engine.bench import signal_to_noise
from boildown.engine.rung import parse_rung
from boildown.errors import AttemptError, InputError
from boildown.methods.base import Context, Data, Method, Searching, Standing
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_mixed import QuantizeMixed, best
from boildown.methods.quantize_static import QuantizeStatic
from boildown.runtimes import get
from boildown.surgery.allocate import FLOAT, weight_bytes
from boildown.surgery.graph import capture
from boildown.surgery.quantize import weight_bits
from boildown.surgery.simulate import simulate
from boildown.testing.method import MethodSuite


def separable(blocks: int = 4) -> nn.Module:
    """A small MobileNet: 2 + 2 * blocks layers."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    for _ in range(blocks):
        layers += [nn.Conv2d(8, 8, 3, 1, 1, groups=8, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
        layers += [nn.Conv2d(8, 8, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU6()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()


def images() -> bd.Classification:
    x = torch.randn(40, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    return bd.Classification(calibration=(x, torch.arange(40) % 5), validation=(x, torch.arange(40) % 5))


class TestConformance(MethodSuite):
    @pytest.fixture
    def method(self) -> Method:
        return QuantizeMixed(prefix=2, layers=0)

    @pytest.fixture
    def model(self) -> nn.Module:
        return separable(1)

    @pytest.fixture
    def task(self) -> Task:
        return images()

    @pytest.fixture
    def alone(self) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(768, 5))


def test_a_sketch_of_a_search_leaves_a_light_prefix_float() -> None:
    """What weighs nothing is all that a search would leave float for speed; a heavy first layer stays int8."""
    task, heavy = images(), nn.Sequential(nn.Flatten(), nn.Linear(768, 64), nn.ReLU(), nn.Linear(64, 5)).eval()
    light = nn.Sequential(separable(1)[:3], nn.Conv2d(8, 320, 3), nn.ReLU(), nn.Conv2d(320, 16, 1), nn.Flatten(),
                          nn.Linear(16 * 36, 5)).eval()  # fmt: skip
    for model, kept in ((heavy, 0), (light, 1)):
        sketch = QuantizeMixed().sketch(Candidate(model), task, Context(Data(None, task.validation)))
        layers = len([m for m in model.modules() if isinstance(m, nn.Conv2d | nn.Linear)])
        assert sketch.plan is not None
        assert len(sketch.plan.weights) == layers - kept


class TestPlans:
    def made(self, method: Method, **context: str) -> Candidate:
        task = images()
        return method.apply(Candidate(_model), task, Context(Data(None, task.calibration), **context))

    def test_a_prefix_leaves_the_first_layers_out(self) -> None:
        for prefix in range(1, 4):
            plan = self.made(QuantizeMixed(prefix=prefix, layers=0)).plan
            assert plan is not None
            names = [layer for layer in self.made(QuantizeStatic()).plan.weights if layer not in plan.weights]
            assert names == ["0.weight", "3.weight", "6.weight"][:prefix]
            assert set(plan.biases) == set(plan.weights)
            assert "x" not in plan.activations

    def test_a_plan_without_float_layers_is_that_of_quantize_static(self) -> None:
        assert self.made(QuantizeMixed(prefix=0, layers=0)).plan == self.made(QuantizeStatic()).plan

    def test_the_most_sensitive_layers_are_left_out(self) -> None:
        task, seen = images(), []
        context = Context(Data(None, task.calibration), record=lambda kind, data: seen.append((kind, data)))
        model = separable(2)
        made = QuantizeMixed(prefix=1, layers=2).apply(Candidate(model), task, context)
        QuantizeMixed(prefix=1, layers=3).apply(Candidate(model), task, context)
        assert [kind for kind, _ in seen] == ["sensitivity"], "ranked once for all variants"
        ranked = [name for name in seen[0][1]["layers"] if name != "conv2d"]
        assert set(made.notes[0].partition(": ")[2].split(", ")) == {"conv2d", *ranked[:2]}
        assert len(made.plan.weights) == 6 - 3

    def test_named_layers_are_left_out_by_node_or_weight(self) -> None:
        whole = set(self.made(QuantizeStatic()).plan.weights)
        made = self.made(QuantizeMixed(float_layers=("conv2d_1", "6.weight")))
        assert whole - set(made.plan.weights) == {"3.weight", "6.weight"}

    def test_corrections_are_made_for_the_layers_that_are_quantized(self) -> None:
        two, static = self.made(QuantizeMixed(prefix=2, layers=0)).plan, self.made(QuantizeStatic()).plan
        assert {name: two.weights[name] for name in two.weights} == {n: static.weights[n] for n in two.weights}
        assert all(two.biases[name] != static.biases[name] for name in two.biases)

    def test_unknown_names_are_refused_in_words(self) -> None:
        reason = QuantizeMixed(float_layers=("nonsense",)).applies_to(Candidate(_model), images())
        assert reason is not None
        assert "nonsense" in reason
        assert "0.weight" in reason

    def test_leaving_everything_float_fails(self) -> None:
        with pytest.raises(AttemptError, match="all 10 layers float"):
            self.made(QuantizeMixed(prefix=10, layers=0))

    @pytest.mark.parametrize("method", [QuantizeStatic(), QuantizeMixed(prefix=1, layers=0)])
    def test_hardware_decides_the_bits(self, method: Method) -> None:
        for hardware, bits in (("x86-any", 7), ("arm64", 8)):
            plan = self.made(method, hardware=hardware).plan
            assert {q.bits for q in plan.weights.values()} == {bits}
            assert {q.bits for q in plan.activations.values()} == {8}


_model = separable()


@pytest.mark.parametrize(
    ("architecture", "flags", "bits"),
    [
        ("x86_64", ["avx2", "avx512_vnni"], 8), ("AMD64", ["avx2", "avx_vnni"], 8), ("x86_64", ["avx2", "avx512f"], 7),
        ("AMD64", [], 7), ("arm64", ["neon"], 8), ("aarch64", ["neon", "neon_dotprod"], 8),
    ],
)  # fmt: skip
def test_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch, architecture: str, flags: list[str], bits: int) -> None:
    facts = {"architecture": architecture, "flags": flags}
    monkeypatch.setattr("boildown.measuring.environment._hardware", lambda: facts)
    assert weight_bits("this machine") == bits
    assert (weight_bits("x86-any"), weight_bits("arm64")) == (7, 8)


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "float.onnx"
    get("onnxruntime").export(capture(_model, *images().example()).serialize(), path)
    return path


class TestFiles:
    """The written file has exactly the float layers that were asked for."""

    @pytest.mark.parametrize("prefix", range(6))
    def test_every_quantized_convolution_runs_on_integers(self, exported: Path, tmp_path: Path, prefix: int) -> None:
        task = images()
        made = QuantizeMixed(prefix=prefix, layers=0).apply(
            Candidate(_model), task, Context(Data(None, task.calibration))
        )
        written = get("onnxruntime").write(exported, tmp_path / "model.onnx", made.plan)
        kernels = written.facts["kernels"]
        assert written.facts["quantized_convolutions"] == kernels["QLinearConv"] == 9 - prefix
        assert kernels.get("Conv", 0) + kernels.get("FusedConv", 0) == prefix


class TestPrecisions:
    """4 bits, 8 or float layer by layer."""

    def made(self, **settings: Any) -> Candidate:
        task = images()
        return QuantizeMixed(**settings).apply(Candidate(wide()), task, Context(Data(None, task.calibration)))

    def test_a_table_says_the_bits_of_layers_by_node_or_weight(self) -> None:
        made = self.made(table=("0.weight=float", "conv2d_1=4", "7.weight=8"))
        assert made.plan is not None
        assert {name: quantizer.bits for name, quantizer in made.plan.weights.items()} == {
            "2.weight": 4, "4.weight": 8, "7.weight": 8
        }  # fmt: skip
        assert made.notes[:2] == (
            "1 of 4 layers stay float: conv2d",
            "1 of 4 layers have 4 bits, 2 have more: conv2d_2, linear",
        )

    def test_a_table_reads_back_and_its_mistakes_are_told_in_words(self) -> None:
        rung = parse_rung({"method": "quantize-mixed", "table": ["0.weight=float", "6.weight=4"]})
        assert rung == parse_rung(str(rung)) == parse_rung("quantize-mixed(table=[0.weight=float, 6.weight=4])")
        for table, told in ((("0.weight=5",), "0.weight=5"), (("9.weight=4",), "no quantizable layer called 9.weight")):
            assert told in str(QuantizeMixed(table=table).applies_to(Candidate(wide()), images()))
        with pytest.raises(InputError, match="Give a list"):
            parse_rung("quantize-mixed(table=4)")

    def test_a_file_of_three_precisions_has_their_sizes_and_computes_what_the_simulation_does(
        self, tmp_path: Path
    ) -> None:
        task, runtime = images(), get("onnxruntime")
        graph = capture(wide(), *task.example())
        runtime.export(graph.serialize(), tmp_path / "float.onnx")
        sizes = {}
        for bits in (("8", "8"), ("4", "8"), ("4", "4"), ("float", "4")):
            made = self.made(table=tuple(f"{n}.weight={b}" for n, b in zip((2, 4), bits, strict=True)))
            assert made.plan is not None
            written = tmp_path / f"{'-'.join(bits)}.onnx"
            runtime.write(tmp_path / "float.onnx", written, made.plan)
            sizes[bits] = written.stat().st_size
            x = torch.randn(16, 3, 16, 16, generator=torch.Generator().manual_seed(2))
            with torch.no_grad():
                expected = simulate(graph, made.plan)(x).numpy()
            (found,) = runtime.open(written).run([x.numpy()])
            assert signal_to_noise(expected, found) > 30
        numel = 64 * 64 * 9
        assert sizes["8", "8"] - sizes["4", "8"] == pytest.approx(numel / 2, rel=0.02)
        assert sizes["4", "8"] - sizes["4", "4"] == pytest.approx(numel / 2, rel=0.02)
        assert sizes["float", "4"] - sizes["4", "4"] == pytest.approx(3.5 * numel, rel=0.02)

    def test_the_share_is_kept_and_more_bytes_are_for_who_needs_them(self) -> None:
        shapes = {name: parameter for name, parameter in wide().named_parameters() if name.endswith("weight")}
        total = sum(weight_bytes(weight, FLOAT) for weight in shapes.values())
        taken = []
        for share in (0.0, 0.13, 0.16, 0.2, 0.3, 0.45):
            plan = self.made(prefix=0, bits=4, share=share).plan
            assert plan is not None
            bits = {name: plan.weights[name].bits if name in plan.weights else FLOAT for name in shapes}
            taken.append(sum(weight_bytes(shapes[name], bits[name]) for name in shapes) / total)
            assert taken[-1] <= share or share < 0.13
        assert taken[0] <= taken[1]
        assert taken[1:] == sorted(taken[1:])
        assert taken[-1] > 0.25, "with room for it something is float"

    def test_the_layer_that_loses_most_gets_the_bits(self) -> None:
        """A channel that outweighs the others by twenty leaves little of them in 4 bits."""
        model = wide()
        with torch.no_grad():
            model[4].weight[:, 0] *= 20
            model[2].weight[0] /= 20
            model[2].bias[0] /= 20
        task, seen = images(), []
        context = Context(Data(None, task.calibration), record=lambda kind, data: seen.append((kind, data)))
        made = QuantizeMixed(prefix=0, bits=4, share=0.2).apply(Candidate(model), task, context)
        assert made.plan is not None
        assert {name: q.bits for name, q in made.plan.weights.items()}["4.weight"] == 8
        ((kind, data),) = seen
        assert kind == "sensitivity"
        assert data["4 bits"]["conv2d_2"] > data["layers"]["conv2d_2"]

    def test_learned_rounding_follows_its_bits(self) -> None:
        task = images()
        context = Context(Data(None, task.calibration))
        mixed = self.made(table=("0.weight=float", "2.weight=4"))
        learned = LearnedRounding(steps=20)
        assert learned.applies_to(mixed, task) is None
        made = learned.apply(mixed, task, context)
        assert made.plan is not None
        assert mixed.plan is not None
        assert made.plan.activations == mixed.plan.activations
        assert {n: q.bits for n, q in made.plan.weights.items()} == {n: q.bits for n, q in mixed.plan.weights.items()}
        assert learned.applies_to(made, task) == "its weights lie on their grids already"

    def test_weights_read_twice_have_eight_bits(self) -> None:
        task = images()
        made = QuantizeMixed(prefix=0, bits=4, share=0.0).apply(
            Candidate(Twice()), task, Context(Data(None, task.calibration))
        )
        assert made.plan is not None
        assert {name: quantizer.bits for name, quantizer in made.plan.weights.items()} == {
            "stem.weight": 4, "again.weight": 8, "head.weight": 4
        }  # fmt: skip


class Twice(nn.Module):
    """One convolution is called twice."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem, self.again, self.head = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 16, 3), nn.Linear(16, 5)
        self.eval()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.again(torch.relu(self.stem(x))))
        return self.head(torch.relu(self.again(x)).mean((2, 3)))


def wide() -> nn.Sequential:
    """Two heavy convolutions between light layers."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 5),
    ).eval()  # fmt: skip


Measure = Callable[[QuantizeMixed], Standing]


class TestSearch:
    def driven(
        self, method: QuantizeMixed, measure: Measure, model: nn.Module | None = None
    ) -> tuple[QuantizeMixed, list[tuple[int, int]]]:
        """What the search keeps, and the (prefix, layers) it had measured."""
        task = images()
        searching = method.search(Candidate(model or _model), task, Context(Data(None, task.calibration)))
        made: list[QuantizeMixed] = []
        try:
            variant = next(searching)
            while True:
                assert isinstance(variant, QuantizeMixed)
                assert variant.fixed
                made.append(variant)
                variant = searching.send(measure(variant))
        except StopIteration as end:
            kept = end.value
        assert kept in made or not made
        return kept, [(variant.prefix, variant.layers) for variant in made]

    def test_it_is_a_searching_method(self) -> None:
        assert isinstance(QuantizeMixed(), Searching)
        assert not QuantizeMixed().fixed

    @pytest.mark.parametrize(
        "method", [QuantizeMixed(prefix=2, layers=0), QuantizeMixed(float_layers=("conv2d",)), QuantizeMixed(0, 3)]
    )
    def test_fixed_settings_are_kept_without_measuring(self, method: QuantizeMixed) -> None:
        assert self.driven(method, lambda _: pytest.fail("measured")) == (method, [])

    def test_the_prefix_ends_when_nothing_improves_twice(self) -> None:
        gains = {1: (0.9, 0.02), 2: (0.7, 0.02)}
        kept, tried = self.driven(QuantizeMixed(layers=0), lambda v: standing(*gains.get(v.prefix, (0.8, 0.02))))
        assert tried == [(1, 0), (2, 0), (3, 0), (4, 0)]
        assert kept.prefix == 2

    def test_the_prefix_ends_at_five(self) -> None:
        kept, tried = self.driven(QuantizeMixed(layers=0), lambda v: standing(1.0, 0.1 / v.prefix))
        assert tried == [(k, 0) for k in range(1, 6)]
        assert kept.prefix == 5

    def test_labels_find_the_fewest_layers_that_are_accepted(self) -> None:
        def measure(v: QuantizeMixed) -> Standing:
            return standing(1.0, 1 / (1 + v.layers), accepted=v.layers >= 3)

        kept, tried = self.driven(QuantizeMixed(prefix=1), measure)
        assert (kept.prefix, kept.layers) == (1, 3)
        assert tried == [(1, 0), (1, 1), (1, 3), (1, 2)]

    def test_an_accepted_prefix_needs_no_more_layers(self) -> None:
        _, tried = self.driven(QuantizeMixed(), lambda v: standing(1.0, 0.1, accepted=True))
        assert tried == [(1, 0), (2, 0), (3, 0)]

    def test_without_labels_costs_decide_how_many(self) -> None:
        def measure(v: QuantizeMixed) -> Standing:
            return standing(1.0, 1 / (1 + v.layers), excess=(v.layers - 2) / 10)

        kept, tried = self.driven(QuantizeMixed(prefix=2), measure)
        assert (kept.prefix, kept.layers) == (2, 2)
        assert tried == [(2, 0), (2, 1), (2, 3), (2, 2)]

    def test_costs_that_a_prefix_misses_are_not_searched_further(self) -> None:
        kept, tried = self.driven(QuantizeMixed(), lambda v: standing(1 - v.prefix / 10, 0.1, excess=1 / v.prefix))
        assert all(layers == 0 for _, layers in tried)
        assert kept.prefix == 5, "the nearest to the target's costs"

    def test_at_most_half_of_the_layers_are_left_float(self) -> None:
        _, tried = self.driven(QuantizeMixed(prefix=2), lambda v: standing(1.0, 0.1, accepted=False))
        assert max(layers for _, layers in tried) == (10 - 2) // 2

    def test_four_bits_take_the_bytes_that_the_costs_allow(self) -> None:
        """The share within the bound to a step, the prefix for speed alone."""

        def measure(v: QuantizeMixed) -> Standing:
            size = 0.03 + max(v.share, 0.13)
            return Standing(size, 0.7 if v.prefix >= 1 else 1.0, 0.1 / size, size / 0.2 - 1)

        kept, tried = self.driven(QuantizeMixed(bits=4), measure, wide())
        assert kept.prefix == 1
        assert 0.164 <= kept.share <= 0.17
        assert len(tried) <= 4 + 7

    def test_labels_find_the_fewest_bytes_where_the_target_has_no_costs(self) -> None:
        def measure(v: QuantizeMixed) -> Standing:
            return Standing(v.share, 1.0, 1 / (1 + v.share), 0.0, accepted=v.share >= 0.2)

        kept, _ = self.driven(QuantizeMixed(bits=4, prefix=0), measure, wide())
        assert 0.2 <= kept.share <= 0.205

    @pytest.mark.parametrize(("excess", "accepted"), [(0.3, None), (0.0, True), (0.0, None)])
    def test_four_bits_everywhere_end_it_where_nothing_is_to_gain(self, excess: float, accepted: bool | None) -> None:
        kept, tried = self.driven(QuantizeMixed(bits=4, prefix=1), lambda _: standing(1.0, 0.1, excess, accepted))
        assert (kept.share, tried) == (0.0, [(1, 0)])


def standing(latency: float, divergence: float, excess: float = -0.1, accepted: bool | None = None) -> Standing:
    return Standing(0.3, latency, divergence, excess, accepted)


class TestBest:
    a, b, c = (QuantizeMixed(prefix=k, layers=0) for k in range(1, 4))

    def test_costs_come_before_quality(self) -> None:
        assert best({self.a: standing(0.7, 0.5), self.b: standing(0.9, 0.1, excess=0.2)}) == self.a

    def test_acceptance_comes_before_divergence(self) -> None:
        found = {self.a: standing(0.7, 0.1, accepted=False), self.b: standing(0.7, 0.2, accepted=True)}
        assert best(found) == self.b

    def test_equal_divergence_leaves_it_to_latency(self) -> None:
        found = {self.a: standing(0.9, 0.100), self.b: standing(0.7, 0.103), self.c: standing(0.5, 0.2)}
        assert best(found) == self.b

    def test_the_order_of_measuring_does_not_matter(self) -> None:
        found = {self.a: standing(0.9, 0.1), self.b: standing(0.7, 0.102), self.c: standing(0.8, 0.1, 0.3, True)}
        assert best(found) == best(dict(reversed(found.items()))) == self.b

    def test_variants_are_equal_by_their_settings(self) -> None:
        assert replace(self.a, prefix=2) == self.b
