"""Slices by class, by column and by function, and what is wrong with them before any work."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from boildown.domain.grammar import parse_target
from boildown.errors import DataError, InputError, TargetError
from boildown.tasks.classification import Classification
from boildown.tasks.embedding import Embedding
from boildown.tasks.general import Task
from boildown.tasks.regression import Regression
from boildown.tasks.segmentation import Segmentation
from boildown.tasks.slice_checks import LEAST, check_slices
from boildown.tasks.slices import Values, called, labels_of
from boildown.tasks.splits import judged_alone, resolve
from boildown.tasks.table import Table

COUNT = 60
INPUTS = torch.arange(COUNT, dtype=torch.float32)[:, None]
LABELS = torch.arange(COUNT) % 3
SITES = ["A", "B"] * (COUNT // 2)


def task(**options):
    return Classification(validation=(INPUTS, LABELS), **options)


def checked(task, *conditions, confidence=None, splits=None):
    target = parse_target(conditions, task.metrics, slices=Values(task))
    return check_slices(target, task, splits or judged_alone(task.test or task.validation), confidence)


def refused(task, *conditions, **options):
    with pytest.raises(InputError) as caught:
        checked(task, *conditions, **options)
    assert all(mistake.cause and mistake.cure for mistake in caught.value.mistakes)
    return [str(mistake) for mistake in caught.value.mistakes]


# -- what slices there are ---------------------------------------------------------------------------


def test_classes_are_slices_by_themselves():
    assert task().slices["class"].tolist()[:4] == ["0", "1", "2", "0"]
    named = task(classes=["cat", "dog", "bird", "fish"])
    assert named.slices["class"].tolist()[:4] == ["cat", "dog", "bird", "cat"]
    assert Values(named)["class"] == ("cat", "dog", "bird", "fish")
    assert Values(task())["class"] == ("0", "1", "2")


def test_binary_labels_are_classes_and_an_ignored_one_is_none():
    binary = Classification(validation=(INPUTS, (LABELS == 1).float()[:, None]), loss="bce")
    assert set(binary.slices["class"].tolist()) == {"0", "1"}
    labels = LABELS.clone()
    labels[0] = -100
    assert Classification(validation=(INPUTS, labels)).slices["class"][0] == ""


def test_other_targets_have_no_slices_by_class():
    numbers = (INPUTS, INPUTS)
    images = (torch.rand(COUNT, 3, 4, 4), torch.zeros(COUNT, 4, 4, dtype=torch.long))
    pairs = [((torch.rand(2), torch.rand(2)), torch.rand(())) for _ in range(4)]
    for other in (Regression(validation=numbers), Segmentation(validation=images), Embedding(validation=pairs)):
        assert list(other.slices) == []
    assert list(Task("l1", "mae", validation=numbers).slices) == []
    general = Task(lambda output, target: output.sum(), "mae", validation=numbers)
    with pytest.raises(DataError, match="not one class for each sample"):
        general.slices["class"]
    assert Task("cross_entropy", "accuracy", validation=(INPUTS, LABELS)).slices["class"][1] == "1"


def test_a_sequence_gives_a_value_for_every_sample():
    found = task(slices={"site": SITES, "hour": np.arange(COUNT) / 2, "dark": torch.arange(COUNT) > 30})
    assert list(found.slices) == ["class", "site", "hour", "dark"]
    assert found.slices["site"].tolist() == SITES
    assert found.slices["hour"].tolist()[:3] == ["0", "0.5", "1"]
    assert found.slices["dark"].tolist()[29:32] == ["False", "False", "True"]
    assert Values(found)["hour"][:3] == ("0", "0.5", "1")


def test_nothing_is_no_slice():
    assert called([None, float("nan"), " B ", 3.0, 3, True, np.float32(2)]).tolist() == [
        "",
        "",
        "B",
        "3",
        "3",
        "True",
        "2",
    ]
    assert Values(task(slices={"site": [None, "A"] * 30}))["site"] == ("A",)


def test_a_function_gives_the_value_of_a_sample_alone():
    seen = []

    def size(inputs, target):
        seen.append((tuple(inputs.shape), tuple(target.shape)))
        return "large" if inputs.item() > 40 else None

    found = task(slices={"extent": size, "sign": lambda inputs: inputs.item() >= 0})
    assert seen == [], "it is called when it is asked for"
    assert found.slices["extent"].tolist()[39:42] == ["", "", "large"]
    assert set(seen) == {((1,), ())}
    assert found.slices["extent"] is found.slices["extent"]
    assert set(found.slices["sign"].tolist()) == {"True"}


def test_a_function_sees_dicts_as_the_data_set_gives_them():
    items = [{"x": torch.full((2,), float(i)), "label": i % 2} for i in range(10)]
    found = Classification(validation=items, slices={"low": lambda inputs, label: inputs["x"][0].item() < 5})
    assert found.slices["low"].tolist() == ["True"] * 5 + ["False"] * 5


def test_a_function_that_fails_is_named_with_the_item():
    broken = task(slices={"site": lambda inputs, target: {}[int(inputs)]})
    with pytest.raises(DataError, match=r"slices\['site'\] for validation fails on item 0: KeyError"):
        broken.slices["site"]


def test_parts_of_the_data_keep_their_slices():
    whole = Classification(
        validation=(torch.rand(1200, 3), torch.arange(1200) % 4), slices={"place": np.arange(1200)}
    )  # fmt: skip
    splits = resolve(whole, 0)
    for samples, judged in ((splits.search, False), (splits.verdict, True)):
        assert labels_of(whole, "place", samples, judged=judged).tolist() == list(map(str, samples.places))
    assert labels_of(whole, "none", splits.verdict, judged=True) is None


def test_a_loader_that_chooses_has_values_for_what_it_chooses():
    data = torch.utils.data.TensorDataset(INPUTS, LABELS)
    sampler = torch.utils.data.SubsetRandomSampler([5, 1, 3])
    chosen = Classification(
        validation=torch.utils.data.DataLoader(data, sampler=sampler, batch_size=2), slices={"site": ["a", "b", "c"]}
    )
    part = chosen.validation.subset([2, 0])
    assert labels_of(chosen, "site", part, judged=False).tolist() == ["c", "a"]


def test_the_test_data_have_their_own():
    test = (INPUTS[:10], LABELS[:10])
    both = task(test=test, slices={"site": {"validation": SITES, "test": ["T"] * 10}, "low": lambda x: x.item() < 5})
    assert both.slices_of("test")["site"].tolist() == ["T"] * 10
    assert both.slices_of("test")["low"].tolist() == ["True"] * 5 + ["False"] * 5
    assert Values(both)["site"] == ("A", "B", "T")
    assert both.slices_of("train") == {}
    alone = task(test=test, slices={"site": SITES})
    (found,) = refused(alone, "worst site accuracy >= 50 %")
    assert "verdict is on test" in found
    assert "'test': ..." in found


def test_columns_of_a_table_are_slices(tmp_path):
    rows = ["id,site,age,label"] + [
        f"{i},{'north' if i % 2 else ''},{i % 7},{'yes' if i % 3 else 'no'}" for i in range(300)
    ]
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "test.csv").write_text("\n".join(rows[:60]) + "\n")
    table, _ = Table.find(tmp_path / "data.csv", "label")
    found = table.task(tmp_path / "data.csv", test=tmp_path / "test.csv", slices=["site"])
    assert {"class", "id", "site", "age"} <= set(found.slices)
    assert len(found.slices["site"]) == len(found.validation)
    assert set(found.slices["site"].tolist()) == {"north", ""}
    assert found.slices_of("test")["site"].tolist() == ["north" if i % 2 else "" for i in range(59)]
    assert set(found.slices["class"].tolist()) == {"yes", "no"}
    assert set(found.given_slices) == {"site"}
    with pytest.raises(DataError, match="no column sit to tell slices apart by"):
        table.task(tmp_path / "data.csv", slices=["sit"])


# -- what is refused ---------------------------------------------------------------------------------


def test_slices_that_cannot_be_are_refused_all_at_once():
    with pytest.raises(InputError) as caught:
        task(
            slices={
                "accuracy": SITES, "Validation": SITES, "size": SITES, "drop": SITES, "": SITES, 3: SITES, "\n": SITES,
                "short": SITES[:-1], "column": "site", "number": 3, "parts": {"tset": SITES, "validation": SITES[:5]},
            },
            metrics=["accuracy", "nonsense"],
        )  # fmt: skip
    said = "\n".join(map(str, caught.value.mistakes))
    assert said.count("means something else in a target") == 4
    assert said.count("which a target could not name") == 3
    assert "slices['short'] has 59 values, and validation 60 samples" in said
    assert "slices['column'] is 'site'" in said
    assert "slices['number'] is 3" in said
    assert "has values for 'tset'" in said
    assert "slices['parts'] has 5 values" in said
    assert "nonsense" in said, "with what else is wrong"
    with pytest.raises(InputError, match="says not what they are by"):
        task(slices=["site"])


def test_values_of_the_test_data_are_recognised():
    with pytest.raises(InputError, match=r"those of test as \{'test': \.\.\.\}"):
        task(test=(INPUTS[:10], LABELS[:10]), slices={"site": SITES[:10]})


def test_a_metric_that_a_bracket_would_hide_is_refused():
    metric = SimpleNamespace(
        name="recall[5]", higher_is_better=True, unit="", range=(0, 1), decomposable=True,
        statistic=lambda output, target: output, compute=np.mean,
    )  # fmt: skip
    with pytest.raises(InputError, match="brackets"):
        task(metrics=metric)


def test_a_slice_without_samples_is_refused():
    named = task(classes=["cat", "dog", "bird", "fish"])
    (found,) = refused(named, "accuracy[class=fish] >= 50 %")
    assert "no sample to judge on is in the slice class=fish" in found
    (note,) = checked(named, "worst class accuracy >= 50 %")
    assert "no sample to judge on is in the slices class=fish" in note
    with pytest.raises(TargetError, match="no slice class=fsh"):
        checked(named, "accuracy[class=fsh] >= 50 %")
    empty = task(slices={"site": [None] * COUNT})
    assert "in any slice by 'site'" in refused(empty, "worst site accuracy >= 50 %")[0]


@pytest.mark.parametrize(
    ("condition", "confidence", "takes"),
    [
        ("worst id accuracy drop <= 5 pp", None, 20),
        ("worst id accuracy drop <= 5 pp", 0.95, 73),  # z^2 (1 - d) / d at 97.5 %, the first look
        ("worst id accuracy >= 90 %", None, 10),
        ("worst id accuracy >= 90 %", 0.95, 35),  # Wilson's, of all right
        ("worst id accuracy >= 0.9x", None, 10),
        ("worst id f1 drop <= 5 pp", 0.95, LEAST),
    ],
)
def test_a_worst_over_500_slices_of_three_is_refused_with_the_number_that_would_do(condition, confidence, takes):
    many = Classification(
        validation=(torch.rand(1500, 2), torch.arange(1500) % 3), slices={"id": np.arange(1500) // 3},
        metrics=["accuracy", "f1"],
    )  # fmt: skip
    (found,) = refused(many, condition, confidence=confidence)
    assert "500 of its 500 slices have far too few samples to judge on, 3 in the middle" in found
    assert f"{takes} or more" in found or f"fewer than {takes}" in found
    assert f"Give {takes} samples of each" in found
    enough = Classification(
        validation=(torch.rand(4 * takes, 2), torch.arange(4 * takes) % 3),
        slices={"id": np.arange(4 * takes) // takes}, metrics=["accuracy", "f1"],
    )  # fmt: skip
    assert checked(enough, condition, confidence=confidence) == []


def test_repeated_samples_count_once():
    copies = Classification(
        validation=(torch.rand(20, 4).repeat(4, 1), torch.arange(20).repeat(4) % 2),
        slices={"site": ["A", "B"] * 40},
    )  # fmt: skip
    told = checked(copies, "worst site accuracy drop <= 8 pp")
    assert "site=A (10), site=B (10)" in told[0]


def test_a_few_small_slices_are_told():
    some = task(slices={"site": ["rare"] * 4 + ["often"] * 28 + ["always"] * 28})
    (note,) = checked(some, "worst site accuracy drop <= 5 pp")
    assert "few samples to judge on are in the slices site=rare (4): a slice that loses one sample" in note
    (note,) = checked(some, "worst site accuracy drop <= 20 pp", confidence=0.95)
    assert "cannot be met with this confidence" in note
    outside = task(slices={"site": [None] * 10 + ["A"] * 50})
    assert "10 of 60 samples to judge on are in no slice by 'site'" in checked(outside, "accuracy[site=A] >= 50 %")[0]


def test_metrics_that_compare_classes_have_no_meaning_within_one():
    both = task(metrics=["accuracy", "f1"], slices={"site": SITES})
    found = refused(both, "worst class f1 drop <= 5 pp", "f1[class=1] >= 50 %", "worst class accuracy >= 50 %")
    assert ["within one it has no meaning" in each for each in found] == [True, True]
    assert checked(both, "worst site f1 drop <= 20 pp") == []
    own = task(metrics=["f1"], slices={"class": SITES})
    assert own.slices["class"].tolist() == SITES
    assert checked(own, "worst class f1 drop <= 20 pp") == []
