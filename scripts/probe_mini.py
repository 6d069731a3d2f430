"""What the frozen mini towers know: logistic regression on the vectors that a head would see.

python -m scripts.probe_mini                  # generated held-out data
python -m scripts.probe_mini --real           # handwritten and spoken digits
python -m scripts.probe_mini vit --write      # into the card, with what the weight files say; other towers' lines stay
"""

import argparse
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

from hmmoe.assets import locate
from scripts.pretrain_mini import STEPS
from scripts.probing.facts import HEADER, facts
from scripts.probing.logistic import accuracy, majority
from scripts.probing.questions import Material, generated, in_parts
from scripts.probing.real import real
from scripts.probing.towers import WHERE, Tower, build, pooled

CARD = Path(locate("mini:README.md"))
COLUMNS = ("Tower", "Question", "Classes", "Train / test", "Majority", "No tower", "Random tower", "This tower")


class Row(NamedTuple):
    """One line of the table; the last four are accuracies on the test rows."""

    tower: str
    question: str
    classes: int
    counts: str
    majority: float
    plain: float
    fresh: float
    trained: float

    def cells(self) -> list[str]:
        """As printed."""
        return [value if isinstance(value, str) else f"{value:.3f}" if isinstance(value, float) else str(value)
                for value in self]  # fmt: skip


def rows_of(name: str, tower: Tower, material: Material) -> Iterator[Row]:
    """Features once, then every question about them."""
    plain = in_parts(material, material.plain)
    fresh, trained = (
        in_parts(material, lambda rows, e=encoder: pooled(e, material.modality, material.ready(rows)))
        for encoder in (tower.fresh, tower.trained)
    )
    for question, labels in material.labels.items():
        scores = [accuracy(features, labels, material.train) for features in (plain, fresh, trained)]
        counts = f"{material.train} / {len(labels) - material.train}"
        yield Row(name, question, len(set(labels)), counts, majority(labels, material.train), *scores)


def put(card: str, mark: str, head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """The card with these lines in the table between ``<!-- mark -->`` and ``<!-- end mark -->``.

    Lines of towers (first cell) that are not among the new ones stay as they were.

    Raises:
        ValueError: the card lacks a marker.
    """
    start, end = f"<!-- {mark} -->", f"<!-- end {mark} -->"
    if start not in card or end not in card:
        raise ValueError(f"{CARD} must hold the lines {start} and {end}")
    above, old = card.split(start)
    old, below = old.split(end)
    known = [[cell.strip() for cell in line.strip("| ").split("|")] for line in old.strip().splitlines()[2:]]
    new = {line[0] for line in lines}
    body = sorted(
        [line for line in known if line[0] not in new] + list(lines), key=lambda line: [*STEPS].index(line[0])
    )
    table = "\n".join(f"| {' | '.join(line)} |" for line in (head, ["---"] * len(head), *body))
    return f"{above}{start}\n{table}\n{end}{below}"


def main() -> None:
    """Probe, print, and write if asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("towers", nargs="*", metavar="tower", help=f"of {', '.join(WHERE)} (default: all)")
    parser.add_argument("--train", type=int, default=2000, help="rows to fit (default 2000)")
    parser.add_argument("--test", type=int, default=1000, help="rows to score (default 1000)")
    parser.add_argument("--real", action="store_true", help="MNIST and spoken digits instead of generated data")
    parser.add_argument("--write", action="store_true", help=f"put the lines into {CARD}")
    given = parser.parse_args()
    if unknown := set(given.towers) - set(WHERE):
        parser.error(f"no tower {', '.join(sorted(unknown))}: choose from {', '.join(WHERE)}")
    torch.set_num_threads(1)
    table, rows = Table(*COLUMNS), []
    for name in given.towers or WHERE:
        tower, start = build(name), time.perf_counter()
        for material in (real if given.real else generated)(name, tower.inputs, given.train, given.test):
            rows += rows_of(name, tower, material)
        print(f"{name}: {time.perf_counter() - start:.0f} s")
    for row in rows:
        table.add_row(*row.cells())
    Console(width=120).print(table)
    if given.write:
        card = put(CARD.read_text(), "facts", HEADER, [facts(CARD.parent / name) for name in STEPS])
        CARD.write_text(put(card, "real" if given.real else "probes", COLUMNS, [row.cells() for row in rows]))


if __name__ == "__main__":
    main()
