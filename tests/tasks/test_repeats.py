"""Equal samples are found whatever holds them, copies with noise too; chance and few values are no copies."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset, TensorDataset

from boildown.tasks.data import samples_from
from boildown.tasks.repeats import repeats, within


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def choices(count, columns, values):
    return torch.randint(0, values, (count, columns), generator=torch.Generator().manual_seed(1))


def padded(items):
    longest = max(len(x) for x, _ in items)
    inputs = torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x, _ in items])
    return inputs, torch.tensor([y for _, y in items])


X, Y = drawn(20, 9), torch.arange(20) % 2
TEXTS = [(torch.arange(i, i + 3 + i % 3), i % 2) for i in range(20)]
REPEATED = {
    "tensors": (X.repeat(6, 1), Y.repeat(6)),
    "a list": [(X[i % 20], int(Y[i % 20])) for i in range(120)],
    "a subset that names items again": Subset(TensorDataset(X, Y), list(range(20)) * 6),
    "a loader": DataLoader(TensorDataset(X.repeat(6, 1), Y.repeat(6)), batch_size=7, shuffle=True),
    "padded texts": DataLoader(TEXTS * 6, batch_size=8, collate_fn=padded),
    "dicts": [{"ids": torch.arange(9) * (i % 20), "mask": torch.ones(9), "label": i % 2} for i in range(120)],
    "nested inputs": [((X[i % 20], {"image": drawn(1, 4, 4, seed=i % 20)}), i % 2) for i in range(120)],
    "pictures of bytes": ((drawn(20, 1, 5, 5) * 40 + 128).byte().repeat(6, 1, 1, 1), Y.repeat(6)),
    "whole numbers in many columns": (choices(20, 16, 9).repeat(6, 1), Y.repeat(6)),
    "one column": (drawn(20, 1).repeat(6, 1), Y.repeat(6)),
}


@pytest.mark.parametrize("kind", REPEATED)
def test_repeated_samples_form_clusters(kind):
    found = repeats(samples_from(REPEATED[kind]))
    assert found.distinct == 20
    assert not found.natural
    assert np.array_equal(found.clusters, np.tile(found.clusters[:20], 6))


@pytest.mark.parametrize("noise", [1e-6, 1e-4])
@pytest.mark.parametrize("shape", [(30,), (3, 16, 16)], ids=["rows", "pictures"])
def test_copies_with_a_little_noise_are_equal(noise, shape):
    x = drawn(20, *shape) * 30 + 100
    x = x.repeat(6, *[1] * len(shape))
    x += noise * 30 * drawn(*x.shape, seed=1)
    found = repeats(samples_from((x, Y.repeat(6))))
    assert found.distinct == 20
    assert np.array_equal(found.clusters, np.tile(found.clusters[:20], 6))


DIFFERENT = {
    "noise": drawn(300, 1, 8, 8),
    "noise on a constant": 0.5 + 1e-3 * drawn(300, 1, 8, 8),
    "constant pictures": torch.linspace(0, 1, 300)[:, None, None, None].expand(300, 1, 8, 8),
    "a constant column": torch.cat([drawn(300, 4), torch.ones(300, 1)], 1),
    "one column, dense": drawn(2000, 1),
    "powers of one column": drawn(1000, 1) ** torch.arange(1, 5),
    "a few values hold most of the spread": (3 * drawn(1000, 4)).exp(),
    "texts that differ in one token": torch.arange(300)[:, None] * torch.tensor([0, 0, 1, 0]) + 7,
    "whole numbers next to each other": 10_000 + torch.arange(300)[:, None] * torch.tensor([0, 1]),
}


@pytest.mark.parametrize("kind", DIFFERENT)
def test_different_samples_stay_different(kind):
    x = DIFFERENT[kind]
    found = repeats(samples_from((x, torch.zeros(len(x)))))
    assert found.distinct == len(x)
    assert found.clusters is None


def test_a_value_beyond_all_others_in_every_column_makes_those_no_copies():
    x = drawn(300, 5)
    x[7] = 1e30
    assert repeats(samples_from((x, torch.arange(300) % 3))).clusters is None


NATURAL = {
    "answers": choices(2000, 4, 4),
    "answers as fractions": (choices(2000, 4, 4) - 1.5) / 1.118,
    "short texts of a small vocabulary": choices(1000, 3, 6),
    "answers one hot": torch.nn.functional.one_hot(choices(5000, 5, 3)).flatten(1).float(),
    "sentences of one grammar": choices(1000, 3, 5).repeat_interleave(4, 1) * 1000 + torch.arange(12),
    "boards": choices(1000, 4, 3).reshape(1000, 1, 2, 2).float(),
    "ages": choices(1000, 1, 70).float(),
    "most answer the same": torch.where(torch.arange(1000)[:, None] < 700, 5, choices(1000, 20, 6)),
}


@pytest.mark.parametrize("kind", NATURAL)
def test_rows_of_few_values_repeat_by_nature(kind):
    found = repeats(samples_from((NATURAL[kind], torch.zeros(len(NATURAL[kind])))))
    assert found.natural
    assert found.clusters is None
    assert found.distinct < len(NATURAL[kind]) / 2


def test_where_most_rows_differ_equal_ones_are_copies_whatever_their_values():
    x = torch.cat([choices(200, 9, 9), choices(50, 9, 9)])
    found = repeats(samples_from((x, torch.zeros(250))))
    assert found.distinct == 200
    assert not found.natural
    assert within(found.clusters, range(200)) is None
    assert len(np.unique(within(found.clusters, range(40, 250)))) == 200
