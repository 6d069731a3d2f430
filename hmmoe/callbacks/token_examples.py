"""Words and patches by expert, from the last validation and the test: what the routing figures of a report show."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
from torch import Tensor

from hmmoe.analysis.token_examples import Patches, Words
from hmmoe.analysis.token_files import write_examples
from hmmoe.callbacks.routed import RoutedBatches
from hmmoe.errors import ConfigError
from hmmoe.types import Routing


class TokenExamples(RoutedBatches):
    """Writes ``<folder>/tokens_<split>.csv`` and ``patches_<split>.png``; silent where nothing routes.

    Of the first validation split after every epoch, the file of the epoch before replaced, and of every test split.
    Under several processes those of rank 0, which sees its part of the examples.

    Args:
        folder: usually the run's ``routing``.
        top: words, and patches, per expert.
        sites: how many depths, spread from the first to the last.
        least: occurrences below which a word is left out.
    """

    first_only = True

    def __init__(self, folder: str | Path, *, top: int = 6, sites: int = 3, least: int = 3) -> None:
        for name, value in (("top", top), ("sites", sites), ("least", least)):
            if value < 1:
                raise ConfigError(f"callbacks.token_examples.{name}={value}: expected 1 or more")
        self.folder = Path(folder)
        self.top, self.sites, self.least = top, sites, least
        self._seen: dict[str, dict[tuple[str, str], Words | Patches]] = {}

    def on_routed(self, trainer: L.Trainer, split: str, routing: Mapping[tuple[str, str], Routing], batch: Any) -> None:
        """Look at a batch."""
        data = trainer.datamodule
        if not trainer.is_global_zero or data is None or not isinstance(batch, dict):
            return
        seen = self._seen.setdefault(split, {})
        for key in spread(list(routing), self.sites):
            if key[1] == "text" and "text" in batch:
                words = seen.setdefault(key, Words(len(data.text().tokenizer)))
                words.update(routing[key], batch["text"]["ids"])
            elif key[1] == "vision" and batch["vision"].ndim == 5:
                patches = seen.setdefault(key, Patches(self.top))
                patches.update(routing[key], shown(batch["vision"], data.inputs["vision"]), batch["id"])

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the validation split."""
        self._write(trainer)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Write the test splits."""
        self._write(trainer)

    def _write(self, trainer: L.Trainer) -> None:
        for split, seen in self._seen.items():
            rows, tiles = [], []
            for (site, _), one in seen.items():
                if isinstance(one, Words):
                    tokenizer = trainer.datamodule.text().tokenizer
                    special = tokenizer.all_special_ids
                    name = tokenizer.convert_ids_to_tokens
                    rows += one.examples(site, name, top=self.top, least=self.least, without=special)
                else:
                    found, cut = one.examples(site, len(tiles))
                    rows, tiles = rows + found, tiles + cut
            if rows:
                write_examples(self.folder, split, trainer.current_epoch, rows, tiles)
        self._seen = {}


def spread(keys: Sequence[tuple[str, str]], count: int) -> list[tuple[str, str]]:
    """All keys (site, modality) of ``count`` sites from the first to the last."""
    sites = list(dict.fromkeys(site for site, _ in keys))
    steps = max(count - 1, 1)
    chosen = {sites[round(i * (len(sites) - 1) / steps)] for i in range(count)}
    return [key for key in keys if key[0] in chosen]


def shown(vision: Tensor, spec: dict[str, Any]) -> Tensor:
    """Pictures as they were before ``mean`` and ``std``, about 0..1."""
    mean, std = (
        torch.tensor(spec.get(name, [start] * 3), device=vision.device) for name, start in (("mean", 0.0), ("std", 1.0))
    )
    return vision.float() * std[:, None, None] + mean[:, None, None]
