"""Points lie where their numbers say."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from boildown.report.charts import _ticks, scatter
from boildown.report.read import AttemptLine, Axes

AXES = Axes("size", "accuracy", "fraction", x_bound=0.5, y_bound=0.01)


def attempt(number, x, y, state="missed"):
    return AttemptLine(number, "prune", state, *7 * [""], (), (), "", False, False, x, y)


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
    chart = scatter(
        replace(AXES, x_bound=x_bound, y_bound=y_bound),
        [attempt(0, 1.0, 0.0), *(attempt(n, x, y) for n, (x, y) in enumerate(places, 1))],
    )
    for point, (x, y) in zip(chart.points[1:], places, strict=True):
        assert inside(point, chart.plot)
        assert inside(point, chart.region) == (x <= x_bound and y <= y_bound)


def test_left_is_smaller_and_down_is_better():
    chart = scatter(AXES, [attempt(0, 1.0, 0.0), attempt(1, 0.5, 0.02), attempt(2, 0.25, -0.01)])
    first, second, third = chart.points
    assert third.x < second.x < first.x
    assert second.y < first.y < third.y
    assert first.y == chart.zero


def test_what_lost_far_too_much_is_marked_at_the_edge():
    chart = scatter(AXES, [attempt(0, 1.0, 0.0), attempt(1, 0.3, 0.8)])
    assert chart.points[0].beyond == ""
    assert chart.points[1].beyond == "80.00 pp"
    assert chart.points[1].y == chart.plot.y
    assert "accuracy drop 80.00 pp" in chart.points[1].title


def test_axes_have_units():
    chart = scatter(AXES, [attempt(0, 1.0, 0.0), attempt(1, 0.5, 0.02)])
    assert chart.x_label == "size (times the first model's)"
    assert chart.y_label == "accuracy drop (pp)"
    assert {tick.text for tick in chart.y_ticks} >= {"0", "1", "2"}
    plain = scatter(Axes("latency", "rmse", "m", None, None), [attempt(0, 1.0, 0.0), attempt(1, 0.5, 2.0)])
    assert plain.y_label == "rmse drop (m)"
    assert plain.region is None


@pytest.mark.parametrize("axes", [None, AXES])
def test_nothing_to_draw(axes):
    assert scatter(axes, []) is None
    assert scatter(axes, [attempt(0, 1.0, 0.0), attempt(1, None, None), attempt(2, float("nan"), 0.1)]) is None


@given(st.floats(-1e3, 1e3), st.floats(1e-4, 1e4))
def test_ticks_are_few_and_within(low, width):
    ticks = _ticks(low, low + width)
    assert 2 <= len(ticks) <= 10
    assert low - 1e-6 * width <= ticks[0]
    assert ticks[-1] <= low + width + 1e-6 * width
