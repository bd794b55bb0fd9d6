"""Tables of slices, from what was measured and what was recorded of them."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

from boildown.domain.measurement import Interval, Measurement
from boildown.report.read import finding_line
from boildown.report.slices import changes, plain, tables
from boildown.report.text import slice_by_slice


def one(value, drop, samples=50):
    return Measurement(
        f"accuracy[site={value}]", 0.9 - drop, "fraction", first=0.9, drop=drop, samples=samples, data="verdict",
        intervals={"drop": Interval(drop - 0.01, drop + 0.01, 0.95, "tango")},
        simultaneous={"drop": Interval(drop - 0.02, drop + 0.02, 0.9975, "tango")},
    )  # fmt: skip


def measured(*slices):
    worst = max(slices, key=lambda each: each.drop)
    return {"worst site accuracy": replace(worst, metric="worst site accuracy", slices=slices, simultaneous={})}


RECORD = SimpleNamespace(
    kind="changed", attempt=2,
    data={"artifact": "ab", "slices": [["site", "B", 12, 1, list(range(100, 112))], ["other", "A", 9, 9, [1]]]},
)  # fmt: skip


def test_slices_are_shown_with_the_worst_first():
    found = measured(one("A", 0.01), one('"north, east"', 0.2), one("B", 0.05))
    (table,) = tables(found, changes([RECORD], 2, "ab"))
    assert table.title == "accuracy by site"
    assert table.told == "intervals of the drop hold for all together (each end 99.75 %)"
    assert [line.name for line in table.lines] == ["north, east", "B", "A"]
    second = table.lines[1]
    assert (second.samples, second.first, second.value, second.drop) == ("50", "90.00 %", "85.00 %", "5.00 pp")
    assert second.interval == "3.00 pp to 7.00 pp"
    assert second.changed == "12 worse, 1 better"
    assert second.where == "100, 101, 102, 103, 104, 105, 106, 107 and 4 more"
    assert table.lines[2].changed == ""
    text = "\n".join(slice_by_slice([table]))
    assert "accuracy by site: intervals of the drop" in text
    assert "12 worse, 1 better" in text


def test_plain_data_have_all_of_it():
    rows = plain(measured(one("A", 0.01), one("B", 0.05)), changes([RECORD], 2, "ab"))
    ((table, *_),) = [json.loads(json.dumps(rows))]
    assert (table["metric"], table["key"], table["data"]) == ("accuracy", "site", "verdict")
    assert [(each["slice"], each["worse"], each["better"]) for each in table["slices"]] == [
        ("accuracy[site=B]", 12, 1), ("accuracy[site=A]", 0, 0),
    ]  # fmt: skip
    assert table["slices"][0]["interval"]["level"] == 0.9975
    assert table["slices"][0]["changed"][:2] == [100, 101]
    assert changes([RECORD], 1, "ab") == changes([RECORD], 2, "other") == {}


def test_many_slices_are_cut_and_counted():
    (table,) = tables(measured(*(one(str(number), number / 1000) for number in range(250))))
    assert (len(table.lines), table.more) == (100, 150)
    assert slice_by_slice([table])[-1] == "    and 240 more"


def test_slices_of_the_search_and_without_a_first_model_say_so():
    searched = [replace(one("A", 0.01), data="search")]
    assert tables(measured(*searched))[0].title == "accuracy by site, on the search samples"
    alone = replace(one("A", 0.01), first=None, drop=None, simultaneous={"value": Interval(0.8, 0.9, 0.99, "wilson")})
    (table,) = tables({"worst site accuracy": replace(alone, metric="worst site accuracy", slices=(alone,))})
    assert table.lines[0].interval == "80.00 % to 90.00 %"
    assert table.told.startswith("intervals of the accuracy")
    nothing = replace(one("A", math.nan), intervals={}, simultaneous={})
    assert tables(measured(nothing))[0].told == ""
    assert tables({"accuracy": alone}) == ()


def test_a_finding_shows_the_samples_of_the_slice_that_decides():
    from boildown.domain.target import Condition, Target
    from boildown.domain.verdict import judge

    condition = Condition("worst site accuracy", "drop", "<=", 0.1, "worst site accuracy drop <= 10 pp")
    found = measured(one("A", 0.01, samples=7), one("B", 0.2, samples=1200))
    (finding,) = judge(Target((condition,)), found, 0.95).findings
    line = finding_line(finding, found)
    assert (line.samples, line.observed, line.first) == ("1,200", "20.00 pp", "90.00 %")
    assert "of 2 slices it decides" in line.doubt
