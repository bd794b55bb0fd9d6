"""Tables, several inputs and outputs, and the things modules do that surgery must not trip over."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.parametrizations import orthogonal, spectral_norm, weight_norm

from benchmarks.zoo.entry import Head, Net, conv, named, real, several, unit, whole, zoo
from benchmarks.zoo.models.convolutional import CONVOLUTIONS, IMAGE, NO_REPEAT
from benchmarks.zoo.models.dense import NO_LINEAR

TABLE = real(12)


@zoo(TABLE, depth=NO_REPEAT)
def mlp() -> nn.Module:
    """Linear layers alone."""
    return nn.Sequential(
        nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 48), nn.ReLU(), nn.Linear(48, 32), nn.GELU(), nn.Linear(32, 5)
    )


class TableBlock(nn.Module):
    """Batch norm, two layers, a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.BatchNorm1d(24), nn.Linear(24, 48), nn.Linear(48, 24)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.down(F.dropout(F.relu(self.up(self.norm(x))), 0.1, self.training))


@zoo(TABLE)
def table_resnet() -> nn.Module:
    """Residual blocks on a table."""
    last = [nn.BatchNorm1d(24), nn.ReLU(), nn.Linear(24, 5)]
    return nn.Sequential(nn.Linear(12, 24), TableBlock(), TableBlock(), TableBlock(), *last)


