"""Keys are the same for the same work, and different when any part of it differs."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from boildown.journal import candidate_key, hash_of, measurement_key, plain

plain_data = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


def canonical(data):
    return plain.dumps(data, canonical=True)


@given(plain_data)
def test_plain_data_survive(data):
    assert plain.loads(plain.dumps(data)) == data


@given(plain_data, plain_data)
def test_hashes_are_equal_just_when_texts_are(one, other):
    assert (hash_of(one) == hash_of(other)) == (canonical(one) == canonical(other))


@given(st.dictionaries(st.text(), plain_data, min_size=2, max_size=6))
def test_the_order_of_a_dict_does_not_matter(data):
    assert hash_of(dict(reversed(list(data.items())))) == hash_of(data)


def test_numbers_without_a_word_in_json_survive():
    back = plain.loads(plain.dumps([math.nan, math.inf, -math.inf, {"$float": "nan"}, {"$$x": 1}]))
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf, {"$float": "nan"}, {"$$x": 1}]
    assert "NaN" not in plain.dumps(math.nan)


def test_tuples_paths_and_numpy_numbers_become_plain():
    data = {"a": (1, 2), "b": Path("x", "y"), "c": np.float32(0.5), "d": np.int64(3)}
    assert plain.loads(plain.dumps(data)) == {"a": [1, 2], "b": str(Path("x", "y")), "c": 0.5, "d": 3}


@pytest.mark.parametrize("data", [{"a": [object()]}, {1: "a"}, {"a": {1, 2}}, np.zeros(2), b"bytes"])
def test_anything_else_is_refused_by_name(data):
    with pytest.raises(TypeError, match=r"plain data"):
        plain.dumps(data)


CANDIDATE = {
    "parent": "p",
    "method": "prune",
    "settings": {"ratio": 0.5, "of": "macs"},
    "data": "d",
    "seed": 0,
    "steps": 100,
    "method_version": 1,
    "torch_version": "2.10",
}
MEASUREMENT = {
    "metric": "latency",
    "artifact": "a",
    "data": "",
    "runtime": "onnxruntime",
    "version": "onnxruntime 1.23",
    "options": {"threads": 1, "batch": 1},
    "machine": "m",
}
OTHER = {
    "settings": {"ratio": 0.5, "of": "params"},
    "options": {"threads": 2, "batch": 1},
    "seed": 1,
    "steps": None,
    "method_version": 2,
    "parent": None,
}


@pytest.mark.parametrize(("key", "parts"), [(candidate_key, CANDIDATE), (measurement_key, MEASUREMENT)])
def test_every_part_counts(key, parts):
    assert key(**parts) == key(**dict(reversed(list(parts.items()))))
    keys = {key(**parts)} | {key(**{**parts, name: OTHER.get(name, "other")}) for name in parts}
    assert len(keys) == len(parts) + 1
    assert all(len(text) == 64 for text in keys)


def test_keys_do_not_change_between_versions():
    """Changing them silently would make every earlier run useless; change them on purpose only."""
    assert candidate_key(**CANDIDATE) == "48177a623bdb48535df2cd5e09c889ef4a9fbdc769bbad5e67a0be0508875465"
    assert measurement_key(**MEASUREMENT) == "fa6092f3e9d302832f0e8bda2ed984534572b44f9577c68d45df369d5a48d97c"
