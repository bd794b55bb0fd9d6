"""What every architecture's process starts with: imported once, by the fork server, and the exporter's tables made."""

from __future__ import annotations

import importlib
import importlib.util
import tempfile
from pathlib import Path

import torch
from torch import nn

import benchmarks.zoo.cells  # noqa: F401  for its imports
from boildown.runtimes import get
from boildown.surgery.graph import capture

torch.set_num_threads(1)  # a process with threads must not be forked
with tempfile.TemporaryDirectory() as folder:
    graph = capture(nn.Linear(2, 2).eval(), (torch.zeros(2, 2),))
    get("onnxruntime").export(graph.serialize(), Path(folder) / "warm.onnx")
for package in ("onnxruntime.quantization", "transformers"):
    if importlib.util.find_spec(package) is not None:
        importlib.import_module(package)
