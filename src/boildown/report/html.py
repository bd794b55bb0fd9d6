"""Facts to one self-contained HTML file: no scripts, nothing loaded, everything escaped."""

from __future__ import annotations

from pathlib import Path

import jinja2

from boildown.journal.journal import Journal, readable
from boildown.report.charts import HEIGHT, WIDTH, scatter
from boildown.report.read import ReportFacts, facts

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(shown: ReportFacts) -> str:
    """The report as HTML."""
    chart = scatter(shown.axes, shown.attempts)
    template = _TEMPLATES.get_template("report.html.jinja")
    return template.render(facts=shown, chart=chart, width=WIDTH, height=HEIGHT)


def write(folder: Path) -> Path:
    """Write `report.html` into a run's folder and return its path.

    Raises JournalError if the folder has no journal that can be read.
    """
    with Journal.open(folder, readonly=True) as journal, readable(folder):
        text = render(facts(journal))
    path, fresh = folder / "report.html", folder / ".report.html.new"
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)  # a reader sees the old report or the new one, never half of it
    return path
