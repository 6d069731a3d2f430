"""What every task shares: one step for all splits, metrics that accumulate in metrics, a checkpoint of megabytes."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric

from hmmoe.errors import CheckpointError
from hmmoe.model import AdaptedModel
from hmmoe.optim import Recipe
from hmmoe.trainable import check_finite, check_live, load_own_state, own_state
from hmmoe.types import Batch, ModelOutput


class Task(L.LightningModule, ABC):
    """Call the model, price its output, count, log. Validation chooses, test reports.

    Logs ``<split>/loss``, ``<split>/<metric>`` for every split and, where the method routes at a price,
    ``train/balance``; where it has a price of its own, ``train/penalty``.

    Args:
        model: backbone, method and head.
        recipe: optimizer and schedule.
        val_splits: names of the validation loaders, in order.
        test_splits: names of the test loaders, in order.
        single_modality: score every test split again with all modalities but one missing
            (``<split>/<metric>_only_<modality>``): what the trained model owes to fusion.
    """

    def __init__(
        self,
        model: AdaptedModel,
        *,
        recipe: Recipe,
        val_splits: Sequence[str],
        test_splits: Sequence[str],
        single_modality: bool = True,
    ) -> None:
        super().__init__()
        self.model, self.recipe = model, recipe
        self.val_splits, self.test_splits = tuple(val_splits), tuple(test_splits)
        self.alone = self.ablated(model.backbone.modalities) if single_modality else ()
        self.scores = nn.ModuleDict()
        for split in ("train", *dict.fromkeys((*self.val_splits, *self.test_splits))):
            self.scores[f"on {split}"] = self._scores(split)
        for split in self.test_splits:
            for modality in self.alone:
                self.scores[f"on {split} only {modality}"] = nn.ModuleDict(self.metrics(split))
        self.strict_loading = False

    def _scores(self, split: str) -> nn.ModuleDict:
        return nn.ModuleDict({"loss": MeanMetric(nan_strategy="disable"), **self.metrics(split)})

    @abstractmethod
    def metrics(self, split: str) -> dict[str, Metric]:
        """Fresh metrics of one split, by name."""

    @abstractmethod
    def price(self, output: ModelOutput, batch: Batch) -> Tensor:
        """The task's loss, a scalar."""

    @abstractmethod
    def count(self, metrics: nn.ModuleDict, output: ModelOutput, batch: Batch) -> None:
        """Update the metrics that ``metrics`` made."""

    @abstractmethod
    def predict(self, output: ModelOutput, batch: Batch) -> dict[str, Any]:
        """Columns of the predictions file beside ``id``: prediction and label, lists or tensors of B rows."""

    def score_names(self) -> set[str] | None:
        """What training and validation log; None where a metric names its scores only when it computes them."""
        names = {"train/balance"}
        for split in ("train", *self.val_splits):
            for name, metric in self.scores[f"on {split}"].items():
                if "dict" in str(type(metric).compute.__annotations__.get("return", "dict")):
                    return None
                names.add(f"{split}/{name}")
        return names

    def ablated(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """The modalities that test splits are scored with alone; none where there is only one."""
        return tuple(modalities) if len(modalities) > 1 else ()

    def scored(self, batch: Batch) -> bool:
        """Whether a batch has targets; those of a test set that only a server knows are absent."""
        return True

    def step(self, batch: Batch, split: str) -> tuple[Tensor, ModelOutput]:
        """One batch of any split: the task's loss, and everything counted."""
        output = self.model(batch)
        if not self.scored(batch):
            return output.logits.new_zeros(()), output
        loss = self.price(output, batch)
        metrics = self.scores[f"on {split}"]
        metrics["loss"].update(loss.detach(), len(batch["id"]))
        self.count(metrics, output, batch)
        return loss, output

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Loss with balance terms; the routing goes to the callbacks."""
        loss, output = self.step(batch, "train")
        weight = self.model.peft.balance_weight
        if weight:
            balance = self.model.peft.balance(output.routing)
            self.log("train/balance", balance.detach())
            loss = loss + weight * balance
        penalty = self.model.peft.penalty()
        if penalty is not None:
            self.log("train/penalty", penalty.detach())
            loss = loss + penalty
        return {"loss": loss, "routing": detached(output)}

    def validation_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Count one batch of a validation split."""
        _, output = self.step(batch, self.val_splits[dataloader_idx])
        return {"routing": detached(output)}

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Count one batch of a test split, and its predictions for the callbacks."""
        split = self.test_splits[dataloader_idx]
        _, output = self.step(batch, split)
        for modality in self.alone if self.scored(batch) else ():
            self.count(self.scores[f"on {split} only {modality}"], self.model(only(batch, modality)), batch)
        return {"id": batch["id"], **self.predict(output, batch), "routing": detached(output)}

    def on_after_backward(self) -> None:
        """Refuse, after the first backward, what can never learn."""
        if self.trainer.global_step == 0:
            check_live(self.model)

    def on_before_optimizer_step(self, optimizer: torch.optim.Optimizer) -> None:
        """Stop before a loss that is not finite reaches the weights."""
        loss = self.scores["on train"]["loss"].mean_value
        check_finite(loss, self.trainer.current_epoch, self.trainer.global_step)

    def optimizer_step(self, *args: Any, **options: Any) -> None:
        """Step, then let the method act on it while its gradients are there."""
        super().optimizer_step(*args, **options)
        self.model.peft.after_step(self.trainer.global_step + 1)  # Lightning counts when this hook is over

    def on_train_epoch_end(self) -> None:
        """Log the epoch's training scores."""
        self._report("train")

    def on_validation_epoch_end(self) -> None:
        """Log all validation splits."""
        for split in self.val_splits:
            self._report(split)

    def on_test_epoch_end(self) -> None:
        """Log all test splits, and what one modality alone reaches there."""
        for split in self.test_splits:
            self._report(split)
            for modality in self.alone:
                self._report(split, modality)

    def _report(self, split: str, modality: str | None = None) -> None:
        name, suffix = (f"on {split}", "") if modality is None else (f"on {split} only {modality}", f"_only_{modality}")
        for key, metric in self.scores[name].items():
            if not metric.update_called:  # no targets
                continue
            computed = metric.compute()
            for quantity, score in (computed if isinstance(computed, dict) else {key: computed}).items():
                if key == "loss" or not score.isnan():  # a cell that these examples do not touch has no score
                    self.log(f"{split}/{quantity}{suffix}", score, prog_bar=not suffix and key != "loss")
            metric.reset()

    def configure_optimizers(self) -> dict[str, Any]:
        """Optimizer groups by role, schedule over all optimizer steps."""
        steps = int(self.trainer.estimated_stepping_batches)
        self.model.peft.begin(steps)
        return self.recipe.build(self.model, steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what this run made, and the fingerprint of the backbone that it was made for."""
        checkpoint["state_dict"] = {f"model.{name}": tensor for name, tensor in own_state(self.model).items()}
        checkpoint["fingerprint"] = self.model.fingerprint
        checkpoint["schedule"] = self.model.peft.schedule()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse another backbone and another method's weights; Lightning's own load is not strict here.

        Raises:
            CheckpointError: what does not fit.
        """
        if checkpoint["fingerprint"] != self.model.fingerprint:
            raise CheckpointError(
                f"the checkpoint was trained on another backbone: fingerprint {checkpoint['fingerprint'][:12]}, this "
                f"one has {self.model.fingerprint[:12]}; set the backbone's `weights` to the file used in training"
            )
        load_own_state(self.model, {k.removeprefix("model."): v for k, v in checkpoint["state_dict"].items()})
        if checkpoint.get("schedule"):
            self.model.peft.resume(checkpoint["schedule"])


def detached(output: ModelOutput) -> dict[tuple[str, str], Any]:
    """Routing without its graph, for statistics."""
    return {
        key: routing._replace(
            group_weights=routing.group_weights.detach(),
            expert_weights=routing.expert_weights.detach(),
            probs=None if routing.probs is None else routing.probs.detach(),
        )
        for key, routing in output.routing.items()
    }


def only(batch: Batch, modality: str) -> Batch:
    """The batch with every other modality missing."""
    return missing(batch, [name for name in ("vision", "audio", "text") if name != modality])


def missing(batch: Batch, modalities: Sequence[str]) -> Batch:
    """The batch without some modalities: zeros and a keep of False."""
    keep, rest = dict(batch.get("keep", {})), dict(batch)
    for name in modalities:
        if name not in batch:
            continue
        if name == "text":
            rest[name] = {key: torch.zeros_like(value) for key, value in batch[name].items()}
        else:
            rest[name] = torch.zeros_like(batch[name])
            keep[name] = torch.zeros(batch[name].shape[:2], dtype=torch.bool, device=batch[name].device)
    return rest | {"keep": keep}
