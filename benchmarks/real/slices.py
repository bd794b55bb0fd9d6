"""ResNet-20 class by class: what int8 and 4 bits do to each, and what is found where no class may lose too much.

    BOILDOWN_DATA=FOLDER python -m benchmarks.real.slices [--rungs RUNG ...] [--target CONDITION ...]

Every rung is climbed alone, and its table of classes printed: 5,000 test images, half of which the search reads. Then
`auto` climbs the target, and every attempt is told.
"""

from __future__ import annotations

import argparse
import tempfile

import boildown as bd
from benchmarks.real import data
from benchmarks.real.models import resnet20
from boildown.domain.grammar import format_value

RUNGS = ("quantize-static", "learned-rounding(bits=4)")
TARGET = ("accuracy drop <= 1 pp", "worst class accuracy drop <= 2 pp", "size <= 0.15x")
_OPEN = ("accuracy drop <= 90 pp", "worst class accuracy drop <= 90 pp")
NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def task() -> bd.Classification:
    """CIFAR-10 with the names of its classes."""
    return bd.Classification(train=data.cifar10_train(), validation=data.cifar10_test(), classes=NAMES)


def main() -> None:
    """Print the tables and what auto finds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rungs", nargs="*", default=RUNGS)
    parser.add_argument("--target", nargs="*", default=TARGET, help="of auto; none without conditions")
    parser.add_argument("--budget", default="10 min")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as runs:
        for rung in given.rungs:
            run = bd.compress(resnet20(), task(), _OPEN, ladder=[rung], runs=runs, verbose=False)
            whole = run.candidates[-1].measurements["accuracy"]
            print(f"\n{rung}: accuracy {whole.value:.2%}, drop {format_value(whole.drop or 0.0, whole.unit, 'drop')}\n")
            print("| class | samples | first model | now | drop | interval, all ten at 95 % | changed |")
            print("| --- | --- | --- | --- | --- | --- | --- |")
            for each in run.to_json()["attempts"][-1]["slices"][0]["slices"]:
                ends = [format_value(each["interval"][end], whole.unit, "drop") for end in ("low", "high")]
                cells = [
                    each["slice"].partition("=")[2].rstrip("]"), f"{each['samples']:,}", f"{each['first']:.2%}",
                    f"{each['value']:.2%}", format_value(each["drop"], whole.unit, "drop"), " to ".join(ends),
                    f"{each['worse']} worse, {each['better']} better",
                ]  # fmt: skip
                print(f"| {' | '.join(cells)} |")
        if given.target:
            run = bd.compress(resnet20(), task(), given.target, budget=given.budget, runs=runs, verbose=False)
            print(f"\n{', '.join(given.target)}\n\n{run}")


if __name__ == "__main__":
    main()
