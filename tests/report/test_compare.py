"""Runs side by side: what is the same, what differs, what may not be compared."""

from __future__ import annotations

import json
import re

import pytest
from made_up_run import write_run

from boildown.cli.compare import compare as command
from boildown.domain.outcome import Outcome
from boildown.errors import InputError
from boildown.journal import Journal
from boildown.report.compare import compare


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A run that met its target, and one that missed a harder one on another machine."""
    folder = tmp_path_factory.mktemp("runs")
    write_run(folder / "20260101-000000-aaaa")
    harder = ("accuracy drop <= 0.5 pp", "size <= 0.3x")
    write_run(folder / "20260102-000000-bbbb", target=harder, outcome=Outcome.TARGET_MISSED)
    with Journal.open(folder / "20260102-000000-bbbb") as journal:
        packages = {"torch": "2.12.0", "onnx": None}
        journal.update_facts({"seed": 1, "environment": {"cpu": "Other", "cores": 2, "packages": packages}})
    return folder


def both(runs):
    return compare([runs / "20260101-000000-aaaa", runs / "20260102-000000-bbbb"])


def test_what_was_asked_and_what_came_out_stand_side_by_side(runs):
    found = both(runs)
    assert found.runs == ("20260101-000000-aaaa", "20260102-000000-bbbb")
    told = {row[0]: row[1:] for _, rows in found.tables() for row in rows}
    assert told["outcome"] == ("target met", "target missed")
    assert told["best"] == ("3 quantize-static", "3 quantize-static")
    assert told["size"] == ("301.3 kB (0.26x)", "301.3 kB (0.26x)")
    assert told["accuracy"] == ("92.55 % (drop 0.85 pp)", "92.55 % (drop 0.85 pp)")
    assert told["accuracy drop <= 1 pp"] == ("met (0.85 pp)", "not asked")
    assert told["accuracy drop <= 0.5 pp"] == ("not asked", "missed (0.85 pp)")


def test_settings_that_differ_are_told_and_those_that_do_not_are_not(runs):
    assert both(runs).differing == (("seed", "0", "1"), ("torch", "2.13.0", "2.12.0"))


def test_what_may_not_be_compared_is_warned_about(runs, tmp_path):
    assert both(runs).warnings == ("latency was measured on different processors",)
    other = write_run(tmp_path / "20260103-000000-cccc")
    with Journal.open(other) as journal:
        journal.update_facts(
            {
                "verdict data": "others",
                "first": "another",
                "deployment": {"runtime": "onnxruntime", "hardware": "x86-vnni", "batch": 8, "threads": 1},
            }
        )
    warnings = compare([runs / "20260101-000000-aaaa", other]).warnings
    assert [text.split(":")[0] for text in warnings] == [
        "the runs began with different first models",
        "quality was judged on different samples",
        "artifacts were made or timed for different settings of batch",
    ]


def test_the_table_is_aligned_and_steers_no_terminal(runs, tmp_path):
    text = str(both(runs))
    assert text.startswith("warning: latency was measured")
    heads = [line for line in text.splitlines() if "20260102-000000-bbbb" in line]
    assert len(heads) == 4
    assert len({head.index("20260102") for head in heads}) == 1
    odd = write_run(tmp_path / "run", word="\x1b[2J")
    assert "\x1b" not in str(compare([odd, odd]))


def test_one_run_and_one_that_has_only_begun(runs, tmp_path):
    Journal.create(tmp_path / "run", {}).close()
    found = compare([tmp_path / "run"])
    assert dict(row for row in found.outcomes)["best"] == "none"
    assert (found.figures, found.differing, found.warnings) == ((), (), ())
    assert "not finished" in str(found)


def test_the_command(runs, capsys):
    assert command(["2026010", "latest"][1:] * 2, runs=runs) == 0
    assert "20260102-000000-bbbb" in capsys.readouterr().out
    assert command(["20260101", "20260102"], runs=runs, as_json=True) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["warnings"] == ["latency was measured on different processors"]


def test_all_runs_that_are_not_there_are_told_at_once(runs):
    with pytest.raises(InputError) as caught:
        command(["20260101", "nowhere", "2026"], runs=runs)
    assert len(caught.value.mistakes) == 2


def test_a_page_of_its_own(runs, tmp_path, capsys):
    odd = write_run(tmp_path / "run", word="<img src=x>")
    assert command([str(odd), str(runs / "20260101-000000-aaaa")], html=tmp_path / "page.html", runs=runs) == 0
    text = (tmp_path / "page.html").read_text()
    assert "<img" not in text
    assert "&lt;img" in text
    assert "script-src &#39;none&#39;" in text
    assert not re.search(r"https?://|<script", text)
