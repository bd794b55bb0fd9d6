"""What every journal must do. Inherit and override `journals` to test your own:

class TestMine(JournalSuite):
    @pytest.fixture
    def journals(self):
        return MyJournal
"""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from boildown.domain.artifact import Artifact
from boildown.domain.measurement import Interval, Measurement
from boildown.domain.outcome import Outcome, State
from boildown.errors import JournalError
from boildown.journal.journal import Journal


def a_measurement(metric: str = "size", value: float = 1.0) -> Measurement:
    """A measurement with every field filled, numbers without JSON words among them."""
    return Measurement(
        metric,
        value,
        "B",
        first=4.0,
        drop=math.nan,
        ratio=value / 4,
        standard_error=math.inf,
        intervals={"ratio": Interval(0.2, math.inf, 0.95, "bootstrap")},
        samples=3,
        data="verdict",
        raw=(0.1, 0.2),
        environment={"cpu": "any", "cores": 2},
        notes=("noisy",),
    )


class JournalSuite:
    """The behaviour the engine and the report rely on."""

    @pytest.fixture
    def journals(self) -> type[Journal]:
        """The class under test."""
        return Journal

    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        """The folder of a run that is not there yet."""
        return tmp_path / "runs" / "20260101-000000-abcd"

    def test_facts_are_kept_and_updated(self, journals: type[Journal], folder: Path) -> None:
        facts = {"target": ["size <= 0.5x"], "budget": None, "limit": math.inf, "$odd": {"$float": "text"}}
        with journals.create(folder, facts) as journal:
            journal.update_facts({"budget": 60.0, "model": {"parameters": 10}})
        with journals.open(folder, readonly=True) as journal:
            assert journal.facts == {**facts, "budget": 60.0, "model": {"parameters": 10}}

    def test_an_attempt_comes_back_whole(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            artifact = Artifact(
                "mine", folder / "attempts" / "1", "model.x", {"model.x": "a" * 64, "w/0.bin": "b" * 64}, "mine 1"
            )
            journal.begin_attempt(1, "prune", "the cheapest", "p" * 64, "c" * 64, {"minutes": 0.5})
            assert [row.state for row in journal.attempts()] == [State.RUNNING]
            journal.finish_attempt(
                1,
                State.MISSED,
                "size missed",
                verdict={"findings": [{"excess": math.inf}]},
                candidate={"edits": []},
                artifact=artifact,
                timings={"apply": 1.5},
                notes=["one", "two"],
            )
        with journals.open(folder, readonly=True) as journal:
            (row,) = journal.attempts()
            assert (row.number, row.rung, row.reason, row.sentence) == (
                1,
                "prune",
                "the cheapest",
                "size missed",
            )
            assert (row.parent, row.candidate_key, row.quote) == ("p" * 64, "c" * 64, {"minutes": 0.5})
            assert row.state is State.MISSED
            assert row.verdict == {"findings": [{"excess": math.inf}]}
            assert (row.candidate, row.timings, row.notes) == ({"edits": []}, {"apply": 1.5}, ("one", "two"))
            assert row.artifact == artifact
            assert row.ended is not None
            assert row.started <= row.ended
            assert journal.attempts_of("c" * 64) == [row]
            assert journal.attempts_of("d" * 64) == []

    def test_an_interrupted_attempt_is_seen_and_may_start_again(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            journal.begin_attempt(1, "prune")
            journal.add_measurement("old", 1, a_measurement())
        with journals.open(folder) as journal:
            assert journal.attempts()[0].state is State.RUNNING
            journal.begin_attempt(1, "prune", "again")
            assert journal.measurements(1) == []
            assert journal.measurement("old") is not None
            assert [row.reason for row in journal.attempts()] == ["again"]

    def test_a_finished_attempt_is_final(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            with pytest.raises(JournalError, match="not running"):
                journal.finish_attempt(1, State.MET)
            journal.begin_attempt(1, "prune")
            journal.finish_attempt(1, State.SKIPPED, "no training data")
            with pytest.raises(JournalError, match="not running"):
                journal.finish_attempt(1, State.MET)
            with pytest.raises(JournalError, match="has finished"):
                journal.begin_attempt(1, "prune")
            assert [row.sentence for row in journal.attempts()] == ["no training data"]

    def test_a_finished_attempt_may_be_judged_again(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            journal.begin_attempt(1, "prune")
            with pytest.raises(JournalError, match="not finished"):
                journal.amend_attempt(1, State.MET, "met", {})
            journal.finish_attempt(1, State.MISSED, "missed", notes=["a"], timings={"apply": 1.0})
            journal.amend_attempt(1, State.UNDECIDED, "undecided", {"findings": []})
            (row,) = journal.attempts()
            assert (row.state, row.sentence, row.verdict) == (State.UNDECIDED, "undecided", {"findings": []})
            assert (row.notes, row.timings) == (("a",), {"apply": 1.0})

    def test_measurements_by_key_and_by_attempt(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            journal.add_measurement("k1", 0, a_measurement("size", 1))
            journal.add_measurement("k2", 1, a_measurement("latency", 2))
            journal.add_measurement("k3", 1, a_measurement("accuracy", 3))
            journal.add_measurement("k2", 1, a_measurement("latency", 4))
        with journals.open(folder, readonly=True) as journal:
            assert [(m.metric, m.value) for m in journal.measurements(1)] == [("latency", 4), ("accuracy", 3)]
            assert repr(journal.measurement("k1")) == repr(a_measurement("size", 1))
            assert journal.measurement("k4") is None

    def test_looks_count_per_data(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            assert [
                journal.add_look(1, "test"),
                journal.add_look(2, "test"),
                journal.add_look(2, "other"),
            ] == [1, 2, 1]
        with journals.open(folder) as journal:
            assert journal.add_look(3, "test") == 3
            assert [(look.attempt, look.k) for look in journal.looks() if look.data == "test"] == [
                (1, 1),
                (2, 2),
                (3, 3),
            ]

    def test_records_keep_their_order(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            journal.record(1, "standing", {"loss": math.nan, "round": 1})
            journal.record(None, "event", {"text": "resumed"})
            journal.record(1, "standing", {"loss": 0.5, "round": 2})
            assert [record.data["round"] for record in journal.records("standing")] == [1, 2]
            assert math.isnan(journal.records("standing")[0].data["loss"])
            assert [record.kind for record in journal.records()] == ["standing", "event", "standing"]
            assert journal.records("none") == []

    def test_a_run_may_end_again(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            assert journal.ending is None
            journal.finish(Outcome.CANCELLED, None, "stopped", 1.0)
            journal.finish(Outcome.TARGET_MET, 2, "met", 3.5)
        with journals.open(folder, readonly=True) as journal:
            assert journal.ending is not None
            assert journal.ending.outcome is Outcome.TARGET_MET
            assert (journal.ending.best_attempt, journal.ending.sentence, journal.ending.seconds) == (
                2,
                "met",
                3.5,
            )

    def test_one_writer_many_readers(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as writer:
            with pytest.raises(JournalError, match="being written"):
                journals.open(folder)
            with journals.open(folder, readonly=True) as reader:
                writer.begin_attempt(1, "prune")
                assert [row.rung for row in reader.attempts()] == ["prune"]
                with pytest.raises(JournalError, match="reading only"):
                    reader.begin_attempt(2, "depth")
        with journals.open(folder):
            pass

    def test_a_run_is_not_created_twice_nor_opened_before(self, journals: type[Journal], folder: Path) -> None:
        with pytest.raises(JournalError, match="no journal"):
            journals.open(folder)
        journals.create(folder, {}).close()
        with pytest.raises(JournalError, match="already"):
            journals.create(folder, {})

    def test_only_plain_data_is_kept(self, journals: type[Journal], folder: Path) -> None:
        with journals.create(folder, {}) as journal:
            with pytest.raises(TypeError, match=r"'model'.* is a object"):
                journal.record(None, "event", {"model": object()})
            assert journal.records() == []
