"""Is the sentence true of the picture(s)? NLVR and NLVR2."""

from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric
from torchmetrics.classification import BinaryAccuracy

from hmmoe.metrics.consistency import Consistency
from hmmoe.types import Batch, ModelOutput
from tasks.base import Task


class VisualReasoning(Task):
    """Accuracy over examples, and consistency: share of sentence groups with every example right (lil-lab/nlvr)."""

    def metrics(self, split: str) -> dict[str, Metric]:
        """Consistency only where whole groups are seen."""
        accuracy: dict[str, Metric] = {"acc": BinaryAccuracy()}
        return accuracy if split == "train" else accuracy | {"consistency": Consistency()}

    def price(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Cross-entropy of two logits (false, true)."""
        return F.cross_entropy(output.logits.float(), batch["label"])

    def count(self, metrics: nn.ModuleDict, output: ModelOutput, batch: Batch) -> None:
        """An example is right when the larger logit is its label's."""
        predicted = output.logits.detach().argmax(-1)
        metrics["acc"].update(predicted, batch["label"])
        if "consistency" in metrics:
            metrics["consistency"].update(predicted == batch["label"], batch["group"])

    def predict(self, output: ModelOutput, batch: Batch) -> dict[str, Any]:
        """1 for true."""
        return {"prediction": output.logits.argmax(-1).tolist(), "label": batch["label"].tolist()}
