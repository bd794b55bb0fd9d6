"""A run in MLflow."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from boildown.api.sitting import Event
from boildown.callbacks.figures import figures
from boildown.errors import InputError, install


class MLflow:
    """Logs a run's figures as metrics by the number of the attempt, and hands over its report and best artifact.

    experiment: of MLflow, made if need be; its default without. An MLflow run that is active is used and left open,
    else one is begun and ended. Raises InputError where mlflow is not installed.
    """

    def __init__(self, experiment: str | None = None) -> None:
        try:
            self._mlflow: Any = import_module("mlflow")
        except ImportError:
            raise InputError.of(
                "The callback MLflow needs mlflow, which is not installed.", install("mlflow")
            ) from None
        if experiment is not None:
            self._mlflow.set_experiment(experiment)
        self._own = False

    def __call__(self, event: Event) -> None:
        """Hear of an event of the run."""
        if event.kind == "verdict":
            attempt = event.data["attempt"]
            self._begin()
            self._mlflow.log_metrics(figures(attempt), step=attempt.number)
            self._mlflow.set_tag(f"attempt.{attempt.number}", f"{attempt.rung}: {attempt.state.value}")
        elif event.kind == "outcome":
            self._begin()
            run = event.data["run"]
            self._mlflow.set_tags({"outcome": event.data["outcome"].name, "boildown.run": run.name})
            for path in (run / "report.html", run / "manifest.json"):
                if path.is_file():
                    self._mlflow.log_artifact(str(path))
            if (run / "best").is_dir():
                self._mlflow.log_artifacts(str(run / "best"), "best")
            if self._own:
                self._mlflow.end_run()
                self._own = False

    def _begin(self) -> None:
        if self._mlflow.active_run() is None:
            self._mlflow.start_run()
            self._own = True
