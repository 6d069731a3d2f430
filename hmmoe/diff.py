"""What differs between two runs: ``python -m hmmoe.diff RUN_A RUN_B``."""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console
from rich.table import Table

from hmmoe.errors import DataMissing, answered

LONGEST = 60
"""Characters of a value that are shown; a hash is told by its first dozen."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m hmmoe.diff", description=__doc__.partition(":")[0])
    made.add_argument("first", type=Path, metavar="RUN_A")
    made.add_argument("second", type=Path, metavar="RUN_B")
    return made


@answered
def main(words: list[str] | None = None) -> int:
    """Show the differences in settings, code, data, versions and hardware, and the scores of both below.

    Returns:
        0 where nothing differs, 1 where something does (scores do not count), 2 with a message for a wrong folder.
    """
    asked = parser().parse_args(words)
    from hmmoe.analysis.report.difference import differences, outcomes
    from hmmoe.analysis.report.runs import Run

    for folder in (asked.first, asked.second):
        if not (folder / "run.json").is_file():
            raise DataMissing(f"{folder} is no run folder: expected run.json in it, as `python train.py` leaves it")
    first, second = Run(asked.first), Run(asked.second)
    found, scores = differences(first, second), outcomes(first, second)
    console = Console(highlight=False, markup=False, width=None if Console().is_terminal else 160)
    names = apart(asked.first.resolve(), asked.second.resolve())
    for title, lines in (("Differences", found), ("Outcome", scores)):
        table = Table("part", "name", *names, title=title, title_justify="left")
        for line in lines:
            table.add_row(line.part, line.name, short(line.first), short(line.second))
        if lines:
            console.print(table)
    if any(run.git.get("dirty") and "diff" not in run.git for run in (first, second)):
        console.print("uncommitted changes were not recorded: the code may differ all the same")
    if not found:
        console.print("same settings, code, data, versions and hardware")
    return int(bool(found))


def apart(first: Path, second: Path) -> tuple[str, str]:
    """The folders without what they have in common, so that a narrow column still tells them apart."""
    if first == second:
        return first.name, second.name
    shared = Path(os.path.commonpath([first, second]))
    return tuple(str(path.relative_to(shared)) if path != shared else path.name for path in (first, second))


def short(value: str) -> str:
    """A long value cut, a hash to a dozen digits."""
    if len(value) >= 40 and all(sign in "0123456789abcdef" for sign in value):
        return value[:12]
    return value if len(value) <= LONGEST else value[: LONGEST - 3] + "..."


if __name__ == "__main__":
    sys.exit(main())
