"""Calls of a task as a file takes them: by position, in its types, with its open axes."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

import boildown as bd
from boildown.domain.axes import open_axes
from boildown.errors import DataError
from boildown.tasks.ports import fitted


@dataclass(frozen=True)
class Port:
    name: str
    shape: tuple
    dtype: torch.dtype = torch.float32


IDS, MASK = Port("input_ids", ("n", "length"), torch.int32), Port("mask", ("n", "length"), torch.bool)
ITEMS = [({"mask": torch.ones(5).long(), "input_ids": torch.full((5,), at)}, at % 2) for at in range(8)]


def network(ids, mask):
    assert (ids.dtype, mask.dtype) == (torch.int32, torch.bool)
    return torch.stack([ids.sum(1), mask.sum(1)], 1).float()


def test_a_dict_becomes_the_files_order_and_types():
    task = bd.Classification(validation=ITEMS)
    made, told = fitted(task, [IDS, MASK])
    args, kwargs = made.example()
    assert [value.dtype for value in args] == [torch.int32, torch.bool]
    assert kwargs == {}
    assert [open_axes(value) for value in args] == [(1,), (1,)]
    assert [open_axes(value) for value in fitted(task, [IDS, MASK], leave_open=False)[0].example()[0]] == [(), ()]
    assert len(told) == 2
    assert "int64 is given to the file's input 'input_ids' as int32" in told[0]
    inputs, _ = next(iter(made.validation.batches(8)))
    assert made.run(network, inputs)[:, 0].tolist() == [5.0 * at for at in range(8)]
    assert isinstance(made, bd.Classification)
    assert (made.recipe, made.takes_output_as_it_is) == (task.recipe, True)
    assert made.metrics is task.metrics


def test_a_task_that_fits_is_left_alone():
    task = bd.Classification(validation=(torch.zeros(8, 3), torch.arange(8) % 2))
    assert fitted(task, [Port("x", ("n", 3))]) == (task, [])


def test_a_forward_and_a_training_step_of_the_users_call_the_file_too():
    def step(model, inputs, target):
        return model(**inputs).sum() + len(model.seen)

    class Model:
        seen = (1, 2)

        def __call__(self, ids, mask):
            return network(ids, mask)

    task = bd.Classification(
        train=ITEMS, validation=ITEMS, forward=lambda model, inputs: model(**inputs) + 1, training_step=step
    )
    made, _ = fitted(task, [IDS, MASK])
    inputs, target = next(iter(made.validation.batches(4)))
    assert made.run(network, inputs)[2].tolist() == [11.0, 6.0]
    assert made.training_step(Model(), inputs, target) == 5 * (0 + 1 + 2 + 3) + 4 * 5 + 2


@pytest.mark.parametrize(
    ("inputs", "ports", "said"),
    [
        ((torch.zeros(8, 3), torch.zeros(8, 3)), [Port("x", ("n", 3))], "takes 'x', and the data gives 2 by position"),
        ((torch.zeros(8, 3),), [Port("x", ("n", 4))], r"takes float32 \(n, 4\), and is given float32 \(n, 3\)"),
        ((torch.zeros(8, 3),), [Port("x", (None, 3, 8))], r"takes float32 \(\?, 3, 8\)"),
        ((torch.zeros(8, 3).byte(),), [Port("x", ("n", 3))], "and is given uint8"),
        ((torch.zeros(8, 3),), [Port("x", ("n", 3), torch.int64)], "takes int64"),
    ],
)
def test_what_does_not_fit_is_told_with_both_sides(inputs, ports, said):
    items = [(tuple(part[at] for part in inputs), at % 2) for at in range(8)]
    with pytest.raises(DataError, match=said) as caught:
        fitted(bd.Classification(validation=items), ports)
    assert all(mistake.cure for mistake in caught.value.mistakes)


def test_a_number_that_the_files_type_does_not_hold_is_refused():
    task = bd.Classification(validation=(torch.full((8, 2), 2**40), torch.arange(8) % 2))
    with pytest.raises(DataError, match="which does not hold 1099511627776"):
        fitted(task, [Port("x", ("n", 2), torch.int32)])[0].example()
