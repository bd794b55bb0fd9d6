"""Runs told to TensorBoard and MLflow, and shown in notebooks and frames."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

import boildown as bd
from boildown.api.sitting import Event, Pulse
from boildown.callbacks import MLflow, TensorBoard
from boildown.callbacks.figures import figures, named
from boildown.domain.measurement import Measurement
from boildown.domain.outcome import Outcome, State
from boildown.errors import Cancelled, InputError


def attempt(number=1):
    found = {
        "size": Measurement("size", 300.0, "B", first=1000.0, ratio=0.3),
        "accuracy": Measurement("accuracy", 0.9, "fraction", first=0.92, drop=0.02, ratio=0.98),
        "my metric @5": Measurement("my metric @5", 2.0),
    }
    return SimpleNamespace(
        number=number, rung="quantize-static", state=State.MET, sentence="All is met.", measurements=found
    )


CURVE = {"losses": ["kd"], "of": 20, "lr": 0.1, "points": [[10, 2.0], [20, 1.0]]}


def events(run):
    return [
        Event("attempt", {"attempt": attempt()}),
        Event("step", {"what": "training", "done": 1, "total": 2, "left": None}),
        Event("record", {"attempt": 1, "kind": "curve", "data": CURVE}),
        Event("record", {"attempt": None, "kind": "forecast", "data": {}}),
        Event("verdict", {"attempt": attempt()}),
        Event("outcome", {"outcome": Outcome.TARGET_MET, "run": run}),
    ]


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "20260101-000000-abcd"
    (folder / "best").mkdir(parents=True)
    (folder / "best" / "model.onnx").write_bytes(b"model")
    (folder / "report.html").write_text("report")
    return folder


def test_figures_are_named_for_other_tools():
    assert figures(attempt()) == {
        "size": 300.0, "size/ratio": 0.3, "accuracy": 0.9, "accuracy/drop": 0.02, "my metric _5": 2.0,
    }  # fmt: skip
    assert named("a b/c:d\n") == "a b/c_d_"


class Writer:
    def __init__(self, folder):
        self.folder, self.scalars, self.texts, self.open = folder, [], [], True

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))

    def add_text(self, tag, text, step=None):
        self.texts.append((tag, text))

    def flush(self):
        assert self.open

    def close(self):
        self.open = False


def test_tensorboard_hears_figures_curves_and_the_outcome(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", SimpleNamespace(SummaryWriter=Writer))
    callback = TensorBoard("logs")
    for event in events(folder):
        callback(event)
    writer = callback._writer
    assert ("training/attempt 1 1 kd", 1.0, 20) in writer.scalars
    assert ("size/ratio", 0.3, 1) in writer.scalars
    assert writer.texts == [("attempts", "quantize-static: met. All is met."), ("outcome", "TARGET_MET")]
    assert not writer.open


def test_real_tensorboard_reads_it(folder, tmp_path):
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    callback = TensorBoard(tmp_path / "logs")
    for event in events(folder):
        callback(event)
    read = EventAccumulator(str(tmp_path / "logs")).Reload()
    assert [(s.step, s.value) for s in read.Scalars("training/attempt 1 1 kd")] == [(10, 2.0), (20, 1.0)]
    assert read.Scalars("size")[0].value == 300.0


class Tracker:
    """MLflow as far as it is used."""

    def __init__(self):
        self.active, self.told = None, []

    def active_run(self):
        return self.active

    def start_run(self):
        self.active = object()

    def end_run(self):
        self.active = None

    def __getattr__(self, name):
        return lambda *arguments, **named: self.told.append((name, arguments, named))


@pytest.mark.parametrize("open_before", [False, True])
def test_mlflow_hears_figures_and_gets_the_files(folder, monkeypatch, open_before):
    tracker = Tracker()
    monkeypatch.setitem(sys.modules, "mlflow", tracker)
    if open_before:
        tracker.start_run()
    callback = MLflow("boiling")
    for event in events(folder):
        callback(event)
    told = [(name, arguments) for name, arguments, _ in tracker.told]
    assert ("set_experiment", ("boiling",)) in told
    assert ("log_metrics", (figures(attempt()),)) in told
    assert ("log_artifact", (str(folder / "report.html"),)) in told
    assert ("log_artifacts", (str(folder / "best"), "best")) in told
    assert (tracker.active is not None) == open_before, "a run of the user's is left open"


def test_real_mlflow_keeps_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # where its files go
    mlflow = pytest.importorskip("mlflow", reason="mlflow is not installed")
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path}/mlflow.db")
    callback = MLflow("boiling")
    for event in events(folder):
        callback(event)
    (found,) = mlflow.search_runs(experiment_names=["boiling"], output_format="list")
    assert found.data.metrics["size/ratio"] == 0.3
    assert found.data.tags["outcome"] == "TARGET_MET"


@pytest.mark.parametrize(
    ("callback", "module", "extra"),
    [(lambda: TensorBoard("logs"), "torch.utils.tensorboard", "tensorboard"), (MLflow, "mlflow", "mlflow")],
)
def test_a_tool_that_is_missing_is_named_with_the_cure(callback, module, extra, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InputError) as caught:
        callback()
    assert f"[{extra}]" in caught.value.mistakes[0].cure


def test_the_step_under_way_is_journalled_now_and_then():
    told, clock = [], [0.0]
    pulse = Pulse(SimpleNamespace(update_facts=lambda facts: told.append(facts["now"])), lambda: clock[0])
    for at, what in ((0.0, "export"), (0.5, "training"), (1.9, "training"), (2.5, "training"), (9.0, "score")):
        clock[0] = at
        pulse("step", {"what": what, "done": 1, "total": 2, "left": 7.0})
        pulse("verdict", {})
    assert [(now["at"], now["since"], now["what"]) for now in told] == [
        (0.0, 0.0, "export"), (2.5, 0.5, "training"), (9.0, 9.0, "score"),
    ]  # fmt: skip
    assert told[0]["left"] == 7.0


# -- frames and notebooks ----------------------------------------------------------------------------


def test_a_run_is_a_piece_of_html_in_a_notebook(run):
    text = run._repr_html_()
    assert text.startswith("<p><b>target met</b>")
    assert "quantize-static" in text


def test_a_frame_has_a_row_per_attempt(run, monkeypatch):
    frame = SimpleNamespace(DataFrame=lambda rows, index: (rows, index), Index=lambda values, name: (name, values))
    monkeypatch.setitem(sys.modules, "pandas", frame)
    rows, index = run.to_frame()
    assert index == ("attempt", [0, 1, 2])
    assert rows[1]["state"] == "skipped"
    assert rows[2]["size ratio"] < 0.35
    assert "accuracy drop" in rows[2]
    assert "size drop" not in rows[2]


def test_a_real_frame(run):
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = run.to_frame()
    assert frame.loc[2, "rung"] == "quantize-static"


def test_without_pandas_there_is_a_cure(run, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match="pandas"):
        run.to_frame()


# -- a callback that fails ---------------------------------------------------------------------------


def test_a_callback_that_fails_is_named_and_left_out_and_the_run_goes_on(plugged, still, tmp_path):
    heard, notices = [], []

    def broken(event):
        heard.append(event.kind)
        raise OSError("the server is gone")

    def listening(event):
        if event.kind == "notice":
            notices.append(event.data["text"])

    run = bd.compress(
        plugged.model(), plugged.task(), "size <= 0.5x", ladder=["shrink(size=0.4)"], runtime="mirror",
        runs=tmp_path, callbacks=[broken, listening],
    )  # fmt: skip
    assert run.outcome is Outcome.TARGET_MET
    assert len(heard) == 1
    (told,) = (text for text in notices if "broken" in text)
    assert told.endswith("is not called again, for it raised OSError: the server is gone")


def test_a_callback_may_cancel(plugged, still, tmp_path):
    def enough(event):
        if event.kind == "verdict":
            raise Cancelled("Enough.")

    run = bd.compress(
        plugged.model(), plugged.task(), "size <= 0.5x", ladder=["shrink(size=0.4)"], runtime="mirror",
        runs=tmp_path, callbacks=[enough],
    )  # fmt: skip
    assert run.outcome is Outcome.CANCELLED
