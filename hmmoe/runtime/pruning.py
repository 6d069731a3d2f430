"""Drop experts that a run hardly used: ``python -m hmmoe.prune <run> --below 0.25``.

Reads the run's routing tables, takes the experts out, writes ``<run>/pruned_<time>/checkpoints/pruned.ckpt`` (eval.py
reads it) and ``report.json``, and scores the test splits before and after through eval.py. Words (key=value) change
settings of the run, and go to eval.py too.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from hmmoe.errors import ConfigError, answered


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m hmmoe.prune", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("run", type=Path, help="a run's folder, or one of its checkpoints")
    made.add_argument("words", nargs="*", metavar="key=value", help="settings to change")
    made.add_argument("--below", type=float, help="drop experts under this ratio to the fair share of their stream")
    made.add_argument("--keep", type=float, help="or keep this share of all experts, the most used ones")
    made.add_argument("--split", default="train", help="whose last routing table decides (default train)")
    made.add_argument("--no-scores", action="store_true", help="do not run eval.py before and after")
    return made


@answered
def main(words: Sequence[str] | None = None) -> int:
    """Choose, drop, write, score, report.

    Returns:
        0, or 2 with a message where something is to be set right.
    """
    asked = parser().parse_intermixed_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    folder, report = prune(asked)
    print(told(report))
    print(f"report     {folder / 'report.json'}\nnext       python eval.py ckpt_path={report['checkpoint']}")
    return 0


def prune(asked: argparse.Namespace) -> tuple[Path, dict[str, Any]]:
    """The folder that was written, and its report.

    Raises:
        UserError: no such run, a method without experts, a split without a table, nothing to drop.
    """
    # Torch and its kin take ten seconds: --help and a typo are answered before.
    import torch
    from omegaconf import OmegaConf

    from hmmoe.analysis import pruning
    from hmmoe.peft.hmmoe import HMMoE
    from hmmoe.runtime import rebuild
    from hmmoe.trainable import counts, own_state

    file = rebuild.checkpoint_of(asked.run)
    cfg = rebuild.settings_of(file, asked.words)
    model = rebuild.fresh(cfg)
    if not isinstance(model.peft, HMMoE):
        raise ConfigError(f"{type(model.peft).__name__} has no experts that can be dropped: prune runs of peft=hmmoe*")
    content = rebuild.load(model, file)
    run = file.resolve().parent.parent
    found = pruning.uses(model.peft, last_table(run / "routing", asked.split))
    chosen = pruning.choose(found, below=asked.below, keep=asked.keep)
    if not chosen:
        least = min(use.ratio for use in found)
        raise ConfigError(f"nothing to drop: the least used of {len(found)} experts has {least:.3f} of its fair share")
    OmegaConf.update(cfg, "peft.drop", pruning.merged(model.peft.drop, chosen), force_add=True)
    smaller = rebuild.fresh(cfg)
    pruning.transfer(model, smaller)
    folder = run / f"pruned_{datetime.now():%Y-%m-%d_%H-%M-%S}"
    target = folder / "checkpoints" / "pruned.ckpt"
    target.parent.mkdir(parents=True)
    state = {f"model.{name}": tensor for name, tensor in own_state(smaller).items()}
    fresh = {"state_dict": state, "settings": rebuild.plain(cfg), "optimizer_states": [], "lr_schedulers": []}
    torch.save({**content, **fresh}, target)
    report = {
        "checkpoint": str(target),
        "from": str(file),
        "split": asked.split,
        "below": asked.below,
        "keep": asked.keep,
        "experts": {"before": len(found), "after": len(found) - len(chosen)},
        "dropped": [use._asdict() for use in chosen],
        "parameters": {"before": counts(model), "after": counts(smaller)},
        "scores": {},
    }
    if not asked.no_scores:
        report["scores"] = {
            "before": scored(file, folder / "before", asked.words),
            "after": scored(target, folder / "after", asked.words),
        }
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    return folder, report


def last_table(folder: Path, split: str) -> list[Any]:
    """Rows of the last utilisation table of a split.

    Raises:
        ConfigError: there is none.
    """
    from hmmoe.analysis.usage_table import read_usage

    try:
        tables = read_usage(folder)
    except (FileNotFoundError, ValueError) as error:
        raise ConfigError(str(error)) from error
    mine = [table for table in tables if table.split == split]
    if not mine:
        raise ConfigError(f"--split {split}: {folder} has tables of {', '.join(sorted({t.split for t in tables}))}")
    return mine[-1].rows


def scored(checkpoint: Path, folder: Path, words: Sequence[str]) -> dict[str, dict[str, float]]:
    """Scores by split of a process of its own, which leaves a whole evaluation folder.

    Raises:
        ConfigError: the evaluation failed.
    """
    done = subprocess.run(
        [sys.executable, "-m", "eval", f"ckpt_path={checkpoint}", *words],
        env={**os.environ, "HMMOE_RUN_DIR": str(folder)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise ConfigError(f"eval.py ckpt_path={checkpoint} failed ({done.returncode}): {done.stderr[-600:].strip()}")
    return json.loads((folder / "result.json").read_text())["metrics"]


def told(report: dict[str, Any]) -> str:
    """The report in a few lines."""
    experts, sizes = report["experts"], report["parameters"]
    lines = [f"experts    {experts['before']} -> {experts['after']}"]
    for role in ("adapters", "router"):
        lines.append(f"{role:10s} {sizes['before'][role]:,} -> {sizes['after'][role]:,} parameters")
    for split, metrics in report["scores"].get("before", {}).items():
        for metric, value in metrics.items():
            lines.append(f"{split}/{metric:10s} {value:.4f} -> {report['scores']['after'][split][metric]:.4f}")
    return "\n".join(lines)
