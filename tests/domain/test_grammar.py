"""Targets are read exactly, written canonically, and refused with a cure."""

import math
from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boildown.domain.grammar import describe, format_value, parse_target, relaxed, unknown_names
from boildown.errors import TargetError


@dataclass
class Quality:
    name: str
    higher_is_better: bool = True
    unit: str = ""
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = True

    def statistic(self, output, target):
        return output

    def compute(self, statistics):
        return float(statistics.mean())


METRICS = (
    Quality("accuracy"),
    Quality("recall@5"),
    Quality("spearman", range=(-1.0, 1.0)),
    Quality("rmse", higher_is_better=False, range=(0.0, math.inf)),
    Quality("depth", higher_is_better=False, unit="m2", range=(0.0, math.inf)),
)


def read(text):
    (condition,) = parse_target([text], METRICS).conditions
    return condition


def mistakes(*texts):
    with pytest.raises(TargetError) as caught:
        parse_target(texts, METRICS)
    assert all(mistake.cause and mistake.cure for mistake in caught.value.mistakes)
    return [str(mistake) for mistake in caught.value.mistakes]


@pytest.mark.parametrize(
    ("text", "form", "bound", "canonical"),
    [
        ("accuracy drop <= 1 pp", "drop", 0.01, "accuracy drop <= 1 pp"),
        ("  ACCURACY   drop<=1pp ", "drop", 0.01, "accuracy drop <= 1 pp"),
        ("accuracy drop <= 0.015", "drop", 0.015, "accuracy drop <= 1.5 pp"),
        ("accuracy drop < -0.5 pp", "drop", -0.005, "accuracy drop < -0.5 pp"),
        ("accuracy >= 93 %", "value", 0.93, "accuracy >= 93 %"),
        ("accuracy ≥ 0.934", "value", 0.934, "accuracy >= 93.4 %"),
        ("accuracy >= 0.99x", "ratio", 0.99, "accuracy >= 0.99x"),
        ("recall@5 > .5", "value", 0.5, "recall@5 > 50 %"),
        ("spearman drop <= 1 pp", "drop", 0.01, "spearman drop <= 0.01"),
        ("spearman >= 0.85", "value", 0.85, "spearman >= 0.85"),
        ("rmse <= 1.05x", "ratio", 1.05, "rmse <= 1.05x"),
        ("depth <= 0.5 m2", "value", 0.5, "depth <= 0.5 m2"),
        ("size <= 0.25 x", "ratio", 0.25, "size <= 0.25x"),
        ("size <= 512 kB", "value", 512_000, "size <= 512 kB"),
        ("size <= 1.5MB", "value", 1_500_000, "size <= 1.5 MB"),
        ("size <= 300 KiB", "value", 307_200, "size <= 300 KiB"),
        ("memory <= 2 MiB", "value", 2 * 2**20, "memory <= 2 MiB"),
        ("memory < 1 GB", "value", 1e9, "memory < 1 GB"),
        ("latency <= 0.79 ms", "value", 0.00079, "latency <= 0.79 ms"),
        ("latency < 33 µs", "value", 33e-6, "latency < 33 us"),
        ("latency <= 1.2x", "ratio", 1.2, "latency <= 1.2x"),
        ("params <= 100k", "value", 1e5, "params <= 100 k"),
        ("macs <= 1500000000", "value", 1.5e9, "macs <= 1.5 G"),
        ("latency p95 <= 2 ms", "value", 0.002, "latency p95 <= 2 ms"),
        ("Latency  P99 < 1.5x", "ratio", 1.5, "latency p99 < 1.5x"),
        ("throughput >= 1500", "value", 1500, "throughput >= 1500 samples/s"),
        ("throughput > 40 /s", "value", 40, "throughput > 40 samples/s"),
        ("throughput >= 2x", "ratio", 2, "throughput >= 2x"),
        ("load time <= 150 ms", "value", 0.15, "load time <= 150 ms"),
        ("planned memory <= 256 KiB", "value", 2**18, "planned memory <= 256 KiB"),
    ],
)
def test_conditions_are_read_in_base_units_and_written_canonically(text, form, bound, canonical):
    condition = read(text)
    assert (condition.form, condition.bound, condition.text) == (form, bound, canonical)
    assert describe(condition) == canonical
    assert read(canonical) == condition


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("accuracy drop <= 1 %", ["`accuracy drop <= 1 pp`", "`accuracy >= 0.99x`"]),
        ("accuracy drop <= 1", ["whole range", "`accuracy drop <= 1 pp`"]),
        ("spearman drop <= 1", ["`spearman drop <= 1 pp`"]),
        ("accuracy drop <= 100 pp", ["whole range"]),
        ("accuracy >= 93", ["between 0 and 1", "`accuracy >= 93 %`"]),
        ("accuracy >= 130 %", ["between 0 and 1"]),
        ("accuracy > 1", ["never"]),
        ("accuracy >= 0", ["always"]),
        ("accuracy >= 3 pp", ["difference"]),
        ("accuracy drop <= 0.9x", ["ratio", "`accuracy >= 0.9x`"]),
        ("spearman >= 0.9x", ["negative"]),
        ("size drop <= 1 MB", ["no drop"]),
        ("size >= 0.3x", ["wrong side", "`size <= 0.3x`"]),
        ("accuracy <= 0.9", ["wrong side", "`accuracy >= 0.9`"]),
        ("rmse >= 0.1", ["wrong side", "`rmse <= 0.1`"]),
        ("accuracy drop >= 1 pp", ["wrong side", "`accuracy drop <= 1 pp`"]),
        ("size <= 0 kB", ["above zero"]),
        ("size <= -3 MB", ["above zero"]),
        ("size <= 0x", ["above zero"]),
        ("size <= 4x", ["`size <= 0.25x`"]),
        ("latency <= nan ms", ["finite"]),
        ("latency <= inf ms", ["finite"]),
        ("size <= 1e308 GB", ["too large"]),
        ("accuray >= 0.9", ["`accuracy`"]),
        ("energy <= 3", ["no metric", "latency"]),
        ("throughput <= 2x", ["wrong side", "`throughput >= 2x`"]),
        ("throughput >= 0.5", ["no unit", "`throughput >= 0.5x`", "`throughput >= 0.5 samples/s`"]),
        ("throughput drop <= 10 %", ["no drop", "`throughput >= 2x`"]),
        ("throughput >= 200 %", ["`throughput >= 2x`"]),
        ("throughput >= 0x", ["above zero", "`throughput >= 2x`"]),
        ("throughput >= 3 ms", ["not measured in 'ms'", "samples/s"]),
        ("latency p95 >= 2 ms", ["wrong side", "`latency p95 <= 2 ms`"]),
        ("latency p90 <= 2 ms", ["cannot be read", "`latency p95`"]),
        ("p99 <= 2 ms", ["no metric", "`latency p99`"]),
        ("p99 latency <= 2 ms", ["cannot be read", "`latency p99`"]),
        ("load <= 2 s", ["no metric", "`load time`"]),
        ("load time drop <= 2 s", ["no drop", "`load time <= 0.5x`"]),
        ("planned memory <= 3", ["no unit", "`planned memory <= 3 MB`"]),
        ("size <= 3 ms", ["not measured in 'ms'", "MB"]),
        ("size <= 3 mb", ["Did you mean MB"]),
        ("size <= 3 KB", ["kB", "KiB"]),
        ("size <= 25 %", ["`size <= 0.25x`"]),
        ("size <= 300", ["no unit", "`size <= 300 MB`"]),
        ("size <= 0.3", ["no unit", "`size <= 0.3x`", "`size <= 0.3 MB`"]),
        ("params <= 0.5", ["no unit", "`params <= 0.5x`"]),
        ("latency <= 1,5 ms", ["comma"]),
        ("drop <= 1 pp", ["which metric"]),
        ("accuracy == 1", ["cannot be read"]),
        ("accuracy falls <= 1 pp", ["cannot be read"]),
        ("", ["empty"]),
    ],
)
def test_what_cannot_be_meant_is_refused_with_its_readings(text, says):
    (mistake,) = mistakes(text)
    for words in says:
        assert words in mistake


