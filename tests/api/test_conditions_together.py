"""Groups, slices, other sets, corruptions, agreement and tails in one target."""

from __future__ import annotations

from torch.utils.data import TensorDataset

import boildown as bd
from boildown.testing import digits

PROVEN = ["agreement[night] >= 50 %", "agreement[site=A] >= 50 %", "worst site agreement >= 60 %"]
TARGET = [
    "accuracy drop <= 20 pp", *PROVEN, "worst class accuracy drop <= 60 pp", "accuracy[noise:1] drop <= 50 pp",
    "latency p95 <= 1 s", "size <= 0.6x",
]  # fmt: skip


def test_they_go_together(tmp_path):
    images, labels = digits.validation_set().tensors
    day, night = TensorDataset(images, labels), TensorDataset(0.8 * images, labels)
    groups, sites = [place // 3 for place in range(len(labels))], ["BA"[place % 2] for place in range(len(labels))]
    task = bd.Classification(
        train=digits.training_set(), validation={"day": day, "night": night}, classes="0123456789",
        groups={"validation": groups, "night": groups}, slices={"site": sites},
    )  # fmt: skip
    run = bd.compress(
        digits.trained_network(width=16, epochs=6), task, TARGET, ladder=["quantize-static"], confidence=0.9,
        runs=tmp_path, verbose=False,
    )  # fmt: skip
    assert run.outcome is bd.Outcome.TARGET_MET
    found = run.best.measurements
    for name in ("accuracy", "agreement[night]", "accuracy[noise:1]"):
        assert (found[name].samples, found[name].groups) == (797, 266)
    assert found["agreement[site=A]"].samples == 398
    assert {each.metric for each in found["worst site agreement"].slices} == {"agreement[site=A]", "agreement[site=B]"}
    assert found["latency p95"].intervals
    again = bd.measure(run.best.artifact, task, PROVEN, confidence=0.9)
    assert again.measurements["agreement[night]"].value == found["agreement[night]"].value
    assert all(finding.status.value == "met" for finding in again.findings)
