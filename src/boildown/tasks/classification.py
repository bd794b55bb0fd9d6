"""Which class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Literal, Unpack

from boildown.domain.preprocess import Output
from boildown.domain.task import Samples
from boildown.errors import Mistake
from boildown.tasks.checks import READ_AHEAD, check_binary, check_classes, check_one_hot, check_text
from boildown.tasks.data import IndexedSamples, read_targets
from boildown.tasks.general import Options, Task
from boildown.tasks.losses import Loss, kl_divergence, zero_of_none
from boildown.tasks.metrics import METRICS


class Classification(Task):
    """Logits (n, C) against labels (n,); binary logits (n,) or (n, 1) with loss 'bce'.

    The metric is `accuracy` where none is named. Divergence is the KL divergence of the class probabilities in nats.
    `classes` names the outputs in order, for the file that is handed over. The rest is as in `Task`.
    """

    _most_checked: ClassVar[int | None] = None
    """Of how many samples the targets are checked, where each has many; None for all that are cheap to read."""
    word: ClassVar[str] = "logits"
    usual: ClassVar[tuple[str, ...]] = ("accuracy",)
    _label_axes: ClassVar[int] = 1
    """Those of a batch of labels."""

    def __init__(
        self,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        *,
        loss: str | Loss = "cross_entropy",
        metrics: Sequence[Any] | Any = None,
        classes: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            loss, metrics, train=train, calibration=calibration, validation=validation, test=test,
            divergence=kl_divergence, **options,
        )  # fmt: skip
        self.classes = None if classes is None else tuple(map(str, classes))

    def loss(self, output: Any, target: Any) -> Any:
        """The training loss of a batch: a scalar tensor; 0 where every label is ignored."""
        return zero_of_none(super().loss(output, target), target)

    def answer(self) -> Output:
        """One of the classes; scores are probabilities where the loss is of those."""
        if self._label_axes != 1 or not self.takes_output_as_it_is:
            return super().answer()
        apply: dict[str | None, Literal["softmax", "sigmoid"]] = {"cross_entropy": "softmax", "bce": "sigmoid"}
        return Output("classes", self.classes or (), apply.get(self._named_loss, "none"))

    def check_targets(self, name: str, samples: Samples) -> list[Mistake]:
        """Labels that are not what the loss takes, or a single class where it is scored."""
        if self._named_loss not in ("cross_entropy", "bce") or name == "calibration":
            return []
        if self._most_checked is not None:
            samples = samples.subset(range(min(self._most_checked, len(samples))))
        cheap = samples.targets() if isinstance(samples, IndexedSamples) else None
        targets = read_targets(samples.subset(range(min(READ_AHEAD, len(samples))))) if cheap is None else cheap
        if targets is None:
            return check_text(name, next(samples.subset([0]).batches(1))[1])
        if self._named_loss == "bce":
            return check_binary(name, targets)
        # The beginning of a data set sorted by class says nothing about the number of classes.
        complete = cheap is not None or len(samples) <= READ_AHEAD
        scored = name in ("validation", "test") and complete
        whole = self._label_axes == 1 and any(isinstance(metric, METRICS["accuracy"]) for metric in self.metrics)
        if whole and (found := check_one_hot(name, targets)):
            return found
        return check_classes(name, targets, scored=scored, axes=self._label_axes)
