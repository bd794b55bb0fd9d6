"""Write docs/methods/ from cards and benchmarks: `python docs/generate.py`, or `--check` to see if it is up to date."""

from __future__ import annotations

import re
import sys
import tomllib
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from boildown.methods.base import Method
from boildown.methods.registry import installed

FOLDER = Path(__file__).parent / "methods"
_MEASURED = Path(__file__).parent / "measured.toml"
_BENCHMARKS = Path(__file__).parents[1] / "benchmarks" / "README.md"
_NOTICE = "<!-- Written by docs/generate.py from the method's card. Change the card, not this page. -->\n"


def pages() -> dict[str, str]:
    """The text of every page by file name: one per shipped method, and `README.md` that lists them."""
    shipped = {name: method for name, method in installed().items() if method.__module__.startswith("boildown.")}
    cards = [_card(method) for method in shipped.values()]
    examples = tomllib.loads(_MEASURED.read_text(encoding="utf-8"))
    benchmarks = _BENCHMARKS.read_text(encoding="utf-8")
    texts = {card["name"]: _page(card) + _measured(benchmarks, **examples[card["name"]]) for card in cards}
    return {"README.md": _index(cards), **{f"{name}.md": text for name, text in texts.items()}}


def main(arguments: list[str]) -> int:
    """Write the pages that differ; with `--check` only name them. The exit code."""
    texts = pages()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.glob("*.md")}
    stale = sorted(name for name in {*texts, *there} if texts.get(name) != there.get(name))
    if "--check" in arguments:
        if stale:
            sys.stderr.write(f"out of date in docs/methods: {', '.join(stale)}\n  cure: python docs/generate.py\n")
        return 1 if stale else 0
    FOLDER.mkdir(exist_ok=True)
    for name in stale:
        if name in texts:
            (FOLDER / name).write_text(texts[name], encoding="utf-8")
        else:
            (FOLDER / name).unlink()
    return 0


def _card(method: type[Method]) -> dict[str, Any]:
    settings = {field.name: {"default": field.default, **field.metadata} for field in fields(method)}  # type: ignore[arg-type]
    return {**asdict(method.card), "settings": settings}


def _index(cards: list[dict[str, Any]]) -> str:
    rows = [
        f"| [{card['name']}]({card['name']}.md) | {_cell(card['summary'])} | {', '.join(card['lowers'])} "
        f"| {', '.join(card['needs']) or 'nothing'} | {card['minutes']:g} |"
        for card in cards
    ]
    return "\n".join(
        [
            _NOTICE,
            "# Methods\n",
            "Cheapest first. The minutes are rough: a small vision model on two cores. `boildown methods NAME` shows",
            "the same card in the terminal.\n",
            "| method | what it does | lowers | needs | minutes |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _page(card: dict[str, Any]) -> str:
    facts = {
        "Use it for": card["when"],
        "Not for": card["when_not"],
        "Lowers": ", ".join(card["lowers"]),
        "May cost": ", ".join(card["costs"]) or "nothing",
        "Needs": f"{' and '.join(card['needs'])} data" if card["needs"] else "nothing but the model",
        "Trains": "yes" if card["trains"] else "no",
        "Takes": f"about {card['minutes']:g} minutes for a small vision model on two cores",
        "In a chain": "last, for it works on the exported file" if card["terminal"] else "anywhere",
        "Recovers what is lost by": ", ".join(card["recovers"]),
        "Source": card["source"],
        "Family, version": f"{card['family']}, {card['version']}",
    }
    lines = [_NOTICE, f"# {card['name']}\n", f"{_sentence(card['summary'])}\n", "| | |", "|---|---|"]
    lines += [f"| {name} | {_cell(value)} |" for name, value in facts.items() if value]
    lines += ["", "## Settings\n"]
    if not card["settings"]:
        return "\n".join([*lines, "It has none.", ""])
    lines += ["| setting | default | what it does |", "|---|---|---|"]
    for name, setting in card["settings"].items():
        lines.append(
            f"| `{name}` | `{setting['default']}` | {_cell(_sentence(setting['summary']) + _admits(setting))} |"
        )
    name, setting = next(iter(card["settings"].items()))
    default = setting["default"]
    other = str(not default).lower() if isinstance(default, bool) else (setting["choices"] or (default,))[-1]
    shown = f"{card['name']}({name}={other})"
    return "\n".join([*lines, "", f"As a rung: `{shown}`.", ""])


def _measured(benchmarks: str, section: str, rows: list[str]) -> str:
    """The rows of the benchmarks that show the method at work, below the head of their table.

    Raises ValueError for a section or a row that is not there.
    """
    found = re.search(rf"^#+ {re.escape(section)}\n(.*?)(?=^#+ |\Z)", benchmarks, re.M | re.S)
    if found is None:
        raise ValueError(f"benchmarks/README.md has no section {section!r}, which docs/measured.toml names")
    lines = found[1].splitlines()
    table = []
    for row in rows:
        place = next((place for place, line in enumerate(lines) if line.startswith(row)), None)
        if place is None:
            raise ValueError(f"benchmarks/README.md has no row {row!r} in {section!r}, which docs/measured.toml names")
        table.append(lines[place])
    head = max(place for place, line in enumerate(lines[: lines.index(table[0])]) if line.startswith("| ---"))
    anchor = re.sub(r"[^\w\- ]", "", section.lower()).replace(" ", "-")
    told = f"From the [benchmarks](../../benchmarks/README.md#{anchor}), where what was measured, and how, stands:"
    return "\n".join(["", "## Measured", "", told, "", *lines[head - 1 : head + 1], *table, ""])


def _admits(setting: dict[str, Any]) -> str:
    if setting["choices"]:
        return f" One of: {', '.join(map(str, setting['choices']))}."
    bounds = [("at least", setting["least"]), ("at most", setting["most"])]
    told = " and ".join(f"{words} {bound:g}" for words, bound in bounds if bound is not None)
    return f" {_sentence(told)}" if told else ""


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
