"""Samples that belong together: how their ids are given, that they are never parted, and what is told of them."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace
from uuid import UUID

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, SubsetRandomSampler

from boildown.errors import DataError, InputError
from boildown.methods.taught import held_out
from boildown.tasks import Classification, Embedding, Regression, Segmentation
from boildown.tasks.data import samples_from
from boildown.tasks.groups import shared_groups
from boildown.tasks.images import image_folder
from boildown.tasks.splits import judged_alone, learning, resolve
from boildown.tasks.table import Table


def data(count, start=0):
    numbers = torch.arange(start, start + count)
    return numbers.float()[:, None], numbers % 2


def values(samples):
    return {int(i) for inputs, _ in samples.batches() for i in inputs[:, 0]}


def grouped(count, size, **options):
    """A task of so many groups, each of so many samples."""
    ids = (np.arange(count * size) // size).tolist()
    return Classification(validation=data(count * size), groups=ids, **options)


# -- how they are given -----------------------------------------------------------------------------

IDS = [3, 3, 1, 1, 2, 2]


@pytest.mark.parametrize(
    "given",
    [
        IDS,
        tuple(IDS),
        np.array(IDS),
        np.array(IDS, np.float32)[:, None],
        torch.tensor(IDS),
        [torch.tensor(each) for each in IDS],
        [float(each) for each in IDS],
        [str(each) for each in IDS],
        [f" {each} ".encode() for each in IDS],
        np.array(IDS, object),
        {"validation": IDS},
        dict(enumerate(IDS)).values(),
    ],
    ids=repr,
)
def test_ids_of_any_kind_are_the_same_groups(given):
    assert Classification(validation=data(6), groups=given).groups_of("validation").tolist() == list("331122")


def test_ids_may_be_anything_with_a_text():
    ids = [UUID(int=1), UUID(int=1), ("a", 1), ("a", 1), True, np.datetime64("2024-01-01")]
    assert len(set(Classification(validation=data(6), groups=ids).groups_of("validation"))) == 4


def test_a_task_without_groups_has_none():
    task = Classification(validation=data(6))
    assert task.groups_of("validation") is None
    assert not resolve(task, 0).verdict_grouped


@pytest.mark.parametrize(
    ("kind", "validation"),
    [
        (Regression, data(6)),
        (Segmentation, (torch.zeros(6, 1, 4, 4), torch.zeros(6, 4, 4, dtype=torch.long))),
        (Embedding, [((torch.rand(3), torch.rand(3)), torch.tensor(1.0))] * 6),
    ],
)
def test_every_kind_of_task_takes_groups(kind, validation):
    assert kind(validation=validation, groups=IDS).groups_of("validation").tolist() == list("331122")


class Frames(Dataset):
    """Frames that know the video they are of."""

    def __init__(self, videos):
        self.videos = videos

    def __len__(self):
        return len(self.videos)

    def __getitem__(self, index):
        return torch.full((2,), float(index)), index % 2


def test_a_data_set_may_have_them_as_an_attribute_whatever_is_chosen_of_it():
    frames = Frames(["a", "a", "b", "b", "c", "c"])
    for chosen in (frames, Subset(frames, range(6)), DataLoader(frames, batch_size=2, shuffle=True)):
        assert Classification(validation=chosen, groups="videos").groups_of("validation").tolist() == list("aabbcc")
    half = Subset(frames, [5, 0, 3])
    assert Classification(validation=half, groups="videos").groups_of("validation").tolist() == list("cab")
    sampled = DataLoader(frames, sampler=SubsetRandomSampler([4, 1]))
    assert Classification(validation=sampled, groups="videos").groups_of("validation").tolist() == list("ac")


@pytest.mark.parametrize("beside", [False, True])
def test_the_key_of_an_item_that_tells_them_is_no_input(beside):
    def item(i):
        inputs = {"x": torch.full((2,), float(i)), "patient": f"p{i // 2}"}
        return (inputs, i % 2) if beside else {**inputs, "label": i % 2}

    items = [item(i) for i in range(6)]
    task = Classification(train=items, validation=items, groups="patient")
    for samples in (task.train, task.validation):
        inputs, target = next(samples.batches(6))
        assert list(inputs) == ["x"]
        assert target.tolist() == [0, 1] * 3
    assert task.groups_of("train").tolist() == ["p0", "p0", "p1", "p1", "p2", "p2"]
    assert not task.check()
    assert "patient" in items[0] or "patient" in items[0][0]


def test_the_column_of_a_data_set_tells_them():
    class Columns(list):
        column_names = ("x", "speaker")

        def __getitem__(self, key):
            return [row["speaker"] for row in self] if key == "speaker" else super().__getitem__(key)

    rows = Columns({"x": torch.zeros(1), "speaker": i // 3, "label": i % 2} for i in range(6))
    assert Classification(validation=rows, groups="speaker").groups_of("validation").tolist() == list("000111")


WRONG = {
    "5 ids for 6 validation samples": [1, 2, 3, 4, 5],
    "2 of 6 validation samples have no id in groups, the first is item 1": [1, None, 2, float("nan"), 3, 3],
    "1 of 6 validation samples have no id": ["a", "", "b", "b", "c", "c"],
    "All 6 validation samples are of one group, 'x'": ["x"] * 6,
    "has the shape (6, 2)": np.zeros((6, 2)),
    "is int, no list of ids": 6,
    "is set, no list of ids": {1, 2, 3, 4, 5, 6},
    "names nothing in the validation data": "patient",
    "groups names val, and the task has no such data": {"val": IDS},
    "groups names test, and the task has no such data": {"validation": IDS, "test": IDS},
    "An id in groups of the validation data is list": [[1], [1], [2], [2], [3], [3]],
    "An id in groups of the validation data is object": [object() for _ in range(6)],
}


@pytest.mark.parametrize("told", WRONG)
def test_what_is_no_groups_is_refused_with_a_cure(told):
    with pytest.raises(InputError) as caught:
        Classification(validation=data(6), groups=WRONG[told])
    assert told in str(caught.value)
    assert all(mistake.cure for mistake in caught.value.mistakes)


def test_all_mistakes_are_told_at_once():
    with pytest.raises(InputError) as caught:
        Classification(train=data(4), validation=data(6), groups={"validation": [1], "train": [None] * 4})
    assert len(caught.value.mistakes) == 2


def test_test_data_need_their_own():
    with pytest.raises(DataError, match="the verdict is found on the test data"):
        Classification(validation=data(6), test=data(6, 10), groups=IDS)
    task = Classification(validation=data(6), test=data(6, 10), groups={"validation": [1] * 6, "test": IDS})
    assert task.groups_of("test").tolist() == list("331122")


# -- what is done with them -------------------------------------------------------------------------


def groups_in(samples, size):
    return {value // size for value in values(samples)}


@pytest.mark.parametrize("train", [False, True])
def test_groups_are_never_parted(train):
    task = grouped(1300, 2, **({"train": data(40, 90_000)} if train else {}))
    splits = resolve(task, 0)
    parts = [splits.search, splits.verdict, *([] if train else [splits.calibration])]
    found = [groups_in(part, 2) for part in parts]
    assert sum(map(len, found)) == len(set.union(*found)) == 1300
    assert sum(map(len, parts)) == 2600
    assert splits.search_labelled
    assert splits.search_grouped
    assert splits.verdict_grouped
    assert len(np.unique(splits.verdict_clusters)) == len(found[1])
    assert "The 2,600 validation samples are in 1,300 groups, never parted" in splits.notes[0]
    if not train:
        assert values(learning(task, 0).calibration) == values(splits.calibration)


def test_few_groups_are_not_searched_by_score_however_many_samples_they_hold():
    splits = resolve(grouped(90, 30, calibration=data(9, 90_000)), 0)
    assert not splits.search_labelled
    assert len(splits.verdict) == 2700
    assert len(np.unique(splits.verdict_clusters)) == 90
    assert any("90 groups of validation items are too few" in note for note in splits.notes)


def test_groups_of_test_data_and_of_data_judged_alone_count():
    ids = np.arange(40) // 4
    task = Classification(validation=data(60), test=data(40, 100), groups={"test": ids})
    splits = resolve(task, 0)
    assert (splits.search_grouped, splits.verdict_grouped) == (False, True)
    alone = judged_alone(task.test, task.groups_of("test"))
    assert np.array_equal(splits.verdict_clusters, alone.verdict_clusters)
    assert alone.verdict_grouped
    assert "40 scored samples are in 10 groups" in alone.notes[0]


def test_equal_samples_join_groups_unless_most_would_be_one():
    inputs = torch.rand(40, 5, generator=torch.Generator().manual_seed(0))
    ids = np.arange(40) // 4
    inputs[4] = inputs[0]  # groups 0 and 1
    splits = judged_alone(samples_from((inputs, torch.arange(40) % 2)), ids.astype(str))
    assert len(np.unique(splits.verdict_clusters)) == 9
    assert splits.verdict_clusters[0] == splits.verdict_clusters[7]
    assert any("share an equal" in note for note in splits.notes)
    inputs[::4] = inputs[0]  # a black picture in each
    splits = judged_alone(samples_from((inputs, torch.arange(40) % 2)), ids.astype(str))
    assert len(np.unique(splits.verdict_clusters)) == 10
    assert any("in most of the groups" in note for note in splits.notes)


def test_a_group_for_every_sample_changes_nothing_and_is_told():
    splits = resolve(grouped(50, 1, calibration=data(9, 9000)), 0)
    assert "Each of the 50 validation samples is a group of its own" in splits.notes[0]


def test_calibration_leaves_more_than_one_group_to_judge_on():
    with pytest.raises(DataError, match="One group is all that calibration leaves"):
        resolve(grouped(2, 30), 0)


def test_training_holds_out_whole_groups():
    train = data(1000)
    task = Classification(train=train, validation=data(20), groups={"train": np.arange(1000) // 8})
    ours, theirs = held_out(task.train, task, 0)
    assert 150 <= len(theirs) <= 200
    assert not groups_in(ours, 8) & groups_in(theirs, 8)
    assert len(ours) + len(theirs) == 1000
    lopsided = Classification(train=train, validation=data(20), groups={"train": [0] * 900 + [1] * 100})
    assert len(held_out(lopsided.train, lopsided, 0)[1]) == 100


def test_groups_on_both_sides_are_told():
    task = Classification(
        train=data(8, 100), validation=data(6), test=data(4, 50),
        groups={"train": [1, 1, 2, 2, 8, 8, 9, 9], "validation": IDS, "test": ["2", "2", "9", "9"]},
    )  # fmt: skip
    notices = list(shared_groups(task))
    assert [notice[:50] for notice in notices] == [
        "2 of 2 groups to judge on are also in train: score", "1 of 2 groups to judge on are also in validation, ",
    ]  # fmt: skip
    assert not list(shared_groups(SimpleNamespace(test=None)))


def test_data_that_seem_to_have_groups_are_asked_about():
    items = [{"x": torch.rand(2), "subject_id": i // 4, "label": i % 2} for i in range(40)]
    told = " ".join(resolve(Classification(validation=items, calibration=data(9)), 0).notes)
    assert "hold 'subject_id'" in told
    assert "groups='subject_id'" in told
    for each in (Frames([i // 5 for i in range(40)]), Frames(list(range(40)))):
        told = " ".join(resolve(Classification(validation=each, calibration=data(9)), 0).notes)
        assert ("hold 'videos'" in told) == (each.videos[-1] < 39)
    named = [{"x": torch.rand(2), "subject": "a mail", "input_ids": i // 4, "label": i % 2} for i in range(40)]
    told = " ".join(resolve(Classification(validation=named, calibration=data(9)), 0).notes)
    assert "groups=" not in told


# -- from files -------------------------------------------------------------------------------------


def write(path: Path, patients: list[object], name: str = "patient") -> Path:
    random = np.random.default_rng(0)
    with path.open("w", newline="") as file:
        rows = [
            [p, f"{x:.3f}", "yes" if x > 0 else "no"] for p, x in zip(patients, random.normal(size=300), strict=True)
        ]
        csv.writer(file).writerows([[name, "pressure", "ill"], *rows])
    return path


def test_rows_of_one_group_go_to_one_side_and_predict_nothing_by_it(tmp_path):
    path = write(tmp_path / "ill.csv", [i // 10 for i in range(300)])
    table, told = Table.find(path, "ill", groups="patient")
    assert [column.name for column in table.columns] == ["pressure"]
    assert "Column 'patient' says which rows belong together (30 groups): it predicts nothing." in told
    (tmp_path / "columns.json").write_text(table.dump())
    assert Table.load(tmp_path / "columns.json") == table
    task = table.task(path, validation=0.4, test=path)
    sides = [set(task.groups_of(name)) for name in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 30
    assert len(task.groups_of("validation")) == len(task.validation)
    assert len(set(task.groups_of("test"))) == 30
    assert [column.name for column in table.alone(path, validation=0.4)] == ["pressure"]
    more = write(tmp_path / "more.csv", [str(i // 10) if i < 200 else 1000 + i for i in range(300)])
    again = table.task(more, validation=0.4)
    assert {g for g in again.groups_of("validation") if int(g) < 20} == {g for g in sides[1] if int(g) < 20}


def test_of_a_few_groups_two_are_judged_on(tmp_path):
    path = write(tmp_path / "ill.csv", [i % 5 for i in range(300)])
    table, _ = Table.find(path, "ill", groups="patient")
    for seed in range(8):
        assert len(set(table.task(path, validation=0.01, seed=seed).groups_of("validation"))) == 2


def test_a_column_that_may_say_what_belongs_together_is_told(tmp_path):
    told = " ".join(Table.find(write(tmp_path / "a.csv", [i // 10 for i in range(300)]), "ill")[1])
    assert "Column 'patient' may say which rows belong together (300 rows, 30 values)" in told
    assert "--groups patient" in told
    assert "--groups" not in " ".join(Table.find(write(tmp_path / "b.csv", list(range(300))), "ill")[1])
    plain = write(tmp_path / "c.csv", [i // 10 for i in range(300)], "floor")
    assert "--groups" not in " ".join(Table.find(plain, "ill")[1])


@pytest.mark.parametrize(
    ("groups", "patients", "told"),
    [
        ("nobody", [1, 2] * 150, "has no column 'nobody' of groups"),
        ("ill", [1, 2] * 150, "'ill' is predicted, and cannot say"),
        ("patient", ["", 2] * 150, "150 of 300 rows of ill.csv have no value of 'patient'"),
        ("patient", [7] * 300, "All rows of ill.csv are of one group, 'patient' = '7'"),
    ],
)
def test_a_column_that_cannot_say_it_is_refused(tmp_path, groups, patients, told):
    with pytest.raises(DataError) as caught:
        Table.find(write(tmp_path / "ill.csv", patients), "ill", groups=groups)
    assert told in str(caught.value)
    assert all(mistake.cure for mistake in caught.value.mistakes)


@pytest.fixture
def walks(tmp_path):
    """Pictures of eight walks in the folders of two classes."""
    random = np.random.default_rng(0)
    for name in ("day", "night"):
        for walk in range(8):
            (tmp_path / "walks" / name / f"walk{walk}").mkdir(parents=True)
            for number in range(3):
                pixels = random.integers(0, 256, (8, 8)).astype(np.uint8)
                Image.fromarray(pixels).save(tmp_path / "walks" / name / f"walk{walk}" / f"{number}.png")
    return tmp_path / "walks"


@pytest.mark.parametrize("groups", ["folder", r"walk\d+", r"walk(\d+)"])
def test_pictures_of_one_group_go_to_one_side(walks, groups):
    task = image_folder(walks, size=8, validation=0.4, groups=groups)
    sides = [set(task.groups_of(name)) for name in ("train", "validation")]
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 8
    assert len(task.groups_of("validation")) == len(task.validation)
    of_path = {path.parent.name for path in task.validation.read.source.paths}
    assert {name.removeprefix("walk") for name in of_path} == {name.removeprefix("walk") for name in sides[1]}


@pytest.mark.parametrize(("groups", "told"), [("walk8", "48 of 48 images are in no group"), ("(", "is no pattern")])
def test_a_pattern_that_finds_nothing_is_refused(walks, groups, told):
    with pytest.raises(DataError) as caught:
        image_folder(walks, size=8, groups=groups)
    assert told in str(caught.value)
