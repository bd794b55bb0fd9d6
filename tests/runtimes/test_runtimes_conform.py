"""Both shipped runtimes hold to what any runtime must, and so does a foreign one of two files."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from boildown.runtimes import get, names, plugged
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
    texts = (file.read_text(encoding="utf-8") for file in Path(__file__).parent.glob("test_*.py"))
    suites = {name.lower() for text in texts for name in re.findall(r"^class Test(\w+)\(RuntimeSuite\)", text, re.M)}
    assert {name for name in names() if not plugged(name)} <= suites


class TestPair(RuntimeSuite):
    @pytest.fixture
    def runtime(self, plugged) -> Runtime:
        return get("pair")
