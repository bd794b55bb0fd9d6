"""A small trained model for every test that needs one, and a machine that waits for nobody."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import no_clock
from boildown.engine.bench import Bench
from boildown.execution import child
from warm_children import Warm


@pytest.fixture(scope="session", autouse=True)
def own_machine(tmp_path_factory):
    """Timing in tests waits for no other run on this computer: no test judges by the clock."""
    folder = tmp_path_factory.mktemp("temporary")
    patch = pytest.MonkeyPatch()
    patch.setenv("TMPDIR", str(folder))
    patch.setenv("XDG_RUNTIME_DIR", str(folder))
    patch.setattr(tempfile, "tempdir", None)
    patch.setenv("OMP_NUM_THREADS", os.environ.get("OMP_NUM_THREADS", "1"))
    yield
    patch.undo()


@pytest.fixture(scope="session", autouse=True)
def warm_children(own_machine):
    """Children are forked from a process that has imported what they need."""
    patch = pytest.MonkeyPatch()
    if sys.platform == "linux" and "COLD_CHILDREN" not in os.environ:
        patch.setattr(child, "_Process", Warm)
    yield
    patch.undo()


@pytest.fixture(scope="module", autouse=True)
def cold_children(request, warm_children):
    """Where it matters how children start, they start as they do for users."""
    patch = pytest.MonkeyPatch()
    if request.path.parent.name in ("execution", "measuring"):
        patch.setattr(child, "_Process", Warm.__base__)
    yield
    patch.undo()


@pytest.fixture(scope="session")
def digits_model():
    """A convolutional network that reads handwritten digits; never changed by a test."""
    from boildown.testing import digits

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return digits.trained_network(width=16, epochs=6)
    finally:
        torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def digits_task():
    """The digits, 1,000 to train and 797 to judge on."""
    from boildown.testing import digits

    return digits.task()


@pytest.fixture
def still(monkeypatch):
    """Runs of this process time nothing: every artifact is as fast."""
    monkeypatch.setattr(Bench, "latency", no_clock.latency)


@pytest.fixture
def plugged(monkeypatch):
    """A foreign package with the method `shrink` and the runtime `mirror`, installed for children too."""
    from boildown.methods import registry

    monkeypatch.syspath_prepend(str(Path(__file__).parent / "plugged"))
    registry.installed.cache_clear()
    import boildown_fakes

    yield boildown_fakes
    registry.installed.cache_clear()
