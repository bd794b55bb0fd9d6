"""`take(as_="transformers")`: what transformers and optimum read beside a file, from the folder of the model."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from boildown.errors import InputError
from boildown.surgery.hub import folder_of

_FILES = (
    *("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.txt", "vocab.json", "merges.txt", "spiece.model", "sentencepiece.bpe.model", "generation_config.json"),
)
_INPUTS = {"input_ids", "attention_mask", "token_type_ids"}
_OUTPUTS = {"logits", "last_hidden_state"}


def files_for(facts: Mapping[str, Any], runtime: str) -> list[Path]:
    """The configuration and tokenizer of the model that a run began with, for an artifact of this runtime.

    Raises InputError where it is not of ONNX Runtime, or where the model is not from a folder of transformers that is
    there.
    """
    factories = facts["asked"]["factories"]
    kind, _, where = str(factories.get("model") or "").partition(":")
    if kind != "transformers" or runtime != "onnxruntime":
        raise InputError.of(
            "A folder for transformers holds an ONNX file and the configuration of a model of transformers, and this "
            "run's is none.",
            'Begin the run with the factory "transformers:FOLDER" and the runtime onnxruntime, or leave --as out.',
        )
    sys.path += [entry for entry in map(str, factories.get("path", ())) if entry not in sys.path]
    folder = folder_of(where)
    return [folder / name for name in _FILES if (folder / name).is_file()]


def check_ports(folder: Path) -> None:
    """Raise InputError where ORTModel would not know what to give a file, or what it gives."""
    ports = json.loads((folder / "ports.json").read_text(encoding="utf-8"))
    inputs, outputs = ({port["name"] for port in ports[side]} for side in ("inputs", "outputs"))
    if not inputs <= _INPUTS or not outputs & _OUTPUTS:
        raise InputError.of(
            f"ORTModel does not call a file with {', '.join(sorted(inputs))} for {', '.join(sorted(outputs))}.",
            "Let the model take input_ids, attention_mask, token_type_ids and return logits or last_hidden_state.",
        )
