"""A few of the cases of `benchmarks.fuzz`: whatever is read, it is read or refused with a cause and a cure."""

from __future__ import annotations

import pytest
from benchmarks.fuzz import TARGETS, fuzz

LEFT_OUT = "candidates: edits, plan, rewrite"  # takes seconds to begin
FEW = {"ONNX": 8, "configuration": 15}


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - {LEFT_OUT}))
def test_what_nobody_meant_to_write_is_read_or_refused(name, tmp_path):
    cases = FEW.get(name, 60)
    counts, fault = fuzz(name, TARGETS[name][1](tmp_path), cases, of=1)
    assert not fault, fault
    assert counts["cases"] >= cases // 2
