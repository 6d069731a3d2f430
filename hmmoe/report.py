"""Many runs to one table: ``python -m hmmoe.report FOLDER... [--baseline lora] [--by peft]``."""

import argparse
import sys
from pathlib import Path

from hmmoe.errors import answered


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m hmmoe.report", description=__doc__.partition(":")[0])
    made.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run folders, or folders above them")
    made.add_argument("--baseline", metavar="ROW", help="row to test against: lora, rank=8 or peft=lora,rank=8")
    made.add_argument("--by", action="append", default=[], metavar="KEY", help="setting that names rows: peft, rank")
    made.add_argument("--metric", action="append", default=[], metavar="SPLIT/NAME", help="the first one is tested")
    made.add_argument("--ignore", action="append", default=[], metavar="KEY", help="setting that tells no rows apart")
    made.add_argument(
        "--mix", action="append", default=[], choices=("data", "code"), help="allow unequal data or code, and say so"
    )
    made.add_argument("--out", type=Path, help="folder of the files (default: report/ in the first FOLDER)")
    made.add_argument("--no-plots", action="store_true", help="tables only")
    return made


@answered
def main(words: list[str] | None = None) -> int:
    """Show the tables and write the files.

    Returns:
        0, or 2 with a message where something is to be set right.
    """
    asked = parser().parse_args(words)
    # After the options: a typo is answered before matplotlib and scipy are loaded.
    from hmmoe.analysis.report.assemble import reports
    from hmmoe.analysis.report.files import publish

    made, missing = reports(
        asked.folders,
        baseline=asked.baseline,
        by=[key for word in asked.by for key in word.split(",")],
        metrics=[name for word in asked.metric for name in word.split(",")],
        mix=asked.mix,
        ignore=[key for word in asked.ignore for key in word.split(",")],
    )
    publish(made, missing, asked.out or asked.folders[0] / "report", plots=not asked.no_plots)
    return 0


if __name__ == "__main__":
    sys.exit(main())
