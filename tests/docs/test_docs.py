"""Every page is held against the code: blocks run, commands parse, messages exist, links lead somewhere."""

from __future__ import annotations

import ast
import csv
import re
import runpy
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import typer
from typer.testing import CliRunner

from boildown.api import starting
from boildown.cli import app
from boildown.cli.config import read_config
from boildown.domain.grammar import parse_target
from boildown.engine.ladder import LADDERS
from boildown.engine.rung import parse_rung
from boildown.errors import TargetError
from boildown.methods.registry import installed
from boildown.tasks.likeness import Agreement, Divergence
from boildown.tasks.losses import kl_divergence
from boildown.tasks.metrics import METRICS, metric

ROOT = Path(__file__).parents[2]
LIKENESS = Agreement(), Divergence(kl_divergence)
WRITTEN = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")]
PAGES = [*WRITTEN, *sorted((ROOT / "docs").rglob("*.md"))]
_BLOCK = re.compile(r"(?P<skip><!-- not run: .+ -->\n)?^```(?P<language>\w*)\n(?P<text>.*?)^```$", re.M | re.S)
SLICES = {"class": ["stop", "yield"], "site": ["A", "B"], "time of day": ["day", "night"]}
_ROW = re.compile(r"^\| `(?P<condition>[^`]+)` \| (?P<rest>.*) \|$", re.M)


def blocks(page: Path, language: str, *, every: bool = False) -> list[str]:
    """The blocks of a page in one language, but for those marked as not run."""
    found = _BLOCK.finditer(page.read_text(encoding="utf-8"))
    return [block["text"] for block in found if block["language"] == language and (every or not block["skip"])]


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def with_blocks(language: str) -> list[Any]:
    return [pytest.param(page, id=name(page)) for page in PAGES if blocks(page, language)]


def run_blocks(page: Path, namespace: dict[str, Any]) -> dict[str, Any]:
    """Run the Python blocks of a page one after the other in one namespace."""
    for number, text in enumerate(blocks(page, "python"), 1):
        exec(compile(text, f"{name(page)}, block {number}", "exec", dont_inherit=True), namespace)
    return namespace


# A class of tests, collected from the page that shows how to write a method.
TestLowRankLinear = run_blocks(ROOT / "docs/extending.md", {"__name__": __name__})["TestLowRankLinear"]


