"""A CSV or Parquet file of texts as a task for a Hugging Face model: classes, numbers, or how alike two texts are."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Subset

from boildown.domain.preprocess import Output, Part, Preprocess, Raw, Tokenize
from boildown.errors import DataError, Mistakes, ModelError, install
from boildown.tasks.classification import Classification
from boildown.tasks.columns import is_missing, number, read, some
from boildown.tasks.embedding import Embedding
from boildown.tasks.groups import about_groups, group_ids, told_of_groups
from boildown.tasks.regression import Regression
from boildown.tasks.table import fractions, judged_groups, labelled

Kind = Literal["classification", "regression", "embedding"]

_STEP = 16
_MOST_TOKENS = 512
_COVERED = 0.99
_WORDS = 3
_COUNTS_FROM_PADDING = frozenset({
    "camembert", "data2vec-text", "esm", "ibert", "layoutlmv3", "lilt", "longformer", "luke", "markuplm", "mpnet",
    "roberta", "roberta-prelayernorm", "xlm-roberta", "xlm-roberta-xl", "xmod",
})  # fmt: skip
"""Kinds of models whose first position is the one behind the padding token's number: RoBERTa, and what follows it."""


class _Rows(NamedTuple):
    """The rows of a file: as tokens, their texts and all else by column, and the ids of their groups."""

    encoded: Encoded
    texts: list[list[str]]
    ids: NDArray[np.str_] | None
    columns: dict[str, list[str]]


