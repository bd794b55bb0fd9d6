"""Convolutions and recurrent layers in one file: networks with an LSTM, a GRU and a step that is written out.

    python -m benchmarks.real.recurrent [CASE ...] [--json FILE]

Each network is trained here for some seconds, seeded, and boiled down by `auto` within six minutes. Beside what the run
says, its best file is scored sample by sample on data that no part of the run has seen, and so are files with the
recurrent layers left float, and with their weights alone as integers. Ends with 1 where a target is missed.

lstm: rows of scikit-learn's digits, two convolutions along them, an LSTM. step: the same with an LSTM written out as a
linear layer in a loop. gru: six made-up sensors, 128 values each, whose classes differ in the frequencies and order of
two movements; convolutions of stride 2 and a GRU. Needs scikit-learn, and no folder of data.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import boildown as bd
from boildown.runtimes import get
from boildown.testing import digits

BUDGET = "6 min"
COMPARED = ("quantize-static", "quantize-static(recurrent='weights')", "quantize-static(recurrent='float')")
Data = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Case:
    """A network to train, its target, and the epochs that this takes."""

    network: Callable[[], nn.Module]
    parts: Callable[[], tuple[Data, Data, Data]]
    """What to train on, to judge by, and what no part of the run sees."""
    target: Sequence[str]
    epochs: int


class Rows(nn.Module):
    """Convolutions along the rows of a digit, and an LSTM over them: a layer, or written out."""

    def __init__(self, *, written_out: bool, width: int = 128) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(8, 64, 3, padding=1), nn.Conv1d(64, 64, 3, padding=1)
        self.layer = nn.Linear(64 + width, 4 * width) if written_out else nn.LSTM(64, width, batch_first=True)
        self.head, self.width = nn.Linear(width, 10), width

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.second(F.relu(self.first(x.flatten(1, 2))))).transpose(1, 2)
        if isinstance(self.layer, nn.LSTM):
            return self.head(self.layer(x)[0][:, -1])
        state = memory = x.new_zeros(len(x), self.width)
        for now in x.unbind(1):
            into, forget, new, out = self.layer(torch.cat([now, state], 1)).chunk(4, 1)
            memory = forget.sigmoid() * memory + into.sigmoid() * new.tanh()
            state = out.sigmoid() * memory.tanh()
        return self.head(state)


class Sensors(nn.Module):
    """1-D convolutions of stride 2 with batch norm, and a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv1d(6, 48, 5, 2, 2, bias=False), nn.BatchNorm1d(48), nn.ReLU(),
            nn.Conv1d(48, 64, 5, 2, 2, bias=False), nn.BatchNorm1d(64), nn.ReLU(),
        )  # fmt: skip
        self.gru, self.head = nn.GRU(64, 96, batch_first=True), nn.Linear(96, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.gru(self.layers(x).transpose(1, 2))[1][0])


def rows() -> tuple[Data, Data, Data]:
    """900, 450 and 447 digits."""
    (x, y), (others, labels) = digits.training_set().tensors, digits.validation_set().tensors
    x, y = torch.cat([x, others]), torch.cat([y, labels])
    return (x[:900], y[:900]), (x[900:1350], y[900:1350]), (x[1350:], y[1350:])


def sensors() -> tuple[Data, Data, Data]:
    """4,000, 4,000 and 4,000 recordings of six sensors: which of three movements comes first, and which then."""
    generator = np.random.default_rng(0)
    count, steps = 12_000, 128
    pairs = [(a, b) for a in range(3) for b in range(3) if a != b]
    labels = generator.integers(len(pairs), size=count)
    mixing = generator.normal(size=(3, 6))
    time_axis = np.arange(steps) / steps
    half = generator.uniform(0.35, 0.65, size=(count, 1))
    x = np.zeros((count, 6, steps))
    for movement, frequency in enumerate((6.0, 7.5, 9.0)):
        phase, pace = generator.uniform(0, 2 * np.pi, (count, 1)), generator.uniform(0.95, 1.05, (count, 1))
        wave = np.sin(2 * np.pi * frequency * pace * time_axis + phase)
        first, then = (np.array([pair[at] == movement for pair in pairs])[labels][:, None] for at in (0, 1))
        active = np.where(time_axis < half, first, then)
        x += mixing[movement][None, :, None] * (wave * active)[:, None, :]
    x += 1.6 * generator.normal(size=x.shape)
    inputs, targets = torch.tensor(x, dtype=torch.float32), torch.tensor(labels)
    parts = [(inputs[at : at + 4000], targets[at : at + 4000]) for at in (0, 4000, 8000)]
    return parts[0], parts[1], parts[2]


