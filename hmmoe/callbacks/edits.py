"""Before a test: the method merged into the weights, or a plan of interventions at work."""

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from hmmoe.analysis.interventions import intervened

log = logging.getLogger(__name__)


class Edits(Callback):
    """Changes the model once its weights are loaded, and gives it back as it was (but for a merge).

    Args:
        merge: fold the method into the backbone's weights.
        plan: see ``hmmoe.analysis.interventions``.
    """

    def __init__(self, *, merge: bool = False, plan: Mapping[str, Sequence[Mapping[str, Any]]] | None = None) -> None:
        self.merge, self.plan = merge, plan or {}
        self.done: list[str] = []
        """One line for everything that was changed."""
        self._stack = ExitStack()

    def on_test_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Change it."""
        model = pl_module.model
        self.done = self._stack.enter_context(intervened(model, self.plan)) if self.plan else []
        if self.merge:
            model.peft.merge(model.backbone)
            self.done = [*self.done, f"{type(model.peft).__name__} merged into the weights"]
        for line in self.done:
            log.info("%s", line)

    def on_test_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Take the interventions back."""
        self._stack.close()
