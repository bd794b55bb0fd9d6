"""Whatever holds the data, it is read in index order, hashed by content and split honestly."""

import pickle
from collections import UserDict

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    Sampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from boildown.errors import DataError
from boildown.tasks.data import Unlabelled, evenly_spaced, places_of, read_targets, samples_from

N = 37
X = torch.arange(N * 3, dtype=torch.float32).reshape(N, 3)
Y = torch.arange(N) % 4
ITEMS = [(X[i], int(Y[i])) for i in range(N)]


class MapStyle(Dataset):
    def __init__(self, targets=None):
        if targets is not None:
            self.targets = targets

    def __len__(self):
        return N

    def __getitem__(self, index):
        return X[index], int(Y[index])


class Stream(IterableDataset):
    def __iter__(self):
        return iter(ITEMS)


class EveryThird(Sampler):
    def __iter__(self):
        return iter(range(0, N, 3))

    def __len__(self):
        return len(range(0, N, 3))


def pad(items):
    longest = max(len(x) for x, _ in items)
    inputs = torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x, _ in items])
    return UserDict(ids=inputs, labels=np.array([y for _, y in items]))


SOURCES = {
    "list": ITEMS,
    "tensors": TensorDataset(X, Y),
    "pair of tensors": (X, Y),
    "pair of arrays": (X.numpy(), Y.numpy()),
    "tensor and list of labels": (X, Y.tolist()),
    "array and list of labels": (X.numpy(), [np.int64(label) for label in Y]),
    "lists of tensors": (list(X), list(Y)),
    "lists of numbers": (X.tolist(), Y.tolist()),
    "map-style": MapStyle(),
    "subset of itself": Subset(MapStyle(), range(N)),
    "shuffled loader": DataLoader(MapStyle(), batch_size=5, shuffle=True),
    "loader that drops the last": DataLoader(TensorDataset(X, Y), batch_size=5, shuffle=True, drop_last=True),
    "weighted loader": DataLoader(ITEMS, batch_size=5, sampler=WeightedRandomSampler([1.0] * N, 10)),
    "loader with workers": DataLoader(MapStyle(), batch_size=5, num_workers=1),
}


@pytest.mark.parametrize("kind", SOURCES)
def test_every_source_is_read_whole_in_index_order(kind):
    samples = samples_from(SOURCES[kind])
    assert len(samples) == N
    inputs, targets = zip(*samples.batches(8), strict=True)
    assert [len(batch) for batch in inputs] == [8, 8, 8, 8, 5]
    assert torch.equal(torch.cat(inputs), X)
    assert torch.equal(torch.cat(targets), Y)


def test_a_pair_of_lists_is_no_data_set_of_two_items():
    ragged = [torch.arange(1 + i % 3) for i in range(N)]
    assert len(samples_from((ragged, Y.tolist()))) == N
    texts = (["a text"] * N, Y.tolist())
    with pytest.raises(DataError, match="such as 'a text', not numbers"):
        samples_from(texts)
    assert next(samples_from(texts, collate=len).batches(8))[0] == 8
    for parts in ((X, Y[:-1]), (X, Y.tolist()[:-1]), (X.tolist(), Y[:-1].numpy())):
        with pytest.raises(DataError, match=r"There are 37 inputs and 36 targets\.\n.*in the same order"):
            samples_from(parts)
    assert len(samples_from(((X[0], 1), (X[1], 2)))) == 2, "items"
    assert len(samples_from(([X[0], 1], [X[1], 2]))) == 2, "items"


def test_the_fingerprint_is_of_the_content_and_not_of_its_holder():
    for every in (True, False):
        prints = {samples_from(source).fingerprint(every=every) for source in SOURCES.values()}
        assert len(prints) == 1
    changed = X.clone()
    changed[20, 1] += 1e-6 * changed[20, 1]
    assert samples_from((changed, Y)).fingerprint(every=True) not in prints
    assert samples_from((X, Y.int())).fingerprint(every=True) not in prints
    assert samples_from((X[:-1], Y[:-1])).fingerprint(every=False) not in prints


def test_the_short_fingerprint_looks_at_256_items():
    x = torch.zeros(1000, 1)
    short, long = (samples_from((x, x)).fingerprint(every=every) for every in (False, True))
    looked_at = evenly_spaced(1000, 256)
    assert len(looked_at) == 256
    assert looked_at[0] == 0
    assert looked_at[-1] == 999
    unseen = next(i for i in range(1000) if i not in looked_at)
    x[unseen] = 1
    assert samples_from((x, x)).fingerprint(every=False) == short
    assert samples_from((x, x)).fingerprint(every=True) != long


def test_reading_leaves_the_global_random_state_alone():
    before = torch.get_rng_state()
    list(samples_from(SOURCES["loader with workers"]).batches())
    assert torch.equal(torch.get_rng_state(), before)


