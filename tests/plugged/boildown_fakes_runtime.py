"""A foreign runtime whose artifacts give back their input: whole runs in seconds, without torch in a child."""

from __future__ import annotations

import io
import json
import os
import signal
import time
import zipfile
from pathlib import Path

import numpy as np

from boildown.domain.rules import Rules
from boildown.runtimes.base import Port, Usual, Written

FLOAT_BYTES = 100_000


class Mirror:
    """Runs the identity. A rewrite `shrink` makes a smaller file that gives some samples another answer."""

    name = "mirror"
    suffix = ".mirror"

    def version(self):
        return "mirror 1"

    def export(self, program, path):
        with zipfile.ZipFile(io.BytesIO(program)) as parts:  # the rest names objects of the process that wrote it
            weights = [part.CRC for part in parts.infolist() if "/weights/" in part.filename]
        path.write_text(json.dumps({"weights": weights}))

    def write(self, exported, path, plan=None, rewrite=None):
        facts = {**json.loads(exported.read_text()), **(rewrite.args if rewrite else {})}
        if facts.get("crash"):
            os.kill(os.getpid(), signal.SIGSEGV)
        text = json.dumps(facts)
        size = int(FLOAT_BYTES * facts.get("size", 1.0))
        path.write_text(text + " " * (size - len(text)))
        return Written(size, "mirror", {})

    def open(self, path, threads=1, *, trust=False):
        facts = json.loads(Path(path).read_text())
        if "log" in facts:
            with Path(facts["log"]).open("a") as log:
                log.write(f"{self.name} {os.getpid()}\n")
        return Reflection(facts)


class Brisk(Mirror, Usual):
    """The same, by rules of its own; it writes from what `mirror` exports."""

    name, suffix, exporter = "brisk", ".brisk", "mirror"
    rules = Rules(joins=())

    def version(self):
        return "brisk 1"

    def export(self, program, path):
        raise AssertionError("mirror is asked to export")


class Reflection:
    """A loaded artifact."""

    def __init__(self, facts):
        self.facts = facts
        ports = {name: (Port(name, "float32", ("batch", 10)),) for name in ("input", "output")}
        self.inputs, self.outputs = ports["input"], ports["output"]

    def run(self, arrays):
        time.sleep(self.facts.get("seconds", 0.0))
        if "end" in self.facts:
            os._exit(self.facts["end"])
        output = np.array(arrays[0])
        wrong = (np.abs(output).sum(1) * 1000) % 1 < self.facts.get("flips", 0.0)
        output[wrong] = np.roll(output[wrong], 1, axis=1)
        if "poison" in self.facts:
            output[output[:, 0] > self.facts.get("above", -np.inf)] = self.facts["poison"]
        if self.facts.get("centred"):
            output -= output.mean(0)
        return [output]
