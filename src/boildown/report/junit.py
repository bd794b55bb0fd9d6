"""A verdict as a JUnit file, which every CI system shows: one test case per condition."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

from boildown.domain.verdict import Status, Verdict
from boildown.report.words import printable


def junit(verdict: Verdict, artifact: str) -> str:
    """The XML: a condition that is missed or undecided is a failure; every figure is a property of the suite."""
    failed = sum(finding.status is not Status.MET for finding in verdict.findings)
    counts = {"tests": str(len(verdict.findings)), "failures": str(failed), "errors": "0"}
    suite = ElementTree.Element("testsuite", {"name": "boildown", **counts})
    properties = ElementTree.SubElement(suite, "properties")
    every = {each.metric: each for found in verdict.measurements.values() for each in found.slices}
    for name, measurement in sorted({**every, **verdict.measurements}.items()):
        for what, value in (("", measurement.value), (" drop", measurement.drop), (" ratio", measurement.ratio)):
            if value is not None:
                ElementTree.SubElement(
                    properties, "property", {"name": f"{printable(name)}{what}", "value": f"{value:.6g}"}
                )
    for finding in verdict.findings:
        about = {"classname": printable(artifact), "name": printable(finding.condition.text)}
        case = ElementTree.SubElement(suite, "testcase", about)
        if finding.status is not Status.MET:
            said = {"message": printable(finding.sentence()), "type": finding.status.value}
            ElementTree.SubElement(case, "failure", said)
        ElementTree.SubElement(case, "system-out").text = printable(finding.sentence())
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"


def write_junit(verdict: Verdict, artifact: str, path: Path) -> None:
    """Write it; folders on the way are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(junit(verdict, artifact), encoding="utf-8")
