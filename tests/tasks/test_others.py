"""Several sets to judge on: how they are given, checked, named in targets and parted."""

from __future__ import annotations

import pytest
import torch
from PIL import Image

import boildown as bd
from boildown.api.wanted import wanted
from boildown.domain.grammar import base_of, set_of
from boildown.engine.job import Job
from boildown.errors import DataError, InputError, TargetError
from boildown.surgery.factories import call_factory
from boildown.tasks.groups import shared_groups
from boildown.tasks.images import image_folder
from boildown.tasks.others import beside, judged_beside, target_of
from boildown.tasks.splits import resolve
from boildown.tasks.table import Table


def data(count=40, seed=0, size=5):
    x = torch.randn(count, size, generator=torch.Generator().manual_seed(seed))
    return x, torch.arange(count) % 3


def parted(task, *texts):
    target = target_of(task, texts)
    return target, beside(task, resolve(task, 0), target, 0)


def test_the_first_of_several_sets_is_the_main_one_and_its_name_may_stand_in_targets():
    task = bd.Classification(validation={"clean": data(), "night": data(50, 1), "fog": data(60, 2)})
    assert (len(task.validation), task.main) == (40, "clean")
    assert {name: len(samples) for name, samples in task.others.items()} == {"night": 50, "fog": 60}
    target, splits = parted(task, "accuracy[ CLEAN ] drop <= 1 pp", "Accuracy[night] >= 80 %", "size <= 0.5x")
    assert [condition.metric for condition in target.conditions] == ["accuracy", "accuracy[night]", "size"]
    assert target.conditions[1].text == "accuracy[night] >= 80 %"
    assert (base_of("accuracy[night]"), set_of("accuracy[night]")) == ("accuracy", "night")
    assert (set_of("accuracy"), set_of("accuracy[class=stop]")) == (None, None)
    assert list(splits.others) == ["night"]
    assert "no condition names fog: such a set is not scored" in splits.notes
    with pytest.raises(TargetError, match="bound the same thing"):
        target_of(task, ["accuracy[clean] drop <= 1 pp", "accuracy drop <= 2 pp"])


@pytest.mark.parametrize(
    ("text", "guess"),
    [
        ("accuracy[nihgt] drop <= 1 pp", "accuracy[night]"),
        ("accuracy[noize:3] drop <= 1 pp", "accuracy[noise:"),
        ("accuracy[noise:9] drop <= 1 pp", "accuracy[noise:"),
        ("accuracy[noise] drop <= 1 pp", "accuracy[noise:"),
        ("acuracy[night] drop <= 1 pp", "accuracy[night]"),
    ],
)
def test_unknown_sets_are_refused_with_the_nearest(text, guess):
    task = bd.Classification(validation={"clean": data(), "night": data(50, 1)})
    with pytest.raises(TargetError) as refused:
        target_of(task, [text])
    assert f"Did you mean `{guess}" in refused.value.mistakes[0].cure


@pytest.mark.parametrize(
    ("validation", "told"),
    [
        ({"clean": data(), "noise": data()}, "The set 'noise' is called like a corruption"),
        ({"Blur": data()}, "The set 'Blur' is called like a corruption"),
        ({"clean": data(), "haze": data()}, "The set 'haze' is called like a corruption"),
        ({"clean": data(), "at night": data()}, "A set cannot be called 'at night'"),
        ({"clean": data(), "a:3": data()}, "A set cannot be called 'a:3'"),
        ({"a": data(), "A": data()}, "Two sets are called 'a' and 'A'"),
        ({"train": data(), "test": data()}, "a set called 'train', which serves something else"),
        ({"label": torch.zeros(3), "x": torch.zeros(3)}, "A dict is not a data set"),
        ({"clean": data(), "night": "night.csv"}, r"validation\[night\]: A str is not a data set"),
        ({}, "A dict is not a data set"),
        ({0: data()}, "A dict is not a data set"),
    ],
)
def test_names_that_clash_or_cannot_stand_in_a_target_are_refused(validation, told):
    with pytest.raises(InputError, match=told):
        bd.Classification(validation=validation, corruptions={"haze": lambda x, s, g: x})


