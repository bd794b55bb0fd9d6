"""A run that never was, written through the journal as the engine writes one."""

from __future__ import annotations

from pathlib import Path

from boildown.domain.artifact import Artifact
from boildown.domain.grammar import parse_target
from boildown.domain.measurement import Interval, Measurement
from boildown.domain.outcome import Outcome, State
from boildown.domain.verdict import Status, judge
from boildown.journal import Journal

FIRST_SIZE, FIRST_LATENCY, FIRST_ACCURACY = 1_158_830.0, 0.00079, 0.934


class Accuracy:
    name = "accuracy"
    higher_is_better = True
    unit = ""
    range = (0.0, 1.0)
    decomposable = True


def measurements(
    size: float, drop: float, latency: float | None, raw: tuple[float, ...] = ()
) -> dict[str, Measurement]:
    """Of an artifact with these ratios and this drop (a fraction); `raw` are the block ratios of its latency."""
    found = [
        Measurement(
            "size", size * FIRST_SIZE, "B", first=FIRST_SIZE, ratio=size, samples=1,
            notes=("0.24x of the plain export (1,200,000 B)",),
        ),
        Measurement(
            "accuracy", FIRST_ACCURACY - drop, "fraction", first=FIRST_ACCURACY, drop=drop, standard_error=0.001,
            intervals={"drop": Interval(drop - 0.003, drop + 0.003, 0.95, "Tango")}, samples=5000, data="verdict",
        ),
        Measurement("divergence", 0.01, samples=500, data="search"),
    ]  # fmt: skip
    if latency is not None:
        found.append(
            Measurement(
                "latency", latency * FIRST_LATENCY, "s", first=FIRST_LATENCY, ratio=latency, samples=200,
                intervals={"ratio": Interval(latency - 0.02, latency + 0.02, 0.95, "bootstrap")}, raw=raw,
            )
        )  # fmt: skip
    return {measurement.metric: measurement for measurement in found}


GREY = (
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAAHElEQVR4nGNgYGBgYmRgYGBgYWFhYWJiYmBgYAAABqgAUl3zFRwA"
    "AAAASUVORK5CYII="
)
"""A small grey PNG in base64."""


def hurry(journal: Journal) -> None:
    """Let no test wait for the disk."""
    journal._connection.execute("PRAGMA synchronous = OFF")


def write_details(journal: Journal, best: int, word: str = "") -> None:
    """What the engine records beside the verdicts: trainings, tournaments, layers, what changed."""
    layer = {"kind": "conv2d", "bits": None, "input bits": None}
    shapes = {"stem": [16, 3, 3, 3], "body.0": [32, 16, 3, 3], "head": [10, 32]}
    first = [{**layer, "name": n + word, "node": n, "shape": shape} for n, shape in shapes.items()]
    journal.record(0, "layers", {"layers": first})
    pruned = [{**first[0], "bits": 8, "input bits": 8}, {**first[1], "shape": [20, 16, 3, 3]}, first[2]]
    journal.record(best, "layers", {"layers": pruned})
    journal.record(best, "sensitivity", {"layers": {"stem": 0.02, "body.0": 0.005, "head": float("inf")}})
    for losses, of, scale in ((["kd" + word], 60, 1.0), (["dist"], 60, 1.1), (["kd" + word, "dist"], 540, 0.9)):
        points = [[step, scale * (2.3 * 0.97 ** (step / 5) + 0.05)] for step in range(5, of + 1, 5)]
        journal.record(best, "curve", {"losses": losses, "of": of, "lr": 0.01, "points": points})
    scores = {"kd" + word: 0.91, "dist": 0.9, "hint": None}
    for number in (0, 1):
        journal.record(best, "survivors", {"step": 60, "losses": ["kd" + word, "dist"], "scores": scores})
        journal.record(best, "loss", {"round": number, "loss": "kd + dist"})
    sample = {"index": 7, "before": 1.0, "after": 0.0, "label": 1, "first": 1, "now": 0, "picture": GREY}
    journal.record(
        best, "changed",
        {
            "artifact": "ab" * 32, "data": "of the verdict", "metric": "accuracy", "of": 5000,
            "worse": 52, "better": 10,
            "classes": [[1, 500, 0.93, 0.87]],
            "samples": [sample, {**sample, "index": 9, "now": 2, "picture": "not a picture\"" + word}],
        },
    )  # fmt: skip


