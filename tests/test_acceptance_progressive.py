"""The sentences that say what progressive pruning with distillation must do, one test each."""

from __future__ import annotations

import pytest

import boildown as bd
import no_clock
from boildown.engine.bench import Bench
from boildown.journal.journal import Journal
from boildown.surgery.graph import capture
from boildown.testing import digits

pytestmark = pytest.mark.usefixtures("still")

RATIOS = (0.8, 0.6, 0.7)
ROUNDS = (
    f"progressive(ratios=[{', '.join(map(str, RATIOS))}], of=params, steps=25, loss=cycle, multiple=1, samples=128)"
)


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.fixture(scope="module")
def run(digits_model, tmp_path_factory):
    """Three unequal rounds, then the same with int8 behind, in a ladder with nothing that could be met."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Bench, "latency", no_clock.latency)
        return bd.compress(
            digits_model, digits.task(), ["accuracy drop <= 6 pp", "size <= 0.15x"],
            ladder=[ROUNDS, f"{ROUNDS} + quantize-static"], runs=tmp_path_factory.mktemp("runs"),
        )  # fmt: skip


@pytest.fixture(scope="module")
def told(run):
    """What the journal says of the first attempt: rounds and students."""
    with Journal.open(run.path, readonly=True) as journal:
        records = [record for record in journal.records() if record.attempt == 1]
    return {kind: [r.data for r in records if r.kind == kind] for kind in ("round", "student", "loss")}


def test_the_ratio_between_one_student_and_the_next_equals_the_preset_ratio(run, told, digits_model):
    assert [each["asked"] for each in told["round"]] == list(RATIOS)
    for each in told["round"]:
        assert each["achieved"] == pytest.approx(each["asked"], abs=0.02)
    last = parameters(run.candidates[1].module())
    assert last / parameters(digits_model) == pytest.approx(0.8 * 0.6 * 0.7, abs=0.02)


def test_every_student_on_the_way_is_kept_exported_and_measured(run, told, digits_model):
    students = sorted((run.candidates[1].artifact.parent / "students").iterdir())
    assert [student.name for student in students] == ["student-2", "student-3"]
    for student, ratio, record in zip(students, (0.8, 0.8 * 0.6), told["student"], strict=True):
        assert (student / "model.onnx").is_file()
        assert (student / "weights.safetensors").is_file()
        assert record["name"] == student.name
        assert record["params"] == pytest.approx(ratio, abs=0.02)
        assert 0 < record["size"] < 1
        assert record["divergence"] >= 0


def test_each_round_obtains_its_method_from_several(told):
    assert [each["loss"] for each in told["loss"]] == ["kd", "dkd", "dist"]


def test_after_the_rounds_the_student_is_the_target_model(run):
    assert run.outcome is bd.Outcome.TARGET_MET
    assert run.best.number == 2
    assert run.best.parent == run.candidates[1].key, "int8 goes on from the last student, which is not made again"


def test_the_initial_student_may_be_the_users(digits_model, tmp_path):
    initial = digits.trained_network(width=12, epochs=3)
    run = bd.compress(
        digits_model, digits.task(), "params <= 0.5x", initial_student=initial, runs=tmp_path,
        ladder=["progressive(rounds=1, ratio=0.7, steps=10, loss=kd, multiple=1, samples=64)"],
    )  # fmt: skip
    made = run.candidates[1].module()
    macs = [capture(model, *digits.task().example()).macs() for model in (made, initial)]
    assert macs[0] / macs[1] == pytest.approx(0.7, abs=0.03)
    assert run.outcome is bd.Outcome.TARGET_MET
