"""Where student and teacher are compared."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from training_networks import convolutional

from boildown.training import MismatchError
from boildown.training.features import Tap, Taps, find_pairs


def on(*shape: int) -> Any:
    return lambda model: model(torch.randn(2, *shape, generator=torch.Generator().manual_seed(0)))


def names(pairs: Any) -> list[tuple[str, str]]:
    return [(pair.student.module, pair.teacher.module) for pair in pairs]


def test_stage_ends_of_a_plain_convolutional_network() -> None:
    pairs = find_pairs(convolutional(4), convolutional(8, seed=1), on(1, 8, 8))
    assert names(pairs) == [("2", "2"), ("6", "6"), ("10", "10")]
    assert [(pair.student.shape, pair.teacher.shape) for pair in pairs] == [
        ((4, 8, 8), (8, 8, 8)),
        ((8, 4, 4), (16, 4, 4)),
        ((8, 2, 2), (16, 2, 2)),
    ]


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, 3, stride, 1)
        self.short = nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.conv(x) + self.short(x))


def residual(depth: int, width: int = 4) -> nn.Sequential:
    stages = []
    for number in range(3):
        inputs, outputs = width * max(1, 2 ** (number - 1)), width * 2**number
        first = Block(inputs if number else 3, outputs, 2 if number else 1)
        stages.append(nn.Sequential(first, *(Block(outputs, outputs, 1) for _ in range(depth - 1))))
    return nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4 * width, 5))


def test_stages_of_different_depth_end_at_their_last_block() -> None:
    pairs = find_pairs(residual(2), residual(5), on(3, 8, 8))
    assert names(pairs) == [("0", "0"), ("1", "1"), ("2", "2")]


class Encoder(nn.Module):
    """A transformer that returns class scores."""

    def __init__(self, depth: int, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, 2 * width, dropout=0.0, batch_first=True) for _ in range(depth)
        )
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.embed(tokens)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x).mean(1))


def test_blocks_of_transformers_at_equal_relative_depth() -> None:
    run = lambda model: model(torch.arange(14).reshape(2, 7))  # noqa: E731 - shared by both
    pairs = find_pairs(Encoder(2, 8), Encoder(6, 16), run)
    assert names(pairs) == [("layers.0", "layers.2"), ("layers.1", "layers.5"), ("norm", "norm")]
    assert pairs[0].student.shape == (7, 8)
    assert (pairs[0].student.grid, pairs[0].student.width) == ((7,), 8)
    deep = find_pairs(Encoder(6, 8), Encoder(12, 8), run)
    assert names(deep)[:4] == [("layers.1", "layers.2"), ("layers.2", "layers.5"), ("layers.3", "layers.8"),
                               ("layers.5", "layers.11")]  # fmt: skip


def test_no_spatial_size_in_common_is_no_pair() -> None:
    assert find_pairs(convolutional(), nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten()), on(1, 8, 8)) == ()
    assert find_pairs(nn.Linear(4, 2), nn.Linear(4, 2), on(4)) == ()


def test_scores_of_every_position_are_an_output_and_no_layer() -> None:
    segmenter = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert names(find_pairs(segmenter, segmenter, on(3, 8, 8))) == [("1", "1")]


def test_looking_leaves_no_hooks_behind() -> None:
    model = convolutional()
    find_pairs(model, model, on(1, 8, 8))
    taps = Taps(model, [Tap("2", 0, (4, 8, 8))])
    taps.remove()
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


class Shared(nn.Module):
    """Uses one activation twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.act = nn.Conv2d(1, 3, 3, 2, 1), nn.Conv2d(3, 5, 3, 2, 1), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.second(self.act(self.first(x)))).mean((2, 3))


def test_a_module_used_twice_is_tapped_at_the_right_call() -> None:
    model = Shared()
    pairs = find_pairs(model, model, on(1, 8, 8))
    assert [(pair.student.module, pair.student.call) for pair in pairs] == [("act", 0), ("act", 1)]
    taps = Taps(model, [pair.student for pair in pairs])
    for _ in range(2):
        taps.clear()
        on(1, 8, 8)(model)
        assert [seen[0].shape[1] for seen in taps.take().values()] == [3, 5]
    on(1, 8, 8)(model)
    assert [len(seen) for seen in taps.take().values()] == [2, 2]


def test_a_layer_that_is_not_reached_is_named() -> None:
    model = convolutional()
    taps = Taps(model, [Tap("2", 0, (4, 8, 8))])
    with pytest.raises(MismatchError, match="Layers 2 were not reached"):
        taps.take()