def write_run(
    folder: Path,
    target: tuple[str, ...] = ("accuracy drop <= 1 pp", "size <= 0.3x", "latency <= 0.6x"),
    rungs: tuple[tuple[str, float, float, float | None], ...] = (
        ("quantize-dynamic", 0.29, 0.35, 1.1),
        ("prune(ratio=0.5)", 0.52, 0.031, 0.55),
        ("quantize-static", 0.26, 0.0085, 0.53),
    ),
    outcome: Outcome | None = Outcome.TARGET_MET,
    word: str = "",
    raw: tuple[float, ...] = (),
) -> Path:
    """Write a run whose rungs have these (name, size ratio, drop, latency ratio); `word` is put in every name.

    raw: the block ratios of every rung's latency.
    """
    wanted = parse_target(target, [Accuracy()])
    states = {Status.MET: State.MET, Status.MISSED: State.MISSED, Status.UNDECIDED: State.UNDECIDED}
    facts = {
        "run": folder.name + word,
        "target": [condition.text + word for condition in wanted.conditions],
        "metrics": {"accuracy": {"unit": "", "higher_is_better": True, "range": [0, 1]}},
        "goal": "first",
        "ladder": "auto",
        "budget": "30 min",
        "seed": 0,
        "deployment": {"runtime": "onnxruntime", "hardware": "x86-vnni", "batch": 1, "threads": 1},
        "data": {"train": 45000, "search": 5000, "verdict": 5000, "search labelled": True},
        "model": {"class": "ResNet" + word, "parameters": 272474},
        "classes": ["cat" + word, "dog" + word, "bird" + word],
        "verdict data": "of the verdict",
        "notices": ["the prefix 'module.' was taken off the weights" + word],
        "environment": {"cpu": "AMD EPYC" + word, "cores": 2, "packages": {"torch": "2.13.0", "onnx": None}},
        "command": "boildown compress boildown.toml" + word,
    }
    with Journal.create(folder, facts) as journal:
        hurry(journal)
        best = None
        for number, (rung, size, drop, latency) in enumerate([("first", 1.0, 0.0, 1.0), *rungs]):
            quote = {"minutes": 0.7, "size": {"ratio": 0.27, "value": 3e5}} if number else {}
            journal.begin_attempt(number, rung + word, reason=f"the reason for {rung}{word}", quote=quote)
            found = measurements(size, drop, latency, raw if number else ())
            for measurement in found.values():
                journal.add_measurement(f"{number} {measurement.metric}", number, measurement)
            verdict = judge(wanted, found, None, "AMD EPYC" + word)
            files = {"model.onnx": "ab" * 32}
            artifact = Artifact("onnxruntime", folder / "attempts" / f"{number:02d}", "model.onnx", files)
            best = number if verdict.met else best
            journal.finish_attempt(
                number, states[verdict.status], verdict.sentence() + word, verdict=verdict.to_json(),
                artifact=artifact, timings={"apply": 20.0, "measure": 31.0, "total": 52.0},
                notes=["artifact and model agree to 41.2 dB" + word],
            )  # fmt: skip
            if number:
                journal.add_look(number, "fingerprint")
        write_details(journal, number, word)
        journal.begin_attempt(number + 1, "distill" + word, reason="after the others")
        journal.finish_attempt(number + 1, State.SKIPPED, "distill needs train data, and the task has none" + word)
        if outcome is not None:
            journal.finish(outcome, best if best is not None else number, outcome.sentence + word, 156.0)
        else:
            journal.begin_attempt(number + 2, "retrain" + word)
    return folder
