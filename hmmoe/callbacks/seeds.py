"""Every epoch starts from its own seed, so a resumed run draws what the unbroken run would have drawn."""

import lightning as L
from lightning.pytorch.callbacks import Callback


class EpochSeeds(Callback):
    """Seeds python, numpy and torch from (seed, epoch, rank) at the start of every training epoch.

    A state stored in the checkpoint would have to be stored for every process, and would still differ after a
    validation that drew numbers.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """On a resume, start the loader again: its workers have fetched for epoch 0 before the epoch was restored."""
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if trainer.current_epoch and hasattr(sampler, "set_epoch"):
            sampler.set_epoch(trainer.current_epoch)
            iter(trainer.fit_loop._data_fetcher)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw anew."""
        mixed = (self.seed * 1_000_003 + trainer.current_epoch) * 1_009 + trainer.global_rank
        L.seed_everything(mixed % 2**32, workers=False, verbose=False)
