"""Data that cannot be judged on is refused before anything is computed, every mistake with its cure."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from boildown.tasks import Classification, Regression
from boildown.tasks.checks import check_labels, majority_share, overlap
from boildown.tasks.data import samples_from

X = torch.randn(300, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(300) % 3


class Augmented(Dataset):
    targets = Y.tolist()

    def __len__(self):
        return 300

    def __getitem__(self, index):
        return X[index] + (torch.rand(()) < 0.3), int(Y[index])


class Broken(Augmented):
    def __getitem__(self, index):
        if index == 70:
            raise FileNotFoundError("70.jpg")
        return X[index], int(Y[index])


def causes(task):
    mistakes = task.check()
    assert all(mistake.cure for mistake in mistakes)
    return [mistake.cause for mistake in mistakes]


def with_value(value, place=200):
    changed = X.clone()
    changed[place, 1] = value
    return changed


def pad(items):
    return torch.stack([torch.nn.functional.pad(x, (0, 9 - len(x))) for x, _ in items]), torch.tensor(
        [y for _, y in items]
    )


def test_sound_data_has_no_mistakes():
    task = Classification(train=Augmented(), calibration=list(X), validation=(X, Y), test=(X, Y))
    assert task.check() == []
    assert Classification(validation=list(X)).check() == []  # held against the first model alone


@pytest.mark.parametrize(
    ("validation", "says"),
    [
        ([], ["validation data is empty"]),
        (TensorDataset(X[:0], Y[:0]), ["validation data is empty"]),
        (Augmented(), ["read twice"]),
        (Broken(), ["item 70 cannot be read: FileNotFoundError: 70.jpg"]),
        ([(torch.zeros(3 + (i == 5)), 0) for i in range(9)], ["item 5 (4,), item 0 (3,)"]),
        ((with_value(torch.nan), Y), ["item 200 has an input that is NaN"]),
        ((with_value(-torch.inf), Y), ["NaN or infinite"]),
        (
            (X, Y.float()),
            [
                "torch.float32".removeprefix("torch."),
            ],
        ),
        ((X, Y - 1), ["label is -1"]),
        ((X, torch.ones_like(Y)), ["All 300 validation labels are 1"]),
        ([("a sentence", 1), ("another", 0)], ["hold text"]),
        ([*zip(X[:9], Y[:9], strict=True), X[9]], ["item 9"]),
        ((with_value(torch.nan)[:, None], torch.where(Y == 0, torch.nan, 1.0)), ["a target", "an input"]),
    ],
)
def test_data_that_cannot_be_judged_on_is_named(validation, says):
    found = causes(Classification(validation=validation))
    assert len(found) == len(says)
    for words, cause in zip(says, found, strict=True):
        assert words in cause


def test_mistakes_of_all_data_sets_come_together():
    task = Classification(train=[], validation=Augmented(), test=(with_value(torch.nan), Y))
    found = causes(task)
    assert len(found) == 3
    assert "train data is empty" in found[0]
    assert "validation data differs" in found[1]
    assert found[2].startswith("Test item 200")


def test_training_data_may_be_augmented_and_padded_data_is_fine():
    ragged = [(torch.ones(1 + i % 9), i % 2) for i in range(20)]
    loader = DataLoader(ragged, batch_size=4, collate_fn=pad)
    assert Classification(train=Augmented(), validation=loader).check() == []


class AugmentedLate(Augmented):
    def __getitem__(self, index):
        return X[index] + (index >= 64) * torch.rand(()), int(Y[index])


class BrokenLate(Augmented):
    def __getitem__(self, index):
        if index == 290:
            raise FileNotFoundError("290.jpg")
        return X[index], int(Y[index])


LATE = {
    "an input": ((with_value(torch.nan, 280), Y), "item 280 has an input that is NaN"),
    "an infinite input": (TensorDataset(with_value(torch.inf, 299), Y), "item 299 has an input"),
    "one of several inputs": ([((X[i], X[i] / (i != 270)), 0) for i in range(300)], "item 270 has an input"),
    "through a loader": (DataLoader(TensorDataset(with_value(torch.nan, 280), Y), batch_size=32), "item 280"),
    "in a subset": (Subset(TensorDataset(with_value(torch.nan, 5), Y), [*range(10, 300), 5]), "item 290 has an input"),
    "alone in batches of one": (DataLoader([(x, 0) for x in with_value(torch.nan, 280)], collate_fn=pad), "item 280"),
    "a file": (BrokenLate(), "item 290 cannot be read: FileNotFoundError: 290.jpg"),
    "at random": (AugmentedLate(), "data differs when it is read twice"),
}


@pytest.mark.parametrize("kind", LATE)
@pytest.mark.parametrize("part", ["validation", "test"])
def test_what_is_wrong_far_from_the_beginning_of_scored_data_is_told(part, kind):
    source, says = LATE[kind]
    found = causes(Classification(**{"validation": (X, Y), part: source}))
    assert len(found) == 1
    assert says in found[0]


def test_a_late_target_that_is_not_finite_is_told():
    (cause,) = causes(Regression(validation=(X, torch.where(torch.arange(300) == 290, torch.nan, 1.0))))
    assert "Validation item 290 has a target" in cause


def test_all_items_to_calibrate_with_are_read():
    (cause,) = causes(Classification(calibration=list(with_value(torch.nan, 280)), validation=(X, Y)))
    assert "Calibration item 280" in cause


def test_of_training_data_only_the_beginning_is_read_and_a_sorted_beginning_is_no_mistake():
    assert Classification(train=(with_value(torch.nan, 280), Y), validation=(X, Y)).check() == []

    class Sorted(Augmented):
        targets = None

        def __getitem__(self, index):
            return X[index], int(index >= 280)

    assert Classification(validation=Sorted()).check() == []


def test_regression_targets_may_be_whole_but_not_nan():
    assert Regression(validation=(X, Y)).check() == []
    (cause,) = causes(Regression(validation=(X, torch.full((300,), torch.nan))))
    assert "item 0 has a target" in cause


def test_labels_are_held_against_the_models_outputs():
    assert check_labels(np.array([0, 2, -100]), 3) == []
    (mistake,) = check_labels(np.array([1, 2, 3]), 3)
    assert "1 to 3" in mistake.cause
    assert "subtract 1" in mistake.cure
    (mistake,) = check_labels(np.array([0, 7]), 3)
    assert "belong together" in mistake.cure


def test_overlap_counts_validation_items_that_were_trained_on():
    train = samples_from((X[:200], Y[:200]))
    assert overlap(train, samples_from((X[190:], Y[190:]))) == 10
    assert overlap(train, samples_from((X[190:], 0 * Y[190:]))) == 10  # inputs alone
    assert overlap(train, samples_from((X[190:] + 1e-5, Y[190:]))) == 10  # as good as equal
    assert overlap(train, samples_from((X[200:], Y[200:]))) == 0
    assert overlap(train, samples_from((X[:200].double(), Y[:200]))) == 0


def test_the_majority_share_is_what_never_looking_scores():
    assert majority_share(np.array([0, 0, 0, 1, -100])) == 0.75
    assert majority_share(np.array([])) == 0
