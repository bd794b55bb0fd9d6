"""Every shipped method has a card, a suite that holds it to the contract, and a page written from its card."""

from __future__ import annotations

import importlib.util
import pkgutil
from pathlib import Path

import pytest

import boildown.methods
from boildown.methods.registry import installed
from boildown.testing.method import MethodSuite

ROOT = Path(__file__).parents[2]
SHIPPED = {name: kind for name, kind in installed().items() if kind.__module__.startswith("boildown.methods.")}


def loaded(path):
    """A module from its file."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_file_of_the_package_is_a_method():
    shared = {"base", "registry", "smaller", "taught"}
    files = {info.name for info in pkgutil.iter_modules(boildown.methods.__path__)} - shared
    assert files == {name.replace("-", "_") for name in SHIPPED}


@pytest.mark.parametrize("name", SHIPPED)
def test_a_method_has_a_suite(name):
    path = Path(__file__).parent / f"test_{name.replace('-', '_')}.py"
    assert path.is_file(), f"{name} has no {path.name}: subclass boildown.testing.method.MethodSuite there"
    suites = [
        value
        for value in vars(loaded(path)).values()
        if isinstance(value, type) and issubclass(value, MethodSuite) and value is not MethodSuite
    ]
    assert suites, f"{path.name} has no subclass of MethodSuite"


@pytest.mark.parametrize("name", SHIPPED)
def test_a_method_has_its_page(name):
    page = ROOT / "docs" / "methods" / f"{name}.md"
    assert page.is_file(), f"{name} has no page: run `python docs/generate.py`"
    expected = loaded(ROOT / "docs" / "generate.py").pages()[page.name]
    assert page.read_text(encoding="utf-8") == expected, "out of date: run `python docs/generate.py`"


def test_no_page_tells_of_a_method_that_is_gone():
    pages = {path.stem for path in (ROOT / "docs" / "methods").glob("*.md")} - {"README"}
    assert pages == set(SHIPPED)


def test_names_and_orders_are_each_methods_own():
    cards = [kind.card for kind in SHIPPED.values()]
    assert len({card.name for card in cards}) == len(cards)
    assert len({card.order for card in cards}) == len(cards), "the auto ladder's order is decided by the cards alone"


def test_what_a_card_recovers_is_a_method():
    for kind in SHIPPED.values():
        assert set(kind.card.recovers) <= set(SHIPPED), f"{kind.card.name} recovers what is no method"
