"""A plug-in that is no runtime is refused before any work, with its name, its entry point and the member."""

from __future__ import annotations

import pytest

import boildown as bd

BROKEN = """
from pathlib import Path
from boildown.runtimes.base import Written
from boildown_fakes_pair import Pair

class Deaf:
    name, suffix = "deaf", ".x"
    def version(self): return "deaf 1"
    def export(self, program, path): path.write_bytes(program)
    def write(self, exported, path, plan=None, rewrite=None): return Written(1, "float")

class Nameless(Pair):
    suffix = None
    rules = {"layers": []}

class Undated(Pair):
    def version(self): return 3

class Elsewhere(Pair):
    def weights(self, path): return Path(__file__).with_suffix(".bin")

class Idle(Pair):
    def write(self, exported, path, plan=None, rewrite=None): return Written(1, "float")

class Tied(Pair):
    "Its artifact remembers where it was written."
    def write(self, exported, path, plan=None, rewrite=None):
        written = super().write(exported, path)
        path.with_suffix(".txt").write_text(str(path.parent))
        return written
    def open(self, path, threads=1, *, trust=False):
        return super().open(Path(path.with_suffix(".txt").read_text()) / path.name, threads)

class Mute(Pair):
    def loader(self, artifact): raise NotImplementedError("nothing to say")

class Wordless(Pair):
    def loader(self, artifact): return None

class Wrong(Pair):
    def loader(self, artifact): return "import sys\\nsys.exit('it is not there')"

def unfinished(): raise ImportError("its library is missing")
"""
MEMBERS = {
    "Deaf": ["no open that is a method"],
    "Nameless": ["no suffix that is text", "no rules that is boildown.domain.rules.Rules"],
    "Undated": ["in version: it gives 3"],
    "Elsewhere": ["in write: networks of other weights make the same files"],
    "Idle": ["in write:"],
    "Tied": ["in open:"],
    "Mute": ["in loader: nothing to say"],
    "Wordless": ["in loader: it gives None"],
    "Wrong": ["in loader:", "it is not there"],
    "unfinished": ["cannot be loaded: ImportError: its library is missing"],
    "Missing": ["cannot be loaded: AttributeError"],
}


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    """A package with runtimes that are none."""
    folder = tmp_path_factory.mktemp("package")
    (folder / "broken_runtimes.py").write_text(BROKEN)
    about = folder / "broken_runtimes-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-runtimes\nVersion: 1.0\n")
    entries = "\n".join(f"{name.lower()} = broken_runtimes:{name}" for name in MEMBERS)
    (about / "entry_points.txt").write_text(f"[boildown.runtimes]\n{entries}\n")
    return folder


@pytest.mark.parametrize("name", MEMBERS)
def test_it_is_refused_by_its_member(broken, plugged, monkeypatch, tmp_path, name):
    monkeypatch.syspath_prepend(str(broken))
    with pytest.raises(bd.InputError) as caught:
        bd.compress(
            plugged.model(), plugged.task(), "size <= 0.5x", ladder="shrink", runtime=name.lower(),
            runs=tmp_path / "runs",
        )  # fmt: skip
    told = str(caught.value)
    assert f"The runtime plug-in {name.lower()!r} (broken_runtimes:{name})" in told
    assert all(member in told for member in MEMBERS[name]), told
    assert not (tmp_path / "runs").exists()
