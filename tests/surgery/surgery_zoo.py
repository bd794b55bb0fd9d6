"""Small networks of the kinds that lose channels, each with what can go and what must stay, and why."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from boildown.domain.candidate import Edit
from boildown.surgery.channels import Channels, find_channels

NORMALISED = "they are normalised together"
OUTPUT = "they are the model's output"


def conv(inputs, outputs, size=3, stride=1, **more):
    return nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False, **more)


class Net(nn.Module):
    """A network written as one function of its modules."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.compute = forward
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args, **kwargs):
        return self.compute(self, *args, **kwargs)


# ---- convolutional ---------------------------------------------------------------------------


class BasicBlock(nn.Module):
    def __init__(self, inputs, outputs, stride=1, pad="pad"):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, outputs, stride=stride), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = conv(outputs, outputs), nn.BatchNorm2d(outputs)
        self.stride, self.more, self.pad = stride, outputs - inputs, pad

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        if self.more and self.pad == "pad":
            x = F.pad(x, (0, 0, 0, 0, self.more // 2, self.more // 2))
        elif self.more:
            zeros = torch.zeros(x.shape[0], self.more, *x.shape[2:])
            x = torch.cat([x, zeros], 1)
        return F.relu(x + y)


class CifarResNet(nn.Module):
    def __init__(self, pad="pad"):
        super().__init__()
        self.stem, self.bn = conv(3, 4), nn.BatchNorm2d(4)
        self.stage1 = nn.Sequential(*[BasicBlock(4, 4) for _ in range(3)])
        self.stage2 = nn.Sequential(BasicBlock(4, 8, 2, pad), BasicBlock(8, 8))
        self.fc = nn.Linear(8, 3)

    def forward(self, x):
        x = self.stage2(self.stage1(F.relu(self.bn(self.stem(x)))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Bottleneck(nn.Module):
    def __init__(self, inputs, width, outputs, stride=1):
        super().__init__()
        self.layers = nn.Sequential(
            conv(inputs, width, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            conv(width, width, 3, stride), nn.BatchNorm2d(width), nn.ReLU(inplace=True),
            conv(width, outputs, 1), nn.BatchNorm2d(outputs),
        )  # fmt: skip
        changed = inputs != outputs or stride > 1
        self.down = nn.Sequential(conv(inputs, outputs, 1, stride), nn.BatchNorm2d(outputs)) if changed else None

    def forward(self, x):
        y = self.layers(x)
        y += x if self.down is None else self.down(x)
        return F.relu(y, inplace=True)


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(conv(3, 8), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1))
        self.blocks = nn.Sequential(Bottleneck(8, 4, 12), Bottleneck(12, 4, 12), Bottleneck(12, 6, 16, 2))
        self.fc = nn.Linear(16, 3)

    def forward(self, x):
        return self.fc(self.blocks(self.stem(x)).mean((2, 3)))


def separable(inputs, outputs, stride):
    return [
        conv(inputs, inputs, 3, stride, groups=inputs), nn.BatchNorm2d(inputs), nn.ReLU6(),
        conv(inputs, outputs, 1), nn.BatchNorm2d(outputs), nn.ReLU6(),
    ]  # fmt: skip


def mobilenet1():
    layers = [conv(3, 4), nn.BatchNorm2d(4), nn.ReLU6(), *separable(4, 8, 2), *separable(8, 12, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(12, 3))


class Inverted(nn.Module):
    def __init__(self, inputs, outputs, stride):
        super().__init__()
        self.adds = inputs == outputs and stride == 1
        wide = 2 * inputs
        self.layers = nn.Sequential(
            conv(inputs, wide, 1), nn.BatchNorm2d(wide), nn.ReLU6(),
            conv(wide, wide, 3, stride, groups=wide), nn.BatchNorm2d(wide), nn.ReLU6(),
            conv(wide, outputs, 1), nn.BatchNorm2d(outputs),
        )  # fmt: skip

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


def mobilenet2():
    blocks = [Inverted(4, 6, 2), Inverted(6, 6, 1), Inverted(6, 8, 1)]
    stem = [conv(3, 4), nn.BatchNorm2d(4), nn.ReLU6()]
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 3))


class DenseNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = conv(3, 6)
        self.norms = nn.ModuleList(nn.BatchNorm2d(6 + 4 * i) for i in range(3))
        self.layers = nn.ModuleList(conv(6 + 4 * i, 4) for i in range(3))
        self.norm, self.down, self.fc = nn.BatchNorm2d(18), conv(18, 9, 1), nn.Linear(9, 3)

    def forward(self, x):
        x = self.stem(x)
        for norm, layer in zip(self.norms, self.layers, strict=True):
            x = torch.cat([x, layer(F.relu(norm(x)))], 1)
        x = F.avg_pool2d(self.down(F.relu(self.norm(x))), 2)
        return self.fc(F.relu(x).mean((2, 3)))


class ShuffleUnit(nn.Module):
    def __init__(self):
        super().__init__()
        self.branch = nn.Sequential(
            conv(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
            conv(4, 4, 3, groups=4), nn.BatchNorm2d(4), conv(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU(inplace=True),
        )  # fmt: skip

    def forward(self, x):
        left, right = x.chunk(2, 1)
        x = torch.cat([left, self.branch(right)], 1)
        batch, channels, height, width = x.shape
        return x.view(batch, 2, channels // 2, height, width).transpose(1, 2).reshape(batch, channels, height, width)


def shufflenet():
    stem = [conv(3, 8), nn.BatchNorm2d(8), nn.ReLU()]
    head = [conv(8, 10, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(10, 3)]
    return nn.Sequential(*stem, ShuffleUnit(), ShuffleUnit(), *head)


class UNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.down1, self.down2 = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 8, 3, 2, 1)
        self.norm, self.up = nn.GroupNorm(4, 8), nn.ConvTranspose2d(8, 6, 2, 2)
        self.join, self.sub = nn.Conv2d(12, 6, 3, padding=1), nn.Conv2d(6, 12, 1)
        self.out = nn.Conv2d(3, 2, 1)

    def forward(self, x):
        first = F.relu(self.down1(x))
        deep = F.silu(self.norm(self.down2(first)))
        x = F.relu(self.join(torch.cat([first, self.up(deep)], 1)))
        x = F.interpolate(F.pixel_shuffle(self.sub(x), 2), scale_factor=0.5, mode="bilinear")
        return {"mask": self.out(x), "deep": deep.mean(1)}


def squeeze_excite(self, x):
    x = F.hardswish(self.stem(x))
    gate = torch.sigmoid(self.up(F.relu(self.down(x.mean((2, 3), keepdim=True)))))
    return self.fc((x * gate).mean((2, 3)))


def spatial_gate(self, x):
    x = F.relu(self.stem(x))
    return self.fc((x * torch.sigmoid(self.gate(x))).mean((2, 3)))


def grouped(self, x):
    x = F.max_pool2d(F.relu(self.groups(F.relu(self.stem(x)))), 2)
    x = F.relu(self.each(self.up(x)))
    return self.fc2(torch.sigmoid(self.fc1(x.reshape(x.size(0), -1))))


def shifted(self, x):
    """A temporal shift written in place, constants at the pads, channels shuffled by one operator."""
    x = F.relu(self.stem(x))
    out = torch.zeros_like(x)
    out[:, :2, 1:] = x[:, :2, :-1]
    out[:, 2:] = x[:, 2:]
    out = F.pad(self.mid(out), (0, 0, 0, 0, 1, 2), value=0.5)
    y = F.leaky_relu_(self.wide(x).mul_(2.0).add_(out))
    return self.fc(F.channel_shuffle(self.last(y), 2).relu_().amax((2, 3)))


def unbatched_pool(self, x):
    """Pictures without a batch of their own between two reshapes."""
    x = F.relu(self.stem(x))
    x = F.max_pool2d(x.flatten(0, 1), 2).unflatten(0, (x.shape[0], x.shape[1]))
    return self.fc(self.mid(x).mean((2, 3)))


def picked(self, x):
    x = F.relu(self.stem(x))
    return self.fc(torch.roll(x, 1, 1).mean((2, 3)))


# ---- attention -------------------------------------------------------------------------------


def heads(x, count):
    return x.view(x.shape[0], x.shape[1], count, -1).transpose(1, 2)


class Bert(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.places = nn.Embedding(20, 8), nn.Embedding(6, 8)
        self.register_buffer("ids", torch.arange(6)[None])
        self.norm = nn.LayerNorm(8)
        self.multi = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm1 = nn.LayerNorm(8)
        self.q, self.k, self.v, self.o = (nn.Linear(8, 8) for _ in range(4))
        self.norm2 = nn.LayerNorm(8)
        self.wide, self.narrow = nn.Linear(8, 16), nn.Linear(16, 8)
        self.drop, self.pooler, self.head = nn.Dropout(0.1), nn.Linear(8, 7), nn.Linear(7, 2)

    def forward(self, ids, mask):
        x = self.norm(self.words(ids) + self.places(self.ids[:, : ids.shape[1]]))
        x = self.norm1(x + self.multi(x, x, x, key_padding_mask=mask, need_weights=False)[0])
        q, k, v = (heads(layer(x), 4) for layer in (self.q, self.k, self.v))
        logits = (q @ k.transpose(-1, -2) / math.sqrt(2)).masked_fill(mask[:, None, None], -1e4)
        y = self.drop(logits.softmax(-1)) @ v
        x = self.norm2(x + self.o(y.transpose(1, 2).reshape(x.shape)))
        x = x + self.narrow(self.drop(F.gelu(self.wide(x))))
        return {"logits": self.head(torch.tanh(self.pooler(x[:, 0]))), "hidden": x}


class ViT(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches, self.cls = nn.Conv2d(3, 12, 4, 4), nn.Parameter(torch.randn(1, 1, 12))
        self.places, self.norm = nn.Parameter(torch.randn(1, 30, 12)), nn.LayerNorm(12)
        self.qkv, self.proj, self.scale = nn.Linear(12, 36), nn.Linear(12, 12), nn.Parameter(torch.ones(12))
        self.fc1, self.fc2, self.head = nn.Linear(12, 20), nn.Linear(20, 12), nn.Linear(12, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.cls.expand(x.shape[0], -1, -1), x], 1)
        batch, count, width = x.shape
        x = x + self.places[:, :count]
        q, k, v = self.qkv(self.norm(x)).reshape(batch, count, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, count, width)
        x = x + self.scale * self.proj(y)
        return self.head((x + self.fc2(F.gelu(self.fc1(self.norm(x)))))[:, 0])


def grouped_query(self, x):
    """Two keys and values for four queries; rotated, biased by distance, normalised by root mean square."""
    x = self.norm(self.words(x))
    q, k, v = heads(self.q(x), 4), heads(self.k(x), 2), heads(self.v(x), 2)
    turned = torch.cat([-q[..., 2:], q[..., :2]], -1)
    q = q * self.cos[: x.shape[1]] + turned * self.sin[: x.shape[1]]
    k = k.repeat_interleave(2, 1)
    v = v[:, :, None].expand(-1, -1, 2, -1, -1).reshape(v.shape[0], 4, v.shape[2], 4)
    near = self.bias[self.distance].permute(2, 0, 1)[None]
    y = F.scaled_dot_product_attention(q, k, v, attn_mask=near)
    x = x + self.o(y.transpose(1, 2).flatten(2))
    return self.head(self.down(F.silu(self.gate(x)) * self.up(x)).mean(1))


def shared_keys(self, x):
    q, k, v = heads(self.q(x), 4), heads(self.k(x), 2), heads(self.v(x), 2)
    return self.o(F.scaled_dot_product_attention(q, k, v, enable_gqa=True).transpose(1, 2).flatten(2))


def einsum_attention(self, x):
    q, k, v = (layer(x).view(x.shape[0], -1, 2, 4) for layer in (self.q, self.k, self.v))
    weights = torch.einsum("bqhd,bkhd->bhqk", q, k).softmax(-1)
    y = torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2)
    return torch.einsum("bnd,hdc->bnhc", self.o(y), self.out).mean((1, 2))


def bilinear(self, x):
    return self.head(F.relu(self.both(F.relu(self.first(x)), self.second(x))))


def fixed_basis(self, x):
    """A fixed transform along the rows of pictures, and another over their channels."""
    y = F.relu(self.first(x) @ self.rows.t() @ self.rows)
    return self.head(self.second(y).mean((2, 3)) @ self.mixed)


def single_head(self, x):
    """Attention over pixels in one head: channels of keys and queries go in pairs."""
    q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
    y = torch.bmm(v, torch.softmax(torch.bmm(q.transpose(1, 2), k), -1).transpose(1, 2))
    return self.fc(y.mean(-1))


def tied(self, x):
    x = torch.tanh(self.inner(self.words(x)))
    return F.relu(self.outer(x)) @ self.words.weight.T


class Mixer(nn.Module):
    def __init__(self, norm=True):
        super().__init__()
        self.patches, self.norm = nn.Conv2d(3, 6, 4, 4), nn.LayerNorm(6) if norm else nn.Identity()
        self.tokens = nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))
        self.channels = nn.Sequential(nn.Linear(6, 10), nn.GELU(), nn.Linear(10, 6))
        self.head = nn.Linear(6, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.norm(x).transpose(1, 2)).transpose(1, 2)
        return self.head((x + self.channels(self.norm(x))).mean(1))


def gru(self, x):
    """Time first; all steps' outputs beside the last state of one direction."""
    y, last = self.gru(F.relu(self.first(x)))
    return self.head(F.relu(self.mid(torch.cat([y[-1], last[-1]], 1))))


def rnn(self, x, state):
    return self.head(self.rnn(F.relu(self.first(x)), state)[0][-1])


def lstm(self, x):
    return self.head(F.relu(self.mid(self.lstm(F.relu(self.first(x)))[0][:, -1])))


def rms(self, x):
    x = self.first(x)
    x = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6) * self.scale
    return self.head(F.relu(self.mid(x)))


def normalised_weights(self, x):
    return self.head(F.relu(self.mid(F.relu(self.stem(x)))).mean((2, 3)))


# ---- all of them -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """A network, how it is called, its groups (parameter, width, filters per channel), and what is left alone."""

    make: Callable[[], nn.Module]
    args: tuple[Any, ...]
    groups: list[tuple[str, int, int]]
    alone: dict[str, str]
    relu: bool = False
    """Zero in, zero out between its layers, without biases."""
    kwargs: dict[str, Any] = field(default_factory=dict)


def image(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def words(count: int, length: int) -> torch.Tensor:
    return torch.randint(0, 20, (2, length), generator=torch.Generator().manual_seed(count))


_IMAGE, _TEXT = image(2, 3, 8, 8), words(1, 5)
_RESNET = [("stem.weight", 4, 1), *((f"stage1.{i}.conv1.weight", 4, 1) for i in range(3)),
           ("stage2.0.conv1.weight", 8, 1)]  # fmt: skip


def _net(forward: Callable[..., Any], **parts: Callable[[], Any]) -> Callable[[], nn.Module]:
    return lambda: Net(forward, **{name: make() for name, make in parts.items()})


CASES: dict[str, Case] = {
    "cifar-resnet": Case(
        CifarResNet,
        (_IMAGE,),
        [*_RESNET, ("stage2.0.conv2.weight", 4, 1), ("stage2.1.conv1.weight", 8, 1)],
        {"fc.weight": OUTPUT},
        relu=True,
    ),
    "cifar-resnet-zeros": Case(
        lambda: CifarResNet("zeros"),
        (_IMAGE,),
        [*_RESNET, ("stage2.0.conv2.weight", 4, 1), ("stage2.1.conv1.weight", 8, 1)],
        {"fc.weight": OUTPUT},
        relu=True,
    ),
    "resnet-bottleneck": Case(
        ResNet,
        (_IMAGE,),
        [("stem.0.weight", 8, 1), ("blocks.0.layers.0.weight", 4, 1), ("blocks.0.layers.3.weight", 4, 1),
         ("blocks.0.layers.6.weight", 12, 1), ("blocks.1.layers.0.weight", 4, 1), ("blocks.1.layers.3.weight", 4, 1),
         ("blocks.2.layers.0.weight", 6, 1), ("blocks.2.layers.3.weight", 6, 1), ("blocks.2.layers.6.weight", 16, 1)],
        {"fc.weight": OUTPUT},
        relu=True,
    ),
    "mobilenet-v1": Case(
        mobilenet1,
        (_IMAGE,),
        [("0.weight", 4, 1), ("6.weight", 8, 1), ("12.weight", 12, 1)],
        {"18.weight": OUTPUT},
        relu=True,
    ),
    "mobilenet-v2": Case(
        mobilenet2,
        (_IMAGE,),
        [("0.weight", 4, 1), ("3.layers.0.weight", 8, 1), ("3.layers.6.weight", 6, 1),
         ("4.layers.0.weight", 12, 1), ("5.layers.0.weight", 12, 1), ("5.layers.6.weight", 8, 1)],
        {"8.weight": OUTPUT},
        relu=True,
    ),
    "densenet": Case(
        DenseNet,
        (_IMAGE,),
        [("stem.weight", 6, 1), *((f"layers.{i}.weight", 4, 1) for i in range(3)), ("down.weight", 9, 1)],
        {"fc.weight": OUTPUT},
        relu=True,
    ),
    "shufflenet": Case(
        shufflenet,
        (_IMAGE,),
        [("0.weight", 2, 1), ("0.weight", 2, 1), ("0.weight", 4, 1), ("3.branch.0.weight", 4, 1),
         ("4.branch.0.weight", 4, 1), ("5.weight", 10, 1)],
        {"9.weight": OUTPUT},
        relu=True,
    ),
    "u-net": Case(
        UNet,
        (_IMAGE,),
        [("down1.weight", 6, 1), ("up.weight", 6, 1), ("join.weight", 6, 1), ("sub.weight", 3, 4)],
        {"out.weight": OUTPUT, "down2.weight": "mean is taken over them"},
    ),
    "bert": Case(
        Bert,
        (_TEXT,),
        [("multi.in_proj_weight", 2, 12), ("q.weight", 4, 2), ("wide.weight", 16, 1), ("pooler.weight", 7, 1)],
        {"words.weight": NORMALISED, "places.weight": NORMALISED, "multi.out_proj.weight": NORMALISED,
         "o.weight": NORMALISED, "narrow.weight": NORMALISED, "head.weight": OUTPUT},
        kwargs={"mask": torch.tensor([[False] * 5, [False] * 3 + [True] * 2])},
    ),
    "vit": Case(
        ViT,
        (_IMAGE,),
        [("qkv.weight", 3, 12), ("fc1.weight", 20, 1)],
        {"patches.weight": NORMALISED, "proj.weight": NORMALISED, "fc2.weight": NORMALISED, "head.weight": OUTPUT},
    ),
    "lstm": Case(
        _net(lstm, first=lambda: nn.Linear(6, 7), lstm=lambda: nn.LSTM(7, 5, batch_first=True),
             mid=lambda: nn.Linear(5, 8), head=lambda: nn.Linear(8, 2)),
        (image(2, 4, 6),),
        [("first.weight", 7, 1), ("lstm.weight_ih_l0", 5, 4), ("mid.weight", 8, 1)],
        {"head.weight": OUTPUT},
    ),
    "gru-both-ways": Case(
        _net(gru, first=lambda: nn.Linear(6, 7), mid=lambda: nn.Linear(15, 8), head=lambda: nn.Linear(8, 2),
             gru=lambda: nn.GRU(7, 5, 2, bidirectional=True)),
        (image(2, 4, 6),),
        [("first.weight", 7, 1), ("gru.weight_ih_l0", 5, 3), ("mid.weight", 8, 1)],
        {"head.weight": OUTPUT},
    ),
    "rnn-from-a-state": Case(
        _net(rnn, first=lambda: nn.Linear(6, 7), rnn=lambda: nn.RNN(7, 5), head=lambda: nn.Linear(5, 2)),
        (image(4, 2, 6), image(1, 2, 5)),
        [("first.weight", 7, 1)],
        {"rnn.weight_ih_l0": "they meet the model's input", "rnn.weight_hh_l0": "they meet the model's input",
         "head.weight": OUTPUT},
    ),
    "squeeze-excite": Case(
        _net(squeeze_excite, stem=lambda: conv(3, 6), down=lambda: nn.Conv2d(6, 4, 1), up=lambda: nn.Conv2d(4, 6, 1),
             fc=lambda: nn.Linear(6, 3)),
        (_IMAGE,),
        [("stem.weight", 6, 1), ("down.weight", 4, 1)],
        {"fc.weight": OUTPUT},
    ),
    "spatial-gate": Case(
        _net(spatial_gate, stem=lambda: conv(3, 6), gate=lambda: nn.Conv2d(6, 1, 3, padding=1),
             fc=lambda: nn.Linear(6, 3)),
        (_IMAGE,),
        [("stem.weight", 6, 1)],
        {"gate.weight": "they meet all channels of another layer", "fc.weight": OUTPUT},
    ),
    "grouped": Case(
        _net(grouped, stem=lambda: nn.Conv2d(3, 8, 3, padding=1), groups=lambda: nn.Conv2d(8, 12, 3, groups=4),
             up=lambda: nn.ConvTranspose2d(12, 8, 2, groups=4), each=lambda: nn.ConvTranspose2d(8, 8, 1, groups=8),
             fc1=lambda: nn.Linear(128, 5), fc2=lambda: nn.Linear(5, 3)),
        (_IMAGE,),
        [("stem.weight", 2, 4), ("groups.weight", 3, 4), ("up.weight", 2, 1), ("fc1.weight", 5, 1)],
        {"fc2.weight": OUTPUT},
    ),
    "in-place": Case(
        _net(shifted, stem=lambda: conv(3, 6), mid=lambda: nn.Conv2d(6, 5, 1), wide=lambda: nn.Conv2d(6, 8, 1),
             last=lambda: nn.Conv2d(8, 8, 1), fc=lambda: nn.Linear(8, 3)),
        (_IMAGE,),
        [("stem.weight", 2, 1), ("stem.weight", 4, 1), ("mid.weight", 5, 1), ("wide.weight", 3, 1),
         ("last.weight", 4, 2)],
        {"fc.weight": OUTPUT},
    ),
    "unbatched": Case(
        _net(unbatched_pool, stem=lambda: conv(3, 6), mid=lambda: conv(6, 5), fc=lambda: nn.Linear(5, 3)),
        (_IMAGE,),
        [("stem.weight", 6, 1), ("mid.weight", 5, 1)],
        {"fc.weight": OUTPUT},
        relu=True,
    ),
    "picked": Case(
        _net(picked, stem=lambda: conv(3, 6), fc=lambda: nn.Linear(6, 3)),
        (_IMAGE,),
        [],
        {"stem.weight": "roll picks some of them by position", "fc.weight": OUTPUT},
    ),
    "grouped-query": Case(
        _net(grouped_query, words=lambda: nn.Embedding(20, 8), norm=lambda: nn.RMSNorm(8),
             q=lambda: nn.Linear(8, 16), k=lambda: nn.Linear(8, 8), v=lambda: nn.Linear(8, 8),
             o=lambda: nn.Linear(16, 8), gate=lambda: nn.Linear(8, 12), up=lambda: nn.Linear(8, 12),
             down=lambda: nn.Linear(12, 8), head=lambda: nn.Linear(8, 3), cos=lambda: image(9, 4),
             sin=lambda: image(9, 4), bias=lambda: nn.Parameter(image(9, 4)),
             distance=lambda: torch.arange(5)[:, None] - torch.arange(5) + 4),
        (_TEXT,),
        [("q.weight", 2, 8), ("gate.weight", 12, 1), ("down.weight", 8, 1)],
        {"words.weight": NORMALISED, "o.weight": NORMALISED, "head.weight": OUTPUT},
    ),
    "shared-keys": Case(
        _net(shared_keys, q=lambda: nn.Linear(6, 12), k=lambda: nn.Linear(6, 6), v=lambda: nn.Linear(6, 6),
             o=lambda: nn.Linear(12, 3)),
        (image(2, 4, 6),),
        [("q.weight", 2, 6)],
        {"o.weight": OUTPUT},
    ),
    "einsum": Case(
        _net(einsum_attention, q=lambda: nn.Linear(6, 8), k=lambda: nn.Linear(6, 8), v=lambda: nn.Linear(6, 8),
             o=lambda: nn.Linear(8, 5), out=lambda: nn.Parameter(image(2, 5, 3))),
        (image(2, 4, 6),),
        [("q.weight", 2, 4), ("o.weight", 5, 1)],
        {},
    ),
    "bilinear": Case(
        _net(bilinear, first=lambda: nn.Linear(6, 5), second=lambda: nn.Linear(6, 4),
             both=lambda: nn.Bilinear(5, 4, 7), head=lambda: nn.Linear(7, 3)),
        (image(2, 6),),
        [("first.weight", 5, 1), ("second.weight", 4, 1), ("both.weight", 7, 1)],
        {"head.weight": OUTPUT},
    ),
    "fixed-basis": Case(
        _net(fixed_basis, first=lambda: nn.Conv2d(3, 6, 1), second=lambda: nn.Conv2d(6, 4, 1),
             rows=lambda: image(10, 8), mixed=lambda: image(4, 5), head=lambda: nn.Linear(5, 3)),
        (_IMAGE,),
        [("first.weight", 6, 1), ("second.weight", 4, 1)],
        {"head.weight": OUTPUT},
    ),
    "single-head": Case(
        _net(single_head, q=lambda: nn.Conv2d(3, 4, 1), k=lambda: nn.Conv2d(3, 4, 1), v=lambda: nn.Conv2d(3, 6, 1),
             fc=lambda: nn.Linear(6, 3)),
        (_IMAGE,),
        [("q.weight", 4, 1), ("v.weight", 6, 1)],
        {"fc.weight": OUTPUT},
    ),
    "tied": Case(
        _net(tied, words=lambda: nn.Embedding(20, 6), inner=lambda: nn.Linear(6, 9), outer=lambda: nn.Linear(9, 6)),
        (_TEXT,),
        [("words.weight", 6, 1), ("inner.weight", 9, 1)],
        {"words.weight": OUTPUT},
    ),
    "mixer": Case(
        Mixer,
        (_IMAGE,),
        [("tokens.0.weight", 8, 1), ("channels.0.weight", 10, 1)],
        {"patches.weight": NORMALISED, "tokens.2.weight": NORMALISED, "channels.2.weight": NORMALISED,
         "head.weight": OUTPUT},
    ),
    "mixer-without-norm": Case(
        lambda: Mixer(norm=False),
        (_IMAGE,),
        [("patches.weight", 6, 1), ("channels.0.weight", 10, 1)],
        dict.fromkeys(("tokens.0.weight", "tokens.2.weight"), "it mixes along another axis than the layers before it")
        | {"head.weight": OUTPUT},
    ),
    "rms": Case(
        _net(rms, first=lambda: nn.Linear(6, 8), scale=lambda: nn.Parameter(image(8)), mid=lambda: nn.Linear(8, 7),
             head=lambda: nn.Linear(7, 3)),
        (image(2, 6),),
        [("mid.weight", 7, 1)],
        {"first.weight": "mean is taken over them", "head.weight": OUTPUT},
    ),
    "weight-norm": Case(
        _net(normalised_weights, stem=lambda: conv(3, 5), mid=lambda: weight_norm(conv(5, 6)),
             head=lambda: nn.Linear(6, 3)),
        (_IMAGE,),
        [("stem.weight", 5, 1), ("mid.weight", 6, 1)],
        {"head.weight": OUTPUT},
    ),
}  # fmt: skip


def model(name: str) -> nn.Module:
    """A network with random statistics in its batch norms."""
    torch.manual_seed(0)
    network = CASES[name].make().eval()
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_var.uniform_(0.5, 2.0)
            module.running_mean.normal_()
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.normal_()
    return network


@cache
def found(name: str) -> tuple[Channels, tuple[Edit, ...]]:
    """The channels of a network, found once, and the edits that make it a graph."""
    return find_channels(model(name), CASES[name].args, CASES[name].kwargs)


def channels(name: str) -> Channels:
    """The channels of a network."""
    return found(name)[0]
