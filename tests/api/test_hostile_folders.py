"""A run folder of somebody else, with links, pipes and endless files: nothing hangs, or touches what lies outside."""

from __future__ import annotations

import os
import random
import shutil

import pytest

if os.name == "nt":
    pytest.skip("links need a right there", allow_module_level=True)

from benchmarks.hostile import PLACES, PLANTS, READING, Ground
from benchmarks.planted import BUGS, find

pytestmark = pytest.mark.usefixtures("still")


@pytest.fixture(scope="module")
def ground(tmp_path_factory):
    """A finished run, and files of one's own beside it."""
    return Ground(tmp_path_factory.mktemp("hostile"))


@pytest.mark.parametrize("what", sorted(PLANTS))
def test_what_is_planted_hangs_nothing_and_leads_nowhere(ground, what):
    choice = random.Random(what)
    ground.check([(choice.choice(PLACES), what)], READING)
    ground.check([(place, what) for place in choice.sample(PLACES, 8)], READING)


@pytest.mark.parametrize("what", sorted(PLANTS))
def test_measure_takes_a_file_of_a_hostile_run_for_what_it_is(ground, what):
    ground.check([(place, what) for place in ("best/model.onnx", "attempts/00-first/model.onnx")], ["measure"])


def test_compress_beside_all_that_can_be_planted(ground):
    ground.planted([])
    choice, everything = random.Random(0), []
    for number, what in enumerate(sorted(PLANTS)):
        for places in (["journal.db"], ["attempts/01-quantize-static/model.onnx"], choice.sample(PLACES, 8)):
            plants = [(place, what) for place in places]
            ground.planted(plants, f"20260101-{number:06}-{len(places)}{places[0][:3]}")
            everything.append(plants)
    assert ground.ended(("compress", str(ground.config), "--runs", str(ground.runs)), everything) == 0


@pytest.mark.parametrize("what", ["link to a file", "link to a folder", "pipe"])
@pytest.mark.parametrize("place", ["attempts/01-quantize-static/more", "best"])
def test_commands_that_write_refuse_and_say_what_lies_there(ground, what, place):
    commands = ("verify", "resume", "take") if place != "best" else ("verify", "resume")
    ended = ground.check([(place, what)], commands)
    assert [code for code in ended if not code.endswith(" 2")] == []


@pytest.mark.parametrize("name", [name for name, bug in BUGS.items() if bug.in_folders])
def test_a_planted_bug_is_found(ground, name, tmp_path, monkeypatch):
    monkeypatch.setattr("benchmarks.planted.ground", lambda _folder: ground)
    cases, fault = find(BUGS[name], tmp_path, seed=0)
    assert BUGS[name].told in fault, f"not found in {cases} cases: {fault}"


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
