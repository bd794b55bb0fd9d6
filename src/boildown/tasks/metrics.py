"""The shipped metrics: per-sample statistics, and the score computed from them.

Outputs and targets are batches of n samples, tensors or arrays. Statistics that are rows of
(prediction, target) make a metric resampleable although it is no mean.
"""

from __future__ import annotations

import difflib
import math
import sys
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from boildown.domain.grammar import COSTS, FRACTION
from boildown.domain.task import Metric
from boildown.errors import DataError, InputError, Mistake
from boildown.tasks.checks import IGNORED, unlike
from boildown.tasks.probabilities import Brier, Ece, Nll

Statistics = NDArray[np.float64]


class Accuracy:
    """The share of right classes: arg-max of logits (n, C, ...), or sign of binary logits (n,) or (n, 1).

    With more than one label per sample the statistic is the sample's share. Label -100 is ignored: a sample without
    another has no score (NaN), and does not count.
    """

    name: str = "accuracy"
    higher_is_better: bool = True
    unit: str = FRACTION
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = True

    def statistic(self, output: Any, target: Any) -> Statistics:
        """1 for a right sample, 0 for a wrong one, NaN for an ignored one; shape (n,)."""
        predicted, labels = _paired(output, target)
        return _share(predicted == labels, labels)

    def compute(self, statistics: Statistics) -> float:
        """Their mean over the samples that have one; NaN where every label is ignored."""
        counted = statistics[~np.isnan(statistics)]
        return float(np.mean(counted)) if counted.size else math.nan


class Top5(Accuracy):
    """The share of samples whose class is among the five largest logits."""

    name: str = "top5"

    def statistic(self, output: Any, target: Any) -> Statistics:
        """1 where the label is among the five, else 0, NaN for an ignored one; shape (n,)."""
        logits, (_, labels) = _tensor(output), _paired(output, target)
        if logits.ndim < 2 or logits.shape[1] == 1:
            raise DataError(
                Mistake(
                    f"{self.name} needs scores of several classes, not outputs of shape {tuple(logits.shape)}.",
                    "Choose 'accuracy' or 'auc' for a binary task.",
                )
            )
        top = logits.topk(min(5, logits.shape[1]), dim=1).indices
        return _share((top == labels.unsqueeze(1)).any(1), labels)


class F1:
    """The unweighted mean over classes of F1 = 2 TP / (2 TP + FP + FN), over classes that occur.

    Where samples have many labels (tokens, pixels), those of all samples count together; label -100 is ignored.
    """

    name: str = "f1"
    higher_is_better: bool = True
    unit: str = FRACTION
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = False
    across: bool = True
    """It compares samples of different targets: within one class it has no meaning."""

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Rows of (predicted class, label), shape (n, 2); of logits (n, C, ...) counts, see `class_counts`."""
        logits = _tensor(output)
        if logits.ndim > 2:
            return class_counts(logits, _tensor(target))
        predicted, labels = _paired(logits, target)
        _refuse_outside(labels, _classes(logits))
        return _rows(self.name, predicted, labels)

    def compute(self, statistics: Statistics) -> float:
        """Macro F1; NaN where every label is ignored."""
        if statistics.ndim == 3:
            hits, predicted, labelled = statistics.sum(0)
        else:
            said, labels = statistics[statistics[:, 1] != IGNORED].astype(np.int64).T
            classes = int(statistics.max()) + 1
            hits, predicted, labelled = (
                np.bincount(x, minlength=classes) for x in (labels[said == labels], said, labels)
            )
        return _mean_share(2 * hits, predicted + labelled)


class MeanIou:
    """The mean over classes of intersection over union, of the pixels of all images together.

    Classes that are neither predicted nor in any label do not count; label -100 is ignored.
    """

    name: str = "miou"
    higher_is_better: bool = True
    unit: str = FRACTION
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = False

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Counts of each image, shape (n, 3, C); see `class_counts`."""
        return class_counts(_tensor(output), _tensor(target))

    def compute(self, statistics: Statistics) -> float:
        """The mean of hits / (predicted + labelled - hits); NaN where every label is ignored."""
        hits, predicted, labelled = statistics.sum(0)
        return _mean_share(hits, predicted + labelled - hits)


