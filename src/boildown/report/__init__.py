"""What a run found out: journal rows to facts, facts to one HTML file or to text."""

from boildown.report.html import fragment, render, write
from boildown.report.read import ReportFacts, facts
from boildown.report.text import summary

__all__ = ["ReportFacts", "facts", "fragment", "render", "summary", "write"]
