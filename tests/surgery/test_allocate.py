"""The knapsack of precisions: never more bytes than asked where that is possible, and the least divergence then."""

from __future__ import annotations

from itertools import pairwise, product

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from boildown.surgery.allocate import FLOAT, Choice, allocate, weight_bytes

Offers = dict[str, dict[int, Choice]]


@st.composite
def offers(draw: st.DrawFn, most: int = 5) -> Offers:
    """Layers of some sizes; what more bits cost less is not always so, as measured things are."""
    made = {}
    for layer in range(draw(st.integers(1, most))):
        size = draw(st.integers(1, 200))
        lost = {bits: draw(st.floats(0, 1) | st.just(float("inf"))) for bits in (4, 8)}
        made[str(layer)] = {
            4: Choice(size, lost[4]), 8: Choice(2 * size, lost[8]), FLOAT: Choice(8 * size, 0.0)
        }  # fmt: skip
    return made


def total(offered: Offers, taken: dict[str, int]) -> tuple[int, float]:
    found = [offered[name][bits] for name, bits in taken.items()]
    return sum(choice.bytes for choice in found), sum(min(choice.divergence, 1e30) for choice in found)


@settings(deadline=None, max_examples=60)
@given(offers(), st.floats(0, 1))
def test_it_is_the_best_there_is(offered: Offers, share: float) -> None:
    least, most = (total(offered, dict.fromkeys(offered, bits))[0] for bits in (4, FLOAT))
    room = least + share * (most - least)
    taken = allocate(offered, room)
    size, lost = total(offered, taken)
    assert size <= room
    every = (dict(zip(offered, bits, strict=True)) for bits in product((4, 8, FLOAT), repeat=len(offered)))
    within = (total(offered, each) for each in every)
    assert lost <= min(lost for size, lost in within if size <= room) * (1 + 1e-9)
    assert list(taken) == list(offered)


@settings(deadline=None, max_examples=40)
@given(offers(40), st.lists(st.floats(0, 1.2), min_size=2, max_size=5))
def test_more_bytes_leave_no_more_divergence(offered: Offers, shares: list[float]) -> None:
    most = total(offered, dict.fromkeys(offered, FLOAT))[0]
    lost = [total(offered, allocate(offered, share * most))[1] for share in sorted(shares)]
    assert all(later <= earlier * (1 + 1e-9) for earlier, later in pairwise(lost))


def test_where_nothing_is_small_enough_all_are_the_smallest() -> None:
    offered = {"a": {4: Choice(50, 1.0), 8: Choice(100, 0.1)}, "b": {8: Choice(10, 0.1), FLOAT: Choice(40, 0.0)}}
    for room in (-1, 0, 59):
        assert allocate(offered, room) == {"a": 4, "b": 8}
    assert allocate(offered, 10**9) == {"a": 8, "b": FLOAT}
    assert allocate({}, 10) == {}


def test_four_bits_are_worth_nothing_to_a_weight_of_a_few_numbers() -> None:
    few, many = torch.zeros(8, 1, 3, 3), torch.zeros(64, 64, 3, 3)
    assert weight_bytes(few, 4) > weight_bytes(few, 8) < weight_bytes(few, FLOAT)
    assert weight_bytes(many, 4) < 0.51 * weight_bytes(many, 8) < 0.14 * weight_bytes(many, FLOAT)