class TokenAccuracy:
    """The share of right labels among all that are not ignored (-100), those of long and short samples alike.

    `accuracy` averages over samples instead, and a short one counts as much as a long one.
    """

    name: str = "token_accuracy"
    higher_is_better: bool = True
    unit: str = FRACTION
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = False

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Rows of (right labels, labels), shape (n, 2)."""
        predicted, labels = (each.reshape(len(each), -1) for each in _paired(output, target))
        counted = labels != IGNORED
        right = (predicted == labels) & counted
        return torch.stack([right.sum(1), counted.sum(1)], 1).double().numpy()

    def compute(self, statistics: Statistics) -> float:
        """Right labels by labels; NaN where every label is ignored."""
        right, labels = statistics.sum(0)
        return float(right / labels) if labels else math.nan


class Perplexity:
    """The exponential of the mean cross entropy, in nats, of all labels that are not ignored (-100)."""

    name: str = "perplexity"
    higher_is_better: bool = False
    unit: str = ""
    range: tuple[float, float] = (1.0, math.inf)
    decomposable: bool = False
    robust: str = "token_accuracy"

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Rows of (summed cross entropy, labels) of logits (n, C, ...) against labels (n, ...); shape (n, 2)."""
        logits, (_, labels) = _tensor(output), _paired(output, target)
        labels = labels.long()
        _refuse_outside(labels, logits.shape[1])
        gaps = functional.cross_entropy(logits.float(), labels, reduction="none", ignore_index=IGNORED)
        counted = (labels != IGNORED).reshape(len(labels), -1).sum(1)
        return torch.stack([gaps.double().reshape(len(labels), -1).sum(1), counted.double()], 1).numpy()

    def compute(self, statistics: Statistics) -> float:
        """The exponential of the mean over labels; NaN where every label is ignored."""
        total, labels = statistics.sum(0)
        return float(np.exp(total / labels)) if labels else math.nan


class Auc:
    """The area under the ROC curve of a binary task: how often a positive outranks a negative; -100 is ignored."""

    name: str = "auc"
    higher_is_better: bool = True
    unit: str = FRACTION
    range: tuple[float, float] = (0.0, 1.0)
    decomposable: bool = False
    across: bool = True

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Rows of (score, label), shape (n, 2); the score is the logit, or the difference of two."""
        logits = _tensor(output)
        if logits.ndim == 2 and logits.shape[1] == 2:
            logits = logits[:, 1] - logits[:, 0]
        return _rows(self.name, logits, _tensor(target))

    def compute(self, statistics: Statistics) -> float:
        """The Mann-Whitney statistic, ties counted half; NaN where only one class occurs."""
        scores, labels = statistics[statistics[:, 1] != IGNORED].T
        positive = labels > 0.5
        count = int(positive.sum())
        if count in (0, len(labels)):
            return math.nan
        from scipy.stats import rankdata  # half a second to load: when first used

        ranks = rankdata(scores)[positive].sum()
        return float((ranks - count * (count + 1) / 2) / (count * (len(labels) - count)))


class Rmse:
    """The root of the mean squared error, in the target's unit."""

    name: str = "rmse"
    higher_is_better: bool = False
    unit: str = ""
    range: tuple[float, float] = (0.0, math.inf)
    decomposable: bool = False
    robust: str = "mae"

    def statistic(self, output: Any, target: Any) -> Statistics:
        """The squared error, averaged over a sample's outputs; shape (n,)."""
        return _per_sample(_difference(output, target) ** 2)

    def compute(self, statistics: Statistics) -> float:
        """The root of their mean."""
        return float(np.sqrt(np.mean(statistics)))


class Mae:
    """The mean absolute error, in the target's unit."""

    name: str = "mae"
    higher_is_better: bool = False
    unit: str = ""
    range: tuple[float, float] = (0.0, math.inf)
    decomposable: bool = True

    def statistic(self, output: Any, target: Any) -> Statistics:
        """The absolute error, averaged over a sample's outputs; shape (n,)."""
        return _per_sample(np.abs(_difference(output, target)))

    def compute(self, statistics: Statistics) -> float:
        """Their mean."""
        return float(np.mean(statistics))


class Psnr:
    """The peak signal-to-noise ratio of images in dB, averaged over them; an exact one counts 100 dB.

    peak: the largest value of a pixel.
    """

    name: str = "psnr"
    higher_is_better: bool = True
    unit: str = "dB"
    range: tuple[float, float] = (-math.inf, 100.0)
    decomposable: bool = True

    def __init__(self, peak: float = 1.0) -> None:
        self.peak = peak

    def statistic(self, output: Any, target: Any) -> Statistics:
        """10 log10(peak^2 / squared error) of each image; shape (n,)."""
        errors = np.maximum(_per_sample(_difference(output, target) ** 2), self.peak**2 * 10 ** (-self.range[1] / 10))
        return np.asarray(10 * np.log10(self.peak**2 / errors), dtype=np.float64)

    def compute(self, statistics: Statistics) -> float:
        """Their mean."""
        return float(np.mean(statistics))


