"""Whole runs for several runtimes: what is shared, what is handed over, how they go on, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from torch import nn

import boildown as bd
import no_clock
from boildown.api.asked import deployment_of, plain_deployment
from boildown.cli.config import read_config
from boildown.domain.measurement import Measurement
from boildown.domain.target import Target
from boildown.engine.bench import Bench
from boildown.engine.job import Job
from boildown.errors import Cancelled, UntrustedFileError
from boildown.journal import Journal
from boildown.methods.retrain import Retrain
from boildown.runtimes import at_hand
from boildown.tasks.splits import resolve

BOTH = ["mirror", "brisk"]


def climbed(mirror, runs, *rungs, target=("size <= 0.01x", "latency <= 2x"), runtime=BOTH, **options):
    return bd.compress(
        mirror.model(), mirror.task(), list(target), ladder=list(rungs), runs=runs, runtime=runtime, **options
    )


@pytest.fixture
def trainings(monkeypatch):
    """The trainings from here on."""
    begun, train = [], Retrain.apply
    monkeypatch.setattr(Retrain, "apply", lambda self, *given: begun.append(self) or train(self, *given))
    return begun


def rungs(run):
    return [result.rung for result in run.candidates[1:]]


def test_what_is_trained_is_trained_once_for_all_runtimes_and_chains(mirror, trainings, tmp_path):
    students = [mirror.model()]
    run = climbed(mirror, tmp_path, "retrain(steps=3) + quantize-static", "retrain(steps=3)", students=students)
    chain, brisk, alone, alone_brisk = run.candidates[1:]
    assert rungs(run) == [
        "retrain(steps=3) + quantize-static", "retrain(steps=3) + quantize-static @ brisk",
        "retrain(steps=3)", "retrain(steps=3) @ brisk",
    ]  # fmt: skip
    assert [result.verdict is not None for result in run.candidates] == [True] * 5, str(run)
    assert len(trainings) == 1
    assert alone.key == alone_brisk.key
    assert chain.key != brisk.key, "brisk quantizes by rules of its own"
    assert "made before, in attempts/" in str(alone_brisk.notes)
    assert [result.runtime for result in run.candidates] == ["mirror", "mirror", "brisk", "mirror", "brisk"]
    assert [result.artifact.name for result in run.candidates[1:3]] == ["model.mirror", "model.brisk"]
    later = climbed(mirror, tmp_path, "retrain(steps=3) @ brisk", students=students)
    assert "reused from run" in str(later.candidates[1].notes)
    assert len(trainings) == 1


def test_one_export_serves_runtimes_that_share_the_exporter(mirror, tmp_path):
    run = climbed(mirror, tmp_path, "shrink(size=0.6)")
    assert rungs(run) == ["shrink(size=0.6)", "shrink(size=0.6) @ brisk"]
    assert [path.name for path in (run.path / "exports").glob("*/*")] == ["model.mirror"]


def test_figures_know_what_ran_and_the_table_shows_it(mirror, tmp_path):
    run = climbed(mirror, tmp_path, "shrink(size=0.6)", target=["size <= 0.7x", "latency <= 2x"], goal="fastest")
    usual, brisk = run.candidates[1:]
    for result, runtime in ((usual, "mirror"), (brisk, "brisk")):
        accuracy = result.measurements["accuracy"]
        assert (accuracy.environment["runtime"], accuracy.environment["version"]) == (runtime, f"{runtime} 1")
    assert usual.sentence == "All 2 conditions are met."
    assert brisk.sentence == "All 2 conditions are met in brisk."
    table = str(run)
    assert "runtime" in table.split("\n\n")[1]
    assert table.count("brisk") == 1, "in its column, not behind the rung"
    assert "<th>runtime</th>" in run._repr_html_()
    assert ">Runtime</th>" in run.report().read_text(encoding="utf-8")
    alone = climbed(mirror, tmp_path, "shrink(size=0.6)", runtime="mirror")
    assert "runtime" not in str(alone)
    assert "untime</th>" not in alone._repr_html_() + alone.report().read_text(encoding="utf-8")
    assert [attempt["runtime"] for attempt in run.to_json()["attempts"]] == ["mirror", "mirror", "brisk"]


def test_an_equal_file_in_another_runtime_is_another(plugged, tmp_path):
    task = bd.Classification(validation=plugged.samples(64, 2))
    bench = Bench(
        Job(task, resolve(task, 0), Target(()), deployment=bd.Deployment(BOTH)), tmp_path,
        check=lambda: None, progress=lambda *_: None,
    )  # fmt: skip
    (tmp_path / "model").write_text("{}")
    first, same = (bd.Artifact.read(name, tmp_path / "model") for name in BOTH)
    bench.first, keys = first, []
    bench.recall = lambda key: keys.append(key) or Measurement("latency", 1.0, "s", ratio=0.5)
    assert first.digest == same.digest
    assert bench.latency(first).ratio == 1
    assert bench.latency(same).ratio == 0.5
    bench.memory(first)
    bench.memory(same)
    for artifact in (first, same):
        keys.append(bench.key("accuracy", artifact, "verdict"))
        bench._statistics[artifact.ran, "verdict"] = {"accuracy": artifact.runtime}
    assert len(set(keys)) == 6
    assert [bench.scored(artifact, "verdict")["accuracy"] for artifact in (first, same)] == BOTH
    bench.close()


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2)).eval()


def answers():
    """What the network answers, but for a tenth."""
    x = torch.randn(400, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        logits = network()(x)
    y = (logits[:, 0] - logits[:, 1] < (logits[:, 0] - logits[:, 1]).median()).long()
    return bd.Classification(train=(x[:100], y[:100]), validation=(x[100:], y[100:]))


@pytest.fixture(scope="module")
def rival(tmp_path_factory):
    """A finished run whose best is for the second of its runtimes, which holds float networks alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "latency", no_clock.latency)
        return bd.compress(
            network(), answers(), ["accuracy drop <= 90 pp", "macs <= 0.6x", "latency <= 2x"],
            ladder=["quantize-static", "prune(ratio=0.5) @ eager"], runs=tmp_path_factory.mktemp("runs"),
            deployment=bd.Deployment(["onnxruntime", "eager"]),
        )  # fmt: skip


