"""Rungs are read as people write them, and written so that they read the same."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boildown.engine.rung import parse_rung, parse_rungs
from boildown.errors import InputError
from boildown.methods import registry
from boildown.methods.base import Card, setting, settings_of
from boildown.methods.quantize_dynamic import QuantizeDynamic
from boildown.methods.quantize_static import QuantizeStatic


@dataclass(frozen=True)
class Many:
    """A method with a setting of every kind."""

    card: ClassVar[Card] = Card("many", 1, "pruning", "-", "-", "-", "-", ("size",))
    word: str = setting("a", "any text")
    number: int = setting(1, "any whole number")
    share: float = setting(0.5, "any number")
    switch: bool = setting(False, "on or off")
    names: tuple[str, ...] = setting((), "any texts")


@pytest.fixture
def many(monkeypatch):
    monkeypatch.setattr(registry, "installed", lambda: {"many": Many})


_TEXT = st.text(st.characters(codec="utf-8", exclude_characters="'\"", exclude_categories=["C", "Z"]), max_size=8)


@given(
    st.lists(
        st.builds(
            Many, _TEXT, st.integers(), st.floats(allow_nan=False, allow_infinity=False), st.booleans(),
            st.lists(_TEXT, max_size=3).map(tuple),
        ),
        min_size=1, max_size=3,
    )
)  # fmt: skip
def test_a_rung_reads_back_as_it_was_written(methods):
    from boildown.engine.rung import Rung

    written = str(Rung(tuple(methods)))
    before, registry.installed = registry.installed, lambda: {"many": Many}
    try:
        again = parse_rung(written)
    finally:
        registry.installed = before
    assert again.methods == tuple(methods)
    assert str(again) == written


@settings(deadline=None)
@given(
    st.builds(
        QuantizeStatic,
        ranges=st.sampled_from(["minmax", "percentile", "mse"]),
        percentile=st.floats(50, 100),
        bias_correction=st.booleans(),
        samples=st.integers(1, 10**6),
    )
)
def test_shipped_methods_read_back_as_they_were_written(method):
    from boildown.engine.rung import Rung

    assert parse_rung(str(Rung((method,)))).methods == (method,)


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("quantize-static", "quantize-static"),
        ("  quantize-static ( ranges = mse ,samples=100 ) ", "quantize-static(ranges=mse, samples=100)"),
        ("quantize-static()", "quantize-static"),
        ("quantize-static(ranges='mse')", "quantize-static(ranges=mse)"),
        ("quantize-static(bias-correction=False)", "quantize-static(bias_correction=False)"),
        ("quantize-static(ranges=minmax)", "quantize-static"),
        ({"method": "quantize-static", "samples": 10}, "quantize-static(samples=10)"),
        ("quantize-static + quantize-dynamic", "quantize-static + quantize-dynamic"),
    ],
)
def test_a_rung_is_written_in_its_shortest_form(text, written):
    assert str(parse_rung(text)) == written


def test_a_chain_keeps_its_order_and_adds_up():
    rung = parse_rung("quantize-static(ranges=mse) + quantize-dynamic")
    assert rung.methods == (QuantizeStatic(ranges="mse"), QuantizeDynamic())
    assert rung.minutes == pytest.approx(QuantizeStatic.card.minutes + QuantizeDynamic.card.minutes)
    assert rung.lowers == {"size", "latency", "memory"}


@pytest.mark.parametrize(
    ("text", "cause", "cure"),
    [
        ("quantise-static", "no method called 'quantise-static'", "Did you mean 'quantize-static'?"),
        ("zzz", "no method called 'zzz'", "There are: half, quantize-dynamic"),
        ("quantize-static(rangs=mse)", "no setting 'rangs'", "Did you mean 'ranges'?"),
        ("quantize-static(ranges=best)", "ranges = 'best' is not possible", "minmax, percentile, mse"),
        ("quantize-static(samples=many)", "samples = 'many' is not of the right kind", "Give a whole number"),
        ("quantize-static(samples=true)", "samples = True is not of the right kind", "Give a whole number"),
        ("quantize-static(samples=0)", "samples = 0 is too low", "1 or more"),
        ("quantize-static(percentile=300)", "percentile = 300 is too high", "100.0 or less"),
        ("quantize-static(percentile=nan)", "percentile = nan is too low", "50.0 or more"),
        ("quantize-static(samples)", "'samples' has no value", "setting=value"),
        ("quantize-static(samples=1", "cannot be read", "method(setting=value)"),
        ("quantize-static +", "cannot be read", "method + method"),
        ("", "cannot be read", "There are: "),
        (5, "no method called '5'", "There are: "),
        ({"samples": 3}, "names no method", "Add method ="),
        ({"mehtod": "quantize-static"}, "names no method", "Add method ="),
        ("quantize-dynamic + quantize-static", "Nothing can follow quantize-dynamic", "Put it last"),
    ],
)
def test_what_is_wrong_with_a_rung_is_told_with_its_cure(text, cause, cure):
    with pytest.raises(InputError) as caught:
        parse_rung(text)
    (mistake,) = caught.value.mistakes
    assert cause in mistake.cause
    assert cure in mistake.cure


def test_the_mistakes_of_all_rungs_are_told_at_once():
    with pytest.raises(InputError) as caught:
        parse_rungs(["quantise", "quantize-static(a=1, b=2)", "quantize-static", "+"])
    assert len(caught.value.mistakes) == 5
    with pytest.raises(InputError, match="no rungs"):
        parse_rungs([])


def test_settings_are_plain_data():
    assert settings_of(QuantizeDynamic()) == {"per_channel": True, "embeddings": 8}


def test_settings_from_toml_may_be_lists_and_only_what_can_be_written_again():
    rung = parse_rung({"method": "prune", "keep": ["conv.weight", "it's"]})
    assert rung == parse_rung(str(rung)) == parse_rung('prune(keep=[conv.weight, "it\'s"])')
    for value in ({"a": 1}, [["nested"]], float("nan"), float("inf"), """both ' and \"""", [None]):
        with pytest.raises(InputError, match="not of the right kind"):
            parse_rung({"method": "prune", "keep": value})
