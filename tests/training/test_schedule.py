"""Learning rates against PyTorch's own."""

from __future__ import annotations

import pytest
import torch

from boildown.training.schedule import factor


def rates(make: object, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    scheduler = make(optimizer)  # type: ignore[operator]
    found = []
    for _ in range(steps):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step() if len(found) < steps else None
    return found


@pytest.mark.parametrize("steps", [10, 57, 400])
def test_one_cycle(steps: int) -> None:
    expected = rates(lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 1.0, total_steps=steps), steps)
    assert [factor("one-cycle", step, steps) for step in range(steps)] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("steps", [1, 10, 400])
def test_cosine(steps: int) -> None:
    expected = rates(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, steps), steps)
    assert [factor("cosine", step, steps) for step in range(steps)] == pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("schedule", ["one-cycle", "cosine", "constant"])
@pytest.mark.parametrize("steps", [1, 2, 3])
def test_the_shortest_trainings_have_a_rate(schedule: str, steps: int) -> None:
    assert all(0 < factor(schedule, step, steps) <= 1 for step in range(steps))  # type: ignore[arg-type]
