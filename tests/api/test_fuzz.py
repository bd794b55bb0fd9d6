"""A few of the cases of `benchmarks.fuzz`: whatever is read, it is read or refused with a cause and a cure."""

from __future__ import annotations

import os

import pytest

if os.name == "nt":
    pytest.skip("cases are timed by SIGALRM", allow_module_level=True)

from benchmarks.fuzz import TARGETS, fuzz
from benchmarks.planted import BUGS, find

ELSEWHERE = {
    "candidates: edits, plan, rewrite": "takes seconds to begin",
    "folders, commands that read": "in test_hostile_folders.py",
    "folders, all commands": "in test_hostile_folders.py",
}
FEW = {"ONNX": 8, "ONNX, read": 40, "configuration": 15, "metrics": 30}


@pytest.mark.parametrize("name", sorted(TARGETS.keys() - ELSEWHERE.keys()))
def test_what_nobody_meant_to_write_is_read_or_refused(name, tmp_path):
    cases = FEW.get(name, 60)
    counts, fault = fuzz(name, TARGETS[name][1](tmp_path), cases, of=1)
    assert not fault, fault
    assert counts["cases"] >= cases // 2


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if not bug.in_folders])
def test_a_planted_bug_is_found(name, tmp_path):
    cases, fault = find(BUGS[name], tmp_path, seed=0)
    assert BUGS[name].told in fault, f"not found in {cases} cases: {fault}"
