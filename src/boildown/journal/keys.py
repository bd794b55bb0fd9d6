"""Keys: what makes two candidates or two measurements the same, so that neither is made twice.

A target, a budget and a ladder are in no key: a run with a relaxed target reuses everything.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from boildown.journal import plain


def hash_of(data: Any) -> str:
    """sha256 of plain data as canonical JSON, 64 hex digits; the order of keys does not matter.

    Raises TypeError for anything that is not plain data.
    """
    return hashlib.sha256(plain.dumps(data, canonical=True).encode()).hexdigest()


def candidate_key(
    *,
    parent: str | None,
    method: str,
    settings: Mapping[str, Any],
    data: str,
    seed: int,
    steps: int | None,
    method_version: int,
    torch_version: str,
) -> str:
    """The key of a candidate before it is made.

    parent: hash of the parent's weights (of a link of a chain: the key of the link before it).
    data: fingerprint of the data the method reads. steps: training steps, `None` without training.
    """
    return hash_of(
        {
            "kind": "candidate",
            "parent": parent,
            "method": method,
            "settings": dict(settings),
            "data": data,
            "seed": seed,
            "steps": steps,
            "method_version": method_version,
            "torch_version": torch_version,
        }
    )


def measurement_key(
    *, metric: str, artifact: str, data: str, runtime: str, version: str, options: Mapping[str, Any], machine: str
) -> str:
    """The key of a measurement.

    artifact: its digest. data: fingerprint of all samples it is measured on, empty without data.
    version: of the runtime. options: everything else that may change the number, such as the artifact
    it is compared with, and of what is timed the whole deployment. machine: what measures it.
    """
    return hash_of(
        {
            "kind": "measurement",
            "metric": metric,
            "artifact": artifact,
            "data": data,
            "runtime": runtime,
            "version": version,
            "options": dict(options),
            "machine": machine,
        }
    )