def test_every_suggested_condition_can_itself_be_read():
    for text in (
        "accuracy drop <= 1 %",
        "accuracy drop <= 1",
        "accuracy >= 93",
        "size >= 0.3x",
        "size <= 4x",
    ):
        (mistake,) = mistakes(text)
        suggestions = mistake.splitlines()[1].split("`")[1::2]
        assert suggestions
        for suggestion in suggestions:
            read(suggestion)


def test_all_mistakes_come_at_once():
    found = mistakes("accuracy drop <= 1 %", "size <= 0.25x", "latency >= 3 kB", "nonsense")
    assert len(found) == 4  # the third condition has two
    assert [text.startswith("`latency") for text in found] == [False, True, True, False]


def test_two_bounds_on_the_same_thing_are_named_with_the_tighter():
    (mistake,) = mistakes("size <= 0.3x", "size < 0.25x", "size <= 0.25x", "size <= 1 MB")
    assert "`size <= 0.3x` and `size < 0.25x` and `size <= 0.25x`" in mistake
    assert "tighter is `size < 0.25x`" in mistake


def test_an_empty_target_is_refused_and_one_text_is_one_condition():
    assert "no condition" in mistakes()[0]
    assert len(parse_target("size <= 0.25x", METRICS).conditions) == 1
    with pytest.raises(TargetError, match="not text"):
        parse_target([3], METRICS)


