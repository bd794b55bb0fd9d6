"""Networks with a picture, boxes or several maps for an output."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.entry import Net, conv, real, unit, zoo
from benchmarks.zoo.models.convolutional import IMAGE, NO_REPEAT, Basic

NO_LINEAR = "there is no linear, recurrent or embedding layer"


@zoo(IMAGE, depth=NO_REPEAT, dynamic=NO_LINEAR)
class Unet(nn.Module):
    """Down, up by transposed convolutions, and what was on the way down concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.down1, self.down2 = nn.Sequential(unit(3, 12), unit(12, 12)), nn.Sequential(unit(12, 20), unit(20, 20))
        self.bottom = unit(20, 28)
        self.up2, self.up1 = nn.ConvTranspose2d(28, 20, 2, 2), nn.ConvTranspose2d(20, 12, 2, 2)
        self.join2, self.join1, self.out = unit(40, 20), unit(24, 12), nn.Conv2d(12, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down1(x)
        second = self.down2(F.max_pool2d(first, 2))
        x = self.bottom(F.max_pool2d(second, 2))
        x = self.join2(torch.cat([second, self.up2(x)], 1))
        return self.out(self.join1(torch.cat([first, self.up1(x)], 1)))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=NO_LINEAR)
class UnetBilinear(nn.Module):
    """Up by interpolation to the size of what it is joined with."""

    def __init__(self) -> None:
        super().__init__()
        self.down, self.deep = unit(3, 16), unit(16, 24, 3, 2)
        self.join, self.out = unit(40, 16), nn.Conv2d(16, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.down(x)
        up = F.interpolate(self.deep(first), size=first.shape[2:], mode="bilinear", align_corners=False)
        return self.out(self.join(torch.cat([up, first], 1)))


class Pyramid(nn.Module):
    """Three maps of a small backbone, laterals added from the top down."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.stages = nn.ModuleList([Basic(12, 16), Basic(16, 20, 2), Basic(20, 24, 2)])
        self.stem, self.laterals = unit(3, 12), nn.ModuleList(nn.Conv2d(w, width, 1) for w in (16, 20, 24))
        self.smooth = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        x, maps = self.stem(x), []
        for stage, lateral in zip(self.stages, self.laterals, strict=True):
            x = stage(x)
            maps.append(lateral(x))
        for level in (1, 0):
            maps[level] = maps[level] + F.interpolate(maps[level + 1], scale_factor=2.0, mode="nearest")
        return [smooth(level) for smooth, level in zip(self.smooth, maps, strict=True)]


@zoo(IMAGE, depth=NO_REPEAT, dynamic=NO_LINEAR)
def fpn() -> nn.Module:
    """A feature pyramid; a list of maps comes out."""
    return Pyramid()


@zoo(IMAGE, depth=NO_REPEAT, dynamic=NO_LINEAR)
class Retinanet(nn.Module):
    """One head for all levels of a pyramid: its layers are called three times. A dict comes out."""

    def __init__(self, classes: int = 4, anchors: int = 2) -> None:
        super().__init__()
        self.classes, self.pyramid = classes, Pyramid()
        self.scores = nn.Sequential(
            nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, anchors * classes, 3, padding=1)
        )
        self.boxes = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, anchors * 4, 3, padding=1))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.pyramid(x)

        def rows(head: nn.Module, size: int) -> Tensor:
            return torch.cat([head(m).permute(0, 2, 3, 1).reshape(len(x), -1, size) for m in maps], 1)

        return {"scores": rows(self.scores, self.classes).sigmoid(), "boxes": rows(self.boxes, 4)}


@zoo(IMAGE, dynamic=NO_LINEAR, depth=NO_REPEAT)
class Yolo(nn.Module):
    """Split and joined stages, a grid of anchors in a buffer, boxes decoded in the network."""

    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        act = nn.SiLU
        self.stem, self.split = unit(3, 16, act=act), unit(16, 24, 1, act=act)
        self.inner = nn.ModuleList(nn.Sequential(unit(12, 12, act=act), unit(12, 12, act=act)) for _ in range(2))
        self.join, self.pool = unit(48, 24, 1, act=act), nn.MaxPool2d(5, 1, 2)
        self.mix, self.detect = unit(72, 24, 3, 2, act), nn.Conv2d(24, 5 + classes, 1)
        ys, xs = torch.meshgrid(torch.arange(8.0), torch.arange(8.0), indexing="ij")
        self.register_buffer("grid", torch.stack([xs, ys]).view(1, 2, 64))

    def forward(self, x: Tensor) -> Tensor:
        parts = list(self.split(self.stem(x)).chunk(2, 1))
        for inner in self.inner:
            parts.append(parts[-1] + inner(parts[-1]))
        x = self.join(torch.cat(parts, 1))
        first = self.pool(x)
        found = self.detect(self.mix(torch.cat([x, first, self.pool(first)], 1))).flatten(2)
        place, size, rest = found.split([2, 2, found.shape[1] - 4], 1)
        return torch.cat([(place.sigmoid() + self.grid) * 2, size.clamp(max=4).exp(), rest.sigmoid()], 1).transpose(
            1, 2
        )


@zoo(IMAGE)
class Detr(nn.Module):
    """A convolutional backbone, an encoder over pixels, a decoder over learned queries; two outputs in a dict."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.backbone = nn.Sequential(unit(3, 16), unit(16, 24, 3, 2), unit(24, 24, 3, 2))
        self.project = nn.Conv2d(24, width, 1)
        self.transformer = nn.Transformer(width, 4, 2, 2, 48, 0.1, batch_first=True)
        self.queries, self.places = nn.Parameter(torch.randn(6, width)), nn.Parameter(torch.randn(16, width))
        self.classes, self.boxes = nn.Linear(width, 4), nn.Sequential(nn.Linear(width, 24), nn.ReLU(), nn.Linear(24, 4))

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.project(self.backbone(x)).flatten(2).transpose(1, 2) + self.places
        y = self.transformer(x, self.queries.expand(len(x), -1, -1))
        return {"pred_logits": self.classes(y), "pred_boxes": self.boxes(y).sigmoid()}


@zoo(IMAGE, dynamic=NO_LINEAR)
class SuperResolution(nn.Module):
    """Residual blocks without batch norm between two equal widths, then pixel shuffle."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.PReLU(), nn.Conv2d(16, 16, 3, padding=1))
            for _ in range(3)
        )
        self.up, self.out = nn.Conv2d(16, 64, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        first = x = self.stem(x)
        for block in self.blocks:
            x = x + 0.5 * block(x)
        return self.out(F.relu(F.pixel_shuffle(self.up(x + first), 2)))


@zoo(real(8), depth=NO_REPEAT)
def generator() -> nn.Module:
    """A picture from numbers by transposed convolutions."""
    layers: list[nn.Module] = [nn.Linear(8, 256), nn.Unflatten(1, (16, 4, 4))]
    for inputs, outputs in ((16, 16), (16, 12)):
        layers += [nn.ConvTranspose2d(inputs, outputs, 4, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    return nn.Sequential(*layers, nn.ConvTranspose2d(12, 3, 3, 1, 1), nn.Tanh())


@zoo(IMAGE, depth=NO_REPEAT)
class Variational(nn.Module):
    """A variational autoencoder that samples in training only; three outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(unit(3, 16, 3, 2), unit(16, 24, 3, 2), nn.Flatten(), nn.Linear(384, 32), nn.ReLU())
        self.mean, self.spread, self.start = nn.Linear(32, 6), nn.Linear(32, 6), nn.Linear(6, 384)
        self.decoder = nn.Sequential(
            nn.Unflatten(1, (24, 4, 4)), nn.Upsample(scale_factor=2), unit(24, 16), nn.Upsample(scale_factor=2),
            nn.Conv2d(16, 3, 3, padding=1), nn.Sigmoid(),
        )  # fmt: skip

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        x = self.encoder(x)
        mean, spread = self.mean(x), self.spread(x)
        code = mean + torch.randn_like(mean) * (0.5 * spread).exp() if self.training else mean
        return self.decoder(self.start(code)), mean, spread


@zoo(IMAGE, depth=NO_REPEAT, dynamic=NO_LINEAR)
class Deeplab(nn.Module):
    """Dilated branches and a pooled one, brought to the size of the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(unit(3, 16), unit(16, 24, 3, 2))
        self.branches = nn.ModuleList([unit(24, 16, 1), *(unit(24, 16, dilation=d) for d in (2, 3))])
        self.pooled, self.mix, self.out = unit(24, 16, 1), unit(64, 24, 1), nn.Conv2d(24, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.backbone(x)
        pooled = self.pooled(F.adaptive_avg_pool2d(y, 1)).expand(-1, -1, *y.shape[2:])
        y = self.out(self.mix(torch.cat([*(branch(y) for branch in self.branches), pooled], 1)))
        return F.interpolate(y, size=x.shape[2:], mode="bilinear", align_corners=False)


@zoo(IMAGE, depth=NO_REPEAT, dynamic=NO_LINEAR)
def hrnet() -> nn.Module:
    """Two resolutions kept side by side and exchanged twice."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        fine = net.stem(x)
        coarse = net.down0(fine)
        for same, up, down, other in zip(net.same, net.up, net.down, net.other, strict=True):
            fine, coarse = same(fine), other(coarse)
            wide = F.interpolate(up(coarse), scale_factor=2.0, mode="nearest")
            fine, coarse = F.relu(fine + wide), F.relu(coarse + down(fine))
        return net.out(fine)

    return Net(
        forward, stem=unit(3, 12), down0=unit(12, 20, 3, 2), same=[unit(12, 12) for _ in range(2)],
        other=[unit(20, 20) for _ in range(2)], up=[conv(20, 12, 1) for _ in range(2)],
        down=[conv(12, 20, 3, 2) for _ in range(2)], out=nn.Conv2d(12, 3, 1),
    )  # fmt: skip


@zoo(IMAGE, dynamic=NO_LINEAR)
def style_transfer() -> nn.Module:
    """Reflection pads and instance norms with weights of their own."""

    def layer(inputs: int, outputs: int, stride: int = 1) -> list[nn.Module]:
        pad, norm = nn.ReflectionPad2d(1), nn.InstanceNorm2d(outputs, affine=True)
        return [pad, nn.Conv2d(inputs, outputs, 3, stride), norm, nn.ReLU()]

    def forward(net: nn.Module, x: Tensor) -> Any:
        x = net.down(x)
        for block in net.blocks:
            x = x + block(x)
        return net.up(x)

    blocks = [nn.Sequential(*layer(24, 24), *layer(24, 24)[:-1]) for _ in range(2)]
    up = nn.Sequential(nn.Upsample(scale_factor=2), *layer(24, 16), nn.ReflectionPad2d(1), nn.Conv2d(16, 3, 3))
    return Net(forward, down=nn.Sequential(*layer(3, 16), *layer(16, 24, 2)), blocks=blocks, up=up)
