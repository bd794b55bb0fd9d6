"""What the report says of a run, and that nothing in it can do harm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from made_up_run import write_run

from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.errors import JournalError
from boildown.journal import Journal
from boildown.report import facts, render, summary, write

VOID = {"meta", "br"}


class Page(HTMLParser):
    """The text, tags and attributes of a page; checks that tags close."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.attributes, self.open = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.words).split())

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.words.append(data)


def read(folder):
    with Journal.open(folder, readonly=True) as journal:
        return facts(journal)


@pytest.fixture(scope="module")
def met(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "20260101-000000-abcd")


@pytest.fixture(scope="module")
def missed(tmp_path_factory):
    return write_run(
        tmp_path_factory.mktemp("runs") / "20260101-000000-dcba",
        target=("accuracy drop <= 0.5 pp", "size <= 0.3x"),
        outcome=Outcome.TARGET_MISSED,
    )


def test_the_verdict_comes_first_and_whole(met):
    page = Page(write(met).read_text())
    for words in [
        "target met",
        "the artifact in best/ can be deployed",
        "The answer: attempt 3, quantize-static",
        "accuracy drop <= 1 pp met could be luck; about 20,000 samples would decide 0.85 pp 93.40 %",
        "0.55 pp to 1.15 pp (each end 95 %, Tango) 5,000",
        "latency <= 0.6x met 0.53x 0.79 ms 0.51x to 0.55x",
        "timings hold for AMD EPYC",
        "the prefix 'module.' was taken off",
        "look 3 by attempt 3",
        "torch 2.13.0, onnx none",
        "distill needs train data, and the task has none",
        "the reason for prune(ratio=0.5)",
        "apply 1.3 min (39%)",
        "boildown compress boildown.toml",
    ]:
        assert words in page.text, words
    order = [
        page.text.index(word) for word in ("target met", "The answer", "The first model", "The ladder", "Repeat it")
    ]
    assert order == sorted(order)


def test_the_file_is_small_and_loads_nothing(met):
    path = write(met)
    assert path == met / "report.html"
    assert path.stat().st_size < 200_000
    page = Page(path.read_text())
    assert not {"script", "link", "img", "iframe", "object"} & set(page.tags)
    assert not [pair for pair in page.attributes if pair[0] in ("src", "href") or pair[0].startswith("on")]
    assert "default-src 'none'" in path.read_text()
    assert "prefers-color-scheme: dark" in path.read_text()
    assert not re.search(r"https?:|@import|url\(", path.read_text())
    assert [p.name for p in met.glob(".report*")] == []


def test_many_attempts_stay_small(tmp_path):
    rungs = tuple((f"prune(ratio={k / 100})", k / 100, 0.03, 0.9) for k in range(1, 99))
    assert write(write_run(tmp_path / "run", rungs=rungs, outcome=None)).stat().st_size < 200_000


@pytest.mark.parametrize("word", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}</title>"])
def test_everything_a_user_names_is_escaped(tmp_path, word):
    folder = write_run(tmp_path / "run", word=word)
    page, plain = Page(write(folder).read_text()), Page(write(write_run(tmp_path / "plain")).read_text())
    assert page.tags == plain.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in plain.attributes]
    assert page.text.count(word) > 20


def test_the_first_models_figures(met):
    shown = read(met)
    assert [(f.metric, f.value) for f in shown.first_figures] == [
        ("size", "1.16 MB"),
        ("accuracy", "93.40 %"),
        ("latency", "0.79 ms"),
    ]


def test_a_missed_target_says_what_would_have_to_give(missed):
    shown = read(missed)
    assert not shown.met
    assert shown.best.number == 3
    assert shown.relaxations == ("accuracy drop <= 0.85 pp would be met by attempt 3 (quantize-static)",)
    assert "What would have to give" in Page(render(shown)).text
    assert shown.findings[0].status == "missed"


def test_the_first_model_is_no_relaxation(tmp_path):
    target = ("accuracy drop <= 0.5 pp", "size <= 0.2x")
    shown = read(write_run(tmp_path / "run", target=target, outcome=Outcome.TARGET_MISSED))
    assert shown.relaxations == ()


