"""Which class."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Unpack

from boildown.domain.task import Samples
from boildown.errors import Mistake
from boildown.tasks.checks import READ_AHEAD, check_classes
from boildown.tasks.data import IndexedSamples, read_targets
from boildown.tasks.general import Options, Task
from boildown.tasks.losses import Loss, kl_divergence


class Classification(Task):
    """Logits (n, C) against labels (n,); binary logits (n,) or (n, 1) with loss 'bce'.

    Divergence is the KL divergence of the class probabilities in nats. `classes` names the outputs in
    order, for the file that is handed over. The rest is as in `Task`.
    """

    _most_checked: ClassVar[int | None] = None
    """Of how many samples the targets are checked, where each has many; None for all that are cheap to read."""

    def __init__(
        self,
        train: Any = None,
        calibration: Any = None,
        validation: Any = None,
        test: Any = None,
        *,
        loss: str | Loss = "cross_entropy",
        metrics: Sequence[Any] | Any = ("accuracy",),
        classes: Sequence[str] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(
            loss, metrics, train=train, calibration=calibration, validation=validation, test=test,
            divergence=kl_divergence, **options,
        )  # fmt: skip
        self.classes = None if classes is None else tuple(map(str, classes))
        self._takes_indices = loss == "cross_entropy"

    def check_targets(self, name: str, samples: Samples) -> list[Mistake]:
        """Labels that are no class indices, or a single class where it is scored."""
        if not self._takes_indices or name == "calibration":
            return []
        if self._most_checked is not None:
            samples = samples.subset(range(min(self._most_checked, len(samples))))
        cheap = samples.targets() if isinstance(samples, IndexedSamples) else None
        targets = read_targets(samples.subset(range(min(READ_AHEAD, len(samples))))) if cheap is None else cheap
        # The beginning of a data set sorted by class says nothing about the number of classes.
        complete = cheap is not None or len(samples) <= READ_AHEAD
        scored = name in ("validation", "test") and complete
        return [] if targets is None else check_classes(name, targets, scored=scored)
