"""A hook of MkDocs: takes the pages outside docs/ into the site, and lets links to them lead there."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
_TOLD_APART = sorted((ROOT / "benchmarks").glob("*/README.md"))
TAKEN_IN = {
    "README.md": "index.md",
    "benchmarks/README.md": "benchmarks.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    **{f"benchmarks/{page.parent.name}/README.md": f"benchmarks-{page.parent.name}.md" for page in _TOLD_APART},
}
"""Where a page of the repository stands in the site, by its path; README.md has a page of its own there."""

_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages outside docs/."""
    from mkdocs.structure.files import File

    for source, place in TAKEN_IN.items():
        if not (ROOT / "docs" / place).exists():
            files.append(File.generated(config, place, content=taken_in(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_given: Any) -> str:
    """Let the links of a page in docs/ lead to where things stand in the site."""
    return led(markdown, f"docs/{page.file.src_uri}")


def taken_in(source: Path) -> str:
    """A page outside docs/ with links as they are from where it stands in the site."""
    return led(source.read_text(encoding="utf-8"), source.relative_to(ROOT).as_posix(), moved=True)


def led(markdown: str, source: str, *, moved: bool = False) -> str:
    """Links that lead out of docs/ replaced by links inside the site; those to code become plain text.

    source: the page's path in the repository. moved: it stands at the top of the site, and not at that path.
    """
    here = "" if moved else posixpath.dirname(posixpath.relpath(source, "docs"))

    def lead(link: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), link[2]))
        if path.startswith("docs/"):
            place = path.removeprefix("docs/")
        elif path in TAKEN_IN:
            place = TAKEN_IN[path]
        else:
            return f"{link[1]}{link[2]}{link[3]}"
        return f"{link[1]}{posixpath.relpath(place, here or '.')}{link[3]}"

    return _LINK.sub(lead, markdown)
