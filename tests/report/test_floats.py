"""What stayed float is told wherever a person looks at a run."""

from __future__ import annotations

import html
import json

import pytest
from made_up_run import hurry, write_run

from boildown.journal import Journal
from boildown.journal.rows import Record
from boildown.report import facts, summary, write
from boildown.report.card import card, readme
from boildown.report.floats import floats

GRU = {"name": "gru", "kind": "GRU", "weights": 0.45, "time": 0.64, "reason": "no integer kernel for GRU"}
SUM = {"name": "2 Add", "kind": "Add", "weights": 0, "time": 0.02, "reason": "no weights; computed in float"}
FOUND = {"layers": [SUM, GRU], "of": 4, "weights": 0.45, "time": 0.7, "lost": []}
ABOUT = {"kind": "other", "preprocessing": "", "samples": "", "predicts": False, "packages": []}


def record(kind, data, attempt=1):
    return Record(attempt, kind, data, "")


@pytest.fixture
def folder(tmp_path):
    """A run whose best attempt, the third, has a GRU in float."""
    made = write_run(tmp_path / "run")
    with Journal.open(made) as journal:
        hurry(journal)
        journal.record(2, "floats", {**FOUND, "lost": ["head"]})
        journal.record(3, "floats", FOUND)
    return made


def test_the_table_of_the_best_comes_with_its_reasons(folder):
    with Journal.open(folder, readonly=True) as journal:
        text = summary(facts(journal))
    assert "  in float: 1 of 4 layers with weights: 45 % of the weights, 70 % of the time\n" in text
    assert "    gru: 45 % of the weights, 64 % of the time; no integer kernel for GRU\n" in text
    assert "    and 1 more in the report\n" in text
    assert "      in float: 1 of 4 layers with weights: 45 % of the weights, 70 % of the time (1 not found" in text


def test_the_report_shows_the_best_in_a_section_and_others_in_their_story(folder):
    page = " ".join(html.unescape(write(folder).read_text()).split())
    assert page.count("no integer kernel for GRU") == 2
    assert '<section id="floats">' in page
    assert '<td><code>gru</code></td><td>GRU</td><td class="n">45 %</td><td class="n">64 %</td>' in page
    assert "<summary>In float: 1 of 4 layers with weights" in page


def test_the_card_has_it_for_people_and_for_programs(folder):
    with Journal.open(folder, readonly=True) as journal:
        rows = {row.number: row for row in journal.attempts()}
        told, without = card(journal, rows[3], {}) | ABOUT, card(journal, rows[1], {}) | ABOUT
    assert json.loads(json.dumps(told["floats"]))["layers"][0] == GRU
    assert "- In float: 1 of 4 layers with weights: 45 % of the weights, 70 % of the time; gru (no integer" in readme(
        told
    )
    assert without["floats"] is None
    assert "In float" not in readme(without)


def test_without_floats_nothing_is_told(tmp_path):
    with Journal.open(write_run(tmp_path / "run"), readonly=True) as journal:
        assert "in float" not in summary(facts(journal))
    assert 'id="floats"' not in write(tmp_path / "run").read_text()


def test_why_it_is_not_known_is_told():
    why = "DeadlineError: No time was left to look."
    found = floats([record("floats not known", {"why": why})], 1)
    assert found.sentence == "not known: No time was left to look."
    assert not found.worth_telling
    again = [record("floats not known", {"why": why}), record("floats", FOUND)]
    assert floats(again, 1).weights == 0.45
    assert floats(again, 2) is None


def test_a_network_of_integers_says_so():
    data = {"layers": [SUM], "of": 4, "weights": 0.0, "time": 0.02, "lost": []}
    assert floats([record("floats", data)], 1).sentence == "no layer with weights; 2 % of the time"
    unknown = {**data, "layers": [{**GRU, "time": None}], "weights": 0.45, "time": None}
    assert floats([record("floats", unknown)], 1).sentence == "1 of 4 layers with weights: 45 % of the weights"
