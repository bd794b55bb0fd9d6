"""What nobody meant to write, made up by hypothesis, and a small network and task that it is given to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from hypothesis import strategies as st
from torch import nn

import boildown as bd

MARKUP = "<b id=named>"
"""A name that is markup: where it stands in a page as it is, somebody forgot to escape names."""

WORDS = st.text(max_size=12) | st.sampled_from(
    ["", "nan", "../../etc", "a;DROP TABLE attempts", MARKUP, "\0", "$float", "\x1b[2J", "a\nb"]
)
NUMBERS = st.floats() | st.integers(-(2**70), 2**70) | st.sampled_from([0, -1, 1e308, 2**31, 2**63])
PLAIN = st.recursive(
    st.none() | st.booleans() | NUMBERS | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=5,
)
LONG = st.tuples(WORDS | st.sampled_from("a 1<(.,="), st.integers(20, 4000)).map(lambda two: (two[0] * two[1])[:4000])
"""The same over and over, which a careless expression looks at in every possible way."""


@st.composite
def spoiled(draw: st.DrawFn, whole: Any) -> Any:
    """Plain data with up to three places in it replaced or taken out."""
    made = copy.deepcopy(whole)
    for _ in range(draw(st.integers(1, 3))):
        at = made
        while isinstance(at, dict | list) and at:
            key = draw(st.sampled_from(sorted(at) if isinstance(at, dict) else range(len(at))))
            inner = at[key]
            if isinstance(inner, dict | list) and inner and draw(st.integers(0, 4)):
                at = inner
                continue
            if draw(st.integers(0, 3)):
                at[key] = draw(PLAIN)
            else:
                del at[key]
            break
    return made


@st.composite
def damaged(draw: st.DrawFn, whole: bytes, head: int = 2048) -> bytes:
    """A file with bytes changed, mostly at its beginning, cut off, or put in."""
    made = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, min(len(made), draw(st.sampled_from([head, len(whole)]))) - 1)))
        kind = draw(st.integers(0, 4))
        if kind == 0:
            del made[at:]
        elif kind == 1:
            made[at:at] = draw(st.binary(min_size=1, max_size=9))
        elif kind == 2:
            made[at : at + 8] = draw(st.sampled_from([b"\xff" * 8, b"\x00" * 8, (2**40).to_bytes(8, "little")]))
        else:
            made[at : at + 1] = draw(st.binary(min_size=1, max_size=1))
    return bytes(made)


def network() -> nn.Module:
    """What configurations name, candidates are rebuilt from and weights are read into."""
    made = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU())
    return nn.Sequential(*made, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 10)).eval()


def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """32 images and labels."""
    return torch.linspace(-1, 1, 32 * 64).view(32, 1, 8, 8), torch.arange(32) % 10


def task() -> bd.Classification:
    """What configurations name."""
    return bd.Classification(train=samples(), validation=samples())