CASES: Mapping[str, Case] = {
    "lstm": Case(lambda: Rows(written_out=False), rows, ["accuracy drop <= 1 pp", "size <= 0.28x"], 25),
    "step": Case(lambda: Rows(written_out=True), rows, ["accuracy drop <= 1 pp", "size <= 0.30x"], 25),
    "gru": Case(Sensors, sensors, ["accuracy drop <= 1 pp", "size <= 0.35x"], 8),
}


def trained(case: Case, data: Data) -> nn.Module:
    """The network after its epochs of Adam on a one-cycle schedule."""
    torch.manual_seed(0)
    model, (x, y) = case.network(), data
    optimizer = torch.optim.Adam(model.parameters())
    steps = case.epochs * -(-len(x) // 50)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for _ in range(case.epochs):
        for batch in torch.randperm(len(x)).split(50):
            optimizer.zero_grad()
            F.cross_entropy(model(x[batch]), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            schedule.step()
    return model.eval()


def right(path: Path, data: Data) -> np.ndarray[Any, np.dtype[np.float64]]:
    """1 for each sample that a file gets right when asked for it alone, else 0."""
    session = get("onnxruntime").open(path)
    return np.array([float(session.run([x[None].numpy()])[0].argmax() == int(y)) for x, y in zip(*data, strict=True)])


def unseen(file: Path, first: Path, data: Data) -> dict[str, float]:
    """The drop on unseen samples in points, and its paired standard error."""
    lost = right(first, data) - right(file, data)
    return {"drop": 100 * float(lost.mean()), "error": 100 * float(lost.std() / len(lost) ** 0.5)}


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Train, boil down, and compare."""
    case = CASES[name]
    train, judge, rest = case.parts()
    model = trained(case, train)
    task = bd.Classification(train=train, validation=judge)
    start = time.perf_counter()
    run = bd.compress(model, task, case.target, budget=BUDGET, runs=folder / name, verbose=False)
    seconds = time.perf_counter() - start
    assert run.best is not None
    first = run.candidates[0]
    found: dict[str, Any] = {
        "case": name, "outcome": run.outcome.name, "rung": run.best.rung, "seconds": seconds,
        "first": first.measurements["accuracy"].value, "bytes": first.measurements["size"].value, "rows": {},
    }  # fmt: skip
    assert first.artifact is not None
    assert run.best.artifact is not None
    found["rows"]["the run's best"] = _row(run.best, first.artifact, rest)
    for rung in COMPARED:
        each = bd.compress(
            model, task, [*case.target, "latency <= 0.01x"], ladder=[rung], runs=folder / name, verbose=False
        ).candidates[-1]
        found["rows"][rung] = _row(each, first.artifact, rest)
    return found


def _row(attempt: Any, first: Path, rest: Data) -> dict[str, Any]:
    measured = {
        name: asdict(attempt.measurements[name]) for name in ("size", "latency") if name in attempt.measurements
    }
    return {
        "size": measured["size"]["ratio"],
        "latency": measured.get("latency", {}).get("ratio"),
        "unseen": unseen(attempt.artifact, first, rest),
        "notes": list(attempt.notes),
    }


def main() -> int:
    """Measure the cases asked for and print a row for each file; 1 if a target was missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("cases", nargs="*", metavar="CASE", help=", ".join(CASES))
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    given = parser.parse_args()
    torch.set_num_threads(1)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        for name in given.cases or CASES:
            found.append(each := measure(name, Path(folder)))
            print(
                f"{name}: {each['outcome']} by {each['rung']} in {each['seconds']:.0f} s; float {each['first']:.2%}, "
                f"{each['bytes']:,.0f} B"
            )
            for what, row in each["rows"].items():
                latency = "" if row["latency"] is None else f", latency {row['latency']:.2f}x"
                drop = row["unseen"]
                print(f"  {what:<40} size {row['size']:.3f}x{latency}, unseen drop "
                      f"{drop['drop']:+.2f} ± {drop['error']:.2f} pp", flush=True)  # fmt: skip
            if given.json:
                given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 0 if all(each["outcome"] == "TARGET_MET" for each in found) else 1


if __name__ == "__main__":
    sys.exit(main())
