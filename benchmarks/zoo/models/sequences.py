"""Series and words: recurrent networks, 1-D convolutions, and both."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from benchmarks.zoo.entry import Net, real, whole, zoo
from benchmarks.zoo.models.convolutional import CONVOLUTIONS, NO_REPEAT
from benchmarks.zoo.models.dense import NO_LINEAR

NO_BLOCK = "what its repeated layers give has another shape than what they take; the shortcuts lie outside of them"
SERIES, WORDS = real(16, 6), whole(60, 12)


@zoo(WORDS, depth=NO_REPEAT)
def lstm() -> nn.Module:
    """Words, two LSTM layers, and a small head."""

    def forward(net: nn.Module, ids: Tensor) -> Tensor:
        return net.head(F.relu(net.mid(net.lstm(net.words(ids))[0][:, -1])))

    parts = {"words": nn.Embedding(60, 24), "mid": nn.Linear(32, 24), "head": nn.Linear(24, 5)}
    return Net(forward, lstm=nn.LSTM(24, 32, 2, batch_first=True, dropout=0.2), **parts)


@zoo(SERIES, depth=NO_REPEAT)
def lstm_both_ways() -> nn.Module:
    """Time first; the last states of both directions."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        _, (last, _) = net.lstm(net.first(x).transpose(0, 1))
        return net.head(F.relu(net.mid(torch.cat([last[-2], last[-1]], 1))))

    parts = {"first": nn.Linear(6, 16), "mid": nn.Linear(48, 32), "head": nn.Linear(32, 5)}
    return Net(forward, lstm=nn.LSTM(16, 24, bidirectional=True), **parts)


@zoo(SERIES, depth=NO_REPEAT)
def gru() -> nn.Module:
    """Convolutions, a GRU, and scores for every step."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        x = F.relu(net.norm(net.conv(x.transpose(1, 2)))).transpose(1, 2)
        return net.head(F.relu(net.mid(net.gru(x)[0])))

    parts = {"conv": nn.Conv1d(6, 24, 3, padding=1), "norm": nn.BatchNorm1d(24)}
    return Net(forward, gru=nn.GRU(24, 24, batch_first=True), mid=nn.Linear(24, 32), head=nn.Linear(32, 4), **parts)


@zoo(real(5, 6), depth=NO_REPEAT)
def lstm_cell() -> nn.Module:
    """A cell called step by step in a loop."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        hidden, cell = x.new_zeros(len(x), 24), x.new_zeros(len(x), 24)
        for step in range(x.shape[1]):
            hidden, cell = net.cell(x[:, step], (hidden, cell))
        return net.head(F.relu(net.mid(hidden)))

    return Net(forward, cell=nn.LSTMCell(6, 24), mid=nn.Linear(24, 32), head=nn.Linear(32, 5))


@zoo(real(2, 32), depth=NO_REPEAT)
def cnn_1d() -> nn.Module:
    """1-D convolutions with batch norm; the signal is flattened."""
    layers: list[nn.Module] = []
    for inputs, outputs in ((2, 16), (16, 24), (24, 32)):
        layers += [nn.Conv1d(inputs, outputs, 5, padding="same"), nn.BatchNorm1d(outputs), nn.ReLU(), nn.MaxPool1d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 32), nn.ReLU(), nn.Linear(32, 5))


@zoo(real(4, 24), depth=NO_BLOCK, dynamic=CONVOLUTIONS)
class Tcn(nn.Module):
    """Causal dilated convolutions with weight norm, cut at the end, and shortcuts."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(4, 24, 1)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv1d(24, 24, 3, padding=2 * dilation, dilation=dilation)) for dilation in (1, 2, 4)
        )
        self.head = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        for layer in self.layers:
            x = F.relu(x + layer(x)[:, :, : x.shape[2]])
        return self.head(x[:, :, -1])


@zoo(real(1, 32), depth=NO_BLOCK, dynamic=NO_LINEAR)
class Wavenet(nn.Module):
    """Gated dilated convolutions; what all layers skip is summed."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(1, 16, 1)
        self.gates = nn.ModuleList(nn.Conv1d(16, 32, 3, dilation=d, padding=d) for d in (1, 2, 4))
        self.skips = nn.ModuleList(nn.Conv1d(16, 24, 1) for _ in range(3))
        self.through = nn.ModuleList(nn.Conv1d(16, 16, 1) for _ in range(3))
        self.mid, self.out = nn.Conv1d(24, 24, 1), nn.Conv1d(24, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x, total = self.first(x), torch.zeros(1)
        for gate, skip, through in zip(self.gates, self.skips, self.through, strict=True):
            signal, opened = gate(x).chunk(2, 1)
            y = torch.tanh(signal) * torch.sigmoid(opened)
            total, x = total + skip(y), x + through(y)
        return self.out(F.relu(self.mid(F.relu(total))))


@zoo(WORDS, depth=NO_REPEAT)
class TextCnn(nn.Module):
    """Filters of several lengths over words, their largest answers."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(60, 24, padding_idx=0)
        self.filters = nn.ModuleList(nn.Conv1d(24, 16, size) for size in (2, 3, 4))
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(48, 5)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids).transpose(1, 2)
        return self.head(self.drop(torch.cat([F.relu(layer(x)).amax(2) for layer in self.filters], 1)))


@zoo(real(20, 16), depth=NO_REPEAT)
class KeywordGru(nn.Module):
    """A spectrogram through 2-D convolutions, channels and bands flattened for a GRU."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 8, 3, (1, 2), 1), nn.BatchNorm2d(8), nn.ReLU(),
            nn.Conv2d(8, 12, 3, (2, 2), 1), nn.BatchNorm2d(12), nn.ReLU(),
        )  # fmt: skip
        self.gru, self.head = nn.GRU(48, 24, batch_first=True), nn.Linear(24, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x.unsqueeze(1)).permute(0, 2, 1, 3).flatten(2)
        return self.head(self.gru(x)[1][0])


class ConformerBlock(nn.Module):
    """Half a feed-forward layer, attention, a gated depthwise convolution, the other half."""

    def __init__(self, width: int) -> None:
        super().__init__()

        def feed() -> nn.Module:
            return nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 48), nn.SiLU(), nn.Linear(48, width))

        self.before, self.after = feed(), feed()
        self.norm, self.attention = nn.LayerNorm(width), nn.MultiheadAttention(width, 4, batch_first=True)
        self.norm2, self.wide = nn.LayerNorm(width), nn.Conv1d(width, 2 * width, 1)
        self.depthwise, self.bn = nn.Conv1d(width, width, 5, padding=2, groups=width), nn.BatchNorm1d(width)
        self.narrow, self.last = nn.Conv1d(width, width, 1), nn.LayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + 0.5 * self.before(x)
        y = self.norm(x)
        x = x + self.attention(y, y, y, need_weights=False)[0]
        y = F.glu(self.wide(self.norm2(x).transpose(1, 2)), 1)
        x = x + self.narrow(F.silu(self.bn(self.depthwise(y)))).transpose(1, 2)
        return self.last(x + 0.5 * self.after(x))


@zoo(real(16, 10))
def conformer() -> nn.Module:
    """Speech frames through conformer blocks, scores for every frame."""

    def forward(net: nn.Module, x: Tensor) -> Tensor:
        return net.head(net.blocks(net.first(x)))

    blocks = nn.Sequential(ConformerBlock(24), ConformerBlock(24))
    return Net(forward, first=nn.Linear(10, 24), blocks=blocks, head=nn.Linear(24, 6))
