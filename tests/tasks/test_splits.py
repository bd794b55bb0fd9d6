"""No sample both chooses a candidate and judges it."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from boildown.tasks import Classification
from boildown.tasks.data import samples_from
from boildown.tasks.splits import resolve, split, unaugmented


def data(count, start=0):
    numbers = torch.arange(start, start + count)
    return numbers.float()[:, None], numbers % 3


def ids(samples):
    return {int(i) for inputs, _ in samples.batches() for i in inputs[:, 0]}


class Pictures(Dataset):
    def __init__(self, transform):
        self.transform = transform

    def __len__(self):
        return 600

    def __getitem__(self, index):
        return self.transform(torch.full((4,), float(index))), index % 2


def flip(x):
    return x + torch.rand(4)


def same(x):
    return x


@pytest.mark.parametrize("count", [2, 7, 100, 1001])
def test_halves_are_disjoint_complete_and_stratified(count):
    labels = np.random.default_rng(1).integers(0, 5, count)
    first, second = split(samples_from((torch.zeros(count, 1), torch.from_numpy(labels))), labels, seed=3)
    assert sorted(first + second) == list(range(count))
    assert 0 <= len(first) - len(second) <= 1
    for label in range(5):
        assert abs((labels[first] == label).sum() - (labels[second] == label).sum()) <= 1


def test_halves_follow_the_seed_and_stratify_numbers():
    samples = samples_from(data(400))
    values = np.random.default_rng(0).normal(size=400)
    assert split(samples, values, 1) == split(samples, values, 1)
    labels = np.arange(400) % 4
    assert split(samples, labels, 1) != split(samples, labels, 2)
    first, second = split(samples, values, 1)
    assert np.abs(np.sort(values[first]) - np.sort(values[second])).mean() < 0.05
    assert abs(values[first].mean() - values[second].mean()) < 0.02  # at random: about 0.1
    assert split(samples, None, 1) != split(samples, None, 2)


def test_test_data_is_the_verdict():
    splits = resolve(Classification(validation=data(1200), test=data(300, 5000)), 0)
    assert ids(splits.verdict) == set(range(5000, 5300))
    assert splits.search_labelled
    assert not ids(splits.calibration) & ids(splits.search)
    assert len(splits.calibration) == 150


def test_without_test_data_validation_is_halved():
    splits = resolve(Classification(train=data(2000, 10_000), validation=data(1000)), 0)
    search, verdict = ids(splits.search), ids(splits.verdict)
    assert splits.search_labelled
    assert len(search) == len(verdict) == 500
    assert search | verdict == set(range(1000))
    assert len(splits.calibration) == 512
    assert min(ids(splits.calibration)) >= 10_000
    assert ids(splits.verdict) != ids(resolve(Classification(validation=data(1000)), 1).verdict)


def test_below_a_thousand_search_sees_no_label_and_all_labels_judge():
    splits = resolve(Classification(calibration=data(9, 5000), validation=data(999)), 0)
    assert not splits.search_labelled
    assert all(target is None for _, target in splits.search.batches())
    assert ids(splits.search) == ids(splits.verdict) == set(range(999))
    assert ids(splits.calibration) == set(range(5000, 5009))
    assert any("without labels" in note for note in splits.notes)


@pytest.mark.parametrize("count", [20, 400, 999, 6000])
def test_calibration_cut_from_validation_is_never_scored(count):
    splits = resolve(Classification(validation=data(count)), 0)
    cut = ids(splits.calibration)
    assert not cut & ids(splits.verdict)
    assert not cut & ids(splits.search)
    assert len(cut) == max(min(count // 8, 512), min(16, count // 2))
    assert len(cut | ids(splits.verdict) | ids(splits.search)) == count


def test_augmented_training_data_is_calibrated_without_augmentation_where_it_can_be():
    train, validation = samples_from(Pictures(flip)), samples_from(Pictures(same))
    plain = unaugmented(train, validation)
    assert torch.equal(next(plain.subset([7]).batches())[0], torch.full((1, 4), 7.0))
    assert train.read.source.transform is flip
    assert unaugmented(validation, validation) is validation
    assert unaugmented(train, samples_from(data(10))) is None
    splits = resolve(Classification(train=Pictures(flip), validation=data(100)), 0)
    assert any("augmented" in note for note in splits.notes)