@pytest.fixture(scope="module")
def readme(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """What the README's example leaves behind; the other pages go on from there, in its folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("docs"))
        torch.set_num_threads(1)  # small networks gain nothing from more, and lose much beside other work
        yield run_blocks(ROOT / "README.md", {"__name__": __name__})


def test_the_readme_boils_a_model_down(readme: dict[str, Any]) -> None:
    assert readme["run"].outcome.name == "TARGET_MET"
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 150


@pytest.mark.usefixtures("still")  # the README times
@pytest.mark.parametrize(
    "page", [param for param in with_blocks("python") if param.id not in ("README.md", "docs/extending.md")]
)
def test_python_blocks_run(page: Path, readme: dict[str, Any]) -> None:
    run_blocks(page, dict(readme))


def test_blocks_that_are_not_run_are_python_still() -> None:
    for page in PAGES:
        for text in blocks(page, "python", every=True):
            ast.parse(text, name(page))


@pytest.mark.parametrize("page", with_blocks("toml"))
def test_configurations_are_read(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    for text in blocks(page, "toml"):
        file = tmp_path / "boildown.toml"
        file.write_text(text, encoding="utf-8")
        config = read_config(file)
        parse_target(config.target, [metric(each) for each in METRICS], slices=SLICES)
        rungs = config.arguments.get("ladder", "auto")
        for rung in [] if rungs in ("auto", *LADDERS) else rungs:
            parse_rung(rung)


@pytest.mark.parametrize("page", with_blocks("console"))
def test_commands_exist(page: Path) -> None:
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in "".join(blocks(page, "console")).splitlines():
        if not line.startswith("$ "):
            continue
        program, *arguments = shlex.split(line[2:])
        if program == "make":
            assert all(re.search(f"^{target}:", makefile, re.M) for target in arguments), line
        elif program == "python":  # what is handed over
            assert Path(arguments[0]).name == "predict.py", line
        else:
            assert program == "boildown", line
            commands[arguments[0]].make_context(arguments[0], arguments[1:])


@pytest.mark.parametrize("page", [pytest.param(page, id=name(page)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    for link in re.findall(r"\]\(([^)#\s]*)(?:#([^)\s]+))?\)", page.read_text(encoding="utf-8")):
        path, anchor = page.parent / link[0] if link[0] else page, link[1]
        if "://" in link[0]:
            continue
        assert path.exists(), f"{name(page)} links to {link[0]}, which is not there"
        if anchor:
            titles = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.M)
            anchors = [re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles]
            assert anchor in anchors, f"{name(page)} links to {link[0]}#{anchor}, which has no such heading"


def test_method_pages_are_up_to_date() -> None:
    pages = runpy.run_path(str(ROOT / "docs/generate.py"))["pages"]()
    there = {page.name: page.read_text(encoding="utf-8") for page in (ROOT / "docs/methods").glob("*.md")}
    assert there == pages, "run `python docs/generate.py`"


def test_the_readme_names_every_method() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    shipped = [key for key, method in installed().items() if method.__module__.startswith("boildown.")]
    assert [key for key in shipped if f"`{key}`" not in text] == []


def rows(title: str) -> list[tuple[str, str]]:
    """(condition, the other cells) of the table under a title of the page on targets."""
    text = (ROOT / "docs/targets.md").read_text(encoding="utf-8")
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    found = [(row["condition"], row["rest"]) for row in _ROW.finditer(section)]
    assert len(found) > 4
    return found


@pytest.mark.parametrize("condition", [condition for of in ("What can be said", "Slices") for condition, _ in rows(of)])
def test_what_can_be_said(condition: str) -> None:
    found = parse_target([condition], [*map(metric, METRICS), *LIKENESS], slices=SLICES)
    assert found.conditions[0].text == condition


@pytest.mark.parametrize(("condition", "told"), rows("What is refused"))
def test_what_is_refused(condition: str, told: str) -> None:
    cause, _, cure = told.replace("\\|", "|").partition(" | ")
    with pytest.raises(TargetError) as refused:
        parse_target([condition], [metric(each) for each in METRICS], slices=SLICES)
    (mistake,) = refused.value.mistakes
    assert mistake.cause in (f"`{condition}` {cause}", f"`{condition}`: {cause}")
    assert mistake.cure.startswith(cure)


def templates() -> str:
    """Every text in the source with `…` for what is filled in, and the Makefile."""
    texts = [(ROOT / "Makefile").read_text(encoding="utf-8")]
    for file in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
            elif isinstance(node, ast.JoinedStr):
                texts.append("".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values))
    return "\n".join(texts)


@pytest.mark.usefixtures("still")
def test_five_minutes_end_with_a_prediction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands on a table and those of the last section, as they stand on the page."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(starting, "LEAST_STEPS", 600)
    random = np.random.default_rng(0)
    with Path("customers.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["customer", "age", "plan", "churned"])
        for place, age in enumerate(random.normal(45, 12, 300)):
            plan = random.choice(["basic", "plus"])
            left = age + 10 * (plan == "plus") + random.normal(0, 3) > 52
            writer.writerow([f"c{place}-{random.integers(10**9)}", f"{age:.1f}", plan, "yes" if left else "no"])
    page = (ROOT / "docs/five-minutes.md").read_text(encoding="utf-8")
    parts = [page.partition(title)[2].partition("\n## ")[0] for title in ("\n## A table\n", "\n## A prediction\n")]
    assert page.partition("\n## A prediction\n")[2].partition("\n## ")[2] == "", "it is the last section"
    commands = [line[2:] for part in parts for line in part.splitlines() if line.startswith("$ ")]
    assert len(commands) == 5
    for line in commands:
        program, *arguments = shlex.split(line)
        if program == "boildown":
            result = CliRunner().invoke(app, arguments)
            assert result.exit_code == 0, (line, result.output)
            continue
        done = subprocess.run([sys.executable, "-I", *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    said = [line.split("\t")[1].split()[0] for line in done.stdout.splitlines()]
    with Path("customers.csv").open(encoding="utf-8", newline="") as file:
        wanted = [row["churned"] for row in csv.DictReader(file)]
    assert sum(map(str.__eq__, said, wanted)) > 250
    assert len(said) == len(wanted)


def test_messages_are_those_of_the_source() -> None:
    known = templates()
    told = re.findall(r"^### `(.+)`$", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.M)
    assert len(told) > 20
    assert [message for message in told if message not in known] == []


def test_the_layers_on_the_page_are_those_of_the_contract() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    contract = settings["tool"]["importlinter"]["contracts"][0]
    block = next(text for text in blocks(ROOT / "CONTRIBUTING.md", "text") if text.startswith("cli"))
    assert [re.split(r"\s{2,}", line)[0] for line in block.splitlines()] == contract["layers"]