def test_all_mistakes_of_names_and_functions_are_told_at_once():
    with pytest.raises(InputError) as refused:
        bd.Classification(validation={"noise": data(), "a b": data()}, corruptions={"fog": 3, "x y": len})
    assert len(refused.value.mistakes) == 4
    with pytest.raises(InputError, match="corruptions is a list, not a dictionary of functions"):
        bd.Classification(validation={"clean": data()}, corruptions=[len])


def test_every_set_is_checked_as_the_main_one_and_named():
    bad = data(50, 1)
    bad[0][7, 2] = torch.nan
    task = bd.Classification(
        validation={
            "clean": data(), "nan": bad, "wide": data(30, 2, size=6), "none": torch.zeros(3, 5),
            "long": (data(30)[0].double(), data(30)[1]), "empty": (torch.zeros(0, 5), torch.zeros(0).long()),
            "negative": (data()[0], data()[1] - 1), "good": data(20, 4), "one": (data(30, 6)[0], torch.ones(30).long()),
        },
        test={"clean": data(30, 7), "good": data(30, 8, size=4)},
    )  # fmt: skip
    told = [mistake.cause for mistake in task.check()]
    assert told == [
        "Validation[nan] item 7 has an input that is NaN or infinite.",
        "The validation[wide] inputs have shape (6,) (float32); those of the main set shape (5,) (float32).",
        "The validation[long] inputs have shape (5,) (float64); those of the main set shape (5,) (float32).",
        "The validation[empty] data is empty.",
        "A validation[negative] label is -1.",
        "The test[good] inputs have shape (4,) (float32); those of the main set shape (5,) (float32).",
    ]


def test_sets_that_are_padded_may_have_other_lengths():
    def padded(items):
        longest = max(len(x) for x, _ in items)
        return torch.stack([torch.nn.functional.pad(x, (0, longest - len(x))) for x, _ in items]), torch.tensor(
            [y for _, y in items]
        )

    short, long = ([(torch.ones(n + i % 3), i % 2) for i in range(12)] for n in (3, 9))
    assert bd.Classification(validation={"short": short, "long": long}, collate=padded).check() == []


def test_a_set_is_parted_as_the_main_one_and_gives_nothing_to_calibration():
    sets = {"clean": data(1600), "night": data(1200, 1), "few": data(300, 2)}
    task = bd.Classification(validation=sets, test={"few": data(200, 3)})
    _, splits = parted(task, "accuracy[night] drop <= 2 pp", "accuracy[few] drop <= 2 pp")
    night, few = splits.others["night"], splits.others["few"]
    assert (len(night.search), len(night.verdict), night.search_labelled) == (600, 600, True)
    assert not set(night.search.places) & set(night.verdict.places)
    assert (len(few.verdict), few.search_labelled) == (200, False)
    assert len(splits.calibration) == 200, "cut from the main set"
    assert any(note.startswith("night: No test data: validation is halved") for note in splits.notes)
    target = target_of(task, ["accuracy[night] >= 80 %", "accuracy[few] >= 80 %", "accuracy[shift:1] >= 80 %"])
    whole = judged_beside(task, target, 0)
    assert {name: len(each.verdict) for name, each in whole.others.items()} == {
        "night": 1200, "few": 200, "shift:1": 1600,
    }  # fmt: skip


def test_equal_samples_of_a_set_count_once():
    x, y = data(30, 1)
    task = bd.Classification(validation={"clean": data(), "night": (x.repeat(4, 1), y.repeat(4))})
    _, splits = parted(task, "accuracy[night] drop <= 2 pp")
    assert len(set(splits.others["night"].verdict_clusters.tolist())) == 30
    assert any(note.startswith("night: The 120 validation samples are 30 different ones") for note in splits.notes)


@pytest.mark.parametrize(
    ("test", "told"),
    [
        ({"clean": data(), "nigth": data()}, "test names a set 'nigth', which validation lacks"),
        ({"day": data()}, "'day'"),
    ],
)
def test_test_names_sets_that_validation_has(test, told):
    with pytest.raises(DataError, match=told):
        bd.Classification(validation={"clean": data(), "night": data(50, 1)}, test=test)
    with pytest.raises(DataError, match="test names several sets, and validation does not"):
        bd.Classification(validation=data(), test=test)


