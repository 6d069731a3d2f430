"""Who computes where, over seeds, from saved files: ``python -m hmmoe.utilisation FOLDER...``."""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from hmmoe.errors import ConfigError, DataMissing, answered

FIGURES = ("kinds_by_depth", "load", "heatmap", "words", "patches")
"""The last two are one per seed: what each expert gets to see."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m hmmoe.utilisation", description=__doc__.partition(":")[0])
    made.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders above them")
    made.add_argument("--by", action="append", default=[], metavar="KEY", help="setting that names rows: peft, rank")
    made.add_argument("--ignore", action="append", default=[], metavar="KEY", help="setting that tells no rows apart")
    made.add_argument(
        "--mix", action="append", default=[], choices=("data", "code"), help="allow unequal data or code, and say so"
    )
    made.add_argument(
        "--only", action="append", default=[], metavar="FIGURE", help=f"draw these alone: {', '.join(FIGURES)}"
    )
    made.add_argument("--split", help="of the routing tables (default: test, else val, else train)")
    made.add_argument("--out", type=Path, help="folder of the files (default: report/ in the first FOLDER)")
    return made


@answered
def main(words: list[str] | None = None) -> int:
    """Draw the figures of every row of runs that route.

    Returns:
        0, or 2 with a message where something is to be set right.
    """
    asked = parser().parse_args(words)
    by, ignore, only = (
        [key for word in words for key in word.split(",")] for words in (asked.by, asked.ignore, asked.only)
    )
    out = asked.out or asked.folders[0] / "report"
    written, notes = draw(asked.folders, out, by=by, ignore=ignore, split=asked.split, mix=asked.mix, only=only)
    print("\n".join([*map(str, written), *(f"* {note}" for note in notes)]))
    return 0


def draw(
    folders: list[Path],
    out: Path,
    *,
    by: list[str],
    ignore: list[str],
    split: str | None,
    mix: list[str],
    only: Sequence[str] = (),
) -> tuple[list[Path], list[str]]:
    """All figures, or ``only`` some, in a folder per row; and what the report would note of the runs together.

    Raises:
        UserError: no completed run that routes, data or code mixed, or a figure that does not exist.
    """
    unknown = [name for name in only if name not in FIGURES]
    if unknown:
        raise ConfigError(f"--only {','.join(unknown)}: choose from {', '.join(FIGURES)}")
    wanted = set(only or FIGURES)
    # After the options: a typo is answered before matplotlib and torch are loaded.
    from hmmoe.analysis.heatmap import usage_heatmap
    from hmmoe.analysis.report import provenance, usage, usage_plots
    from hmmoe.analysis.report.plots import save
    from hmmoe.analysis.report.rows import latest, rows, split_by_dataset
    from hmmoe.analysis.report.runs import find
    from hmmoe.analysis.token_files import read_examples

    done = [run for run in find(folders) if run.status == "completed"]
    routed = {run.folder for run in done if any((run.folder / "routing").glob("epoch_*"))}
    if not routed:
        raise DataMissing(
            f"no completed run with routing tables below {', '.join(map(str, folders))}: methods without experts have "
            "none, and callbacks.utilization writes them"
        )
    written, notes = [], []
    for name, block in split_by_dataset(done).items():
        table = rows(latest(block, ignore)[0], by, ignore)  # of all runs: named as in the report
        notes += provenance.check(table, [split or "test"], allow=mix)
        for row in (row._replace(runs=[run for run in row.runs if run.folder in routed]) for row in table):
            if not row.runs:
                continue
            folder = out / "utilisation" / re.sub(r"[^\w.=-]+", "_", f"{name}_{row.label}")
            folder.mkdir(parents=True, exist_ok=True)
            shown, tables = usage.last_tables(row.runs, split)
            title = f"{name}, {row.label}, {shown}"
            figures = {}
            if "kinds_by_depth" in wanted:
                figures["kinds_by_depth"] = usage_plots.kinds_over_depth(tables, title)
            if "load" in wanted:
                figures["load"] = usage_plots.load_against_fair(tables, title)
            if "heatmap" in wanted:
                order = "; experts of a group by their use, 0 the busiest" if len(tables) > 1 else ""
                told = f"{title}: mean of {len(tables)} seeds{order}"
                figures["heatmap"] = usage_heatmap(usage.mean_rows(tables), told)
            for run in row.runs if wanted & {"words", "patches"} else ():
                examples, tiles = read_examples(run.folder / "routing", shown)
                told = f"{title}, seed {run.seed}"
                if "words" in wanted and any(one.tile is None for one in examples):
                    figures[f"words_seed{run.seed}"] = usage_plots.word_examples(examples, told)
                if "patches" in wanted and tiles:
                    figures[f"patches_seed{run.seed}"] = usage_plots.patch_examples(examples, tiles, told)
            written += [path for stem, figure in figures.items() for path in save(figure, folder / stem)]
    return written, notes


if __name__ == "__main__":
    sys.exit(main())
