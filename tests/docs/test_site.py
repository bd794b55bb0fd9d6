"""The site: its pages are there, links between them resolve, what CI is told to run parses, methods show figures."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from boildown.cli import app

ROOT = Path(__file__).parents[2]
SITE = runpy.run_path(str(ROOT / "docs/site.py"))
PAGES = sorted((ROOT / "docs").rglob("*.md"))


def nav() -> list[str]:
    """The pages that mkdocs.yml names, in its own form: YAML of one key."""
    listed = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").partition("\nnav:\n")[2]
    return re.findall(r"^\s+- .+: (\S+\.md)$", listed, re.M)


def in_site() -> set[str]:
    return {page.relative_to(ROOT / "docs").as_posix() for page in PAGES} | set(SITE["TAKEN_IN"].values())


def test_every_page_of_the_menu_is_there_and_every_page_in_the_menu() -> None:
    named = nav()
    assert len(named) > 15
    assert set(named) <= in_site()
    below = ("methods/", "decisions/", "benchmarks-")  # pages in the menu link to each
    assert [page for page in in_site() - set(named) if not page.startswith(below)] == []


def links(markdown: str) -> list[str]:
    return [link for link in re.findall(r"\]\(([^)#\s]+)", markdown) if "://" not in link]


def test_links_lead_to_pages_of_the_site() -> None:
    texts = {page: page.read_text(encoding="utf-8") for page in PAGES}
    led = {
        page.relative_to(ROOT / "docs").as_posix(): SITE["led"](text, page.relative_to(ROOT).as_posix())
        for page, text in texts.items()
    }
    led |= {place: SITE["taken_in"](ROOT / source) for source, place in SITE["TAKEN_IN"].items() if place not in led}
    there = in_site() | {"decisions"}
    wrong = [f"{page}: {link}" for page, text in led.items() for link in links(text) if not _inside(page, link, there)]
    assert wrong == []


def _inside(page: str, link: str, there: set[str]) -> bool:
    parts: list[str] = []
    for part in [*page.split("/")[:-1], *link.rstrip("/").split("/")]:
        if part == "..":
            if not parts:
                return False
            parts.pop()
        elif part != ".":
            parts.append(part)
    return "/".join(parts) in there


def test_links_out_of_the_folder_are_led_back_into_the_site() -> None:
    led = SITE["led"]
    assert led("[b](../benchmarks/README.md#x)", "docs/choosing.md") == "[b](benchmarks.md#x)"
    assert led("[b](../../benchmarks/README.md)", "docs/methods/prune.md") == "[b](../benchmarks.md)"
    assert led("[t](docs/targets.md)", "CHANGELOG.md", moved=True) == "[t](targets.md)"
    assert led("[r](../docs/runs.md)", "benchmarks/README.md", moved=True) == "[r](runs.md)"
    assert led("[w](https://example.org/a.md)", "docs/choosing.md") == "[w](https://example.org/a.md)"


@pytest.mark.parametrize("page", [page for page in PAGES if "```yaml" in page.read_text(encoding="utf-8")], ids=str)
def test_what_ci_is_told_to_run_parses(page: Path) -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = re.findall(r"- run: boildown (.+)$", page.read_text(encoding="utf-8"), re.M)
    assert lines
    for line in lines:
        command, *arguments = shlex.split(line)
        commands[command].make_context(command, arguments)


def test_every_method_shows_measured_figures() -> None:
    benchmarks = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8").splitlines()
    for page in (ROOT / "docs/methods").glob("*.md"):
        if page.name != "README.md":
            rows = [
                line
                for line in page.read_text(encoding="utf-8").partition("## Measured")[2].splitlines()
                if line[:1] == "|"
            ]
            assert len(rows) >= 3, page.name
            assert [row for row in rows if row not in benchmarks] == []
