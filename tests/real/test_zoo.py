"""The zoo's own checks: what is wrong is found, what is done is not done again, and every architecture is sound."""

from __future__ import annotations

import pytest
import torch
from benchmarks.zoo.cells import CELLS, Left, Wrong, apart, decibel, fill, spread
from benchmarks.zoo.entry import ZOO, load, real, zoo
from benchmarks.zoo.matrix import Results, markdown
from torch import nn


@pytest.fixture(autouse=True)
def entries():
    load()
    kept = dict(ZOO)
    yield kept
    ZOO.clear()
    ZOO.update(kept)


def test_there_are_many_architectures_and_the_same_ones_at_every_call():
    assert len(load()) >= 60
    first, second = (ZOO["mobilenet-v2"].build() for _ in range(2))
    assert all(map(torch.equal, first.state_dict().values(), second.state_dict().values()))
    norm = next(module for module in first.modules() if isinstance(module, nn.BatchNorm2d))
    assert norm.running_mean.abs().min() > 0
    assert norm.momentum == 0.1


def test_every_reason_names_a_cell():
    for entry in ZOO.values():
        assert set(entry.left) <= set(CELLS)


def test_wrong_outputs_are_found():
    one = torch.randn(3, 4)
    assert apart([one], [one]) == 0
    assert apart([one], [one + 0.01 * one.abs().max()]) == pytest.approx(0.01, rel=1e-3)
    assert decibel([one, one.argmax(1)], [one * 1.1, one.argmax(1)]) == pytest.approx(20, abs=1e-3)
    for other in ([one[:2]], [one, one], [one / 0]):
        with pytest.raises(Wrong):
            decibel([one], other)
    with pytest.raises(Wrong):
        spread([one[:1].expand(3, 4)])


def test_a_method_that_leaves_a_model_alone_fails_unless_that_is_said_to_be_right(monkeypatch):
    def refuse(_subject):
        raise Left("no channels")

    monkeypatch.setitem(CELLS, "prune", refuse)
    make = lambda: nn.Linear(4, 3)  # noqa: E731
    for name, left in (("plain", {}), ("known", {"prune": "it has one layer"})):
        make.__name__ = name
        zoo(real(4), **left)(make)
    assert fill("plain", "prune") | {"seconds": 0} == {
        "state": "failed",
        "text": "left alone: no channels",
        "seconds": 0,
    }
    assert fill("known", "prune")["state"] == "skipped"


def test_what_is_done_is_not_done_again(tmp_path):
    mlp, vit = ZOO["mlp"], ZOO["vit"]
    results = Results(tmp_path / "zoo.jsonl")
    results.add(mlp, "export", {"state": "ok", "text": "fine", "seconds": 1.0})
    results.add(vit, "export", {"state": "failed", "text": "two\n lines", "seconds": 1.0})
    again = Results(tmp_path / "zoo.jsonl")
    assert again.done(mlp, "export", keep=False)
    assert not again.done(mlp, "static", keep=True)
    again.rows = {key: {**row, "version": "older"} for key, row in again.rows.items()}
    assert not again.done(mlp, "export", keep=False)
    assert again.done(mlp, "export", keep=True)
    assert not again.done(vit, "export", keep=True)
    table = markdown(again, [mlp, vit], ["export", "static"])
    assert "| mlp | ok |  |" in table
    assert "| **failed** | 1 | 0 |" in table
    assert "- vit, export: two lines" in table
