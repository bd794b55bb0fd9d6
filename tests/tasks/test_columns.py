"""What a column of a file holds, read from CSV as people write it."""

from __future__ import annotations

import sys
import types
from datetime import datetime, timedelta

import numpy as np
import pytest

from boildown.errors import DataError
from boildown.tasks.columns import judge, read

ROWS = [str(value) for value in np.random.default_rng(0).normal(size=60).round(3)]


def write(tmp_path, text, name="data.csv", encoding="utf-8"):
    path = tmp_path / name
    path.write_text(text, encoding=encoding)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "a,b\n1.5,x\n2.5,y\n",
        "a;b\n1,5;x\n2,5;y\n",
        "a\tb\n1.5\tx\n2.5\ty\n",
        "\ufeffa,b\r\n1.5,x\r\n\r\n2.5,y\r\n",
        'a,b\n"1.5","x"\n2.5,y',
    ],
)
def test_delimiters_decimal_commas_and_quotes(tmp_path, text):
    assert read(write(tmp_path, text)) == {"a": ["1.5", "2.5"], "b": ["x", "y"]}


def test_a_value_over_two_lines_is_one(tmp_path):
    assert read(write(tmp_path, 'a,b\n"one\ntwo",1\n')) == {"a": ["one\ntwo"], "b": ["1"]}


def test_thousands_before_a_decimal_comma(tmp_path):
    read_back = read(write(tmp_path, "price;town\n1.234,50;Ulm\n;Bonn\n2,75;A, B\n"))
    assert read_back == {"price": ["1234.50", "", "2.75"], "town": ["Ulm", "Bonn", "A, B"]}


@pytest.mark.parametrize(
    ("price", "area", "found"),
    [
        (["999", "1.234", "12.500"], ["0,5", "1,5", "-2"], ["999", "1234", "12500"]),  # another column has commas
        (["999", "1.234.567", ""], ["a", "b", "c"], ["999", "1234567", ""]),
        (["1.234", "0.500", "7"], ["0,5", "1,5", "2"], ["1.234", "0.500", "7"]),  # no group of thousands begins with 0
        (["1.5", "2.25", "7"], ["0,5", "1,5", "2"], ["1.5", "2.25", "7"]),
        (["1.234", "2.345", "7"], ["a", "b", "c"], ["1.234", "2.345", "7"]),
        (["1,5", "2.5", "7"], ["a", "b", "c"], ["1,5", "2.5", "7"]),  # 25 would be a guess
        (["1,5e3", ",5", "1.000,25"], ["a", "b", "c"], ["1.5e3", ".5", "1000.25"]),
    ],
)
def test_points_are_thousands_where_the_file_has_decimal_commas(tmp_path, price, area, found):
    lines = [f"{a};{b}" for a, b in zip(price, area, strict=True)]
    assert read(write(tmp_path, "\n".join(["price;area", *lines])))["price"] == found


def test_a_quote_that_is_never_closed_is_told_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"data\.csv cannot be read from line \d+ on: field larger than .*\n.*quote"):
        read(write(tmp_path, 'a,b\n1,x\n2,"y\n' + "3,z\n" * 50_000))


def test_every_mistake_of_a_file_is_told_at_once(tmp_path):
    with pytest.raises(DataError) as caught:
        read(write(tmp_path, "a,a,b\n1,2\n1,2,3,4\n1,2,3\n"))
    told = str(caught.value)
    assert len(caught.value.mistakes) == 2
    assert "same name: a" in told
    assert "2 rows have another number of values (row 2, 3)" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "is empty"),
        ("a,b\n", "has no rows"),
        ("1,2\n3,4\n", "begins with numbers"),
        ("1,2\n", "begins with numbers"),
    ],
)
def test_what_is_no_table_is_refused(tmp_path, text, told):
    with pytest.raises(DataError, match=told):
        read(write(tmp_path, text))


def test_another_encoding_and_an_absent_file_are_named(tmp_path):
    with pytest.raises(DataError, match="not UTF-8"):
        read(write(tmp_path, "größe,b\n1,2\n", encoding="latin-1"))
    with pytest.raises(DataError, match="no file"):
        read(tmp_path / "absent.csv")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (["", "NA", " ? "], "it is empty"),
        (["x"] * 9, "always holds 'x'"),
        ([str(i) for i in range(7, 40)], "numbers the rows"),
        ([f"name {i}" for i in range(60)], "looks like a name"),
        ([f"2026-01-{i % 28 + 1:02}" for i in range(60)], "holds dates"),
    ],
)
def test_what_is_of_no_use_is_left_out(values, why):
    column, told = judge("c", values)
    assert column is None
    assert why in told


def drawn(most, count, seed=0):
    return np.random.default_rng(seed).choice(most, count, replace=False)


