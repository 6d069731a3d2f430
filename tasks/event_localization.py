"""Audio-visual event localisation (AVE): which event, or background, in every second."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import MulticlassAccuracy

from hmmoe.errors import ConfigError
from hmmoe.losses.segments import bce_softmax
from hmmoe.types import Batch, ModelOutput
from tasks.base import Task


class EventLocalization(Task):
    """Segment accuracy over all classes, background included, as AVE's authors count it.

    Args:
        classes: number of classes, the last one is background.
        loss: "cross_entropy", or "bce_softmax" as LAVISH trains.
        kwargs: see ``Task``.
    """

    def __init__(
        self, *args: Any, classes: int, loss: Literal["cross_entropy", "bce_softmax"] = "cross_entropy", **kwargs: Any
    ) -> None:
        if loss not in ("cross_entropy", "bce_softmax"):
            raise ConfigError(f"task.loss must be cross_entropy or bce_softmax, not {loss!r}")
        self.classes, self.loss = classes, loss
        super().__init__(*args, **kwargs)

    def metrics(self, split: str) -> dict[str, Metric]:
        """Share of segments whose arg-max is right."""
        return {"acc": MulticlassAccuracy(self.classes, average="micro")}

    def price(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Mean over segments."""
        logits, labels = output.logits.flatten(0, 1).float(), batch["label"].flatten()
        return F.cross_entropy(logits, labels) if self.loss == "cross_entropy" else bce_softmax(logits, labels)

    def count(self, metrics: nn.ModuleDict, output: ModelOutput, batch: Batch) -> None:
        """Every segment counts once."""
        metrics["acc"].update(output.logits.detach().flatten(0, 1), batch["label"].flatten())

    def predict(self, output: ModelOutput, batch: Batch) -> dict[str, Any]:
        """Class index of every second."""
        return {"prediction": output.logits.argmax(-1).tolist(), "label": batch["label"].tolist()}