@dataclass(frozen=True)
class TextTable:
    """Which columns a model reads, and what it predicts of them.

    kind: `embedding` holds the cosine of the embeddings of two texts against a score. length: tokens to which every
    text is cut or padded. rows: how many there were to begin with. classes: in the order of the model's outputs.
    groups: the column that says which rows belong together, and how many groups there were.
    """

    texts: tuple[str, ...]
    target: str
    kind: Kind
    length: int
    rows: int
    classes: tuple[str, ...] = ()
    groups: str = ""
    group_count: int = 0

    @classmethod
    def find(
        cls, path: Path, target: str, model: Path, texts: Sequence[str] = (), *, groups: str = ""
    ) -> tuple[TextTable, list[str]]:
        """How a file is read for the model in a folder, and what a person should know of it, in sentences.

        texts: the columns that hold texts; by default those with sentences in them. groups: the column that says
        which rows belong together. Raises InputError with every mistake.
        """
        rows, mistakes = read(path), Mistakes()
        chosen = tuple(texts) or _with_sentences(rows, target)
        answers = [value for value in rows.get(target, ()) if not is_missing(value)]
        with mistakes:
            absent = [name for name in (target, *texts) if name not in rows]
            if absent:
                raise DataError.of(
                    f"{path.name} has no column {some(absent)}.", f"Its columns are: {some(list(rows), 30)}."
                )
        judged = labelled(rows, target) if target in rows else rows
        with mistakes:
            if wrong := about_groups(path.name, judged, groups, target):
                raise DataError(*wrong)
        with mistakes:
            if len(chosen) not in (1, 2):
                raise DataError.of(
                    f"Which columns of {path.name} hold the text is not plain: {some(chosen) or 'none has sentences'}.",
                    "Name one, or the two of a pair: --text NAME.",
                )
        with mistakes:
            kind, classes = _predicts(model, pair=len(chosen) != 1)
            found = cls(chosen, target, kind, 0, len(answers), classes, groups)
            with mistakes:
                _tokenizer(model)
            found._targets(path.name, answers)
        mistakes.raise_all()
        lengths = _lengths(model, [rows[name] for name in chosen], together=found.kind != "embedding")
        wanted = int(np.quantile(lengths, _COVERED))
        length = min(_limit(model), -(-wanted // _STEP) * _STEP)
        cut = float((lengths > length).mean())
        told = [f"Texts are padded to {length} tokens" + (f"; {cut:.1%} are longer, and cut." if cut else ".")]
        told += told_of_groups({name: values for name, values in judged.items() if name != target}, groups)
        return replace(found, length=length, group_count=len(set(group_ids(judged[groups]))) if groups else 0), told

    @classmethod
    def load(cls, path: Path) -> TextTable:
        """The inverse of `dump`."""
        data = json.loads(path.read_text(encoding="utf-8"))
        return cls(**{**data, "texts": tuple(data["texts"]), "classes": tuple(data["classes"])})

    def dump(self) -> str:
        """All of it as JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    def task(
        self, path: Path, model: Path, *, validation: float = 0.2, seed: int = 0
    ) -> Classification | Regression | Embedding:
        """The task: train and validation from one file. A row's texts, or its group, and the seed decide where it goes.

        Raises InputError with every mistake.
        """
        encoded, texts, ids, columns = self._encoded(path, model)
        if ids is not None:
            judged = judged_groups(ids.tolist(), validation, seed)
        else:
            judged = fractions(["\x1f".join(row) for row in zip(*texts, strict=True)], seed) < validation
        train, held = (np.flatnonzero(part).tolist() for part in (~judged, judged))
        if not train or not held:
            raise DataError.of(f"{path.name} has too few different rows to be split.", "Give more, or another share.")
        data: dict[str, Any] = {"train": Subset(encoded, train), "validation": Subset(encoded, held)}
        if ids is not None:
            data["groups"] = {"train": ids[train], "validation": ids[held]}
        step = tokenizing(model, self.texts, self.length, together=self.kind != "embedding")
        task: Classification | Regression | Embedding
        if self.kind == "embedding":
            forward = _pooling(model)
            task = Embedding(**data, forward=forward)
            says = Output("cosine", target=self.target, pool="first" if forward is first_token else "mean")
        else:
            classes = self.kind == "classification"
            task = Classification(**data, classes=self.classes) if classes else Regression(**data)
            says = replace(task.answer(), target=self.target)
        task.preprocess = Preprocess((Raw("text pair" if self.kind == "embedding" else "text", (step,)),), says)
        task.raw = lambda place: {name: side[held[place]] for name, side in zip(self.texts, texts, strict=True)}
        task.columns = {"validation": {name: [values[place] for place in held] for name, values in columns.items()}}
        task.beside = {"tokenizer.json": model / "tokenizer.json"}
        task.reads = lambda other: self._encoded(other, model).encoded
        return task

    def _encoded(self, path: Path, model: Path) -> _Rows:
        """The rows of a file that have a target. Raises DataError."""
        rows = read(path)
        absent = [name for name in (*self.texts, self.target) if name not in rows]
        if absent:
            raise DataError.of(f"{path.name} lacks the columns {some(absent)}.", "Give the file it began with.")
        if wrong := about_groups(path.name, labelled(rows, self.target), self.groups, self.target):
            raise DataError(*wrong)
        kept = [place for place, value in enumerate(rows[self.target]) if not is_missing(value)]
        texts = [[rows[name][place] for place in kept] for name in self.texts]
        targets = self._targets(path.name, [rows[self.target][place] for place in kept])
        sides = [texts] if self.kind != "embedding" else [[side] for side in texts]
        ids = np.array(group_ids([rows[self.groups][place] for place in kept])) if self.groups else None
        encoded = Encoded([encode(model, *side, length=self.length) for side in sides], targets)
        columns = {name: [values[place] for place in kept] for name, values in rows.items()}
        return _Rows(encoded, texts, ids, columns)

    def _targets(self, file: str, answers: Sequence[str]) -> Tensor:
        """Targets as numbers. Raises DataError for those that the model does not know."""
        if self.kind != "classification":
            odd = [value for value in answers if not np.isfinite(number(value))]
            if odd:
                raise DataError.of(
                    f"{self.target!r} of {file} holds values that are no numbers: {some(sorted(set(odd)))}.",
                    "Mend them.",
                )
            return torch.tensor([number(value) for value in answers], dtype=torch.float32)
        values = [value.strip() for value in answers]
        numbers = [str(place) for place in range(len(self.classes))]
        # All of them are names, or all are numbers: where the names are numbers too, 1 may be the class 0.
        names = numbers if set(values) <= set(numbers) and not set(values) <= set(self.classes) else self.classes
        unknown = sorted(set(values) - set(names))
        if unknown:
            raise DataError.of(
                f"{self.target!r} of {file} has classes that the model does not have: {some(unknown)}.",
                f"The model's are {some(self.classes)}, or their numbers from 0: rename them in one of the two.",
            )
        places = {name: place for place, name in enumerate(names)}
        return torch.tensor([places[value] for value in values])


class Encoded(Dataset[Any]):
    """Encoded texts, or pairs of them, with their targets."""

    def __init__(self, sides: Sequence[Mapping[str, Tensor]], targets: Tensor) -> None:
        self.sides, self.targets = list(sides), targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> Any:
        sides = [{name: values[index] for name, values in side.items()} for side in self.sides]
        return (sides[0] if len(sides) == 1 else tuple(sides)), self.targets[index]


def encode(model: Path, *texts: Sequence[str], length: int) -> dict[str, Tensor]:
    """Texts, or pairs of them, as a model's inputs, int64 (n, length) each.

    Of a pair the first text is told from the second (`token_type_ids`) where the model has more than one type.
    Raises ModelError where the folder has no tokenizer.
    """
    step, tokenizer = tokenizing(model, ("",) * len(texts), length), _tokenizer(model)
    tokenizer.enable_padding(
        direction=step.pad, pad_id=step.pad_id, pad_type_id=step.pad_type_id, pad_token=step.pad_token,
        length=step.length, pad_to_multiple_of=step.multiple,
    )  # fmt: skip
    tokenizer.enable_truncation(step.length)
    found = tokenizer.encode_batch(_calls(texts))
    return {name: torch.tensor([getattr(each, part) for each in found]) for name, part in step.feeds.items()}


def tokenizing(model: Path, texts: Sequence[str], length: int, *, together: bool = True) -> Tokenize:
    """How the texts of some columns become a model's inputs, as data. together: two are given in one call."""
    tokenizer, config = _tokenizer(model), configuration(model)
    padding = tokenizer.padding or {"pad_id": config.get("pad_token_id") or 0}
    typed = together and len(texts) == 2 and config.get("type_vocab_size", 0) > 1
    feeds: dict[str, Part] = {"input_ids": "ids", "attention_mask": "attention_mask"}
    return Tokenize(
        length,
        feeds | ({"token_type_ids": "type_ids"} if typed else {}),
        pad=padding.get("direction", "right"),
        pad_id=padding.get("pad_id", 0),
        pad_type_id=padding.get("pad_type_id", 0),
        pad_token=padding.get("pad_token", "[PAD]"),
        multiple=padding.get("pad_to_multiple_of"),
        columns=tuple(texts),
    )


def mean_of_tokens(model: Any, side: Mapping[str, Tensor]) -> Tensor:
    """One vector per text, (n, d): the model's own, or the mean of the vectors of its tokens."""
    vectors = _vectors(model, side)
    if vectors.ndim == 2:
        return vectors
    shown = side["attention_mask"].to(vectors.device).unsqueeze(-1).to(vectors.dtype)
    return (vectors * shown).sum(1) / shown.sum(1).clamp_min(1)


def first_token(model: Any, side: Mapping[str, Tensor]) -> Tensor:
    """One vector per text, (n, d): the model's own, or that of its first token."""
    vectors = _vectors(model, side)
    return vectors if vectors.ndim == 2 else vectors[:, 0]


def _vectors(model: Any, side: Mapping[str, Tensor]) -> Tensor:
    """The first output: (n, d), or (n, length, d)."""
    output = model(**side)
    if isinstance(output, Mapping):
        output = next(iter(output.values()))
    return torch.as_tensor(output[0] if isinstance(output, tuple | list) else output)


def _pooling(model: Path) -> Callable[[Any, Mapping[str, Tensor]], Tensor]:
    """How the vectors of tokens become one: as sentence-transformers has written beside the model, else their mean."""
    path = model / "1_Pooling" / "config.json"
    if not path.exists():
        return mean_of_tokens
    try:
        config = dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ModelError.of(
            f"{path} cannot be read ({type(error).__name__}).", "Bring the folder whole from where it was saved."
        ) from None
    modes = [name.removeprefix("pooling_mode_") for name, value in config.items() if value is True and "mode" in name]
    known = {"mean_tokens": mean_of_tokens, "cls_token": first_token}
    if len(modes) != 1 or modes[0] not in known:
        raise ModelError.of(
            f"{path} pools tokens by {' and '.join(modes) or 'no mode'}, which is not known here.",
            "Write task.py yourself, with Embedding(forward=a function of the model and one side's inputs).",
        )
    return known[modes[0]]


def configuration(model: Path) -> dict[str, Any]:
    """A model folder's config.json. Raises ModelError where there is none."""
    try:
        data: dict[str, Any] = json.loads((model / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError.of(
            f"{model} is no folder of a Hugging Face model: its config.json cannot be read ({type(error).__name__}).",
            "Give the folder that save_pretrained wrote, with the model and its tokenizer.",
        ) from None
    return data


def _predicts(model: Path, *, pair: bool) -> tuple[Kind, tuple[str, ...]]:
    """What the model in a folder predicts, and its classes."""
    config = configuration(model)
    kind = str((config.get("architectures") or [""])[0])
    if kind.endswith("ForSequenceClassification"):
        names = config.get("id2label") or {str(place): f"LABEL_{place}" for place in range(2)}
        classes = tuple(str(names[key]) for key in sorted(names, key=int))
        return ("classification", classes) if len(classes) > 1 else ("regression", ())
    if kind.endswith("Model") and pair:
        return "embedding", ()
    raise ModelError.of(
        f"{model.name} is a {kind or 'model of unknown kind'}: what it predicts of {'a pair' if pair else 'a text'} "
        "is not plain.",
        "Give a model for sequence classification, or two columns of texts and a score for an encoder; for anything "
        "else write task.py yourself: `boildown init` begins one.",
    )


def _with_sentences(rows: Mapping[str, Sequence[str]], target: str) -> tuple[str, ...]:
    """The columns whose values have some words on average."""
    return tuple(
        name
        for name, values in rows.items()
        if name != target and sum(len(value.split()) for value in values) >= _WORDS * len(values)
    )


def _lengths(model: Path, texts: Sequence[Sequence[str]], *, together: bool) -> NDArray[np.int64]:
    """Tokens of every text, or of every pair."""
    tokenizer = _tokenizer(model)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    calls = [_calls(texts)] if together else [_calls([side]) for side in texts]
    return np.array([len(each.ids) for call in calls for each in tokenizer.encode_batch(call)])


def _calls(texts: Sequence[Sequence[str]]) -> list[Any]:
    """What a tokenizer is to encode: texts, or pairs of them."""
    return list(texts[0]) if len(texts) == 1 else list(zip(*texts, strict=True))


def _limit(model: Path) -> int:
    """The most tokens the model takes."""
    config = configuration(model)
    longest = int(config.get("max_position_embeddings") or _MOST_TOKENS)
    before = int(config.get("pad_token_id") or 0) + 1 if config.get("model_type") in _COUNTS_FROM_PADDING else 0
    return min(_MOST_TOKENS, longest - before)


def _tokenizer(model: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise ModelError.of(
            "Hugging Face models are read with transformers, which is not installed.",
            install("transformers"),
        ) from None
    file = model / "tokenizer.json"
    if not file.is_file():
        raise ModelError.of(
            f"{model} has no tokenizer.json.",
            f"Write it there: `AutoTokenizer.from_pretrained({str(model)!r}).save_pretrained({str(model)!r})`.",
        )
    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:
        raise ModelError.of(f"{file} is no readable tokenizer: {error}.", "Save it again.") from error
