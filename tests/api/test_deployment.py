"""Where and how a model will run is said once, in one noun or in parts of it."""

from __future__ import annotations

import json

import pytest
import torch

import boildown as bd
from boildown.api.asked import deployment_of, plain_deployment
from boildown.domain.rules import FLOAT
from boildown.domain.target import Target
from boildown.engine.chain import link_keys
from boildown.engine.job import Job
from boildown.engine.rung import parse_rung
from boildown.measuring.environment import resolved
from boildown.tasks.splits import resolve


def test_parts_and_whole_say_the_same():
    whole = bd.Deployment("eager", hardware="arm64", batch=8, threads=2)
    parts = plain_deployment(None, "eager", "arm64", bd.Latency(8, 2))
    assert parts == (whole.to_json(), [])
    assert plain_deployment(whole, "eager", "arm64", bd.Latency(8, 2)) == parts
    assert plain_deployment(None) == (bd.Deployment().to_json(), [])


def test_what_is_said_twice_in_two_ways_is_refused_with_every_other_mistake(plugged, tmp_path):
    with pytest.raises(bd.InputError) as caught:
        bd.compress(
            plugged.model(), plugged.task(), "size <= 0.5x", ladder="shrink", runs=tmp_path / "runs", goal="best-ish",
            deployment=bd.Deployment("mirror", batch=4), runtime="eager", hardware="arm64", latency=bd.Latency(2),
        )  # fmt: skip
    told = str(caught.value)
    assert "runtime is said twice: 'eager' by itself, and 'mirror' in the deployment" in told
    assert "hardware is said twice" in told
    assert "batch is said twice: 2" in told
    assert "threads" not in told
    assert "goal = 'best-ish'" in told
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("deployment", "part"),
    [
        ("mirror", "deployment = 'mirror' is no Deployment"),
        (bd.Deployment("mirror", form="fat"), "form = 'fat' is not known"),
        (bd.Deployment("mirror", form="portable"), "The runtime mirror writes no files of the form 'portable'"),
        (bd.Deployment("eager", form="portable"), "One of: lean."),
        (bd.Deployment("mirror", on="a telephone"), "on = 'a telephone' is not known"),
        (bd.Deployment("mirror", hardware="abacus"), "hardware = 'abacus' is not known"),
        (bd.Deployment("mirror", batch=0), "batch = 0"),
        (bd.Deployment("mirror", threads=1.5), "threads = 1.5"),
        (bd.Deployment("miror"), "no runtime 'miror'"),
    ],
    ids=str,
)
def test_a_deployment_that_cannot_be_is_refused(plugged, tmp_path, deployment, part):
    with pytest.raises(bd.InputError) as caught:
        bd.compress(
            plugged.model(), plugged.task(), "size <= 0.5x", ladder="shrink", runs=tmp_path / "runs",
            deployment=deployment,
        )  # fmt: skip
    assert part in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_candidates_are_keyed_by_the_hardware_that_is_meant_and_by_rules(plugged, monkeypatch):
    task, rung = plugged.task(), parse_rung("quantize-static")

    def key(flags=("avx2",), **options):
        with monkeypatch.context() as patch:
            facts = {"architecture": "x86_64", "flags": list(flags)}
            patch.setattr("boildown.measuring.environment._hardware", lambda: facts)
            where = deployment_of({"deployment": bd.Deployment("mirror", **options.pop("where", {})).to_json()})
        return link_keys(rung, "first", Job(task, resolve(task, 0), Target(()), deployment=where, **options))[-1]

    assert key() == key(where={"batch": 8, "threads": 4}) == key(where={"hardware": "x86-any"})
    assert len({key(), key(["avx512_vnni"]), key(where={"hardware": "arm64"}), key(rules=(FLOAT,))}) == 4


def test_this_machine_has_a_name():
    assert resolved("this machine") != "this machine"
    assert resolved("arm64") == "arm64"


def test_another_form_has_rules_of_its_own_and_is_reused_in_that_form(still, tmp_path):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(8, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2)).eval()
        x = torch.randn(300, 8)
    task = bd.Classification(train=(x[:100], model(x[:100]).argmax(1)), validation=(x[100:], model(x[100:]).argmax(1)))

    def foreign(form):
        run = bd.compress(
            model, task, ["accuracy drop <= 50 pp", "size <= 0.9x"], ladder=["quantize-static"], runs=tmp_path,
            deployment=bd.Deployment(form=form), verbose=False,
        )  # fmt: skip
        needs = json.loads((run.path / "best" / "card.json").read_text(encoding="utf-8"))["needs"]
        return any("reused" in note for note in run.best.notes), "com.microsoft" in needs

    assert foreign("lean") == (False, True)
    assert foreign("portable") == (False, False)
    assert foreign("portable") == (True, False)
    assert foreign("lean") == (True, True)
