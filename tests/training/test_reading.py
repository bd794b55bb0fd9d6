"""Order and randomness as functions of (seed, epoch, step)."""

from __future__ import annotations

import random

import numpy as np
import torch
from training_networks import Jittered, classification, images, train_samples

from boildown.tasks import samples_from
from boildown.training.reading import Batches, map_tensors, part, repeats, set_random_state


def test_an_epoch_holds_every_sample_once_in_an_order_of_its_own() -> None:
    batches = Batches(train_samples(classification(64)), 16, seed=1)
    epochs = [np.concatenate([batches.indices(e * 4 + i) for i in range(4)]) for e in range(2)]
    assert all(sorted(epoch) == list(range(64)) for epoch in epochs)
    assert not np.array_equal(*epochs)
    assert not np.array_equal(epochs[0], np.concatenate([Batches(batches.samples, 16, 2).indices(i) for i in range(4)]))


def test_what_is_left_of_an_epoch_is_dropped_and_small_data_is_one_batch() -> None:
    assert Batches(samples_from(images(70)), 16, 0).per_epoch == 4
    small = Batches(samples_from(images(5)), 16, 0)
    assert (small.size, small.per_epoch) == (5, 1)


def test_a_step_reads_the_same_whenever_it_is_read() -> None:
    batches = Batches(samples_from(Jittered(32)), 8, seed=3)
    first = [batches.read(step)[0] for step in range(8)]
    again = {step: Batches(samples_from(Jittered(32)), 8, seed=3).read(step)[0] for step in (6, 1)}
    assert torch.equal(first[6], again[6])
    assert torch.equal(first[1], again[1])
    assert not torch.equal(first[0], first[4])
    assert all(torch.equal(a, b[0]) for a, b in zip(first[2:5], batches.between(2, 5), strict=True))


def test_all_three_generators_follow_from_every_part_of_the_moment() -> None:
    def drawn(*moment: int) -> tuple[float, float, float]:
        set_random_state(*moment)
        return random.random(), float(np.random.random()), float(torch.rand(()))

    base = drawn(1, 2, 3, 1)
    assert base == drawn(1, 2, 3, 1)
    for other in ((2, 2, 3, 1), (1, 3, 3, 1), (1, 2, 4, 1), (1, 2, 3, 2), (2, 1, 3, 1)):
        assert all(a != b for a, b in zip(base, drawn(*other), strict=True))
    assert drawn(-5, 0, 0, 1) == drawn(-5, 0, 0, 1)


def test_samples_repeat_unless_they_are_augmented() -> None:
    assert repeats(samples_from(images()))
    assert not repeats(samples_from(Jittered()))


def test_parts_of_a_batch() -> None:
    batch = {"a": torch.arange(6), "b": (torch.arange(12).reshape(6, 2), "text")}
    cut = part(batch, 2, 4)
    assert cut["a"].tolist() == [2, 3]
    assert cut["b"][0].tolist() == [[4, 5], [6, 7]]
    assert cut["b"][1] == "text"
    assert map_tensors(lambda t: t + 1, [torch.zeros(1)])[0].item() == 1