def test_a_loader_gives_batch_size_collate_and_its_chosen_subset():
    ragged = [(torch.ones(1 + i % 3), i) for i in range(9)]
    loader = DataLoader(ragged, batch_size=4, collate_fn=pad, sampler=SubsetRandomSampler([7, 1, 5, 3, 0]))
    batches = list(samples_from(loader).batches())
    assert [target.tolist() for _, target in batches] == [[0, 1, 3, 5], [7]]
    assert list(batches[0][0]) == ["ids"]
    assert batches[0][0]["ids"].shape == (4, 3)
    assert len(next(samples_from(loader, batch_size=2).batches())[1]) == 2


def test_subsets_compose_and_keep_their_order():
    samples = samples_from(ITEMS).subset([30, 3, 20, 10]).subset([2, 0])
    assert torch.equal(next(samples.batches())[0], X[[20, 30]])
    assert samples.targets().tolist() == Y[[20, 30]].tolist()


@pytest.mark.parametrize(
    ("source", "places"),
    [
        (ITEMS, [30, 3]),
        (Subset(MapStyle(), range(N - 1, -1, -1)), [30, 3]),
        (Subset(Subset(TensorDataset(X, Y), range(1, N)), range(35)), [30, 3]),
        (DataLoader(ITEMS, batch_size=4, sampler=SubsetRandomSampler(range(0, N, 1))), [30, 3]),
        (DataLoader(MapStyle(), sampler=SubsetRandomSampler([2 * i for i in range(18)] + [36])), [36, 6]),
    ],
)
def test_places_count_in_what_the_user_gave(source, places):
    samples = samples_from(source)
    chosen = [30, 3] if places == [30, 3] else [18, 3]
    some = samples.relabelled(lambda _inputs, target: target).subset(range(len(samples))).subset(chosen)
    given = source.dataset if isinstance(source, DataLoader) else source
    assert places_of(some).tolist() == places_of(Unlabelled(some)).tolist() == places
    for place, (inputs, _target) in zip(places, some.batches(1), strict=True):
        assert torch.equal(inputs[0], given[place][0])


@pytest.mark.parametrize(
    ("item", "inputs", "target"),
    [
        ((X[0], 3), "tensor", 3),
        ((X[0], X[1], 3), "tuple", 3),
        (((X[0], X[1]), 0.5), "list", 0.5),
        ({"ids": X[0], "mask": X[1], "labels": 2}, "dict", 2),
        ({"ids": X[0], "label": 2}, "dict", 2),
        (X[0], "tensor", None),
        ((X[0],), "tensor", None),
        ({"ids": X[0]}, "dict", None),
    ],
)
def test_items_are_inputs_and_a_target(item, inputs, target):
    got, found = next(samples_from([item, item]).batches())
    kinds = {"tensor": torch.Tensor, "tuple": tuple, "list": list, "dict": dict}
    assert isinstance(got, kinds[inputs])
    assert found is None if target is None else found.tolist() == [target, target]


@pytest.mark.parametrize(
    ("source", "cure"),
    [
        (Stream(), "islice"),
        (DataLoader(Stream(), batch_size=4), "islice"),
        (iter(ITEMS), "islice"),
        ({"train": ITEMS}, "data['train']"),
        (DataLoader(MapStyle(), batch_size=None), "batch size"),
        (DataLoader(MapStyle(), sampler=EveryThird()), "Subset"),
    ],
)
def test_what_cannot_be_read_by_index_is_refused_with_a_cure(source, cure):
    with pytest.raises(DataError) as caught:
        samples_from(source)
    assert cure in caught.value.mistakes[0].cure


def test_targets_come_cheaply_only_where_they_can_be_trusted():
    assert samples_from((X, Y)).targets().tolist() == Y.tolist()
    assert samples_from(ITEMS).targets().tolist() == Y.tolist()
    assert samples_from(MapStyle(Y.tolist())).targets().tolist() == Y.tolist()
    assert samples_from(MapStyle()).targets() is None
    assert samples_from(MapStyle((Y + 1).tolist())).targets() is None  # items say otherwise
    assert read_targets(samples_from(MapStyle())).tolist() == Y.tolist()
    assert read_targets(samples_from([X[0], X[1]])) is None


def test_unlabelled_samples_show_no_target():
    hidden = Unlabelled(samples_from((X, Y)))
    assert len(hidden.subset([1, 2])) == 2
    assert all(target is None for _, target in hidden.batches(5))
    assert read_targets(hidden) is None


def test_samples_can_be_sent_to_another_process():
    samples = pickle.loads(pickle.dumps(samples_from((X, Y)).subset([4, 2])))
    assert torch.equal(next(samples.batches())[0], X[[4, 2]])
