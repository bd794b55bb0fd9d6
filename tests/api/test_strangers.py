"""What strangers wrote runs nowhere: no pickle, no script, no SQL, no path of their own."""

from __future__ import annotations

import ast
import sqlite3
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
import torch
from torch import nn

import boildown as bd
from boildown.errors import UntrustedFileError
from boildown.journal import Journal, resolve_run
from boildown.report import write
from boildown.surgery.checkpoints import load

SOURCE = Path(bd.__file__).parent
SCRIPT = "<script>alert(1)</script>"
SQL = "'; DROP TABLE attempts; --"
PATHS = "../../../outside"


class Scripts(HTMLParser):
    """What of a page is run: the text of its scripts, and attributes that answer events."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.answers: list[str] = []

    def handle_starttag(self, tag, attributes) -> None:
        self.answers += [name for name, _ in attributes if name.startswith("on")]
        if tag == "script":
            self.texts.append("")

    def handle_data(self, data) -> None:
        if self.cdata_elem == "script":
            self.texts[-1] += data


@cache
def calls() -> list[tuple[str, str, ast.Call]]:
    """(file, what is called, the call) for every call in the source."""
    found = []
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                found.append((file.relative_to(SOURCE).as_posix(), ast.unparse(node.func), node))
    return found


def test_only_a_process_and_its_own_child_exchange_pickles():
    loading = ("pickle.load", "pickle.loads", "pickle.Unpickler", "joblib.load", "dill.loads", "marshal.loads")
    assert {file for file, name, _ in calls() if name in loading} == {"execution/child.py", "execution/worker.py"}


def test_files_are_read_without_unpickling():
    for file, name, call in calls():
        words = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if name == "torch.load":
            assert words.get("weights_only") == "True", file
        if name in ("np.load", "numpy.load"):
            assert words.get("allow_pickle", "False") == "False", file


def test_programs_of_torch_are_opened_in_one_place_that_asks_for_trust():
    places = {file for file, name, _ in calls() if name == "torch.export.load"}
    own = {"runtimes/onnx/export.py", "runtimes/port_names.py", "surgery/graph.py"}
    assert places - {"runtimes/eager.py"} <= own, "made in this very run"


def test_text_is_never_run_as_code():
    banned = ("eval", "exec", "compile", "os.system", "os.popen", "yaml.load", "subprocess.call", "subprocess.run")
    known = {("measuring/environment.py", "subprocess.run")}  # programs named in the source
    assert {(file, name) for file, name, _ in calls() if name in banned} - known == set()


@pytest.fixture(scope="module")
def strange(tmp_path_factory):
    """A run whose model, classes and settings have names that are code in some language."""
    with pytest.MonkeyPatch.context() as patch:
        import no_clock
        from boildown.engine.bench import Bench
        from boildown.methods import registry

        patch.syspath_prepend(str(Path(__file__).parents[1] / "plugged"))
        patch.setattr(Bench, "latency", no_clock.latency)
        registry.installed.cache_clear()
        import boildown_fakes

        model = type(SCRIPT, (nn.Linear,), {})(10, 10, bias=False)
        model.load_state_dict(boildown_fakes.model().state_dict())
        x, y = boildown_fakes.samples(300, 2)
        names = [SCRIPT, SQL, PATHS, "{{ 7 * 7 }}", "\x1b[2J", *"56789"]
        task = bd.Classification(validation=(x, y), classes=names)
        folder = tmp_path_factory.mktemp("strange") / "runs"
        rungs = [{"method": "shrink", "size": 0.5, "marker": word} for word in (SCRIPT, SQL, PATHS)]
        yield bd.compress(model, task, "size <= 0.3x", ladder=rungs, runtime="mirror", runs=folder)
        registry.installed.cache_clear()


def test_names_are_no_markup(strange):
    for page in (write(strange.path).read_text(encoding="utf-8"), strange._repr_html_()):
        scripts = Scripts()
        scripts.feed(page)
        assert not any("alert" in script and "\\u003c" not in script for script in scripts.texts)
        assert scripts.answers == []
        assert SCRIPT not in page
        assert "&lt;script&gt;" in page
    assert "\x1b[2J" not in str(strange)


def test_names_are_no_statements(strange):
    assert [result.state.value for result in strange.candidates] == ["missed"] * 4
    with Journal.open(strange.path, readonly=True) as journal:
        assert journal.facts["classes"][1] == SQL
        assert SQL in journal.attempts()[2].rung
        assert journal.attempts_of(SQL) == []
        assert journal.measurement(SQL) is None


def test_names_are_no_paths(strange):
    runs = strange.path.parent
    assert {path.name for path in runs.parent.iterdir()} == {"runs"}
    assert {path.parent for path in strange.path.glob("attempts/*")} == {strange.path / "attempts"}
    assert len(list(strange.path.glob("attempts/*"))) == 4
    for text in ("..", "../..", "/", "../runs", "x\0", ""):
        with pytest.raises(bd.InputError, match=r"no run|could be any"):
            resolve_run(runs, text)


def test_an_artifact_that_could_run_code_needs_trust(plugged, tmp_path):
    path = tmp_path / "model.pt2"
    path.write_bytes(b"anything")
    with pytest.raises(UntrustedFileError, match="trust=True"):
        bd.measure(path, plugged.task(), "size <= 1 MB", runtime="eager")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE attempts SET verdict = '[' WHERE number = 1",
        "UPDATE attempts SET state = 'wonderful'",
        'UPDATE attempts SET timings = \'{"total": "x"}\'',
        "UPDATE attempts SET notes = 'null'",
        "UPDATE endings SET outcome = 'WON'",
        "UPDATE facts SET value = x'00ff' WHERE name = 'target'",
        "DELETE FROM facts",
        "DROP TABLE looks",
    ],
)
def test_a_journal_that_was_tampered_with_is_told_as_such(strange, command, statement, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "journal.db").write_bytes((strange.path / "journal.db").read_bytes())
    with sqlite3.connect(folder / "journal.db") as connection:
        connection.execute(statement)
    connection.close()
    told = [command("show", folder), command("show", folder, "--json"), command("report", folder)]
    assert all(each.code in (0, 3) for each in told)
    assert any(each.code == 3 for each in told) or "looks" in statement
    assert not any("fault in boildown" in each.err for each in told)
    assert command("runs", "--runs", tmp_path).code == 0
    try:
        agrees = bd.verify(folder, nn.Linear(10, 10), None).agrees
    except bd.BoildownError:
        agrees = False
    assert not agrees


def test_artifacts_outside_a_run_are_not_reused(plugged, still, tmp_path):
    def compress(target):
        return bd.compress(
            plugged.model(), plugged.task(), target, ladder="shrink(size=0.4)", runtime="mirror", runs=tmp_path / "runs"
        )

    first = compress("size <= 0.3x")
    moved = tmp_path / "elsewhere"
    (attempt,) = first.path.glob("attempts/01-*")
    attempt.rename(moved)
    with sqlite3.connect(first.path / "journal.db") as connection:
        connection.execute("UPDATE attempts SET artifact = ? WHERE number = 1", (str(moved / "model.mirror"),))
    connection.close()
    assert not any("reused" in note for note in compress("size <= 0.5x").best.notes)


def test_a_checkpoint_that_was_cut_off_is_refused(tmp_path):
    torch.save({"weight": torch.eye(4)}, tmp_path / "w.pt")
    data = (tmp_path / "w.pt").read_bytes()
    for cut in (10, 100, len(data) // 2, len(data) - 30):
        (tmp_path / "w.pt").write_bytes(data[:cut])
        with pytest.raises(bd.ModelError, match="no readable checkpoint"):
            load(nn.Linear(4, 4, bias=False), tmp_path / "w.pt")