def test_the_best_is_handed_over_with_what_runs_it(rival, tmp_path):
    assert rungs(rival) == ["quantize-static", "prune(ratio=0.5) @ eager"], "eager holds no int8: not even tried"
    assert (rival.outcome, rival.best.runtime) == (bd.Outcome.TARGET_MET, "eager")
    best = rival.path / "best"
    assert rival.best.artifact == best / "model.pt2"
    card = json.loads((best / "card.json").read_text(encoding="utf-8"))
    assert (card["artifact"]["runtime"], card["packages"][0]) == ("eager", "torch")
    assert card["deployment"]["runtime"] == ["onnxruntime", "eager"]
    assert "import numpy as np, torch" in (best / "load.py").read_text(encoding="utf-8")
    with pytest.raises(UntrustedFileError):
        bd.take(rival.path, to=tmp_path / "taken")
    taken = bd.take(rival.path, to=tmp_path / "taken", trust=True)
    for file in (rival.best.artifact, taken):
        found = bd.measure(file, answers(), ["accuracy >= 0.01"], trust=True)
        assert found.measurements["accuracy"].environment["runtime"] == "eager"
    drop = bd.measure(rival.best.artifact, answers(), ["accuracy drop <= 90 pp"], trust=True)
    assert drop.measurements["accuracy"].drop == pytest.approx(rival.best.measurements["accuracy"].drop)
    assert drop.sentence() == "The condition is met in eager."
    with pytest.raises(bd.InputError, match="not a model ONNX Runtime can load"):
        bd.measure(rival.best.artifact, answers(), ["accuracy >= 0.01"], runtime="onnxruntime")


def test_it_is_verified_and_gone_on_with(rival, still, tmp_path):
    copy = tmp_path / rival.path.name
    shutil.copytree(rival.path, copy)
    found = bd.verify(copy, network(), answers(), trust=True)
    assert found.agrees, str(found)
    assert bd.resume(copy, network(), answers()).best.files.digest == rival.best.files.digest


def test_a_run_goes_on_in_the_runtimes_that_it_began_with(mirror, tmp_path, monkeypatch):
    def stop(event):
        if event.kind == "attempt" and event.data["attempt"].number == 2:
            raise Cancelled("stopped")

    monkeypatch.setattr("boildown.api.asked.at_hand", lambda: tuple(BOTH))
    stopped = climbed(mirror, tmp_path, "shrink(size=0.6)", runtime="auto", callbacks=[stop])
    assert stopped.outcome is bd.Outcome.CANCELLED
    monkeypatch.setattr("boildown.api.asked.at_hand", lambda: ("onnxruntime",))
    again = bd.resume(stopped.path, mirror.model(), mirror.task())
    assert rungs(again) == ["shrink(size=0.6)", "shrink(size=0.6) @ brisk"]
    assert [result.runtime for result in again.candidates] == ["mirror", "mirror", "brisk"]
    with Journal.open(again.path, readonly=True) as journal:
        assert journal.facts["deployment"]["runtime"] == BOTH
        assert journal.facts["deployment"]["form"] == "portable"