def test_a_plain_test_set_is_that_of_the_main_set():
    task = bd.Classification(validation={"clean": data(), "night": data(50, 1)}, test=data(20, 2))
    assert (len(task.test), task.tests) == (20, {})


def test_every_set_is_turned_to_the_type_of_the_model():
    half = tuple(part.half() if part.is_floating_point() else part for part in data(30, 1))
    task = bd.Classification(validation={"clean": half, "night": half}, test={"night": half})
    made, told = task.in_float(frozenset({torch.float16}))
    assert told == ["data in float16 were turned into float32, as the model was"]
    for name in ("validation", "validation[night]", "test[night]"):
        assert next(made.data()[name].batches(4))[0].dtype == torch.float32
        assert next(task.data()[name].batches(4))[0].dtype == torch.float16


# -- files and folders ---------------------------------------------------------------------------------


def write(path, rows):
    path.write_text("\n".join(["age,plan,left", *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_a_table_reads_another_file_as_its_own(tmp_path):
    rows = [(20 + i % 37 + i / 100, "ab"[i % 2], ["no", "yes"][i % 3 == 0]) for i in range(120)]
    path, night = write(tmp_path / "day.csv", rows), write(tmp_path / "night.csv", rows[:30])
    table, _ = Table.find(path, "left")
    task = table.task(path).judged_on({"night": night, "more": data(10, size=2)})
    assert len(task.others["night"]) == 30
    assert torch.equal(next(task.others["night"].batches(30))[0], torch.from_numpy(table.encode(
        {"age": [str(row[0]) for row in rows[:30]], "plan": [row[1] for row in rows[:30]]}
    )))  # fmt: skip
    write(tmp_path / "odd.csv", [(20, "a", "perhaps")])
    with pytest.raises(DataError) as refused:
        task.judged_on({"odd": tmp_path / "odd.csv", "none": tmp_path / "none.csv", "noise": night})
    told = [mistake.cause for mistake in refused.value.mistakes]
    assert told[0].startswith("The set 'noise' is called like a corruption")
    assert "validation[odd]: odd.csv has classes that were not there: perhaps." in told
    assert any(cause.startswith("validation[none]: There is no file") for cause in told)


def test_a_folder_of_images_reads_another_one_of_the_same_classes(tmp_path):
    for place in range(24):
        for root in ("day", "night") if place < 6 else ("day",):
            name = "cats" if place % 2 or root == "night" else "dogs"
            folder = tmp_path / root / name
            folder.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (place * 10, 0, 0)).save(folder / f"{place}.png")
    task = image_folder(tmp_path / "day", size=8, channels=3, validation=0.5).judged_on({"night": tmp_path / "night"})
    assert len(task.others["night"]) == 6
    assert next(task.others["night"].batches(6))[1].tolist() == [0] * 6, "one class is no mistake"
    assert task.check() == []
    (tmp_path / "night" / "birds").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "night" / "birds" / "1.png")
    with pytest.raises(DataError, match=r"validation\[odd\]: .*has classes that were not there: birds"):
        task.judged_on({"odd": tmp_path / "night"})
    with pytest.raises(DataError, match="There is no folder"):
        task.judged_on({"none": tmp_path / "none"})


FACTORY = """
import torch
import boildown as bd

def build():
    return bd.Classification(validation=(torch.rand(20, 5), torch.arange(20) % 2))

def model():
    return torch.nn.Linear(5, 2)
"""


def test_a_factory_takes_sets_behind_a_question_mark(tmp_path, monkeypatch):
    (tmp_path / "factory_of_sets.py").write_text(FACTORY)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(DataError, match=r"The task does not say how .* is read for the set night"):
        call_factory("factory_of_sets:build?night=night.csv")
    with pytest.raises(InputError, match="takes no data sets to judge on"):
        call_factory("factory_of_sets:model?night=night.csv")


def test_a_set_without_targets_may_be_held_against_the_first_model():
    task = bd.Classification(validation={"clean": data(), "night": data(50, 1)[0]})
    assert task.check() == []
    _, target, _ = wanted(task, ["accuracy drop <= 1 pp", "agreement[night] >= 90 %"])
    on_night = Job(task, beside(task, resolve(task, 0), target, 0), target).on("night")
    assert [metric.name for metric in on_night.metrics] == ["agreement"]
    with pytest.raises(InputError, match=r"validation\[night\] data has no targets, which accuracy\[night\]"):
        wanted(task, ["accuracy[night] drop <= 1 pp", "accuracy drop <= 1 pp"])


def test_what_needs_targets_is_refused_of_slices_too():
    task = bd.Classification(validation=data()[0], slices={"site": ["A", "B"] * 20})
    asked = ["accuracy[site=A] drop <= 1 pp", "worst site accuracy >= 90 %", "worst site agreement >= 90 %"]
    with pytest.raises(InputError) as refused:
        wanted(task, asked)
    assert [mistake.cause for mistake in refused.value.mistakes] == [
        "The validation data has no targets, which accuracy[site=A] drop <= 1 pp, worst site accuracy >= 90 % needs."
    ]


@pytest.mark.parametrize("text", ["worst class accuracy[night] >= 1 %", "accuracy[night] [class=1] >= 1 %"])
def test_a_slice_of_another_set_is_refused_as_that(text):
    task = bd.Classification(validation={"clean": data(), "night": data(50, 1)})
    with pytest.raises(TargetError, match="names two parts of the data") as refused:
        target_of(task, [text])
    assert "data set of its own" in refused.value.mistakes[0].cure


# -- groups -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", [("clean", "night"), ("validation", "validation[night]")])
def test_groups_of_every_set_count_whatever_it_is_called(names):
    given = {names[0]: [i // 4 for i in range(40)], names[1]: [i // 5 for i in range(50)]}
    task = bd.Classification(validation={"clean": data(), "night": data(50, 1)}, groups=given)
    _, splits = parted(task, "accuracy[night] drop <= 1 pp")
    assert splits.verdict_grouped
    assert splits.others["night"].verdict_grouped
    assert len(set(splits.others["night"].verdict_clusters)) == 10


def test_a_set_without_groups_beside_one_that_has_them_is_told():
    sets = {"clean": data(), "night": data(50, 1), "fog": data(60, 2)}
    task = bd.Classification(validation=sets, groups=[i // 4 for i in range(40)])
    _, splits = parted(task, "accuracy[night] drop <= 1 pp")
    assert [note for note in splits.notes if "in no groups" in note] == [
        "night: its samples are in no groups, so that each of them counts: groups={'night': ids} says which do not"
    ]


def test_groups_of_other_sets_are_checked_as_those_of_the_main_one():
    sets = {"clean": data(), "night": data(50, 1)}
    with pytest.raises(DataError, match=r"Its data sets are: validation, night\."):
        bd.Classification(validation=sets, groups={"nihgt": [1] * 50})
    with pytest.raises(DataError, match="All 50 night samples are of one group"):
        bd.Classification(validation=sets, groups={"night": [1] * 50})
    with pytest.raises(DataError, match="ids of validation twice"):
        bd.Classification(validation=sets, groups={"clean": range(40), "validation": range(40)})
    items = [{"x": torch.rand(3), "who": i // 2, "label": i % 2} for i in range(20)]
    plain = [{"x": torch.rand(3), "label": i % 2} for i in range(20)]
    with pytest.raises(DataError, match="'who' names nothing in the night data"):
        bd.Classification(validation={"clean": items, "night": plain}, groups="who")
    task = bd.Classification(train=items, validation={"clean": items, "night": items}, groups="who")
    assert [note[:44] for note in shared_groups(task)] == [
        "10 of 10 groups to judge on are also in trai",
        "10 of 10 groups to judge on (night) are also",
    ]


def test_a_key_that_holds_groups_is_no_input_of_any_set():
    items = [{"x": torch.rand(3), "who": f"p{place // 2}", "label": place % 2} for place in range(8)]
    sets = {"day": items, "night": items}
    task = bd.Classification(validation=sets, test=sets, groups="who")
    for name, samples in task.data().items():
        inputs, _ = next(iter(samples.batches(4)))
        assert list(inputs) == ["x"], name
        assert len(set(task.groups_of(name))) == 4
    assert list(task.groups_of("night")) == list(task.groups_of("validation[night]"))
