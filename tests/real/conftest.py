"""Tests on real networks: skipped where their data is not there."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2]))  # for `benchmarks`


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `real` unless BOILDOWN_DATA names the folder."""
    if Path(os.environ.get("BOILDOWN_DATA") or "-").is_dir():
        return
    skip = pytest.mark.skip(reason="needs real models: let BOILDOWN_DATA name their folder (benchmarks/real/data.py)")
    for item in items:
        if item.get_closest_marker("real"):
            item.add_marker(skip)