def test_auto_is_what_is_installed_and_fast(plugged):
    found = at_hand()
    assert found[0] == "onnxruntime"
    assert not {"eager", "mirror", "brisk"} & set(found)
    assert deployment_of({"deployment": bd.Deployment("auto").to_json()}).runtimes == found
    named = deployment_of({"deployment": bd.Deployment(["brisk", "auto", "onnxruntime"]).to_json()})
    assert named.runtimes == ("brisk", *found)


@pytest.mark.parametrize(
    ("runtime", "told"),
    [
        ([], ["runtime = [] names none"]),
        (["mirror", "mirror"], ["names one twice"]),
        (["mirror", "tinfoil", "miror"], ["no runtime 'tinfoil'", "no runtime 'miror'"]),
        (("mirror", 5), ["no runtime '5'"]),
        ("auto ", ["no runtime 'auto '"]),
    ],
    ids=str,
)
def test_runtimes_that_cannot_be_are_refused_with_every_other_mistake(plugged, tmp_path, runtime, told):
    with pytest.raises(bd.InputError) as caught:
        climbed(plugged, tmp_path / "runs", "shrink @ foil", runtime=runtime, goal="best-ish")
    message = str(caught.value)
    assert all(part in message for part in [*told, "goal = 'best-ish'", "'foil'"]), message
    assert not (tmp_path / "runs").exists()


def test_one_runtime_in_a_list_is_that_runtime():
    assert bd.Deployment(["eager"]) == bd.Deployment("eager")
    assert plain_deployment(None, ["eager"]) == plain_deployment(bd.Deployment("eager"), "eager")
    both, wrong = plain_deployment(bd.Deployment(("a", "b")), ["a", "b"])
    assert (both["runtime"], wrong) == (["a", "b"], [])


def test_the_command_line_and_the_configuration_name_several(mirror, command, tmp_path, monkeypatch):
    config = tmp_path / "boildown.toml"
    text = (
        '[model]\nfactory = "boildown_fakes:model"\n[task]\nfactory = "boildown_fakes:task"\n'
        '[target]\nconditions = ["size <= 0.01x", "latency <= 2x"]\n[ladder]\nrungs = ["shrink(size=0.6)"]\n'
    )
    for table in ("deployment", "run"):
        config.write_text(f'{text}[{table}]\nruntime = ["mirror", "brisk"]\n')
        arguments = read_config(config).arguments
        assert arguments.get("deployment", bd.Deployment(arguments.get("runtime", ""))).runtimes == ("mirror", "brisk")
    config.write_text(text + '[deployment]\nruntime = "eager"\n')
    named = ("--runtime", "mirror", "--runtime", "brisk")
    told = command("compress", config, "--dry-run", "--json", "--runs", tmp_path / "runs", *named)
    assert [line["asked"] for line in told.data["rungs"]] == ["shrink(size=0.6)", "shrink(size=0.6) @ brisk"]
    config.write_text(text + "[deployment]\nruntime = 3\n")
    assert "runtime in [deployment] is 3" in command("compress", config, "--dry-run").err


def test_onnx_runtime_and_openvino_for_real(digits_model, digits_task, tmp_path):
    pytest.importorskip("openvino")
    run = bd.compress(
        digits_model, digits_task, ["accuracy drop <= 3 pp", "size <= 0.35x", "latency <= 50x"], goal="fastest",
        ladder="quantize-static", deployment=bd.Deployment(["onnxruntime", "openvino"]), runs=tmp_path,
    )  # fmt: skip
    _, own, other = run.candidates
    assert [result.state for result in run.candidates] == [bd.State.MISSED, bd.State.MET, bd.State.MET], str(run)
    assert own.key != other.key, "each has rules of its own"
    assert len(list((run.path / "exports").iterdir())) == 1, "and both write from one export"
    latency = other.measurements["latency"]
    assert latency.environment["runtime"].startswith("openvino")
    assert latency.environment["first runtime"].startswith("onnxruntime")
    assert run.best.runtime == min((own, other), key=lambda result: result.measurements["latency"].ratio).runtime
    with Journal.open(run.path, readonly=True) as journal:
        assert any(look.data.endswith("fastest") for look in journal.looks())
    again = bd.resume(run.path, digits_model, digits_task)
    assert again.best.files.digest == run.best.files.digest
    assert [result.measurements for result in again.candidates] == [result.measurements for result in run.candidates]
    for result in (own, other):
        taken = result.export(tmp_path / result.runtime)
        assert result.runtime in (taken.parent / "load.py").read_text(encoding="utf-8")
        accuracy = bd.measure(taken, digits_task, ["accuracy >= 0.5"]).measurements["accuracy"]
        assert accuracy.environment["runtime"] == result.runtime
