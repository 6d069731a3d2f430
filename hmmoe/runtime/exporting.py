"""From a run to files that other tools read: ``python -m hmmoe.export <run> --format hf --out adapters``.

hf          one folder per tower for ``peft.PeftModel.from_pretrained(<its library model>, folder)``; compared first
merged      the backbone with the method merged into its weights, as its ``weights`` keys read them
checkpoint  the same and the head in one file, which ``python eval.py ckpt_path=<file>`` scores

Words (key=value) change settings of the run, such as where the backbone's weights lie.
"""

import argparse
import logging
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from hmmoe.errors import answered


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="python -m hmmoe.export", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("run", type=Path, help="a run's folder (its best checkpoint) or a checkpoint")
    made.add_argument("words", nargs="*", metavar="key=value", help="settings to change")
    made.add_argument("--format", choices=("hf", "merged", "checkpoint"), default="hf")
    made.add_argument("--out", type=Path, required=True, help="folder to write to; of a checkpoint the file, *.ckpt")
    return made


@answered
def main(words: Sequence[str] | None = None) -> int:
    """Rebuild, write, say what was written.

    Returns:
        0, or 2 with a message where something is to be set right.
    """
    asked = parser().parse_intermixed_args(words)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    for name, place in _write(asked).items():
        print(f"{name}: {place}")
    return 0


def _write(asked: argparse.Namespace) -> dict[str, Path]:
    # Torch and its kin take ten seconds: --help and a typo are answered before.
    from hmmoe.analysis.adapters import export_hf, export_merged
    from hmmoe.runtime import rebuild
    from hmmoe.runtime.merging import export_checkpoint

    file = rebuild.checkpoint_of(asked.run)
    cfg = rebuild.settings_of(file, asked.words)
    if asked.format == "checkpoint":
        return export_checkpoint(cfg, file, asked.out)
    model = rebuild.fresh(cfg)
    rebuild.load(model, file)
    if asked.format == "merged":
        return export_merged(model, asked.out)
    return export_hf(model, asked.out, partial(rebuild.backbone_of, cfg), rebuild.any_batch(cfg))
