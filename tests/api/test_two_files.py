"""Whole runs in a foreign runtime whose artifacts are two files, and in versions of it."""

from __future__ import annotations

import runpy
import shutil

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.errors import Cancelled
from boildown.journal import Journal

TARGET = ["accuracy drop <= 90 pp", "size <= 0.95x"]
LADDER = ["quantize-static", "prune(ratio=0.5)"]


def network():
    """Two classes from eight numbers."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        made = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 2))
        with torch.no_grad():
            logits = made(torch.randn(1000, 8))
            made[-1].bias[0] += (logits[:, 1] - logits[:, 0]).median()
    return made.eval()


def task():
    """What the network answers, but for a tenth."""
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        y = network()(x).argmax(1)
    y[::10] = 1 - y[::10]
    return bd.Classification(train=(x[:100], y[:100]), validation=(x[100:], y[100:]))


def compress(runs, ladder=LADDER, **options):
    return bd.compress(network(), task(), TARGET, ladder=ladder, runs=runs, **options)


@pytest.fixture(scope="module")
def installed():
    """The foreign package, and runs that time nothing."""
    import sys
    from pathlib import Path

    import no_clock
    from boildown.engine.bench import Bench
    from boildown.methods import registry

    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "plugged"))
        patch.setattr(Bench, "latency", no_clock.latency)
        registry.installed.cache_clear()
        import boildown_fakes_pair

        yield boildown_fakes_pair
        sys.modules.pop("boildown_fakes_pair", None)
    registry.installed.cache_clear()


@pytest.fixture(scope="module")
def run(installed, tmp_path_factory):
    return compress(tmp_path_factory.mktemp("runs"), runtime="pair")


def written(run):
    """The attempts whose artifacts were written, not copied from an earlier run."""
    with Journal.open(run.path, readonly=True) as journal:
        return [record.attempt for record in journal.records("written") if "by run" not in record.data]


def test_both_files_are_measured_and_handed_over(run, installed):
    assert run.outcome is bd.Outcome.TARGET_MET
    first, _, pruned = run.candidates
    assert run.best.artifact == run.path / "best" / "model.xml"
    assert {path.name for path in run.best.files.paths} == {"model.xml", "model.bin"}
    assert run.best.files.changed() == []
    size = sum((run.path / "best" / name).stat().st_size for name in ("model.xml", "model.bin"))
    assert pruned.measurements["size"].value == size
    assert first.files.digest != pruned.files.digest
    runpy.run_path(str(run.path / "best" / "load.py"), run_name="__main__")


def test_what_the_runtime_refuses_is_skipped_with_its_reason_before_any_work(run, installed):
    refused = run.candidates[1]
    assert refused.state is bd.State.SKIPPED
    assert installed.REFUSAL in refused.sentence
    assert "pair" in refused.sentence
    assert not list((run.path / "attempts").glob("01-*"))


def test_it_is_taken_verified_reported_and_gone_on_with(run, tmp_path):
    copy = tmp_path / run.path.name
    shutil.copytree(run.path, copy)
    assert bd.take(copy, 0, tmp_path / "first") == tmp_path / "first" / "model.xml"
    assert (tmp_path / "first" / "model.bin").read_bytes() == (copy / "attempts/00-first/model.bin").read_bytes()
    found = bd.verify(copy, network(), task())
    assert found.agrees, str(found)
    assert {"best/model.bin in the journal", "model.bin of the first model"} <= {check.what for check in found.checks}
    again = bd.resume(copy, network(), task())
    assert again.best.files.digest == run.best.files.digest
    assert "model.xml" in again.report().read_text(encoding="utf-8")


@pytest.mark.parametrize("place", ["best", "attempts/02-prune-ratio-0-5"])
def test_weights_that_were_changed_are_told(run, tmp_path, place):
    copy = tmp_path / run.path.name
    shutil.copytree(run.path, copy)
    weights = copy / place / "model.bin"
    weights.write_bytes(weights.read_bytes()[::-1])
    assert not bd.verify(copy, network(), task()).agrees
    if place != "best":
        with pytest.raises(bd.InputError, match=r"model.bin.* is not the file that was measured"):
            bd.take(copy, 2, tmp_path / "taken")


def test_a_file_in_a_run_is_measured_with_the_weights_beside_it(run):
    verdict = bd.measure(run.best.artifact, task(), ["size <= 0.95x"], runtime="pair")
    assert verdict.measurements["size"].value == run.best.measurements["size"].value
    alone = bd.measure(run.best.artifact, task(), "size <= 1 MB", runtime="pair", first=run.candidates[0].artifact)
    assert alone.measurements["size"].first == run.candidates[0].measurements["size"].value


def test_a_run_that_was_stopped_goes_on_beside_both_files_of_the_first_model(installed, tmp_path):
    def stop(event):
        if event.kind == "attempt" and event.data["attempt"].number == 1:
            raise Cancelled("stopped")

    stopped = compress(tmp_path, LADDER[1:], runtime="pair", callbacks=[stop])
    assert stopped.outcome is bd.Outcome.CANCELLED
    again = bd.resume(stopped.path, network(), task())
    assert again.outcome is bd.Outcome.TARGET_MET
    assert again.candidates[0].files.digest == stopped.candidates[0].files.digest
    assert written(again) == [1]


def test_reuse_and_versions(run, installed, monkeypatch):
    runs = run.path.parent
    same = compress(runs, LADDER[1:], deployment=bd.Deployment("pair", threads=2))
    assert "reused from run" in str(same.best.notes)
    assert written(same) == []
    assert same.best.files.digest == run.best.files.digest
    assert same.best.measurements["accuracy"].environment["version"] == "pair 1.0"
    monkeypatch.setattr(installed, "VERSION", "pair 2.0")
    newer = compress(runs, LADDER[1:], runtime="pair")
    assert "reused from run" in str(newer.best.notes)
    assert newer.best.key == same.best.key
    assert written(newer) == [1]
    assert newer.best.measurements["accuracy"].environment["version"] == "pair 2.0"
    other = compress(runs, LADDER[1:], runtime="onnxruntime")
    assert other.best.key == newer.best.key, "a float network is made for every runtime"
    assert written(other) == [1]
    assert other.best.artifact.name == "model.onnx"
