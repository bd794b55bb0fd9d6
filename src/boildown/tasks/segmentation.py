"""Which class, for every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar, Unpack

from boildown.tasks.checks import IGNORED, ignoring
from boildown.tasks.classification import Classification
from boildown.tasks.data import IndexedSamples
from boildown.tasks.general import Options
from boildown.tasks.losses import Loss


class Segmentation(Classification):
    """Logits (n, C, H, W) against labels (n, H, W); binary logits (n, 1, H, W) with loss 'bce'.

    ignore: the label of pixels that do not count, such as 255; what the task yields has -100 there. Divergence is
    averaged over pixels. The rest is as in `Classification`.
    """

    _most_checked: ClassVar[int | None] = 16
    _label_axes: ClassVar[int] = 3
    by_class = False
    usual: ClassVar[tuple[str, ...]] = ("miou",)

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
        ignore: int = IGNORED,
        **options: Unpack[Options],
    ) -> None:
        self.ignore = ignore
        super().__init__(train, calibration, validation, test, loss=loss, metrics=metrics, classes=classes, **options)

    def read(self, name: str, source: Any) -> IndexedSamples | None:
        """The samples, with -100 where a pixel does not count."""
        samples = super().read(name, source)
        if samples is None or self.ignore == IGNORED:
            return samples
        return samples.relabelled(partial(_without, self.ignore))


def _without(label: int, _inputs: Any, target: Any) -> Any:
    return None if target is None else ignoring(target, target == label)
