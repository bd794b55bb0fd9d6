"""Records that boildown did not write are an error with a cure, or are shown as what they are; never anything else."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up_run import write_run

from boildown.errors import JournalError
from boildown.journal import Journal
from boildown.report import write
from boildown.report.compare import compare
from boildown.report.follow import Follower
from boildown.report.html import page

ODD = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.just(float("nan")), st.text(max_size=5),
    st.just([]), st.just({}), st.just(-1), st.just("<script>alert(1)</script>"), st.just([["a", None]]),
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "run")


def places(value, path=()):
    """The path of every part of plain data."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in inner:
        yield from places(part, (*path, key))


def replaced(value, path, by):
    if not path:
        return by
    copy = dict(value) if isinstance(value, dict) else list(value)
    copy[path[0]] = replaced(value[path[0]], path[1:], by)
    return copy


@given(data=st.data())
@settings(max_examples=50, deadline=None)
def test_whatever_stands_in_a_record_the_report_is_sound_or_refused(run, data):
    with Journal.open(run) as journal:
        connection = journal._connection
        rows = connection.execute("SELECT id, data FROM records").fetchall()
        number, text = data.draw(st.sampled_from(rows))
        whole = json.loads(text)
        path = data.draw(st.sampled_from([path for path in places(whole) if path and len(path) < 5]))
        spoiled = json.dumps(replaced(whole, path, data.draw(ODD)))
        connection.execute("UPDATE records SET data = ? WHERE id = ?", (spoiled, number))
        try:
            with contextlib.suppress(JournalError):
                assert "<script>alert" not in write(run).read_text()
            with contextlib.suppress(JournalError):
                page("compare.html.jinja", compared=compare([run]))
        finally:
            connection.execute("UPDATE records SET data = ? WHERE id = ?", (text, number))


@given(now=st.one_of(ODD, st.fixed_dictionaries(dict.fromkeys(("what", "done", "total", "at", "left"), ODD))))
@settings(max_examples=30, deadline=None)
def test_whatever_the_step_under_way_is_said_to_be(run, now):
    with Journal.open(run) as journal:
        journal.update_facts({"now": now})
        with contextlib.suppress(JournalError):
            list(Follower(run).look())
