"""Put the dashboard into a W&B project: ``python -m hmmoe.dashboard --entity E --project P``."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from hmmoe.analysis.dashboard import workspace
from hmmoe.errors import ConfigError, answered


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m hmmoe.dashboard", description=__doc__.splitlines()[0])
    parser.add_argument("--entity", required=True, help="user or team on W&B")
    parser.add_argument("--project", default="hmmoe", help="project that holds the runs (logger.wandb.project)")
    parser.add_argument("--split", default="test", help="split of the closing score")
    parser.add_argument("--metric", default="acc", help="closing score that methods are compared by")
    parser.add_argument("--modalities", nargs="+", default=["vision", "audio", "text"])
    parser.add_argument("--json", type=Path, help="write what would be sent into this file; needs no account")
    return parser.parse_args(given)


@answered
def main(given: Sequence[str] | None = None) -> int:
    """Build the workspace, then save it on the server or into a file."""
    args = arguments(given)
    console = Console(highlight=False, soft_wrap=True)
    board = workspace(args.entity, args.project, split=args.split, metric=args.metric, modalities=args.modalities)
    if args.json:
        spec = board._to_model().model_dump(by_alias=True, exclude_none=True, mode="json")
        args.json.write_text(json.dumps(spec, indent=2) + "\n")
        console.print(f"wrote {args.json}: {len(board.sections)} sections")
        return 0
    console.print(f"dashboard {save(board)}")
    return 0


def save(board: object) -> str:
    """Send it; the address of the page.

    Raises:
        ConfigError: no key, no network, or no such project.
    """
    try:
        board.save()
    except Exception as error:  # the client's errors have no common class
        raise ConfigError(
            f"W&B did not take the dashboard ({type(error).__name__}: {error}): run `wandb login`, check --entity and "
            "--project, or write it into a file with --json"
        ) from error
    return board.url


if __name__ == "__main__":
    raise SystemExit(main())
