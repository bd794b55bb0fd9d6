"""What each network is for, as factories: `benchmarks.real.tasks:resnet20` and so on."""

from __future__ import annotations

from collections.abc import Callable

import boildown as bd
from benchmarks.real import data

_HELD_OUT = 100


def cifar10() -> bd.Classification:
    """CIFAR-10: the 50,000 training images, judged on 5,000 test images."""
    return bd.Classification(train=data.cifar10_train(), validation=data.cifar10_test())


def keywords() -> bd.Classification:
    """Spoken words: calibrated on 100 clips, judged on the other 400; no training data."""
    return _calibrated(data.keywords())


def imagenet() -> bd.Classification:
    """ImageNet: calibrated on 100 images, judged on the other 300; no training data."""
    return _calibrated(data.imagenet())


resnet20 = resnet56 = cifar10
dscnn = keywords
mobilenet = imagenet

TASKS: dict[str, Callable[[], bd.Classification]] = {
    "resnet20": cifar10,
    "resnet56": cifar10,
    "dscnn": keywords,
    "mobilenet": imagenet,
}
"""By the name of the network."""


def _calibrated(samples: data.Samples) -> bd.Classification:
    inputs, labels = samples
    return bd.Classification(
        calibration=(inputs[:_HELD_OUT], labels[:_HELD_OUT]), validation=(inputs[_HELD_OUT:], labels[_HELD_OUT:])
    )