class R2:
    """The share of the target's variance that is explained: 1 - squared error / variance."""

    name: str = "r2"
    higher_is_better: bool = True
    unit: str = ""
    range: tuple[float, float] = (-math.inf, 1.0)
    decomposable: bool = False
    across: bool = True
    robust: str = "spearman"

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Rows of (prediction, target), shape (n, 2)."""
        return _rows(self.name, _tensor(output), _tensor(target))

    def compute(self, statistics: Statistics) -> float:
        """R squared of the rows; NaN where the targets do not vary."""
        predicted, truth = statistics.T
        spread = float(np.sum((truth - truth.mean()) ** 2))
        return 1 - float(np.sum((predicted - truth) ** 2)) / spread if spread else math.nan


class Spearman:
    """Spearman's rank correlation, ties at their mean rank."""

    name: str = "spearman"
    higher_is_better: bool = True
    unit: str = ""
    range: tuple[float, float] = (-1.0, 1.0)
    decomposable: bool = False
    across: bool = True

    def statistic(self, output: Any, target: Any) -> Statistics:
        """Rows of (prediction, target), shape (n, 2)."""
        return _rows(self.name, _tensor(output), _tensor(target))

    def compute(self, statistics: Statistics) -> float:
        """Pearson's correlation of the ranks; 0 where one side is constant and thus ranks nothing."""
        from scipy.stats import rankdata  # as above

        ranks = rankdata(statistics, axis=0)
        ranks -= ranks.mean(0)
        spread = float(np.sqrt(np.prod((ranks**2).sum(0))))
        return float((ranks[:, 0] * ranks[:, 1]).sum() / spread) if spread else 0.0


_KINDS: tuple[type[Metric], ...] = (
    *(Accuracy, Top5, F1, Auc, MeanIou, TokenAccuracy, Perplexity, Ece, Nll, Brier),
    *(Rmse, Mae, R2, Spearman, Psnr),
)
METRICS: dict[str, type[Metric]] = {kind.name: kind for kind in _KINDS}


def metric(name: str) -> Metric:
    """The shipped metric of this name. Raises InputError with near names."""
    if name in METRICS:
        return METRICS[name]()
    near = difflib.get_close_matches(name.casefold(), METRICS, n=1)
    guess = f"Did you mean {near[0]!r}? " if near else ""
    raise InputError.of(
        f"There is no metric {name!r}.", f"{guess}Shipped: {', '.join(METRICS)}; or give a Metric object."
    )


def as_metric(given: Any) -> Metric:
    """A metric from its name, a Metric object, or a torchmetrics object. Raises InputError."""
    if isinstance(given, str):
        return metric(given)
    # Whoever holds a torchmetrics object has imported torchmetrics.
    if "torchmetrics" in sys.modules and isinstance(given, sys.modules["torchmetrics"].Metric):
        from boildown.tasks.torchmetrics import Adapted

        given = Adapted(given)
    if not isinstance(given, Metric):
        raise InputError.of(
            f"{type(given).__name__} is not a metric.",
            f"Give a name ({', '.join(METRICS)}), or an object with name, higher_is_better, unit, range, "
            "decomposable, statistic(output, target) and compute(statistics).",
        )
    if wrong := [*nameless(given.name), *_unclear(given)]:
        raise InputError(*wrong)
    return given


def nameless(name: Any) -> list[Mistake]:
    """What keeps a target from naming a metric."""
    text = isinstance(name, str) and name.isprintable() and not any(c.isspace() or c in "<>=[]" for c in name)
    if text and name not in ("", *COSTS, "drop"):
        return []
    cure = f"Choose a name without spaces, operators and brackets, and none of {', '.join(COSTS)}, drop."
    return [Mistake(f"A metric cannot be called {name!r:.80}: a target could not name it.", cure)]


def _unclear(metric: Metric) -> list[Mistake]:
    """What a metric says of itself that cannot be understood."""

    def mistake(what: str, value: object, cure: str) -> Mistake:
        return Mistake(f"The metric {metric.name!r:.80} says {what} = {value!r:.80}.", cure)

    mistakes = [
        mistake(flag, value, "Say True or False.")
        for flag in ("higher_is_better", "decomposable")
        if not isinstance(value := getattr(metric, flag), bool | int | np.bool_)
    ]
    unit: Any = metric.unit
    if not isinstance(unit, str):
        mistakes.append(mistake("unit", unit, 'Say it as text; "" is a metric without one.'))
    try:
        low, high = map(float, metric.range)
    except (TypeError, ValueError, OverflowError):
        low = high = math.nan
    if not low < high:
        cure = "Say the lowest and the highest value, such as (0, 1) or (0, math.inf)."
        mistakes.append(mistake("range", metric.range, cure))
    return mistakes


