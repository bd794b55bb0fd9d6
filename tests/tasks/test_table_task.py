"""A table as a task: what is predicted is found, the split is stable, new data is read as the old."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch

from boildown.errors import DataError
from boildown.tasks.networks import TableNetwork
from boildown.tasks.table import Table, validation_share


def write(path, header, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def rows(count=200, seed=0):
    random = np.random.default_rng(seed)
    return [
        [
            i,
            f"{x:.3f}",
            random.choice(["north", "south"]),
            "" if i % 50 == 0 else f"{100 * x + 7:.2f}",
            "yes" if x > 0 else "no",
        ]
        for i, x in enumerate(random.normal(size=count))
    ]


HEADER = ["id", "x", "side", "price", "bought"]


@pytest.fixture
def sold(tmp_path):
    return write(tmp_path / "sold.csv", HEADER, rows())


def test_classes_are_found_with_what_was_left_out(sold):
    table, told = Table.find(sold, "bought")
    assert (table.kind, table.classes, table.rows) == ("classification", ("no", "yes"), 200)
    assert [(column.name, column.kind) for column in table.columns] == [
        ("x", "number"), ("price", "number"), ("side", "category"),
    ]  # fmt: skip
    assert told == [
        "Column 'id' is left out: it numbers the rows (rises from row to row, no value twice); where it measures "
        "something say --keep id."
    ]


def test_numbers_are_predicted_and_rows_without_one_left_out(sold):
    table, told = Table.find(sold, "price")
    assert (table.kind, table.classes, table.rows) == ("regression", (), 196)
    assert "4 rows without a value of 'price' are left out." in told
    assert len(table.task(sold).train) + len(table.task(sold).validation) == 196


@pytest.mark.parametrize(
    ("values", "kind", "classes"),
    [
        ([str(i % 3) for i in range(90)], "classification", ("0", "1", "2")),
        ([f"{i % 3}.0" for i in range(90)], "classification", ("0", "1", "2")),
        ([str(i % 45) for i in range(90)], "regression", ()),
        ([str(i % 3 + 0.5) for i in range(90)], "regression", ()),
        ([f"{10 * (i % 3)}" for i in range(90)], "classification", ("0", "10", "20")),
    ],
)
def test_whole_numbers_are_classes_where_they_are_few(tmp_path, values, kind, classes):
    random = np.random.default_rng(0)
    path = write(tmp_path / "t.csv", ["a", "y"], [[f"{random.normal():.3f}", y] for y in values])
    table, _told = Table.find(path, "y")
    assert (table.kind, table.classes) == (kind, classes)
    assert Table.find(path, "y", "regression")[0].kind == "regression"


def test_the_split_depends_on_rows_and_seed_alone(sold, tmp_path):
    table, _told = Table.find(sold, "bought")
    before = table.task(sold, validation=0.3)
    more = write(tmp_path / "more.csv", HEADER, [*rows(50, seed=1), *reversed(rows())])
    after = table.task(more, validation=0.3)

    def held(task):
        return {tuple(row.tolist()) for inputs, _ in task.validation.batches() for row in inputs}

    assert held(before) <= held(after)
    assert held(before) != held(table.task(sold, validation=0.3, seed=1))
    assert 40 <= len(before.validation) <= 80
    assert len(before.train) + len(before.validation) == 200


def test_a_task_of_another_file_reads_it_by_name(sold, tmp_path):
    table, _told = Table.find(sold, "bought")
    other = write(tmp_path / "test.csv", HEADER[::-1], [row[::-1] for row in rows(40, seed=2)])
    task = table.task(sold, test=other)
    assert len(task.test) == 40
    inputs, target = next(task.test.batches(40))
    assert ((inputs[:, 0] > 0).long() == target).all(), "x decides, wherever its column stands"
    with pytest.raises(DataError, match="lacks the columns x"):
        table.encode({"price": ["1"], "side": ["north"]})
    strange = write(tmp_path / "strange.csv", HEADER, [[0, 1, "north", 2, "perhaps"]])
    with pytest.raises(DataError, match="not there: perhaps"):
        table.task(strange)


def test_it_comes_back_from_json(sold, tmp_path):
    table, _told = Table.find(sold, "bought")
    (tmp_path / "columns.json").write_text(table.dump(), encoding="utf-8")
    assert Table.load(tmp_path / "columns.json") == table


@pytest.mark.parametrize(
    ("target", "kind", "told"),
    [
        ("price2", None, "Its columns are: id, x, side, price, bought"),
        ("id", "classification", "too many for classes"),
        ("side", "regression", "values that are no numbers: north"),
    ],
)
def test_targets_that_cannot_be(sold, target, kind, told):
    with pytest.raises(DataError, match=told):
        Table.find(sold, target, kind)


def test_a_target_that_says_nothing_or_little(tmp_path):
    path = write(
        tmp_path / "t.csv", ["a", "y", "z"], [[i * 1.5, "same", "rare" if i == 3 else i % 2] for i in range(60)]
    )
    with pytest.raises(DataError, match="'same' in every row"):
        Table.find(path, "y")
    with pytest.raises(DataError, match="one row only: rare"):
        Table.find(path, "z")
    few = write(tmp_path / "few.csv", ["a", "y"], [[i, i % 2] for i in range(8)])
    with pytest.raises(DataError, match="8 rows"):
        Table.find(few, "y")
    copied = write(tmp_path / "copied.csv", ["a", "y"], [[i % 2, i % 2] for i in range(60)])
    with pytest.raises(DataError, match="no column to predict"):
        Table.find(copied, "y")


def test_columns_are_kept_and_left_out_as_asked(sold):
    table, told = Table.find(sold, "bought", keep=["id"], leave_out=["price"])
    assert [column.name for column in table.columns] == ["id", "x", "side"]
    assert told == ["Column 'price' is left out, as you said."]
    with pytest.raises(DataError) as caught:
        Table.find(sold, "bought", keep=["idd", "x"], leave_out=["x"])
    assert [mistake.cause for mistake in caught.value.mistakes] == [
        "sold.csv has no column idd to keep or leave out.", "x cannot be kept and left out.",
    ]  # fmt: skip


def test_a_column_that_is_of_no_use_cannot_be_kept(tmp_path):
    path = write(tmp_path / "t.csv", ["a", "day", "y"], [[i % 7, f"2026-01-{i % 28 + 1:02}", i % 2] for i in range(60)])
    with pytest.raises(DataError, match="'day' cannot be kept: it holds dates"):
        Table.find(path, "y", keep=["day"])


def test_what_each_column_tells_by_itself(tmp_path):
    random = np.random.default_rng(0)
    path = write(
        tmp_path / "t.csv", ["x", "noise", "fee", "y"],
        [
            [f"{x:.3f}", f"{random.normal():.3f}", f"{random.normal(50, 9):.1f}" if x + e > 0 else "", int(x + e > 0)]
            for x, e in random.normal(size=(400, 2))
        ],
    )  # fmt: skip
    table, _told = Table.find(path, "y")
    x, noise, fee = table.alone(path, validation=0.4)
    assert (x.name, noise.name, fee.name) == ("x", "noise", "fee")
    assert (fee.loss, fee.filled) == (0.0, True)
    assert 0.15 < x.loss < 0.4 < noise.loss
    assert not x.filled
    held = table.task(path, validation=0.4).validation
    labels = torch.cat([target for _inputs, target in held.batches()])
    assert fee.blind == pytest.approx(float(min((labels == 0).float().mean(), (labels == 1).float().mean())), abs=0.2)


def test_one_class_that_is_nearly_all_asks_for_f1_too(tmp_path):
    random = np.random.default_rng(0)
    path = write(tmp_path / "t.csv", ["a", "y"], [[f"{random.normal():.3f}", int(i % 10 == 0)] for i in range(200)])
    table, _told = Table.find(path, "y")
    assert [metric.name for metric in table.task(path).metrics] == ["accuracy", "f1"]


@pytest.mark.parametrize(("count", "share"), [(100, 0.4), (2500, 0.4), (4000, 0.25), (50_000, 0.2)])
def test_a_thousand_to_judge_on_where_that_is_not_too_many(count, share):
    assert validation_share(count) == share


def test_the_network_takes_rows_as_they_are():
    torch.manual_seed(0)
    random = np.random.default_rng(0)
    x = torch.tensor(np.column_stack([random.normal(1e4, 2e3, 80), random.integers(0, 4, 80)]), dtype=torch.float32)
    y = 3 * x[:, 0] + 100
    network = TableNetwork(1, [3], 1, regression=True)
    network.standardize(x, y)
    inside = network.body[0]
    seen = []
    inside.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0]))
    out = network(x).detach()
    assert out.shape == (80, 1)
    assert seen[0].shape == (80, 5)
    assert seen[0][:, 0].std() == pytest.approx(1, abs=0.02)
    assert (seen[0][:, 1:].sum(1) == 1).all()
    assert out.mean() == pytest.approx(float(y.mean()), rel=0.05)


def test_mistakes_of_one_table_and_of_another_are_told_together(sold, tmp_path):
    few = write(tmp_path / "few.csv", ["a", "y"], [[i % 3, "same"] for i in range(8)])
    with pytest.raises(DataError) as caught:
        Table.find(few, "y")
    told = [mistake.cause for mistake in caught.value.mistakes]
    assert told == ["few.csv has 8 rows with a value of 'y'.", "'y' is 'same' in every row."]
    table, _told = Table.find(sold, "bought")
    strange = write(tmp_path / "strange.csv", HEADER[1:], [[1, "north", 2, "perhaps"]])
    other = write(tmp_path / "other.csv", ["id", "price", "bought"], [[1, 2, "never"]])
    with pytest.raises(DataError) as caught:
        table.task(strange, test=other)
    told = [mistake.cause for mistake in caught.value.mistakes]
    assert len(told) == 3
    for part, cause in zip(("perhaps", "lacks the columns x, side", "never"), told, strict=True):
        assert part in cause


def test_whole_numbers_as_classes_are_told(tmp_path):
    rows = "\n".join(f"{i % 7},{i % 4}" for i in range(200))
    (tmp_path / "bikes.csv").write_text(f"size,count\n{rows}\n")
    table, told = Table.find(tmp_path / "bikes.csv", "count")
    assert table.kind == "classification"
    assert any("--kind regression" in line for line in told)
    assert not any(
        "--kind regression" in line for line in Table.find(tmp_path / "bikes.csv", "count", "classification")[1]
    )
