"""Points lie where their numbers say."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from boildown.report.attempts import AttemptLine
from boildown.report.axes import Axis
from boildown.report.charts import LOSS, PLOT, _ticks, chart, lines, scale, steps
from boildown.report.course import Curve

SIZE, DROP = Axis("size", "B", 0.5), Axis("accuracy", "fraction", 0.01)


def attempt(number, size=None, accuracy=None, rung="prune", **more):
    places = {
        name: value for name, value in (("size", size), ("accuracy", accuracy), *more.items()) if value is not None
    }
    return AttemptLine(number, rung, "missed", places=places)


def drawn(attempts, *axes):
    return chart(axes or (SIZE, DROP), attempts)


def inside(point, box):
    return box.x <= point.x <= box.x + box.width and box.y <= point.y <= box.y + box.height


@given(
    st.lists(st.tuples(st.floats(0.01, 3), st.floats(-0.5, 1)), min_size=1, max_size=8),
    st.floats(0.05, 1.5),
    st.floats(0.001, 0.2),
)
def test_a_point_is_in_the_region_just_when_it_meets_the_bounds(places, x_bound, y_bound):
    # Pixels are rounded to a tenth: leave a little air around the bounds.
    assume(all(abs(x - x_bound) > 0.01 and abs(y - y_bound) > 0.01 for x, y in places))
    found = drawn(
        [attempt(0, 1.0, 0.0), *(attempt(n, x, y) for n, (x, y) in enumerate(places, 1))],
        Axis("size", "B", x_bound), Axis("accuracy", "fraction", y_bound),
    )  # fmt: skip
    for point, (x, y) in zip(found.points()[1:], places, strict=True):
        assert inside(point, PLOT)
        assert inside(point, found.region) == (x <= x_bound and y <= y_bound)


def test_left_is_smaller_and_down_is_better():
    found = drawn([attempt(0, 1.0, 0.0), attempt(1, 0.5, 0.02), attempt(2, 0.25, -0.01)])
    first, second, third = found.points()
    assert third.x < second.x < first.x
    assert second.y < first.y < third.y
    assert first.y == PLOT.down(found.y.zero)
    assert first.x == PLOT.across(found.x.zero)


def test_what_lost_or_costs_far_too_much_is_marked_at_the_edge():
    found = drawn([attempt(0, 1.0, 0.0), attempt(1, 0.3, 0.8), attempt(2, 7.0, 0.0)])
    plain, lost, dear = found.points()
    assert [p.beyond for p in (plain, lost, dear)] == [False, True, True]
    assert lost.y == PLOT.y
    assert dear.x == PLOT.x + PLOT.width
    assert lost.title == "1 prune, missed: size 0.3x, accuracy drop 80.00 pp"


def test_axes_have_units():
    found = drawn([attempt(0, 1.0, 0.0), attempt(1, 0.5, 0.02)])
    assert found.x.axis.label == "size (times the first model's)"
    assert found.y.axis.label == "accuracy drop (pp)"
    assert {tick.text for tick in found.y.ticks} >= {"0", "1", "2"}
    meters = [
        AttemptLine(n, "prune", "met", places={"latency": x, "rmse": y}) for n, (x, y) in enumerate([(1, 0), (0.5, 2)])
    ]
    plain = drawn(meters, Axis("latency", "s", None), Axis("rmse", "m", None))
    assert plain.y.axis.label == "rmse drop (m)"
    assert plain.region is None


@pytest.mark.parametrize("axes", [(), (SIZE,), (SIZE, DROP)])
def test_nothing_to_draw(axes):
    assert chart(axes, []) is None
    assert chart(axes, [attempt(0, 1.0, 0.0), attempt(1), attempt(2, accuracy=0.1)]) is None


def test_an_attempt_without_a_place_keeps_its_turn_for_other_axes():
    attempts = [attempt(0, 1.0, 0.0, macs=1.0), attempt(1, 0.5, macs=0.4), attempt(2, 0.25, 0.01, macs=0.2)]
    found = chart((SIZE, Axis("macs", "", None), DROP), attempts)
    assert [point.away for point in found.points()] == [False, True, False]
    data = json.loads(json.dumps(found.data(), allow_nan=False))
    assert [scale["name"] for scale in data["scales"]] == ["size", "macs", "accuracy drop"]
    assert data["shown"] == [0, 2]
    assert data["scales"][1]["places"][1] is not None
    assert data["scales"][2]["places"][1] is None


def test_a_scale_says_every_value_in_words():
    found = scale(SIZE, [attempt(0, 1.0), attempt(1, 0.25), attempt(2)])
    assert found.words == ("1x", "0.25x", "")
    assert found.bound == pytest.approx(0.5 / 1.05, abs=1e-4)


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=2, max_size=9))
def test_the_front_line_goes_down_from_left_to_right(places):
    path = steps(places)
    downs = [float(y) for y in re.findall(r"V([\d.]+)", path)]
    across = [float(x) for x in re.findall(r"[MH]([\d.]+)", path)]
    assert across == sorted(across)
    assert downs == sorted(downs)  # pixels grow downwards, where less is
    best = (min(x for x, _ in places), min(y for _, y in places))
    assert bool(path) != (best in places)


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 1e4))
def test_ticks_are_few_and_within(low, width):
    ticks = _ticks(low, low + width)
    assert 2 <= len(ticks) <= 10
    assert low - 1e-6 * width <= ticks[0]
    assert ticks[-1] <= low + width + 1e-6 * width


def numbers(path):
    return [tuple(map(float, pair.split())) for pair in path[1:].split("L")]


def test_curves_share_their_axes():
    found = lines([Curve("short", ((5, 2.0), (10, 1.0))), Curve("long", ((10, 2.0), (40, 0.5)))])
    (_, short, told), (_, long, _) = found.paths
    assert told == "2 to 1"
    assert numbers(long)[-1] == (LOSS.x + LOSS.width, LOSS.y + LOSS.height)
    assert numbers(short)[-1][0] == numbers(long)[0][0] == LOSS.across(0.25)
    assert [tick.text for tick in found.y_ticks] == ["0.5", "2"]
    assert found.x_ticks[-1].text == "40 steps"


def test_a_loss_that_falls_far_is_on_a_logarithmic_scale_and_a_flat_one_is_drawn():
    far = lines([Curve("far", ((1, 10.0), (2, 1.0), (3, 0.1)))])
    assert numbers(far.paths[0][1])[1][1] == pytest.approx(LOSS.down(0.5))
    assert lines([Curve("flat", ((1, 1.0), (2, 1.0)))]).paths[0][2] == "1 to 1"
    assert lines([]) is None
