"""Convolutional classifiers, from plain to grouped, gated and shuffled."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.entry import Head, Net, conv, real, unit, zoo

IMAGE = real(3, 16, 16)
NO_REPEAT = "no block is repeated"
CONVOLUTIONS = "nearly all parameters are in convolutions"


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def plain_cnn() -> nn.Module:
    """Convolution, batch norm, ReLU and pooling; the picture is flattened."""
    return nn.Sequential(
        unit(3, 16), nn.MaxPool2d(2), unit(16, 24), nn.MaxPool2d(2), unit(24, 32), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Dropout(0.5), nn.Linear(32, 5),
    )  # fmt: skip


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def vgg_without_norm() -> nn.Module:
    """Biases in place of batch norm, rectifiers in place, two equal layers in a row."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((3, 16), (16, 16), (16, 24), (24, 24)):
        layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU(inplace=True)]
        layers += [nn.MaxPool2d(2)] if inputs == outputs else []
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(96, 24), nn.ReLU(), nn.Linear(24, 5))


class Basic(nn.Module):
    """Two convolutions and a shortcut: projected, padded with zeros, or joined with zeros."""

    def __init__(self, inputs: int, outputs: int, stride: int = 1, shortcut: str = "project", norm: str = "batch"):
        super().__init__()

        def layer(inputs: int, outputs: int, stride: int) -> nn.Module:
            made = conv(inputs, outputs, 3, stride)
            return made if norm == "batch" else nn.Sequential(made[0], nn.GroupNorm(4, outputs))

        self.first, self.second = layer(inputs, outputs, stride), layer(outputs, outputs, 1)
        self.more, self.stride, self.shortcut = outputs - inputs, stride, shortcut
        self.down = conv(inputs, outputs, 1, stride) if self.more and shortcut == "project" else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(F.relu(self.first(x)))
        if self.down is not None:
            x = self.down(x)
        elif self.more:
            x = x[:, :, :: self.stride, :: self.stride]
            if self.shortcut == "pad":
                x = F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2))
            else:
                x = torch.cat([x, x.new_zeros(len(x), self.more, *x.shape[2:])], 1)
        return F.relu(x + y)


def _resnet(**options: str) -> nn.Module:
    blocks = [Basic(16, 16, **options), Basic(16, 16, **options), Basic(16, 24, 2, **options), Basic(24, 24, **options)]
    return nn.Sequential(unit(3, 16), *blocks, Head(24))


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def resnet() -> nn.Module:
    """Residual blocks with projections."""
    return _resnet()


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def resnet_zero_pads() -> nn.Module:
    """Shortcuts that stride by slicing and widen by padding, as CIFAR's."""
    return _resnet(shortcut="pad")


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def resnet_zeros_joined() -> nn.Module:
    """Shortcuts that widen by concatenating zeros."""
    return _resnet(shortcut="cat")


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def resnet_group_norm() -> nn.Module:
    """Group norm in the blocks."""
    return _resnet(norm="group")


