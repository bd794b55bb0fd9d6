"""Real networks, each with a target that the first method should meet: one Markdown row a network.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.first_rung [--model NAME ...] [--factories] [--json FILE]

Run it from the root of the repository. Every network is boiled down in a fresh process. Data is read and
modules are imported before the clock starts; with `--factories` the model and the task go in by name, attempts
run in child processes, and reading the data counts.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_POLL = 0.1  # seconds between two looks at the memory of a network's processes


@dataclass(frozen=True)
class Row:
    """A network, its target, and what should come of it within `limit` seconds."""

    model: str
    target: tuple[str, ...]
    outcome: str = "TARGET_MET"
    confidence: float | None = None
    ladder: str = "auto"
    limit: float | None = None

    @property
    def asked(self) -> str:
        """The target in one cell."""
        proven = "" if self.confidence is None else f", at {self.confidence:.0%} confidence"
        only = "" if self.ladder == "auto" else f", ladder {self.ladder}"
        return ", ".join(self.target) + proven + only


ROWS: Mapping[str, Row] = {
    "resnet20": Row("resnet20", ("accuracy drop <= 0.5 pp", "size <= 0.27x", "latency <= 0.65x"), limit=60),
    "resnet56": Row("resnet56", ("accuracy drop <= 0.5 pp", "size <= 0.27x", "latency <= 0.55x"), limit=60),
    "dscnn": Row("dscnn", ("accuracy drop <= 1 pp", "size <= 0.35x")),
    "mobilenet": Row("mobilenet", ("accuracy drop <= 1 pp", "size <= 0.35x")),
    "mobilenet-proven": Row(
        "mobilenet", ("accuracy drop <= 1 pp", "size <= 0.35x"), "UNDECIDED", confidence=0.95, ladder="quick"
    ),
    # Beyond the first rung: float layers chosen by measurement, and 4-bit weights.
    "mobilenet-fast": Row("mobilenet", ("accuracy drop <= 1 pp", "size <= 0.30x", "latency <= 0.70x")),
    "resnet20-small": Row("resnet20", ("accuracy drop <= 0.7 pp", "size <= 0.15x")),
}

_COLUMNS = {
    "model": "model",
    "target": "target",
    "outcome": "outcome",
    "rung": "rung",
    "accuracy": "accuracy first → candidate",
    "drop": "drop [each end]",
    "size": "size / lean float (/ plain export)",
    "latency": "latency ratio [each end]",
    "seconds": "wall s (CPU s)",
    "engine": "engine's share",
    "memory": "peak MB, all processes",
}


def main() -> int:
    """Run the networks asked for and print the table; 1 if one did not come out as expected."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", action="append", choices=list(ROWS), help="a row; all without it")
    parser.add_argument("--factories", action="store_true", help="give model and task by name")
    parser.add_argument("--json", type=Path, help="also write everything measured to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        print(json.dumps(boil(ROWS[given.child], factories=given.factories)))
        return 0
    if not Path(os.environ.get("BOILDOWN_DATA", "-")).is_dir():
        parser.error("let BOILDOWN_DATA name the folder with the real models; see benchmarks/real/data.py")
    print(_about_machine())
    print(_line(list(_COLUMNS.values())), _line(["---"] * len(_COLUMNS)), sep="\n", flush=True)
    found = []
    for name in given.model or ROWS:
        found.append(facts := _in_fresh_process(name, factories=given.factories))
        cells = _cells(facts)
        print(_line([cells[column] for column in _COLUMNS]), flush=True)
        if given.json:
            given.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    print("", *(f"- {facts['name']}: {facts['sentence']}" for facts in found), sep="\n")
    surprises = [surprise for facts in found for surprise in _surprises(facts)]
    print("", *(f"- NOT AS EXPECTED: {surprise}" for surprise in surprises), sep="\n")
    return 1 if surprises else 0


def boil(row: Row, *, factories: bool = False) -> dict[str, Any]:
    """Boil one network down in this process and tell everything about it as plain data."""
    from benchmarks.real.models import MODELS
    from benchmarks.real.tasks import TASKS
    from boildown import compress

    model: Any = f"benchmarks.real.models:{row.model}" if factories else MODELS[row.model]()
    task: Any = f"benchmarks.real.tasks:{row.model}" if factories else TASKS[row.model]()
    with tempfile.TemporaryDirectory() as runs:
        peak = _Peak(os.getpid())
        peak.start()
        start, cpu = time.perf_counter(), _cpu_seconds()
        run = compress(model, task, row.target, ladder=row.ladder, confidence=row.confidence, runs=runs, fresh=True)
        seconds, cpu = time.perf_counter() - start, _cpu_seconds() - cpu
        peak.stop()
        return {**_facts(run), "wall": seconds, "cpu": cpu, "peak": peak.bytes, "factories": factories}


def _facts(run: Any) -> dict[str, Any]:
    from boildown.journal.journal import Journal

    best = run.best
    measured = {name: m.to_json() for name, m in best.measurements.items()}
    with Journal.open(run.path, readonly=True) as journal:
        facts = journal.facts
    return {
        "outcome": run.outcome.name,
        "sentence": best.verdict.sentence(),
        "rung": best.rung,
        "attempts": [{"rung": a.rung, "state": a.state.value, "sentence": a.sentence} for a in run.candidates],
        "measurements": {name: {**m, "raw": []} for name, m in measured.items()},
        "plain": facts["model"].get("plain bytes") or facts["model"].get("exported"),
        "seconds": facts["seconds"],
    }


def _in_fresh_process(name: str, *, factories: bool) -> dict[str, Any]:
    """One network in a Python of its own."""
    command = [sys.executable, "-m", "benchmarks.real.first_rung", "--child", name]
    done = subprocess.run([*command, "--factories"] if factories else command, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        raise SystemExit(f"{name} ended with exit code {done.returncode}")
    return {"name": name, **json.loads(done.stdout.strip().splitlines()[-1])}


class _Peak(threading.Thread):
    """Watches the resident memory of a process and all its descendants together, ten times a second (Linux only).

    Pages that several processes share are counted in each, and so is the data that this process holds.
    """

    def __init__(self, root: int) -> None:
        super().__init__(daemon=True)
        self.root, self.bytes, self._over = root, 0, threading.Event()

    def run(self) -> None:
        while not self._over.wait(_POLL):
            self.bytes = max(self.bytes, sum(_resident(process) for process in _family(self.root)))

    def stop(self) -> None:
        self._over.set()
        self.join()


def _family(root: int) -> list[int]:
    family, queue = [], [root]
    while queue:
        family.append(process := queue.pop())
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            try:
                queue += map(int, children.read_text().split())
            except OSError:  # it has just ended
                continue
    return family


def _resident(process: int) -> int:
    try:
        return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # it has just ended
        return 0


def _cpu_seconds() -> float:
    """Of this process and of its children that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _surprises(facts: Mapping[str, Any]) -> list[str]:
    row, name = ROWS[facts["name"]], facts["name"]
    found = []
    if facts["outcome"] != row.outcome:
        found.append(f"{name}: {facts['outcome']} and not {row.outcome}")
    if row.outcome == "UNDECIDED" and "samples would decide" not in facts["sentence"]:
        found.append(f"{name}: it does not say how many samples would decide")
    if row.limit is not None and facts["wall"] > row.limit:
        found.append(f"{name}: {facts['wall']:.0f} s, more than {row.limit:.0f} s")
    if engine_share(facts) > 0.05:
        found.append(f"{name}: the engine took {engine_share(facts):.1%} of the time, more than 5 %")
    return found


def engine_share(facts: Mapping[str, Any]) -> float:
    """The share of the wall time inside `compress` that is no work on or with a model."""
    work: float = sum(seconds for kind, seconds in facts["seconds"].items() if kind != "all")
    return 1 - work / float(facts["wall"])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(facts: Mapping[str, Any]) -> dict[str, str]:
    row, measured = ROWS[facts["name"]], facts["measurements"]
    accuracy, size, latency = measured["accuracy"], measured["size"], measured.get("latency")
    drop, plain = accuracy["intervals"]["drop"], facts["plain"]
    ends = f"{100 * drop['low']:+.2f}, {100 * drop['high']:+.2f}: {drop['level']:.1%}"
    seconds = ", ".join(f"{kind} {s:.1f}" for kind, s in facts["seconds"].items() if kind != "all")
    cells = {
        "model": facts["name"],
        "target": row.asked,
        "outcome": facts["outcome"],
        "rung": facts["rung"],
        "accuracy": f"{accuracy['first']:.2%} → {accuracy['value']:.2%} (n = {accuracy['samples']:,})",
        "drop": f"{100 * accuracy['drop']:+.2f} pp [{ends}]",
        "size": f"{size['ratio']:.3f}" + (f" ({size['value'] / plain:.3f})" if plain else ""),
        "seconds": f"{facts['wall']:.1f} ({facts['cpu']:.1f}): {seconds}",
        "engine": f"{engine_share(facts):.1%}",
        "memory": f"{facts['peak'] / 1e6:.0f}" if facts["peak"] else "not measured",
        "latency": "not measured",
    }
    if latency is not None:
        interval = latency["intervals"]["ratio"]
        cells["latency"] = (
            f"{latency['ratio']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}: {interval['level']:.1%}]"
        )
    return cells


def _about_machine() -> str:
    from boildown.measuring.environment import environment

    facts = environment()
    flags = ", ".join(facts["flags"])
    versions = ", ".join(f"{name} {version}" for name, version in facts["packages"].items())
    return (
        f"{datetime.now(UTC):%Y-%m-%d}, {facts['cpu']} ({facts['cores']} cores; {flags}), "
        f"{facts['os']}, Python {platform.python_version()}, {versions}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