def test_a_run_that_has_not_ended(tmp_path):
    folder = write_run(tmp_path / "run", outcome=None)
    shown = read(folder)
    assert (shown.outcome, shown.best, shown.attempts[-1].state) == ("not finished", None, "cut off or running")
    assert "has not ended" in Page(write(folder).read_text()).text


def test_a_run_that_has_only_begun(tmp_path):
    Journal.create(tmp_path / "run", {}).close()
    page = Page(write(tmp_path / "run").read_text())
    assert "Nothing has been tried yet" in page.text
    assert "svg" not in page.tags
    assert summary(read(tmp_path / "run")).startswith("NOT FINISHED")


def test_verdicts_of_another_version_leave_the_sentence(tmp_path):
    with Journal.create(tmp_path / "run", {"target": ["size <= 0.5x"]}) as journal:
        journal.begin_attempt(0, "first")
        journal.finish_attempt(0, State.MISSED, "size missed", verdict={"findings": [{"text": "other"}]})
        journal.finish(Outcome.TARGET_MISSED, 0, "none met", 1.0)
    shown = read(tmp_path / "run")
    assert shown.findings == ()
    assert "size missed" in Page(render(shown)).text


def test_drops_known_from_search_alone_say_so(tmp_path):
    folder = write_run(tmp_path / "run", outcome=None)
    with Journal.open(folder) as journal:
        verdict = journal.attempts()[1].verdict
        verdict["measurements"]["accuracy"]["data"] = "search"
        journal.amend_attempt(1, State.MISSED, "missed", verdict)
    assert [a.drop for a in read(folder).attempts][:3] == ["0.00 pp", "35.00 pp (search)", "3.10 pp"]


def test_the_search_to_verdict_gap_is_told(tmp_path):
    folder = write_run(tmp_path / "run")
    with Journal.open(folder) as journal:
        for number, drop in ((2, 0.027), (3, 0.0095)):  # the verdict's are 3.1 and 0.85 pp
            searched = Measurement("accuracy", 0.934 - drop, "fraction", first=0.934, drop=drop, data="search")
            journal.add_measurement(f"{number} searched", number, searched)
    told = "accuracy drop in the verdict minus in the search: 0.15 pp over 2 attempts, 0.40 pp at most (attempt 2)"
    assert read(folder).gap == (told,)
    assert told in summary(read(folder))
    assert told in Page(render(read(folder))).text


def test_what_was_forecast_stands_beside_what_came_out(tmp_path):
    folder = write_run(tmp_path / "run", outcome=None)
    quote = {"rung": "retrain", "minutes": 5.5, "misses": [], "size": {"value": 3e5, "ratio": 0.26}}
    with Journal.open(folder) as journal:
        journal.begin_attempt(9, "retrain", quote=quote)
    assert "forecast: 5.5 min, size 0.26x" in summary(read(folder))


def test_the_pareto_front_and_the_baseline_are_told(tmp_path):
    folder = write_run(tmp_path / "run")
    with Journal.open(folder) as journal:
        journal.update_facts({"baseline": "The baseline won."})
    text = summary(read(folder))
    assert "Pareto front: attempts 0, 3" in text
    assert "The baseline won." in text
    assert "The baseline won." in Page(render(read(folder))).text


def test_no_journal_no_report(tmp_path):
    with pytest.raises(JournalError, match="no journal"):
        write(tmp_path)


def test_report_and_journal_need_no_torch():
    code = "import sys, boildown.report, boildown.journal; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# -- text --------------------------------------------------------------------------------------------


def test_the_summary_is_aligned_and_tells_all(met):
    lines = summary(read(met)).splitlines()
    assert lines[0].startswith("TARGET MET: The target is met")
    rows = [line for line in lines if re.match(r"[#\d]  ", line)]
    assert len(rows) == 6
    ends = [row.index("x  ", row.index("B")) for row in rows[1:5]]
    assert len(set(ends)) == 1, "ratios end in one column"
    assert "3  *  quantize-static" in rows[4]
    assert "      distill needs train data, and the task has none" in lines
    assert "    could be luck; about 20,000 samples would decide" in lines


def test_the_summary_does_not_steer_the_terminal(tmp_path):
    text = summary(read(write_run(tmp_path / "run", word="\x1b[2J\nnext\rline\t")))
    assert "\x1b" not in text
    assert "\r" not in text
    assert "�[2J next line" in text