SWAPPED = np.sort(drawn(5000, 300))
SWAPPED[[20, 21, 90, 100]] = SWAPPED[[21, 20, 100, 90]]


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.sort(drawn(5000, 300)), "rises from row to row, no value twice"),
        (np.sort(drawn(5000, 300))[::-1], "falls from row to row, no value twice"),
        ([f"{value}.0" for value in np.sort(drawn(5000, 300))], "rises"),
        (SWAPPED, "rises"),
        ([*range(400), *range(100)], "rises from row to row, but for 100 no value twice"),  # frames put together
        ([*np.sort(drawn(5000, 200)), *np.sort(drawn(5000, 150, seed=1))], "rises"),
        ([*range(250), *np.sort(250 + drawn(40_000, 250))], "rises"),  # one class thinned out to the other's number
        (["" if place % 5 == 0 else place for place in range(200)], "rises"),
        (drawn(300, 300), "from 0 to 299 in any order, no value twice"),
        (drawn(900, 300), "in any order"),
    ],
)
def test_row_numbers_are_left_out_whatever_gaps_they_have(values, why):
    values = [str(value) for value in values]
    column, told = judge("c d", values)
    assert column is None
    assert why in told
    assert told.endswith("where it measures something say --keep 'c d'")
    assert judge("c d", values, keep=True)[0].kind == "number"


@pytest.mark.parametrize("name", ["id", "", "Unnamed: 0", "PassengerId", "customer_ID", "patient id"])
def test_numbers_called_an_id_are_left_out_where_all_differ(name):
    values = [str(value) for value in 10**6 * drawn(9000, 100) + 7]
    assert "it names the rows" in judge(name, values)[1]
    for measured in ("area", "bid", "humid"):
        assert judge(measured, values)[0] is not None
    assert judge(name, values[:50] * 2)[0] is not None


RISING = 20 + 0.01 * np.arange(300)


@pytest.mark.parametrize(
    "values",
    [
        RISING + np.random.default_rng(0).uniform(0, 0.005, 300),  # a temperature that drifts
        np.round(1000 + 3 * np.arange(300) + np.random.default_rng(0).normal(0, 20, 300)).astype(int),
        np.sort(np.random.default_rng(0).gamma(2, 0.4, 300)).round(2),  # carats the rows are sorted by
        np.sort(np.random.default_rng(0).normal(1500, 400, 300)).astype(int),  # square feet
        np.sort(np.random.default_rng(0).lognormal(11, 1.5, 300)).astype(int)[::-1],  # people in towns
        np.random.default_rng(0).lognormal(11, 1.5, 300).astype(int),
        [*range(1, 366)] * 2,  # days of the year
        [*range(1, 13)] * 20,
        [2000 + place // 30 for place in range(300)],
        45_210 + np.cumsum(np.random.default_rng(0).integers(0, 60, 300) * (np.arange(300) % 7 > 1)),  # an odometer
        np.random.default_rng(0).integers(0, 10**6, 300),
    ],
)
def test_what_is_measured_stays_in(values):
    assert judge("c", [str(value) for value in values])[0].kind == "number"


def test_a_measurement_that_never_falls_is_told():
    told = "it rises from row to row; where it only counts them say --leave-out c"
    assert judge("c", [f"{value:.2f}" for value in RISING])[1] == told
    assert judge("c", [f"{value:.2f}" for value in RISING], keep=True)[1] == ""


def test_numbers_with_gaps_take_the_median():
    column, told = judge("c", [*ROWS, "", "NA", "about 3"])
    assert column.kind == "number"
    assert "1 values that are no numbers" in told
    assert "about 3" in told
    assert column.encode(["1", "", "about 3", "inf"]).tolist() == [
        1.0,
        *[pytest.approx(np.median([*map(float, ROWS)]))] * 3,
    ]


def test_categories_are_numbered_by_how_often_they_occur():
    column, told = judge("c", ["red", "blue ", "blue", ""] * 20)
    assert (column.kind, column.categories, told) == ("category", ("blue", "red"), "")
    assert column.encode(["red", "blue", "", "green"]).tolist() == [2.0, 1.0, 0.0, 0.0]
    many, told = judge("c", [str(i % 90) + "x" for i in range(900)])
    assert len(many.categories) == 64
    assert "26 rarest" in told


def test_parquet_is_read_as_text_or_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "data.parquet"
    path.write_bytes(b"PAR1 and so on")
    table = {"a": [1, None, 2.5], "b": [True, False, True]}
    fake = types.ModuleType("pyarrow")
    fake.parquet = types.SimpleNamespace(read_table=lambda _path: types.SimpleNamespace(to_pydict=lambda: table))
    monkeypatch.setitem(sys.modules, "pyarrow", fake)
    assert read(path) == {"a": ["1", "", "2.5"], "b": ["True", "False", "True"]}
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r"\[parquet\]"):
        read(path)


@pytest.mark.parametrize(
    "form",
    ["%Y-%m-%d", "%d.%m.%Y", "%m/%d/%Y", "%d/%m/%y", "%Y/%m/%d", "%B %d, %Y", "%b %d %Y", "%d %b %Y", "%d-%b-%y",
     "%a, %d %b %Y %H:%M:%S +0000", "%m/%d/%Y %I:%M %p", "%Y-%m-%d %H:%M:%S", "%Y-%m-%dT%H:%M:%SZ", "%d.%m.%Y %H:%M"],
)  # fmt: skip
def test_dates_in_the_usual_forms_are_dates(form):
    days = [(datetime(2024, 1, 1) + timedelta(days=11 * i, minutes=77 * i)).strftime(form) for i in range(60)]
    column, why = judge("day", days)
    assert column is None
    assert "dates" in why


@pytest.mark.parametrize("text", ["192.168.0.1", "1/2", "3-4-5-6", "12:30", "May", "v1.2.3", "10/20/30/40", "A-12-34"])
def test_what_only_looks_like_a_date_is_none(text):
    assert "dates" not in judge("code", [text] * 40 + ["other"] * 40)[1]
