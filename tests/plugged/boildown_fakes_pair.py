"""A foreign runtime of two files, a topology and its weights: as OpenVINO's are, run by PyTorch."""

from __future__ import annotations

import hashlib
import io
import json

import torch

from boildown.domain.rules import FLOAT
from boildown.errors import ExportError, InputError
from boildown.runtimes.base import Usual, Written
from boildown.runtimes.eager import EagerSession

REFUSAL = "pairs of files hold float numbers alone"
VERSION = "pair 1.0"
LOADER = '''\
"""Load {name} and check it on the sample beside it."""
import json
from pathlib import Path
import numpy as np
from boildown_fakes_pair import Pair
here = Path(__file__).parent
sample, session = np.load(here / "sample.npz"), Pair().open(here / "{name}")
outputs = session.run([sample["input:" + port.name] for port in session.inputs])
for port, output in zip(session.outputs, outputs):
    np.testing.assert_allclose(output, sample["output:" + port.name], rtol=0.05, atol=1e-3)
'''


class Pair(Usual):
    """The topology says which operators there are, in order; the weights are the program itself."""

    name, suffix, rules = "pair", ".xml", FLOAT

    def version(self):
        return VERSION

    def weights(self, path):
        return path.with_suffix(".bin")

    def refuses(self, plan, rewrite):
        return None if plan is None and rewrite is None else REFUSAL

    def files(self, path):
        return (self.weights(path),)

    def loader(self, artifact):
        return LOADER.format(name=artifact.name)

    def export(self, program, path):
        graph = torch.export.load(io.BytesIO(program)).graph
        digest = hashlib.sha256(repr([str(node.target) for node in graph.nodes]).encode()).hexdigest()
        path.write_text(json.dumps({"topology": digest}))
        self.weights(path).write_bytes(program)

    def write(self, exported, path, plan=None, rewrite=None):
        if self.refuses(plan, rewrite) is not None:
            raise ExportError("The runtime pair runs float candidates only.\n  Use another runtime.")
        path.write_bytes(exported.read_bytes())
        self.weights(path).write_bytes(self.weights(exported).read_bytes())
        return Written(path.stat().st_size + self.weights(path).stat().st_size, "float")

    def open(self, path, threads=1, *, trust=False):
        try:
            json.loads(path.read_text())["topology"]
        except (OSError, ValueError) as error:
            raise InputError.of(f"{path} is no topology: {error}", "Export it again.") from error
        return EagerSession(self.weights(path), threads)
