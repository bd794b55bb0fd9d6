"""Attention in all its spellings, and what takes its place."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.zoo.entry import Head, Net, real, several, unit, whole, zoo
from benchmarks.zoo.models.convolutional import IMAGE, NO_REPEAT, Inverted

WIDTH, HEADS = 32, 4


class Attention(nn.Module):
    """Queries, keys and values of one layer; the product fused or written out."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS, *, fused: bool = True) -> None:
        super().__init__()
        self.heads, self.fused = heads, fused
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, count, width = x.shape
        size = width // self.heads
        q, k, v = self.qkv(x).reshape(batch, count, 3, self.heads, size).permute(2, 0, 3, 1, 4).unbind(0)
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * size**-0.5) @ k.transpose(-2, -1)).softmax(-1) @ v
        return self.proj(y.transpose(1, 2).reshape(batch, count, width))


def mlp(width: int, wide: int) -> nn.Sequential:
    """Two layers and GELU."""
    return nn.Sequential(nn.Linear(width, wide), nn.GELU(), nn.Dropout(0.1), nn.Linear(wide, width))


class Block(nn.Module):
    """Attention and two layers, each behind a layer norm and beside a shortcut."""

    def __init__(self, width: int = WIDTH, attention: nn.Module | None = None) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention, self.mlp = attention or Attention(width), mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Patches(nn.Module):
    """Patches with places, behind so many learned tokens."""

    def __init__(self, tokens: int = 1) -> None:
        super().__init__()
        self.project = nn.Conv2d(3, WIDTH, 4, 4)
        self.tokens = nn.Parameter(torch.randn(1, tokens, WIDTH))
        self.places = nn.Parameter(torch.randn(1, 16 + tokens, WIDTH) * 0.1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.project(x).flatten(2).transpose(1, 2)
        return torch.cat([self.tokens.expand(len(x), -1, -1), x], 1) + self.places


@zoo(IMAGE)
def vit() -> nn.Module:
    """A vision transformer."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net.head(net.norm(net.blocks(net.patches(x)))[:, 0])

    blocks = nn.Sequential(*(Block() for _ in range(3)))
    return Net(forward, patches=Patches(), blocks=blocks, norm=nn.LayerNorm(WIDTH), head=nn.Linear(WIDTH, 5))


@zoo(IMAGE)
def deit() -> nn.Module:
    """Two tokens with a head each, averaged in use; attention written out."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = net.norm(net.blocks(net.patches(x)))
        return (net.head(x[:, 0]) + net.taught(x[:, 1])) / 2

    blocks = nn.Sequential(*(Block(attention=Attention(fused=False)) for _ in range(2)))
    heads = {"head": nn.Linear(WIDTH, 5), "taught": nn.Linear(WIDTH, 5)}
    return Net(forward, patches=Patches(2), blocks=blocks, norm=nn.LayerNorm(WIDTH), **heads)


class Windows(nn.Module):
    """Attention within windows of 2 x 2, shifted or not, biased by distance, masked where a window wraps around."""

    def __init__(self, width: int, shift: int) -> None:
        super().__init__()
        self.shift, self.heads = shift, HEADS
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(9, HEADS) * 0.1)
        place = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        distance = place[:, :, None] - place[:, None] + 1
        self.register_buffer("distance", (distance[0] * 3 + distance[1]).flatten())
        region = torch.zeros(1, 4, 4, 1)
        region[:, 3:] += 1
        region[:, :, 3:] += 2
        parts = self.windows(region).squeeze(-1)
        apart = parts[:, None] != parts[:, :, None]
        self.register_buffer("mask", torch.zeros(apart.shape).masked_fill(apart, -100.0))

    @staticmethod
    def windows(x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels)
        return x.permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, channels)

    def forward(self, x: Tensor) -> Tensor:
        batch, height, width, channels = x.shape
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        parts = self.windows(x)
        q, k, v = self.qkv(parts).reshape(len(parts), 4, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        logits = (q * (channels // self.heads) ** -0.5) @ k.transpose(-2, -1)
        logits = logits + self.bias[self.distance].view(4, 4, -1).permute(2, 0, 1)
        if self.shift:
            count = len(self.mask)
            logits = logits.view(batch, count, self.heads, 4, 4) + self.mask[None, :, None]
            logits = logits.view(-1, self.heads, 4, 4)
        y = self.proj((logits.softmax(-1) @ v).transpose(1, 2).reshape(len(parts), 4, channels))
        y = y.view(batch, height // 2, width // 2, 2, 2, channels).permute(0, 1, 3, 2, 4, 5)
        y = y.reshape(batch, height, width, channels)
        return torch.roll(y, (self.shift, self.shift), (1, 2)) if self.shift else y


class Merge(nn.Module):
    """Four pixels into one."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.reduce = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.cat([x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2]], -1)
        return self.reduce(self.norm(x))


@zoo(IMAGE)
def swin() -> nn.Module:
    """Shifted windows, channels last."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net.head(net.norm(net.body(net.project(x).permute(0, 2, 3, 1))).mean((1, 2)))

    blocks = [Block(16, Windows(16, 0)), Block(16, Windows(16, 1))]
    body = nn.Sequential(*blocks, Merge(16), mlp(32, 48))
    return Net(forward, project=nn.Conv2d(3, 16, 4, 4), body=body, norm=nn.LayerNorm(32), head=nn.Linear(32, 5))


@zoo(IMAGE)
class Mobilevit(nn.Module):
    """Convolutions, then attention over unfolded pixels, then both joined."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(unit(3, 12, 3, 2, nn.SiLU), Inverted(12, 12, 1, nn.SiLU))
        self.local = nn.Sequential(unit(12, 12, act=nn.SiLU), nn.Conv2d(12, 16, 1, bias=False))
        self.blocks, self.norm = nn.Sequential(Block(16), Block(16)), nn.LayerNorm(16)
        self.back, self.join, self.head = unit(16, 12, 1, act=nn.SiLU), unit(24, 20, act=nn.SiLU), Head(20)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        y = self.local(x)
        batch, channels, height, width = y.shape
        y = y.reshape(batch * channels * height // 2, 2, width // 2, 2).transpose(1, 2)
        y = y.reshape(batch, channels, height * width // 4, 4).transpose(1, 3).reshape(batch * 4, -1, channels)
        y = self.norm(self.blocks(y)).view(batch, 4, -1, channels).transpose(1, 3)
        y = y.reshape(batch * channels * height // 2, width // 2, 2, 2).transpose(1, 2)
        y = y.reshape(batch, channels, height, width)
        return self.head(self.join(torch.cat([x, self.back(y)], 1)))


@zoo(real(10, 12))
def torch_encoder() -> nn.Module:
    """PyTorch's own encoder layers, norm first, with their fast path."""
    layer = nn.TransformerEncoderLayer(WIDTH, HEADS, 64, batch_first=True, norm_first=True, activation="gelu")
    encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net.head(net.encoder(net.first(x)).mean(1))

    return Net(forward, first=nn.Linear(12, WIDTH), encoder=encoder, head=nn.Linear(WIDTH, 5))


@zoo(real(10, 12), depth=NO_REPEAT)
def multihead_attention() -> nn.Module:
    """PyTorch's attention, time first, its weights an output too."""

    def forward(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
        x = net.first(x).transpose(0, 1)
        y, weights = net.attention(x, x, x)
        return net.head((x + y).mean(0)), weights

    attention = nn.MultiheadAttention(WIDTH, HEADS)
    return Net(forward, first=nn.Linear(12, WIDTH), attention=attention, head=nn.Linear(WIDTH, 5))


@zoo(several(real(6, 12), real(9, 20)), depth=NO_REPEAT)
def cross_attention() -> nn.Module:
    """Two inputs; keys and values of other widths than the queries."""

    def forward(net: nn.Module, x: Tensor, other: Tensor) -> Tensor:
        x, other = net.first(x), net.other(other)
        x = net.norm(x + net.attention(x, other, other, need_weights=False)[0])
        return net.head(F.relu(net.mid(x)).mean(1))

    attention = nn.MultiheadAttention(24, 3, kdim=16, vdim=16, batch_first=True)
    parts = {"first": nn.Linear(12, 24), "other": nn.Linear(20, 16), "norm": nn.LayerNorm(24)}
    return Net(forward, attention=attention, mid=nn.Linear(24, 32), head=nn.Linear(32, 5), **parts)


@zoo(real(20, 6), depth=NO_REPEAT)
class Perceiver(nn.Module):
    """A few learned queries read a long input, then themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(5, WIDTH))
        self.read, self.norm = nn.Linear(6, 2 * WIDTH), nn.LayerNorm(WIDTH)
        self.ask, self.block, self.head = nn.Linear(WIDTH, WIDTH), Block(), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        keys, values = self.read(x).chunk(2, -1)
        weights = (self.ask(self.latents) @ keys.transpose(1, 2) / WIDTH**0.5).softmax(-1)
        return self.head(self.block(self.norm(self.latents + weights @ values)).mean(1))


@zoo(real(16, 12), depth="its blocks are lines of its forward, no modules")
class LinearAttention(nn.Module):
    """Attention without a softmax, by einsum."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norms = nn.Linear(12, WIDTH), nn.ModuleList(nn.LayerNorm(WIDTH) for _ in range(2))
        self.reads = nn.ModuleList(nn.Linear(WIDTH, 3 * WIDTH) for _ in range(2))
        self.writes, self.head = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(2)), nn.Linear(WIDTH, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for norm, read, write in zip(self.norms, self.reads, self.writes, strict=True):
            q, k, v = (part.unflatten(-1, (HEADS, -1)) for part in read(norm(x)).chunk(3, -1))
            q, k = F.elu(q) + 1, F.elu(k) + 1
            scale = torch.einsum("bnhd,bhd->bnh", q, k.sum(1)).unsqueeze(-1)
            y = torch.einsum("bnhd,bhde->bnhe", q, torch.einsum("bnhd,bnhe->bhde", k, v)) / scale
            x = x + write(y.flatten(2))
        return self.head(x.mean(1))


class MixerBlock(nn.Module):
    """Layers over the places, then layers over the channels."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.places, self.channels = mlp(count, 24), mlp(width, 48)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.places(self.norm1(x).transpose(1, 2)).transpose(1, 2)
        return x + self.channels(self.norm2(x))


@zoo(IMAGE)
def mlp_mixer() -> nn.Module:
    """MLP-Mixer."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net.head(net.norm(net.blocks(net.project(x).flatten(2).transpose(1, 2))).mean(1))

    blocks = nn.Sequential(*(MixerBlock(16, 24) for _ in range(2)))
    return Net(forward, project=nn.Conv2d(3, 24, 4, 4), blocks=blocks, norm=nn.LayerNorm(24), head=nn.Linear(24, 5))


class Rotary(nn.Module):
    """Grouped queries with rotated halves and a causal mask."""

    def __init__(self, width: int = WIDTH, heads: int = HEADS, shared: int = 2, length: int = 12) -> None:
        super().__init__()
        size = width // heads
        self.heads, self.shared = heads, shared
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (nn.Linear(width, shared * size, bias=False) for _ in range(2))
        angles = torch.arange(length)[:, None] / 100.0 ** (torch.arange(0, size, 2) / size)
        self.register_buffer("cos", torch.cat([angles, angles], -1).cos(), persistent=False)
        self.register_buffer("sin", torch.cat([angles, angles], -1).sin(), persistent=False)

    def turned(self, x: Tensor) -> Tensor:
        """Rotated by place."""
        first, second = x.chunk(2, -1)
        return x * self.cos[: x.shape[-2]] + torch.cat([-second, first], -1) * self.sin[: x.shape[-2]]

    def forward(self, x: Tensor) -> Tensor:
        batch, count, _ = x.shape
        q = self.q(x).view(batch, count, self.heads, -1).transpose(1, 2)
        k, v = (layer(x).view(batch, count, self.shared, -1).transpose(1, 2) for layer in (self.k, self.v))
        k, v = (y.repeat_interleave(self.heads // self.shared, 1) for y in (self.turned(k), v))
        y = F.scaled_dot_product_attention(self.turned(q), k, v, is_causal=True)
        return self.o(y.transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """A decoder block with root mean square norms and a gated product."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2, self.attention = nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH), Rotary()
        self.gate, self.up, self.down = (nn.Linear(*s, bias=False) for s in ((WIDTH, 48), (WIDTH, 48), (48, WIDTH)))

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))


@zoo(whole(50, 12))
class OwnLlama(nn.Module):
    """A small decoder with tied embeddings."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.blocks = nn.Embedding(50, WIDTH), nn.Sequential(Gated(), Gated())
        self.norm, self.head = nn.RMSNorm(WIDTH), nn.Linear(WIDTH, 50, bias=False)
        self.head.weight = self.words.weight

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.norm(self.blocks(self.words(ids))))


@zoo(several(real(4), whole(10, 3)))
class FtTransformer(nn.Module):
    """Every feature of a table is a token: numbers by a scale, kinds by an embedding with offsets."""

    def __init__(self) -> None:
        super().__init__()
        self.scale, self.shift = nn.Parameter(torch.randn(4, WIDTH)), nn.Parameter(torch.randn(4, WIDTH))
        self.kinds, self.token = nn.Embedding(30, WIDTH), nn.Parameter(torch.randn(WIDTH))
        self.register_buffer("offsets", torch.tensor([0, 10, 20]))
        self.blocks = nn.Sequential(Block(), Block())
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.ReLU(), nn.Linear(WIDTH, 5))

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        tokens = numbers[..., None] * self.scale + self.shift
        token = self.token.expand(len(numbers), 1, -1)
        return self.head(self.blocks(torch.cat([token, tokens, self.kinds(kinds + self.offsets)], 1))[:, 0])


@zoo(real(32, 3))
def patch_tst() -> nn.Module:
    """Series normalised one by one, cut into overlapping patches, every channel by itself; normalised back."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        mean, scale = x.mean(1, keepdim=True), (x.var(1, keepdim=True, unbiased=False) + 1e-5).sqrt()
        y = ((x - mean) / scale).transpose(1, 2).unfold(-1, 8, 4)
        batch, channels = y.shape[:2]
        y = net.blocks(net.first(y).flatten(0, 1) + net.places)
        y = net.head(y.reshape(batch, channels, -1)).transpose(1, 2)
        return y * scale + mean

    parts = {"places": nn.Parameter(torch.randn(7, WIDTH) * 0.1), "head": nn.Linear(7 * WIDTH, 4)}
    return Net(forward, first=nn.Linear(8, WIDTH), blocks=nn.Sequential(Block(), Block()), **parts)
