"""Both shipped runtimes hold to what any runtime must, and so does a foreign one of two files."""

from __future__ import annotations

import pytest

from boildown.runtimes import get, names
from boildown.runtimes.base import Runtime
from boildown.testing.runtime import RuntimeSuite


class TestOnnxRuntime(RuntimeSuite):
    @pytest.fixture
    def runtime(self) -> Runtime:
        return get("onnxruntime")


class TestEager(RuntimeSuite):
    trusted = True

    @pytest.fixture
    def runtime(self) -> Runtime:
        return get("eager")


def test_every_shipped_runtime_has_its_suite() -> None:
    suites = {suite.__name__.lower().removeprefix("test") for suite in RuntimeSuite.__subclasses__()}
    shipped = {name for name in names() if get(name).__class__.__module__.startswith("boildown.")}
    assert shipped <= suites


class TestPair(RuntimeSuite):
    @pytest.fixture
    def runtime(self, plugged) -> Runtime:
        return get("pair")