class Bottleneck(nn.Module):
    """Narrow in the middle, sums and rectifiers in place; `groups` as in ResNeXt."""

    def __init__(self, inputs: int, width: int, outputs: int, stride: int = 1, groups: int = 1) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            *conv(inputs, width, 1), nn.ReLU(inplace=True),
            *conv(width, width, 3, stride, groups=groups), nn.ReLU(inplace=True), *conv(width, outputs, 1),
        )  # fmt: skip
        self.down = None if inputs == outputs and stride == 1 else conv(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        y = self.layers(x)
        y += x if self.down is None else self.down(x)
        return F.relu(y, inplace=True)


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def resnet_bottleneck() -> nn.Module:
    """Bottlenecks."""
    return nn.Sequential(
        unit(3, 16), nn.MaxPool2d(3, 2, 1), Bottleneck(16, 12, 32), Bottleneck(32, 12, 32), Bottleneck(32, 16, 40, 2),
        Head(40),
    )  # fmt: skip


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def resnext() -> nn.Module:
    """Grouped bottlenecks."""
    blocks = [Bottleneck(16, 16, 32, groups=4), Bottleneck(32, 16, 32, groups=4), Bottleneck(32, 24, 40, 2, groups=4)]
    return nn.Sequential(unit(3, 16), *blocks, Head(40))


@zoo(IMAGE, depth="its blocks are lines of its forward, no modules", dynamic=CONVOLUTIONS)
class Preactivated(nn.Module):
    """Batch norm and ReLU before every convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(16) for _ in range(6))
        self.layers = nn.ModuleList(nn.Conv2d(16, 16, 3, padding=1, bias=False) for _ in range(6))
        self.last, self.head = nn.BatchNorm2d(16), Head(16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for i in range(0, 6, 2):
            y = self.layers[i](F.relu(self.norms[i](x)))
            x = x + self.layers[i + 1](F.relu(self.norms[i + 1](y)))
        return self.head(F.relu(self.last(x)))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
class Densenet(nn.Module):
    """Every layer reads what all before it have written."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(12 + 8 * i) for i in range(4))
        self.layers = nn.ModuleList(nn.Conv2d(12 + 8 * i, 8, 3, padding=1, bias=False) for i in range(4))
        self.norm, self.down, self.head = nn.BatchNorm2d(44), nn.Conv2d(44, 22, 1, bias=False), Head(22)

    def forward(self, x: Tensor) -> Tensor:
        features = [self.stem(x)]
        for norm, layer in zip(self.norms, self.layers, strict=True):
            features.append(layer(F.relu(norm(torch.cat(features, 1)))))
        x = F.avg_pool2d(self.down(F.relu(self.norm(torch.cat(features, 1)))), 2)
        return self.head(F.relu(x))


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def mobilenet_v1() -> nn.Module:
    """Depthwise and pointwise convolutions with ReLU6."""
    layers: list[nn.Module] = [unit(3, 16, act=nn.ReLU6)]
    for inputs, outputs, stride in ((16, 24, 1), (24, 32, 2), (32, 32, 1)):
        layers += [unit(inputs, inputs, 3, stride, nn.ReLU6, groups=inputs), unit(inputs, outputs, 1, act=nn.ReLU6)]
    return nn.Sequential(*layers, Head(32))


class Squeeze(nn.Module):
    """Squeeze and excite."""

    def __init__(self, width: int, inner: int, gate: nn.Module) -> None:
        super().__init__()
        self.reduce, self.expand, self.gate = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 1), gate

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(self.expand(F.relu(self.reduce(F.adaptive_avg_pool2d(x, 1)))))


class Inverted(nn.Module):
    """An inverted residual, gated or not."""

    def __init__(self, inputs: int, outputs: int, stride: int, act: type[nn.Module], gate: nn.Module | None = None):
        super().__init__()
        wide = 3 * inputs
        self.adds = inputs == outputs and stride == 1
        self.layers = nn.Sequential(
            unit(inputs, wide, 1, act=act), unit(wide, wide, 3, stride, act, groups=wide),
            *([] if gate is None else [Squeeze(wide, 8, gate)]), conv(wide, outputs, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.adds else self.layers(x)


_WIDTHS = ((12, 12, 1), (12, 16, 2), (16, 16, 1))


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def mobilenet_v2() -> nn.Module:
    """Inverted residuals."""
    blocks = [Inverted(*widths, nn.ReLU6) for widths in _WIDTHS]
    return nn.Sequential(unit(3, 12, act=nn.ReLU6), *blocks, unit(16, 32, 1, act=nn.ReLU6), Head(32))


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def mobilenet_v3() -> nn.Module:
    """Gated inverted residuals with hard swish."""
    blocks = [Inverted(*widths, nn.Hardswish, nn.Hardsigmoid()) for widths in _WIDTHS]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 24), nn.Hardswish(), nn.Linear(24, 5)]
    return nn.Sequential(unit(3, 12, act=nn.Hardswish), *blocks, unit(16, 32, 1, act=nn.Hardswish), *head)


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def efficientnet() -> nn.Module:
    """Gated inverted residuals with SiLU."""
    blocks = [Inverted(*widths, nn.SiLU, nn.Sigmoid()) for widths in _WIDTHS]
    return nn.Sequential(unit(3, 12, act=nn.SiLU), *blocks, unit(16, 32, 1, act=nn.SiLU), Head(32))