@settings(max_examples=400, deadline=None)
@given(st.lists(st.text(max_size=60), max_size=3))
def test_arbitrary_text_raises_nothing_but_target_errors(texts):
    try:
        target = parse_target(texts, METRICS)
    except TargetError:
        return
    assert len(target.conditions) == len(texts)


_PIECES = (
    "latency",
    "p95",
    "throughput",
    "load",
    "time",
    "planned",
    "memory",
    "samples/s",
    "accuracy",
    "size",
    "params",
    "drop",
    "<=",
    ">",
    "1",
    "-0",
    ".5",
    "1e400",
    "1e-320",
    "nan",
    "x",
    "pp",
    "%",
    "kB",
    "us",
    " ",
)


@settings(max_examples=600, deadline=None)
@given(st.lists(st.sampled_from(_PIECES), min_size=3, max_size=8))
def test_near_conditions_are_refused_or_read_to_a_fixed_point(pieces):
    try:
        condition = read(" ".join(pieces))
    except TargetError:
        return
    assert math.isfinite(condition.bound)
    assert read(condition.text) == condition


_POSITIVE = st.floats(1e-9, 1e12, allow_nan=False)
_CONDITIONS = st.one_of(
    st.tuples(st.just("accuracy drop"), st.sampled_from(["<=", "<"]), st.floats(-0.99, 0.99), st.just("")),
    st.tuples(st.just("accuracy"), st.sampled_from([">=", ">"]), st.floats(1e-6, 0.99999), st.just("")),
    st.tuples(st.just("rmse"), st.sampled_from(["<=", "<"]), _POSITIVE, st.sampled_from(["", "x"])),
    st.tuples(st.just("depth"), st.sampled_from(["<=", "<"]), _POSITIVE, st.sampled_from(["", " m2"])),
    st.tuples(st.just("size"), st.sampled_from(["<=", "<"]), _POSITIVE, st.sampled_from(["B", "kB", "GiB", "MiB"])),
    st.tuples(st.just("latency"), st.sampled_from(["<=", "<"]), _POSITIVE, st.sampled_from(["us", "ms", "s", "x"])),
    st.tuples(st.just("latency p99"), st.sampled_from(["<=", "<"]), _POSITIVE, st.sampled_from(["us", "ms", "x"])),
    st.tuples(
        st.just("throughput"), st.sampled_from([">=", ">"]), st.floats(1, 1e12), st.sampled_from(["", "/s", "x"])
    ),
    st.tuples(st.just("load time"), st.sampled_from(["<=", "<"]), _POSITIVE, st.sampled_from(["ms", "s", "x"])),
    st.tuples(st.just("planned memory"), st.sampled_from(["<=", "<"]), _POSITIVE, st.sampled_from(["kB", "MiB", "x"])),
    st.tuples(st.just("macs"), st.sampled_from(["<=", "<"]), st.integers(1, 10**12), st.sampled_from(["", "k", "G"])),
)


