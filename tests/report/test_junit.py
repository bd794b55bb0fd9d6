"""A verdict as JUnit: CI sees a test case per condition, and why it failed."""

from __future__ import annotations

from xml.etree import ElementTree

from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Measurement
from boildown.domain.verdict import judge
from boildown.report.junit import write_junit
from boildown.tasks.metrics import Accuracy


def test_a_condition_is_a_test_case(tmp_path):
    target = parse_target(["accuracy >= 90 %", "size <= 0.3x", "latency <= 2 ms"], [Accuracy()])
    measured = {
        "accuracy": Measurement("accuracy", 0.93, "", samples=1000),
        "size": Measurement("size", 40_000.0, "B", first=100_000.0, ratio=0.4),
    }
    path = tmp_path / "ci" / "verdict.xml"
    write_junit(judge(target, measured, None, ""), "model<1>.onnx", path)
    suite = ElementTree.parse(path).getroot()
    assert {name: suite.get(name) for name in ("tests", "failures", "errors")} == {
        "tests": "3", "failures": "2", "errors": "0",
    }  # fmt: skip
    cases = {case.get("name"): case for case in suite.iter("testcase")}
    assert cases["accuracy >= 90 %"].find("failure") is None
    assert cases["size <= 0.3x"].find("failure").get("type") == "missed"
    assert "0.4x" in cases["size <= 0.3x"].find("failure").get("message")
    assert cases["latency <= 2 ms"].find("failure").get("type") == "undecided"
    assert cases["size <= 0.3x"].get("classname") == "model<1>.onnx"
    assert {each.get("name"): each.get("value") for each in suite.iter("property")} == {
        "accuracy": "0.93", "size": "40000", "size ratio": "0.4",
    }  # fmt: skip