@zoo(named(numbers=real(6), kind=whole(20), place=whole(8)), depth=NO_REPEAT)
class WideAndDeep(nn.Module):
    """Embeddings and numbers concatenated; a linear part beside the deep one. Called by keywords."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds, self.places, self.norm = nn.Embedding(20, 12), nn.Embedding(8, 6), nn.BatchNorm1d(6)
        self.deep = nn.Sequential(nn.Linear(24, 48), nn.ReLU(), nn.Linear(48, 24), nn.ReLU(), nn.Linear(24, 5))
        self.wide = nn.Linear(6, 5)

    def forward(self, numbers: Tensor, kind: Tensor, place: Tensor) -> Tensor:
        numbers = self.norm(numbers)
        return self.deep(torch.cat([self.kinds(kind), self.places(place), numbers], 1)) + self.wide(numbers)


@zoo(TABLE, depth=NO_REPEAT)
def autoencoder() -> nn.Module:
    """Narrow in the middle."""
    return nn.Sequential(
        nn.Linear(12, 40), nn.ReLU(), nn.Linear(40, 20), nn.ReLU(), nn.Linear(20, 6), nn.ReLU(),
        nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 40), nn.ReLU(), nn.Linear(40, 12),
    )  # fmt: skip


@zoo(several(real(3, 16, 16), real(12)), depth=NO_REPEAT)
def two_inputs() -> nn.Module:
    """A picture and a table, multiplied and concatenated."""

    def forward(net: nn.Module, x: Tensor, table: Tensor) -> Tensor:
        x, y = net.picture(x), net.table(table)
        return net.head(F.relu(net.mid(torch.cat([x * y, x, y], 1))))

    picture = nn.Sequential(unit(3, 16), unit(16, 24, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    table = nn.Sequential(nn.Linear(12, 24), nn.ReLU())
    return Net(forward, picture=picture, table=table, mid=nn.Linear(72, 32), head=nn.Linear(32, 5))


@zoo(several(IMAGE, IMAGE), depth=NO_REPEAT, dynamic=CONVOLUTIONS, low_rank="every layer is called twice")
def siamese() -> nn.Module:
    """One network called twice, its outputs normalised and compared."""

    def forward(net: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        first, second = (F.normalize(net.body(x), dim=1) for x in (first, second))
        return (first * second).sum(1, keepdim=True)

    return Net(forward, body=nn.Sequential(unit(3, 16), unit(16, 24, 3, 2), unit(24, 24), Head(24, 16)))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def several_outputs() -> nn.Module:
    """A dict with a nested list, a map, whole numbers and an input that is passed through."""

    def forward(net: nn.Module, x: Tensor) -> dict[str, Any]:
        early = net.stem(x)
        late = net.body(early)
        scores = net.head(late)
        return {"logits": scores, "maps": [net.side(early), late.mean((2, 3))], "class": scores.argmax(1), "input": x}

    return Net(forward, stem=unit(3, 16), body=unit(16, 24, 3, 2), side=nn.Conv2d(16, 2, 1), head=Head(24))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
class Branching(nn.Module):
    """Branches on shapes and settings, a loop over a module dict, sizes computed in code."""

    def __init__(self) -> None:
        super().__init__()
        self.scales = nn.ModuleDict({"small": unit(3, 16, 3, 2), "large": unit(3, 16)})
        self.body, self.mid, self.head = unit(16, 24), nn.Linear(24 * 4, 32), nn.Linear(32, 5)
        self.deep = True

    def forward(self, x: Tensor) -> Tensor:
        x = self.scales["small" if x.shape[-1] > 8 else "large"](x)
        while x.shape[-1] > 4:
            x = F.avg_pool2d(x, 2)
        if self.deep and x.shape[1] == 16:
            x = F.max_pool2d(self.body(x), 2)
        return self.head(F.relu(self.mid(x.reshape(x.size(0), -1))))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
class Recursive(nn.Module):
    """The same convolution called three times, each time with a batch norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.shared = unit(3, 16), nn.Conv2d(16, 16, 3, padding=1, bias=False)
        self.norms, self.mid, self.head = (
            nn.ModuleList(nn.BatchNorm2d(16) for _ in range(3)),
            unit(16, 24, 3, 2),
            Head(24),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for norm in self.norms:
            x = F.relu(x + norm(self.shared(x)))
        return self.head(self.mid(x))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def weight_normed() -> nn.Module:
    """Weight norm as a parametrization."""
    layers = [weight_norm(nn.Conv2d(3, 16, 3)), nn.ReLU(), weight_norm(nn.Conv2d(16, 24, 3)), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(24, 24, 3), nn.ReLU(), Head(24))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def weight_normed_old() -> nn.Module:
    """Weight norm as a hook, as older checkpoints have it."""
    old = nn.utils.weight_norm
    layers = [old(nn.Conv2d(3, 16, 3)), nn.ReLU(), old(nn.Conv2d(16, 24, 3)), nn.ReLU()]
    return nn.Sequential(*layers, nn.Conv2d(24, 24, 3), nn.ReLU(), Head(24))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def spectrally_normed() -> nn.Module:
    """Spectral norm, whose power iteration lives in buffers."""
    layers = [spectral_norm(nn.Conv2d(3, 16, 4, 2, 1)), nn.LeakyReLU(0.2)]
    layers += [
        spectral_norm(nn.Conv2d(16, 24, 4, 2, 1)),
        nn.LeakyReLU(0.2),
        nn.Conv2d(24, 24, 3, 1, 1),
        nn.LeakyReLU(0.2),
    ]
    return nn.Sequential(*layers, Head(24))


class Positive(nn.Module):
    """A user's own parametrization."""

    def forward(self, x: Tensor) -> Tensor:
        return F.softplus(x)


@zoo(TABLE, depth=NO_REPEAT)
def parametrized() -> nn.Module:
    """Orthogonal and positive weights among plain ones."""
    middle = nn.Linear(32, 32)
    parametrize.register_parametrization(middle, "weight", Positive())
    layers = [nn.Linear(12, 48), nn.ReLU(), nn.Linear(48, 32), nn.ReLU(), middle, nn.ReLU()]
    return nn.Sequential(*layers, orthogonal(nn.Linear(32, 24)), nn.ReLU(), nn.Linear(24, 5))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def standardised_weights() -> nn.Module:
    """Weights standardised in the forward, as networks without normalization do."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        for layer in net.layers:
            weight = layer.weight
            weight = (weight - weight.mean((1, 2, 3), keepdim=True)) / weight.std((1, 2, 3), keepdim=True)
            x = F.relu(F.conv2d(x, weight * 0.1, layer.bias, padding=1))
        return net.head(net.last(x))

    return Net(forward, layers=[nn.Conv2d(3, 16, 3), nn.Conv2d(16, 24, 3)], last=unit(24, 24), head=Head(24))


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def frozen() -> nn.Module:
    """A backbone that does not train, in front of a head that does."""
    backbone = nn.Sequential(unit(3, 16), unit(16, 24, 3, 2), unit(24, 24))
    for parameter in backbone.parameters():
        parameter.requires_grad_(False)
    return nn.Sequential(backbone, Head(24))


@zoo(TABLE, depth=NO_REPEAT)
def tied() -> nn.Module:
    """The decoder's weight is the encoder's, transposed."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(net.encoder(x))
        x = net.back(F.relu(net.code(x)))
        return F.linear(F.relu(x), net.encoder.weight.t(), net.bias)

    parts = {"encoder": nn.Linear(12, 40), "code": nn.Linear(40, 16), "back": nn.Linear(16, 40)}
    return Net(forward, bias=nn.Parameter(torch.zeros(12)), **parts)


@zoo(IMAGE, depth=NO_REPEAT, dynamic=CONVOLUTIONS)
def unused_parts() -> nn.Module:
    """An auxiliary head for training only, a layer nobody calls, a batch norm without statistics."""

    def forward(net: nn.Module, x: Tensor) -> Any:
        early = net.stem(x)
        x = F.relu(net.free(net.body(early)))
        return (net.head(x), net.aside(early)) if net.training else net.head(x)

    free = nn.InstanceNorm2d(24, track_running_stats=True)
    parts = {"aside": Head(16), "spare": nn.Linear(7, 7), "free": free}
    return Net(forward, stem=unit(3, 16), body=nn.Conv2d(16, 24, 3), head=Head(24), **parts)


@zoo(several(TABLE, TABLE), depth=NO_REPEAT)
def bilinear() -> nn.Module:
    """A bilinear layer and an outer product."""

    def forward(net: nn.Module, first: Tensor, second: Tensor) -> Tensor:
        first, second = F.relu(net.first(first)), F.relu(net.second(second))
        outer = torch.einsum("bi,bj->bij", first, second).flatten(1)
        return net.head(F.relu(net.bilinear(first, second)) + net.outer(outer))

    parts = {"first": nn.Linear(12, 16), "second": nn.Linear(12, 16), "outer": nn.Linear(256, 24)}
    return Net(forward, bilinear=nn.Bilinear(16, 16, 24), head=nn.Linear(24, 5), **parts)


@zoo(IMAGE, depth=NO_REPEAT, dynamic=NO_LINEAR)
class Fourier(nn.Module):
    """Half of the channels through the real and imaginary parts of a fixed transform."""

    def __init__(self) -> None:
        super().__init__()
        places = torch.arange(16.0)
        angles = 2 * torch.pi * places[:, None] * places / 16
        self.register_buffer("basis", torch.cat([angles.cos(), angles.sin()]) / 4)
        self.stem, self.inner, self.out = unit(3, 16), conv(16, 16, 1), nn.Conv2d(16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return self.out(F.relu(x + self.inner(x) @ self.basis.t() @ self.basis))


@zoo(
    named(
        input_ids=whole(40, 10), lengths=lambda count, generator: torch.randint(3, 11, (count,), generator=generator)
    ),
    depth=NO_REPEAT,
)
class MaskedMean(nn.Module):
    """A mask made from lengths; the mean over what is there."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.mid, self.head = nn.Embedding(40, 24), nn.Linear(24, 32), nn.Linear(32, 5)

    def forward(self, input_ids: Tensor, lengths: Tensor) -> Tensor:
        mask = torch.arange(input_ids.shape[1], device=input_ids.device)[None] < lengths[:, None]
        x = F.relu(self.mid(self.words(input_ids))) * mask[..., None]
        return self.head(x.sum(1) / mask.sum(1, keepdim=True))
