"""The networks of the benchmarks, with parameters named as in their published weights.

He et al., Deep residual learning for image recognition (2015), section 4.2; Howard et al., MobileNets (2017);
Zhang et al., Hello edge: keyword spotting on microcontrollers (2017), as in MLPerf Tiny.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.real.data import folder


class Shortcut(nn.Module):
    """Identity that skips positions and adds channels of zeros on both sides: He et al.'s option A."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride, self.extra = stride, (outputs - inputs) // 2

    def forward(self, x: Tensor) -> Tensor:
        if self.stride == 1 and not self.extra:
            return x
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.extra, self.extra))


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut = Shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(x)))
        return F.relu(self.bn2(self.conv2(inner)) + self.shortcut(x))


class CifarResNet(nn.Module):
    """ResNet for 32x32 images of `6 n + 2` layers; input (batch, 3, 32, 32), 10 classes."""

    def __init__(self, layers: int) -> None:
        super().__init__()
        blocks = (layers - 2) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = self._stage(blocks, 16, 16, 1)
        self.layer2 = self._stage(blocks, 16, 32, 2)
        self.layer3 = self._stage(blocks, 32, 64, 2)
        self.linear = nn.Linear(64, 10)

    @staticmethod
    def _stage(blocks: int, inputs: int, outputs: int, stride: int) -> nn.Sequential:
        rest = (Residual(outputs, outputs, 1) for _ in range(blocks - 1))
        return nn.Sequential(Residual(inputs, outputs, stride), *rest)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class MobileNet(nn.Module):
    """MobileNetV1 with a quarter of the channels; input (batch, 3, 224, 224) in [-1, 1], 1,000 classes.

    Strided convolutions pad below and to the right only, as Keras does, where the weights come from.
    """

    UNITS = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *((128, 1),) * 5, (256, 2), (256, 1))
    """Channels and stride of each depthwise and pointwise pair."""

    def __init__(self) -> None:
        super().__init__()
        units, channels = [self._unit(3, 8, 3, stride=2)], 8
        for wider, stride in self.UNITS:
            units.append(self._unit(channels, channels, 3, stride=stride, groups=channels))
            units.append(self._unit(channels, wider, 1))
            channels = wider
        self.features = nn.Sequential(*units)
        self.classifier = nn.Linear(channels, 1000)

    @staticmethod
    def _unit(inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1) -> nn.Sequential:
        strided = stride > 1
        padding = 0 if strided else kernel // 2
        conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        rest = conv, nn.BatchNorm2d(outputs, eps=1e-3), nn.ReLU6()
        return nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), *rest) if strided else nn.Sequential(*rest)

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class CifarMobileNet(nn.Module):
    """A MobileNetV1 for 32x32 images, of 160,000 parameters; input (batch, 3, 32, 32), 10 classes."""

    UNITS = ((64, 2), (64, 1), (128, 2), (128, 1), (128, 1), (256, 1), (256, 1))
    """Channels and stride of each depthwise and pointwise pair."""

    def __init__(self) -> None:
        super().__init__()
        units, channels = [self._unit(3, 32, 3)], 32
        for wider, stride in self.UNITS:
            units.append(self._unit(channels, channels, 3, stride, groups=channels))
            units.append(self._unit(channels, wider, 1))
            channels = wider
        self.features = nn.Sequential(*units)
        self.classifier = nn.Linear(channels, 10)

    @staticmethod
    def _unit(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> nn.Sequential:
        conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU6())

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.features(x).mean((2, 3)))


class SamePadded(nn.Conv2d):
    """A convolution padded as TensorFlow's SAME: output = input / stride, rounded up."""

    def forward(self, x: Tensor) -> Tensor:
        padding: list[int] = []
        for size, kernel, stride in reversed(list(zip(x.shape[2:], self.kernel_size, self.stride, strict=True))):
            covered = (-(-size // stride) - 1) * stride + kernel
            missing = max(covered - size, 0)
            padding += (missing // 2, missing - missing // 2)
        return super().forward(F.pad(x, padding))


class KeywordNet(nn.Module):
    """The DS-CNN of MLPerf Tiny's keyword spotting; input (batch, 1, 49, 10), 12 classes."""

    def __init__(self) -> None:
        super().__init__()
        layers: list[nn.Module] = [*self._normed(SamePadded(1, 64, (10, 4), stride=2)), nn.Dropout(0.2)]
        for _ in range(4):
            layers += self._normed(SamePadded(64, 64, 3, groups=64))
            layers += self._normed(nn.Conv2d(64, 64, 1))
        self.features = nn.Sequential(*layers, nn.Dropout(0.4))
        self.fc = nn.Linear(64, 12)

    @staticmethod
    def _normed(conv: nn.Conv2d) -> list[nn.Module]:
        return [conv, nn.BatchNorm2d(64, eps=1e-3), nn.ReLU()]

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.features(x).mean((2, 3)))


def resnet20() -> nn.Module:
    """ResNet-20 trained on CIFAR-10."""
    return _trained(CifarResNet(20), "cifar10/resnet20.pt")


def resnet56() -> nn.Module:
    """ResNet-56 trained on CIFAR-10."""
    return _trained(CifarResNet(56), "cifar10/resnet56.pt")


def mobilenet() -> nn.Module:
    """MobileNetV1 0.25 trained on ImageNet."""
    return _trained(MobileNet(), "mobilenet/mobilenet_v1_025.pt")


def dscnn() -> nn.Module:
    """The DS-CNN trained on Speech Commands."""
    return _trained(KeywordNet(), "kws/dscnn.pt")


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "resnet56": resnet56,
    "dscnn": dscnn,
    "mobilenet": mobilenet,
}
"""Trained, in eval mode, by name."""


def _trained(model: nn.Module, weights: str) -> nn.Module:
    model.load_state_dict(torch.load(folder() / weights, weights_only=True, map_location="cpu"))
    return model.eval()