class Shuffle(nn.Module):
    """Half of the channels go by; then the halves are shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        self.branch = nn.Sequential(unit(half, half, 1), conv(half, half, groups=half), unit(half, half, 1))

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def shufflenet() -> nn.Module:
    """Split and shuffled channels."""
    return nn.Sequential(unit(3, 24), Shuffle(24), Shuffle(24), nn.MaxPool2d(2), Shuffle(24), unit(24, 32, 1), Head(32))


class Fire(nn.Module):
    """Two kinds of convolution side by side behind a narrow one."""

    def __init__(self, inputs: int, inner: int, outputs: int) -> None:
        super().__init__()
        self.squeeze = nn.Conv2d(inputs, inner, 1)
        self.one, self.three = nn.Conv2d(inner, outputs // 2, 1), nn.Conv2d(inner, outputs // 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.squeeze(x))
        return torch.cat([F.relu(self.one(x)), F.relu(self.three(x))], 1)


@zoo(IMAGE, dynamic=CONVOLUTIONS, depth=NO_REPEAT)
def squeezenet() -> nn.Module:
    """No linear layer at all: a convolution makes the scores."""
    scores = [nn.Dropout(0.5), nn.Conv2d(40, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    stem = [nn.Conv2d(3, 24, 3), nn.ReLU(), nn.MaxPool2d(3, 2, ceil_mode=True)]
    model = nn.Sequential(*stem, Fire(24, 8, 32), Fire(32, 10, 40), *scores)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):  # as the paper's, or the inputs hardly reach the outputs
            nn.init.kaiming_normal_(layer.weight)
    return model


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def inception() -> nn.Module:
    """Four branches, concatenated; one pools, one has two oblong filters."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = net.stem(x)
        branches = [
            net.one(x),
            net.three(x),
            net.five(x),
            net.pooled(F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)),
        ]
        return net.head(net.mix(torch.cat(branches, 1)))

    oblong = [nn.Conv2d(12, 12, (1, 5), padding=(0, 2)), nn.Conv2d(12, 12, (5, 1), padding=(2, 0)), nn.ReLU()]
    return Net(
        forward, stem=unit(3, 16), one=unit(16, 8, 1), three=nn.Sequential(unit(16, 12, 1), unit(12, 16)),
        five=nn.Sequential(unit(16, 12, 1), *oblong), pooled=unit(16, 8, 1), mix=unit(44, 32, 3, 2), head=Head(32),
    )  # fmt: skip


class ConvNextBlock(nn.Module):
    """Depthwise, layer norm over channels last, two linear layers, a learned scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise, self.norm = nn.Conv2d(width, width, 7, padding=3, groups=width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.scale = nn.Parameter(torch.full((width,), 0.5))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.scale * self.down(F.gelu(self.up(y)))
        return x + y.permute(0, 3, 1, 2)


class Norm2d(nn.LayerNorm):
    """Layer norm over the channels of pictures."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def convnext() -> nn.Module:
    """ConvNeXt."""
    return nn.Sequential(
        nn.Conv2d(3, 16, 2, 2), Norm2d(16), ConvNextBlock(16), ConvNextBlock(16),
        Norm2d(16), nn.Conv2d(16, 24, 2, 2), ConvNextBlock(24), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        nn.LayerNorm(24), nn.Linear(24, 5),
    )  # fmt: skip


class RepBlock(nn.Module):
    """Three branches, each with its batch norm, summed: as RepVGG is trained."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.three, self.one, self.same = conv(width, width), conv(width, width, 1), nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.three(x) + self.one(x) + self.same(x))


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def repvgg() -> nn.Module:
    """RepVGG in its training form."""
    return nn.Sequential(unit(3, 16), RepBlock(16), RepBlock(16), unit(16, 24, 3, 2), RepBlock(24), Head(24))


class Ghost(nn.Module):
    """Half of the channels are made by cheap filters from the other half."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        half = outputs // 2
        self.primary, self.cheap = unit(inputs, half, 1), unit(half, half, 3, groups=half)

    def forward(self, x: Tensor) -> Tensor:
        x = self.primary(x)
        return torch.cat([x, self.cheap(x)], 1)


@zoo(IMAGE, dynamic=CONVOLUTIONS)
def ghostnet() -> nn.Module:
    """Ghost modules."""
    return nn.Sequential(unit(3, 16), Ghost(16, 32), nn.MaxPool2d(2), Ghost(32, 32), Ghost(32, 40), Head(40))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
class Res2net(nn.Module):
    """Slices of the channels, each convolved with the sum of the one before."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layers = unit(3, 32), nn.ModuleList(unit(8, 8) for _ in range(3))
        self.mix, self.head = conv(32, 32, 1), Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        first, *rest = x.split(8, 1)
        parts = [first]
        for part, layer in zip(rest, self.layers, strict=True):
            parts.append(layer(part if len(parts) == 1 else part + parts[-1]))
        return self.head(F.relu(x + self.mix(torch.cat(parts, 1))))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
class Cbam(nn.Module):
    """Attention over channels by two poolings, then over pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.mlp = unit(3, 24), nn.Sequential(nn.Linear(24, 8), nn.ReLU(), nn.Linear(8, 24))
        self.pixels, self.more, self.head = nn.Conv2d(2, 1, 7, padding=3), unit(24, 32, 3, 2), Head(32)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        gate = torch.sigmoid(self.mlp(x.mean((2, 3))) + self.mlp(x.amax((2, 3))))
        x = x * gate[:, :, None, None]
        seen = torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1)
        return self.head(self.more(x * torch.sigmoid(self.pixels(seen))))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def video_3d() -> nn.Module:
    """3-D convolutions over a picture taken for a clip."""
    layers = [nn.Unflatten(1, (1, 3))]
    for inputs, outputs in ((1, 16), (16, 24), (24, 24)):
        layers += [nn.Conv3d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(24, 5))