@settings(max_examples=500, deadline=None)
@given(_CONDITIONS)
def test_canonical_text_reads_back_to_the_same_condition(parts):
    name, operator, number, unit = parts
    condition = read(f"{name} {operator} {number!r}{unit}")
    assert read(condition.text) == condition


@pytest.mark.parametrize(
    ("value", "unit", "form", "shown"),
    [
        (1_160_322, "B", "value", "1.16 MB"),
        (1_160_322, "size", "value", "1.16 MB"),
        (280_555, "B", "value", "280.6 kB"),
        (512, "B", "value", "512 B"),
        (0.00079, "s", "value", "0.79 ms"),
        (33e-6, "latency", "value", "33.00 us"),
        (0.934, "fraction", "value", "93.40 %"),
        (-0.0033, "fraction", "drop", "-0.33 pp"),
        (-0.00001, "fraction", "drop", "0.00 pp"),
        (0.26, "B", "ratio", "0.26x"),
        (0.2543, "B", "ratio", "0.254x"),
        (269_722, "params", "value", "269.7 k"),
        (17, "params", "value", "17"),
        (0.86712, "", "value", "0.8671"),
        (312.44, "throughput", "value", "312.4 samples/s"),
        (3.7, "samples/s", "value", "3.70 samples/s"),
        (0.0021, "latency p99", "value", "2.10 ms"),
        (0.5, "m2", "drop", "0.5 m2"),
        (math.nan, "B", "value", "nan"),
    ],
)
def test_values_are_shown_for_people(value, unit, form, shown):
    assert format_value(value, unit, form) == shown


@settings(max_examples=200, deadline=None)
@given(_CONDITIONS, st.floats(1e-6, 1e9))
def test_a_relaxed_condition_lets_the_value_in(parts, value):
    name, operator, number, unit = parts
    condition = read(f"{name} {operator} {number!r}{unit}")
    weaker = relaxed(condition, value)
    assert value <= weaker.bound if operator[0] == "<" else value >= weaker.bound
    assert weaker.bound == pytest.approx(value, rel=0.11)


def test_relaxed_bounds_have_sensible_digits():
    assert relaxed(read("accuracy drop <= 1 pp"), 0.01366).text == "accuracy drop <= 1.4 pp"
    assert relaxed(read("accuracy > 93 %"), 0.91872).text == "accuracy >= 91.8 %"
    assert relaxed(read("size < 0.25x"), 0.2543).text == "size <= 0.26x"
    assert relaxed(read("size <= 200 kB"), 287_773).text == "size <= 288 kB"


@pytest.mark.parametrize(
    "text",
    [
        "accuracy drop <= 1 pp, size <= 0.3x",
        "accuracy drop <= 1 pp and size <= 0.3x",
        "accuracy drop <= 1 pp; size <= 0.3x",
        "accuracy drop <= 1 pp & size<=0.3x",
    ],
)
def test_two_conditions_in_one_text_are_told_as_two(text):
    with pytest.raises(TargetError) as caught:
        parse_target([text], METRICS)
    (mistake,) = caught.value.mistakes
    assert "holds 2 conditions" in mistake.cause
    assert "size" in mistake.cure.split('", "')[1]


@pytest.mark.parametrize(
    ("name", "near"), [("energy", None), ("flops", "macs"), ("acc", "accuracy"), ("latncy", "latency")]
)
def test_a_guess_is_near_or_not_made(name, near):
    with pytest.raises(TargetError) as caught:
        parse_target([f"{name} <= 0.5x"], METRICS)
    assert ("Did you mean" in str(caught.value)) == (near is not None)
    assert near is None or f"`{near}`" in str(caught.value)


def test_names_that_nobody_has_are_found_with_their_units_and_slips_are_not():
    texts = ["map drop <= 1 pp", "Accuracy >= 0.9", "latncy <= 2 ms", "recall >= 0.4", "size <= 0.5x", "nonsense", 3]
    assert unknown_names(texts, METRICS) == {"map": "pp", "recall": ""}
    assert unknown_names("latency p95 <= 2 ms", METRICS) == {}
