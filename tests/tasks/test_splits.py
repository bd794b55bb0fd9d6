"""No sample both chooses a candidate and judges it."""

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

from boildown.errors import DataError
from boildown.tasks import Classification
from boildown.tasks.data import samples_from
from boildown.tasks.splits import judged_alone, learning, resolve, split, unaugmented


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


def repeated(count, times, start=0):
    """Every sample a number of times, and 100 besides that occur once."""
    numbers = torch.cat([torch.arange(start, start + count).repeat(times), torch.arange(start + 5000, start + 5100)])
    return numbers.sqrt()[:, None].repeat(1, 3), numbers % 3


def kept_together(clusters, samples):
    """Whether samples have one label just where they are equal."""
    rows = np.concatenate([inputs.numpy() for inputs, _ in samples.batches()])
    _, labels = np.unique(rows, axis=0, return_inverse=True)
    return len(set(zip(labels.reshape(-1).tolist(), clusters.tolist(), strict=True))) == len(set(clusters.tolist()))


def values(samples):
    return {float(i) for inputs, _ in samples.batches() for i in inputs[:, 0]}


@pytest.mark.parametrize("times", [2, 5])
def test_equal_samples_stay_on_one_side_and_form_clusters(times):
    splits = resolve(Classification(train=data(50, 90_000), validation=repeated(1000, times)), 0)
    search, verdict = values(splits.search), values(splits.verdict)
    assert splits.search_labelled
    assert not search & verdict
    assert len(search) == len(verdict) == 550
    assert abs(len(splits.search) - len(splits.verdict)) < 10
    assert kept_together(splits.search_clusters, splits.search)
    assert kept_together(splits.verdict_clusters, splits.verdict)
    assert any("are 1,100 different ones, some repeated (items 0 and 1000 are equal)" in note for note in splits.notes)


def test_calibration_cut_from_repeated_samples_shares_none_with_those_that_are_scored():
    splits = resolve(Classification(validation=repeated(1000, 3)), 0)
    parts = [values(part) for part in (splits.calibration, splits.search, splits.verdict)]
    assert sum(map(len, parts)) == len(set.union(*parts)) == 1100
    assert 380 <= len(splits.calibration) <= 3100 // 8
    assert values(learning(Classification(validation=repeated(1000, 3)), 0).calibration) == parts[0]


def test_few_samples_often_repeated_are_not_searched_by_score():
    splits = resolve(Classification(calibration=data(9, 5000), validation=repeated(20, 60)), 0)
    assert not splits.search_labelled
    assert len(splits.verdict) == 1300
    assert len(np.unique(splits.verdict_clusters)) == 120
    assert any("120 different validation items are too few" in note for note in splits.notes)


def test_test_data_that_repeats_forms_clusters_and_so_does_data_judged_alone():
    splits = resolve(Classification(validation=data(1200), test=repeated(20, 60)), 0)
    assert splits.search_clusters is None
    alone = judged_alone(samples_from(repeated(20, 60)))
    assert np.array_equal(splits.verdict_clusters, alone.verdict_clusters)
    assert kept_together(alone.verdict_clusters, alone.verdict)
    assert "test samples are 120 different ones" in " ".join(splits.notes)


def test_natural_repeats_are_told_and_halved_like_any_other_samples():
    answers = torch.randint(0, 4, (1200, 3), generator=torch.Generator().manual_seed(0))
    splits = resolve(Classification(train=data(50), validation=(answers, answers.sum(1) % 3)), 0)
    assert splits.search_clusters is None
    assert len(splits.search) == len(splits.verdict) == 600
    assert any("hold 64 different inputs, as is natural" in note for note in splits.notes)


def test_a_training_item_that_is_not_finite_is_not_calibrated_with():
    x, y = data(500)
    x[477] = torch.nan
    with pytest.raises(DataError, match="Train item 477 has an input that is NaN"):
        resolve(Classification(train=(x, y), validation=data(100)), 0)


def test_training_data_that_is_augmented_far_from_its_beginning_is_found_out():
    class Late(Pictures):
        def __getitem__(self, index):
            return (super() if index >= 64 else Pictures(same)).__getitem__(index)

    assert unaugmented(samples_from(Late(flip)), samples_from(data(10))) is None
    assert unaugmented(samples_from(Late(same)), samples_from(data(10))) is not None


def test_augmented_training_data_is_calibrated_without_augmentation_where_it_can_be():
    train, validation = samples_from(Pictures(flip)), samples_from(Pictures(same))
    plain = unaugmented(train, validation)
    assert torch.equal(next(plain.subset([7]).batches())[0], torch.full((1, 4), 7.0))
    assert train.read.source.transform is flip
    assert unaugmented(validation, validation) is validation
    assert unaugmented(train, samples_from(data(10))) is None
    splits = resolve(Classification(train=Pictures(flip), validation=data(100)), 0)
    assert any("augmented" in note for note in splits.notes)
