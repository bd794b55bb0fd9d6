"""Facts to one self-contained HTML file: nothing is loaded, everything is escaped, only its own script runs."""

from __future__ import annotations

import base64
import hashlib
import json
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from boildown import files
from boildown.journal.journal import Journal, readable
from boildown.report import charts
from boildown.report.read import ReportFacts, facts

# Read at once: a run lasts for hours, and the package may be replaced meanwhile.
_FILES = {
    path.name: path.read_text(encoding="utf-8")
    for path in Path(__file__).parent.iterdir()
    if path.suffix in (".jinja", ".css", ".js")
}
_TEMPLATES = jinja2.Environment(
    loader=jinja2.DictLoader(_FILES),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(shown: ReportFacts) -> str:
    """The report as HTML."""
    return page("report.html.jinja", "report.js", facts=shown, chart=charts.chart(shown.axes, shown.attempts))


def page(template: str, script: str | None = None, **shown: Any) -> str:
    """A page with the style of the report; its policy allows this style, this script and pictures in it, no more."""
    style, code = _FILES["report.css"], "" if script is None else _FILES[script]
    policy = [
        "default-src 'none'",
        f"style-src {_allowed(style)}",
        f"script-src {_allowed(code)}" if code else "script-src 'none'",
        "img-src data:",
        "base-uri 'none'",
        "form-action 'none'",
    ]
    return _TEMPLATES.get_template(template).render(
        policy="; ".join(policy), style=Markup(style), script=Markup(code), data=_data, charts=charts, **shown
    )  # the style and the script are this package's own


def write(folder: Path) -> Path:
    """Write `report.html` into a run's folder and return its path.

    Raises JournalError if the folder has no journal that can be read.
    """
    with Journal.open(folder, readonly=True) as journal, readable(folder):
        text = render(facts(journal))
    path = folder / "report.html"
    files.replace(path, text)  # a reader sees the old report or the new one, never half of it
    return path


def fragment(shown: ReportFacts) -> str:
    """The run as a piece of HTML for a notebook: without style and script of its own."""
    return _TEMPLATES.get_template("run.html.jinja").render(facts=shown)


def _allowed(text: str) -> str:
    """The source of a policy that allows an element with this text."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _data(value: Any) -> Markup:
    """Plain data as JSON that is safe inside a script element: nothing in it can end the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return Markup(text.replace("&", r"\u0026").replace("<", r"\u003c").replace(">", r"\u003e"))  # escaped here
