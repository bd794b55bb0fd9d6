"""A run folder of somebody else, with links, pipes and endless files: nothing hangs, or touches what lies outside."""

from __future__ import annotations

import os
import random
import shutil

import pytest
from benchmarks.hostile import PLACES, PLANTS, Ground

pytestmark = [pytest.mark.usefixtures("still"), pytest.mark.skipif(os.name == "nt", reason="links need a right there")]
READING = ("show", "watch", "compare", "report", "runs")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A finished run, and files of one's own beside it."""
    return Ground(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("what", sorted(PLANTS))
def test_what_is_planted_hangs_nothing_and_leads_nowhere(ground, what):
    choice = random.Random(what)
    ground.check([(choice.choice(PLACES), what)], READING)
    ground.check([(place, what) for place in choice.sample(PLACES, 8)], READING)


@pytest.mark.parametrize("what", ["link to a file", "link to a folder", "pipe"])
@pytest.mark.parametrize("place", ["attempts/01-quantize-static/more", "best"])
def test_commands_that_write_refuse_and_say_what_lies_there(ground, what, place):
    commands = ("verify", "resume", "take") if place != "best" else ("verify", "resume")
    ended = ground.check([(place, what)], commands)
    assert [code for code in ended if not code.endswith(" 2")] == []


def test_take_keeps_what_lies_in_the_folder(ground):
    run = ground.planted([])
    (run / "attempt-1").mkdir()
    (run / "attempt-1" / "thesis.txt").write_text("three years of work")
    import boildown as bd

    assert bd.take(run, 1).name == "model.onnx"
    assert bd.take(run, 1).exists()
    assert (run / "attempt-1" / "thesis.txt").read_text() == "three years of work"
    shutil.rmtree(run / "attempt-1")
    bd.take(run, 1)
    assert not [path.name for path in run.iterdir() if path.name.startswith(".new")]