def predicted_classes(logits: torch.Tensor) -> torch.Tensor:
    """Classes (n, ...) from logits: (n, C, ...) by arg-max over C; (n,) and (n, 1, ...) are binary, 1 above 0."""
    if logits.ndim == 1 or logits.shape[1] == 1:
        return ((logits if logits.ndim == 1 else logits[:, 0]) > 0).long()
    return logits.argmax(1)


def class_counts(logits: torch.Tensor, labels: torch.Tensor) -> Statistics:
    """How often each class was hit, predicted and labelled in each sample, shape (n, 3, C), ignored places left out.

    logits: (n, C, ...), or (n, 1, ...) for two classes. labels: (n, ...). Raises DataError where they do not fit.
    """
    count, classes = len(logits), _classes(logits)
    predicted, labels = (each.reshape(count, -1).long() for each in _paired(logits, labels))
    _refuse_outside(labels, classes)
    counted = labels != IGNORED
    place = torch.arange(count).unsqueeze(1) * classes
    rows = [
        torch.bincount((place + said)[where], minlength=count * classes).reshape(count, classes)
        for said, where in ((labels, counted & (predicted == labels)), (predicted, counted), (labels, counted))
    ]
    return torch.stack(rows, 1).double().numpy()


def _classes(logits: torch.Tensor) -> int:
    """How many classes (n, C, ...) tells apart; one logit tells two."""
    return max(logits.shape[1], 2) if logits.ndim > 1 else 2


def _paired(output: Any, target: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Classes predicted and labels, both (n, ...). Raises DataError where there is not one label for each."""
    logits, labels = _tensor(output), _tensor(target)
    predicted = predicted_classes(logits)
    if predicted.numel() != labels.numel():
        raise DataError(
            Mistake(
                f"Targets of shape {tuple(labels.shape)} do not fit outputs of shape {tuple(logits.shape)}, which "
                f"say classes of shape {tuple(predicted.shape)}.",
                "Give one class index for each. Where a sample has any number of classes, give a metric for that, "
                "such as MultilabelAccuracy of torchmetrics.",
            )
        )
    return predicted, labels.reshape(predicted.shape)


def _refuse_outside(labels: torch.Tensor, classes: int) -> None:
    """Raises DataError for labels that are no class and not ignored."""
    counted = labels[labels != IGNORED]
    if bool(((counted < 0) | (counted >= classes)).any()):
        low, high = (int(end) for end in counted.aminmax())
        raise DataError(
            Mistake(
                f"Labels run from {low} to {high}, the model has {classes} classes.",
                f"Check that model and labels belong together; {IGNORED} marks a label to ignore.",
            )
        )


def _tensor(value: Any) -> torch.Tensor:
    return torch.as_tensor(value).detach().cpu()


def _mean_share(parts: Statistics, of: Statistics) -> float:
    """The mean of parts / of over those classes that have any; NaN without."""
    return float(np.mean(parts[of > 0] / of[of > 0])) if np.any(of > 0) else math.nan


def _share(right: torch.Tensor, labels: torch.Tensor) -> Statistics:
    """Per sample, the share of right labels among those not ignored, NaN where all are; (n,)."""
    counted = (labels != IGNORED).reshape(len(right), -1)
    hits = (right.reshape(len(right), -1) & counted).sum(1)
    return np.asarray(hits.double() / counted.sum(1), dtype=np.float64)


def _rows(name: str, predicted: torch.Tensor, target: torch.Tensor) -> Statistics:
    """(n, 2) from one number per sample on either side. Raises DataError for more."""
    if predicted.numel() != len(predicted) or target.numel() != len(predicted):
        raise DataError(
            Mistake(
                f"{name} needs one prediction and one target per sample, not shapes "
                f"{tuple(predicted.shape)} and {tuple(target.shape)}.",
                "Choose what to score with forward=, or another metric.",
            )
        )
    return np.stack([predicted.reshape(-1).double().numpy(), target.reshape(-1).double().numpy()], 1)


def _difference(output: Any, target: Any) -> Statistics:
    """Output minus target, shape (n, k). Raises DataError where they do not pair up."""
    predicted, truth = _tensor(output), _tensor(target)
    if predicted.numel() != truth.numel():
        raise unlike(predicted, truth)
    return (predicted.double().reshape(len(truth), -1) - truth.double().reshape(len(truth), -1)).numpy()


def _per_sample(errors: Statistics) -> Statistics:
    return np.asarray(errors.mean(1), dtype=np.float64)
