"""The guard leaves out steps that held-out samples say are worse, and no others."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import boildown as bd
from boildown.domain.candidate import Candidate, Plan
from boildown.methods.base import Context, Data
from boildown.methods.learned_rounding import LearnedRounding
from boildown.methods.quantize_mixed import QuantizeMixed
from boildown.methods.quantize_static import QuantizeStatic
from boildown.surgery.calibrate import calibrate, correct_biases
from boildown.surgery.graph import captured
from boildown.surgery.guard import BIASES, ENOUGH, LEAST, RANGES, divergences, grows, guarded, judges
from boildown.surgery.plan import place
from boildown.surgery.quantize import calibration_calls
from boildown.surgery.simulate import simulate


class Shifted(nn.Module):
    """What it is given, and a shift."""

    def __init__(self, by: float = 0.0) -> None:
        super().__init__()
        self.by = by

    def forward(self, x: Tensor) -> Tensor:
        return x + self.by


def numbers(count: int) -> bd.Regression:
    x = torch.randn(count, 1, generator=torch.Generator().manual_seed(0))
    return bd.Regression(calibration=(x, x), validation=(x, x))


class Fits:
    """Fits that are counted: a step that mends an offset of 1, and one that adds twice the mean of what it saw."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def __call__(self, calls):
        x = torch.cat([args[0] for args, _ in calls])
        self.seen.append(len(x))
        return lambda steps: float(x.mean()) * 2 * ("learn" in steps) + 1.0 * ("mend" not in steps)


def kept(count: int, limit: int, steps: list[str]) -> tuple[float, tuple[str, ...], list[int]]:
    task, fits = numbers(count), Fits()
    every = calibration_calls(task, task.calibration, limit)
    made, notes = guarded(Shifted(), task, task.calibration, limit, every, steps, fits, Shifted)
    return made, notes, fits.seen


@pytest.mark.parametrize("count", [8, 33, 133, 400])
def test_a_step_that_helps_is_kept_and_one_that_harms_is_told(count: int) -> None:
    made, notes, seen = kept(count, 256, ["learn", "mend"])
    assert made == 0.0
    (note,) = notes
    assert note.startswith("learn left out: on ")
    assert seen[0] == min(count, 256), "what is kept is made of all"
    assert len(seen) == {8: 5, 33: 5, 133: 3, 400: 1}[count], (
        "few samples judge in turns, many beyond the limit at once"
    )


def test_without_steps_nothing_is_judged() -> None:
    made, notes, seen = kept(33, 256, [])
    assert (made, notes, seen) == (1.0, (), [33])


def test_too_few_to_hold_back_are_told() -> None:
    made, notes, _ = kept(LEAST - 1, 256, ["mend", "learn"])
    assert made == 1.0
    assert [note.partition(":")[0] for note in notes] == ["mend left out", "learn left out"]
    assert all(f"{LEAST - 1} calibration samples are too few" in note for note in notes)
    assert kept(LEAST, 256, ["mend"])[:2] == (0.0, ())
    assert kept(LEAST + ENOUGH, LEAST - 1, ["mend"])[:2] == (0.0, ()), "there are others to judge by"


def test_divergences_grow_by_more_than_noise() -> None:
    usual = torch.rand(64, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = torch.randn(64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    assert not grows(usual, usual)
    assert grows(usual + 0.01, usual)
    assert not grows(usual - 0.01, usual)
    assert not grows(usual + 0.1 * (noise - noise.mean()), usual)
    spoiled = usual.clone()
    spoiled[3] = torch.inf
    assert grows(spoiled, usual)
    assert not grows(usual, spoiled)
    assert not grows(spoiled, spoiled)
    assert grows(torch.ones(1), torch.zeros(1))


# ---- real steps ------------------------------------------------------------------------------


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4)).eval()


def data(count: int, *, outlier: bool, seed: int) -> Tensor:
    """Inputs around 1; one in twelve is thirty times as large where there are outliers."""
    x = 1 + 0.2 * torch.randn(count, 16, generator=torch.Generator().manual_seed(seed))
    x[::12] *= 30 if outlier else 1
    return x


def task_of(x: Tensor) -> bd.Regression:
    return bd.Regression(calibration=(x, x[:, :4]), validation=(x, x[:, :4]))


def diverging(candidate: Candidate, task: bd.Regression, x: Tensor) -> float:
    fresh = task_of(x)
    graph = captured(candidate, *task.example())
    held = judges(candidate.model, fresh, fresh.validation)
    return float(divergences(simulate(graph, candidate.plan or Plan()), fresh, held).mean())


def test_what_few_samples_with_outliers_spoil_is_left_out() -> None:
    """What is clipped of a few moves the means of all."""
    task, fresh = task_of(data(24, outlier=True, seed=1)), data(240, outlier=True, seed=2)
    candidate = Candidate(network())
    made = QuantizeStatic(ranges="percentile", percentile=90.0).apply(
        candidate, task, Context(Data(None, task.calibration))
    )
    (note,) = made.notes
    assert note.startswith((f"{BIASES} left out: on 24 samples", f"{RANGES} left out: on 24 samples"))
    graph = captured(candidate, *task.example())
    calls, placement = calibration_calls(task, task.calibration, 256), place(graph)
    ranged = calibrate(graph, placement, calls, "percentile", percentile=90.0)
    asked = candidate.derive(plan=correct_biases(graph, placement, ranged, calls))
    assert made.plan != asked.plan
    assert diverging(made, task, fresh) < 0.5 * diverging(asked, task, fresh)


@pytest.mark.parametrize(
    "method", [QuantizeStatic(), QuantizeMixed(prefix=1, layers=0), LearnedRounding(rounding="nearest")]
)
def test_biases_that_help_are_kept(method) -> None:
    task = task_of(data(33, outlier=False, seed=1))
    made = method.apply(Candidate(network()), task, Context(Data(None, task.calibration)))
    assert made.plan is not None
    assert made.plan.biases
    assert "left out" not in " ".join(made.notes)
