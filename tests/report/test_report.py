"""What the report says of a run, and that nothing in it can do harm."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import os
import re
import subprocess
import sys
from html.parser import HTMLParser

import pytest
from made_up_run import GREY, hurry, write_run

from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.errors import JournalError
from boildown.journal import Journal
from boildown.report import facts, fragment, render, summary, write

VOID = {"meta", "br", "img", "input"}


class Page(HTMLParser):
    """The text, tags and attributes of a page; checks that tags close."""

    def __init__(self, text):
        super().__init__()
        self.words, self.tags, self.attributes, self.open = [], [], [], []
        self.source = text
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
        if self.open[-1:] not in (["style"], ["script"]):
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
    text = path.read_text()
    page = Page(text)
    assert not {"link", "iframe", "object", "form", "base"} & set(page.tags)
    links = [value for name, value in page.attributes if name == "href"]
    assert links
    assert all(value.startswith("#") for value in links)
    assert all(value.startswith("data:image/png;base64,") for name, value in page.attributes if name == "src")
    assert not [name for name, _ in page.attributes if name.startswith("on") or name == "style"]
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"@import|url\(", text)
    assert set(re.findall(r"https?://[^\"]*", text)) == {"http://www.w3.org/2000/svg"}, "the name of SVG alone"
    assert [p.name for p in met.glob(".report*")] == []


def test_the_policy_allows_this_style_and_this_script_alone(met):
    text = write(met).read_text()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', text)
    rules = dict(rule.split(" ", 1) for rule in html.unescape(policy).split("; "))
    for tag, rule in (("style", "style-src"), ("script", "script-src")):
        (inside,) = re.findall(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert rules[rule] == f"'sha256-{base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()}'"
    assert {**rules, "style-src": "", "script-src": ""} == {
        "default-src": "'none'", "style-src": "", "script-src": "", "img-src": "data:", "base-uri": "'none'",
        "form-action": "'none'",
    }  # fmt: skip


def test_what_links_lead_to_is_there_and_ids_are_single(met):
    page = Page(write(met).read_text())
    ids = [value for name, value in page.attributes if name == "id"]
    assert len(set(ids)) == len(ids)
    assert {value[1:] for name, value in page.attributes if name == "href"} <= set(ids)


def test_what_was_recorded_beside_the_verdicts_is_shown(met):
    (met / "best").mkdir(exist_ok=True)
    (met / "best" / "load.py").write_text("import onnxruntime  # <loader>\n")
    text = write(met).read_text()
    page = Page(text)
    for words in [
        "import onnxruntime # <loader>",
        "Forecast Measured time 0.7 min 0.9 min size 0.27x 0.26x",
        "kd + dist, 540 steps, learning rate 0.01, 2.05 to 0.122 (in bold)",
        "Tournament among losses, round 2, 60 steps each; what teaches then is kd + dist. kd 0.91 won dist 0.9 won",
        "Of 5,000 samples of the verdict it does worse than the first model on 52 and better on 10, by accuracy.",
        "dog 500 93.00 % 87.00 %",
        "dog first dog now cat sample 7",
        "body.0 conv2d 32 20 20 × 16 × 3 × 3 float",
        "stem conv2d 16 16 16 × 3 × 3 × 3 8, inputs 8",
        "the longest bar is 0.02",
    ]:
        assert words in page.text, words
    assert [value for name, value in page.attributes if name == "src"] == [f"data:image/png;base64,{GREY}"]


def test_the_chart_can_be_drawn_from_what_the_page_holds(met):
    found = re.search(r'<script type="application/json" id="chart-data">(.*?)</script>', write(met).read_text())
    data = json.loads(found[1])
    assert [scale["name"] for scale in data["scales"]] == ["size", "latency", "accuracy drop"]
    assert [point[:3] for point in data["points"]][3] == [3, "3 quantize-static", "met"]
    assert data["scales"][0]["words"] == ["1x", "0.29x", "0.52x", "0.26x", ""]


def test_many_attempts_stay_small(tmp_path):
    rungs = tuple((f"prune(ratio={k / 100})", k / 100, 0.03, 0.9) for k in range(1, 99))
    assert write(write_run(tmp_path / "run", rungs=rungs, outcome=None)).stat().st_size < 300_000


def test_the_largest_of_runs_stays_below_500_kb(tmp_path):
    rungs = tuple((f"prune(ratio={k / 100}) + distill", k / 100, 0.03, 0.9) for k in range(1, 61))
    folder = write_run(tmp_path / "run", rungs=rungs)
    points = [[step, 1 + step / 7] for step in range(1, 121)]
    names = [f"stage{number // 10}.block{number % 10}.convolution" for number in range(600)]
    found = [
        {"name": n, "node": n, "kind": "conv2d", "shape": [512, 512, 3, 3], "bits": 8, "input bits": 8} for n in names
    ]
    with Journal.open(folder) as journal:
        hurry(journal)
        for number in range(1, 61):
            for loss in range(9):
                journal.record(number, "curve", {"losses": [f"loss {loss}"], "of": 120, "lr": 0.1, "points": points})
        journal.record(60, "layers", {"layers": found})
        (changed,) = journal.records("changed")
        sample = {**changed.data["samples"][0], "picture": "A" * 16_000}
        journal.record(60, "changed", {**changed.data, "samples": [sample] * 16})
        journal.finish(Outcome.TARGET_MISSED, 60, "missed", 9.0)
    text = write(folder).read_text()
    assert 300_000 < len(text.encode()) < 500_000
    assert text.count('class="curve') == 9 * 60 + 3
    assert text.count("data:image/png") == 9
    assert "350 more layers are in the journal" in text


@pytest.mark.parametrize("word", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}</title>"])
def test_everything_a_user_names_is_escaped(tmp_path, word):
    folder = write_run(tmp_path / "run", word=word)
    page, plain = Page(write(folder).read_text()), Page(write(write_run(tmp_path / "plain")).read_text())
    assert page.tags == plain.tags
    assert [name for name, _ in page.attributes] == [name for name, _ in plain.attributes]
    assert page.text.count(word) > 20
    scripts = re.findall(r"<script[^>]*>(.*?)</script>", page.source, re.DOTALL)
    assert len(scripts) == 2
    assert not any(word in script for script in scripts)


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
    assert [told.partition(" would be met by ")[2] for told in shown.relaxations] == ["attempt 3 (quantize-static)"]


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
    assert (shown.findings, shown.layers, shown.changed, shown.loader) == ((), None, None, "")
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
    assert "Pareto front (size, latency, accuracy drop): attempts 0, 3" in text
    assert "The baseline won." in text
    assert "The baseline won." in Page(render(read(folder))).text


def test_no_journal_no_report(tmp_path):
    with pytest.raises(JournalError, match="no journal"):
        write(tmp_path)


def test_report_and_journal_need_no_torch():
    code = "import sys, boildown.report, boildown.journal; sys.exit('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


# -- colours ---------------------------------------------------------------------------------------


def luminance(colour):
    """WCAG 2's relative luminance of #rrggbb."""
    parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one, other):
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


def test_colours_can_be_told_apart_in_light_dark_and_print(met):
    blocks = re.findall(r":root \{(.*?)\}", write(met).read_text(), re.DOTALL)
    schemes = [dict(re.findall(r"--(\w+): (#\w{6});", block)) for block in blocks]
    assert len(schemes) == 3
    for scheme in schemes:
        for ground in ("page", "card"):
            for text in ("ink", "soft", "good", "miss", "open", "bad", "mark"):
                assert contrast(scheme[text], scheme[ground]) >= 4.5, (text, ground)
            assert contrast(scheme["edge"], scheme[ground]) >= 3


# -- a notebook ------------------------------------------------------------------------------------


def test_a_notebook_shows_the_run_escaped(tmp_path):
    text = fragment(read(write_run(tmp_path / "run", word="<i>")))
    page = Page(text)
    assert "quantize-static<i>" in page.text
    assert not {"i", "script", "style"} & set(page.tags)
    assert page.tags.count("tr") == 6


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
