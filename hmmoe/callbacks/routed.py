"""What callbacks have in common that look at the routing of every evaluated batch."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from hmmoe.types import Routing


class RoutedBatches(Callback):
    """Hands validation and test batches that were routed, sanity checks aside, to ``on_routed`` with their split.

    Routing is what the task's steps return under "routing".
    """

    first_only = False
    """Of several validation splits only the first, which chooses the model."""

    def on_routed(self, trainer: L.Trainer, split: str, routing: Mapping[tuple[str, str], Routing], batch: Any) -> None:
        """A batch of ``split`` and its routing by (site, modality)."""

    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        """Hand on a validation batch."""
        if not trainer.sanity_checking and not (self.first_only and loader):
            self._hand_on(trainer, pl_module.val_splits[loader], outputs, batch)

    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, index: int, loader: int = 0
    ) -> None:
        """Hand on a test batch."""
        self._hand_on(trainer, pl_module.test_splits[loader], outputs, batch)

    def _hand_on(self, trainer: L.Trainer, split: str, outputs: Any, batch: Any) -> None:
        routing = outputs.get("routing") if isinstance(outputs, dict) else None
        if routing:
            self.on_routed(trainer, split, routing, batch)
