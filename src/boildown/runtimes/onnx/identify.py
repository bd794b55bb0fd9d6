"""Who made an ONNX file, of what and how: its producer and its metadata, behind the graph.

Messages of protobuf that follow each other are one message. So the identity is appended to a finished file, and
taken off again to the byte.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

from boildown.domain.artifact import SHORT
from boildown.errors import InputError
from boildown.runtimes.onnx.external import MOST

PRODUCER = "boildown"
CONTENT = "content"
"""The metadata that holds the beginning of the sha256 of the file without its identity."""


def stamp(path: Path, identity: Mapping[str, str]) -> None:
    """Append an identity; its `version` is the producer's."""
    content = hashlib.sha256(path.read_bytes()).hexdigest()[:SHORT]
    with path.open("ab") as file:
        file.write(_written({**identity, CONTENT: content}))


def about(path: Path) -> dict[str, Any]:
    """The identity of a file, and what it needs to be run.

    Raises InputError for what is no ONNX file, or not the one that its identity was written into.
    """
    if not path.is_file() or path.stat().st_size > MOST:
        raise InputError.of(f"{path} is no ONNX file.", "Check the path.")
    data = path.read_bytes()
    try:
        model = onnx.load_model_from_string(data)
    except Exception as error:
        raise InputError.of(f"{path} is no ONNX file: {error}", "Bring it back from a copy.") from error
    identity = {}
    if model.producer_name == PRODUCER:
        identity = {"version": model.producer_version, **{entry.key: entry.value for entry in model.metadata_props}}
        written = _written(identity)
        whole = data.endswith(written) and hashlib.sha256(data[: -len(written)]).hexdigest()[:SHORT]
        if whole != identity.get(CONTENT):
            raise InputError.of(
                f"{path.name} is not the file that its own metadata names: content {identity.get(CONTENT)}.",
                "Bring it back from a copy.",
            )
    return {"identity": identity, "needs": _needs(model)}


def _written(identity: Mapping[str, str]) -> bytes:
    """An identity as a message that is merged with the one before it."""
    end = ModelProto(producer_name=PRODUCER, producer_version=identity.get("version", ""))
    for key, value in identity.items():
        if key != "version":
            end.metadata_props.add(key=key, value=value)
    return bytes(end.SerializeToString(deterministic=True))


def _needs(model: ModelProto) -> str:
    """The operator sets, and which runtimes have the operators."""
    sets = {opset.domain or "ai.onnx": opset.version for opset in model.opset_import}
    foreign = {(node.domain, node.op_type) for node in _nodes(model.graph) if node.domain not in ("", "ai.onnx")}
    told = f"ONNX, opset {sets.get('ai.onnx', '?')}"
    if foreign:
        names = ", ".join(sorted(f"{domain}:{name}" for domain, name in foreign))
        told += f", and operators that ONNX Runtime has and others may lack: {names}; {_WITHOUT}"
    elif any(node.op_type.startswith("QLinear") for node in _nodes(model.graph)):
        told += f", and integer operators of which OpenVINO reads few; {_WITHOUT}"
    else:
        told += "; ONNX Runtime, OpenVINO and others that read this opset can run it"
    return told


_WITHOUT = 'boildown writes files without them with form="portable"'


def _nodes(graph: onnx.GraphProto) -> list[onnx.NodeProto]:
    inner = [part for node in graph.node for attribute in node.attribute for part in (attribute.g, *attribute.graphs)]
    return [*graph.node, *(node for part in inner for node in _nodes(part))]
