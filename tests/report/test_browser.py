"""The report in a real browser: nothing is asked of the network, nothing goes wrong, it can be used with a keyboard."""

from __future__ import annotations

import chromium
import pytest
from made_up_run import write_run

from boildown.report import write
from boildown.report.compare import compare
from boildown.report.html import page

pytestmark = pytest.mark.skipif(chromium.find() is None, reason="no Chromium or Chrome is installed here")


@pytest.fixture(scope="module")
def browser():
    found = chromium.Chromium()
    yield found
    found.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    return write(write_run(tmp_path_factory.mktemp("runs") / "run", word="<script>alert(1)</script>"))


def tip(browser):
    return browser.run("document.getElementById('tip').hidden ? '' : document.getElementById('tip').innerText")


def places(browser):
    return browser.run(
        "[...document.querySelectorAll('.point')].filter(p => !p.classList.contains('away'))"
        ".map(p => [Number(p.dataset.n), p.getBoundingClientRect().x, p.getBoundingClientRect().y])"
    )


def choose(browser, axis, number):
    browser.run(
        f"(() => {{ const s = document.getElementById('{axis}'); s.value = '{number}';"
        " s.dispatchEvent(new Event('change')); })()"
    )


def test_nothing_is_asked_for_and_nothing_goes_wrong(browser, report):
    for scheme, width in (("light", 1280), ("dark", 390)):
        browser.open(report, width=width, scheme=scheme)
        assert browser.console == []
        assert [address for address in browser.requests if not address.startswith("data:")] == [report.as_uri()]
        assert browser.run("document.documentElement.scrollWidth") == width, "nothing sticks out"
        assert browser.run("document.querySelectorAll('.pictures img')[0].naturalWidth") == 8


def test_the_policy_stops_any_other_script(browser, report):
    browser.open(report)
    browser.run("document.body.insertAdjacentHTML('beforeend', '<img src=\"x:\" onerror=\"window.ran = 1\">')")
    assert browser.run("new Promise(done => setTimeout(() => done(window.ran ?? 0), 50))") == 0
    assert any("Content Security Policy" in text for text in browser.console)


def test_colours_follow_the_scheme(browser, report):
    grounds = []
    for scheme in ("light", "dark"):
        browser.open(report, scheme=scheme)
        grounds.append(browser.run("getComputedStyle(document.body).backgroundColor"))
    assert grounds == ["rgb(251, 251, 250)", "rgb(21, 24, 27)"]


def test_a_point_tells_its_candidate_to_mouse_and_keyboard(browser, report):
    browser.open(report)
    browser.hover(".point.best")
    assert "3 quantize-static<script>" in tip(browser)
    assert "accuracy drop\n0.85 pp" in tip(browser)
    browser.press("Escape")
    assert tip(browser) == ""
    browser.run("document.querySelector('.point').focus()")
    assert tip(browser).startswith("0 first")
    browser.press("Tab")
    assert tip(browser).startswith("1 quantize-dynamic")
    browser.press("Enter")
    assert browser.run("location.hash") == "#attempt-1"


def test_any_two_axes_can_be_chosen(browser, report):
    browser.open(report)
    before = places(browser)
    static = browser.run("document.querySelector('.point.best').getAttribute('transform')")
    moved = browser.run("document.querySelector('.point.best').style.transform")
    numbers = [float(text) for text in static.removeprefix("translate(").removesuffix(")").split()]
    assert [round(float(n.strip("px )")), 0) for n in moved.removeprefix("translate(").split(",")] == [
        round(n, 0) for n in numbers
    ], "script and page agree"
    choose(browser, "x-axis", 1)
    after = places(browser)
    assert browser.run("document.querySelector('.x-label').textContent") == "latency (times the first model's)"
    assert [n for n, _, _ in before] == [n for n, _, _ in after]
    assert [y for _, _, y in before] == pytest.approx([y for _, _, y in after], abs=0.5)
    assert sorted(after, key=lambda p: p[1])[0][0] == 3, "0.53x is the least latency"
    assert browser.run("document.querySelector('.front').getAttribute('d')").startswith("M")


def test_methods_can_be_left_out(browser, report):
    browser.open(report)
    browser.run("document.querySelector('input[name=method]').click()")
    assert [n for n, _, _ in places(browser)] == [0, 2, 3]
    assert browser.run("document.getElementById('count').textContent") == "3 of 5 attempts shown"


def test_it_prints_on_white_with_all_details_open(browser, report):
    browser.open(report, scheme="dark", medium="print")
    assert browser.run("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert browser.run("getComputedStyle(document.getElementById('controls')).display") == "none"
    browser.run("window.dispatchEvent(new Event('beforeprint'))")
    assert browser.run("document.querySelectorAll('details:not([open])').length") == 0
    assert browser.print().startswith(b"%PDF")


def test_runs_side_by_side_need_no_script(browser, report, tmp_path):
    path = tmp_path / "compare.html"
    path.write_text(page("compare.html.jinja", compared=compare([report.parent] * 2)), encoding="utf-8")
    browser.open(path)
    assert browser.console == []
    assert browser.requests == [path.as_uri()]
