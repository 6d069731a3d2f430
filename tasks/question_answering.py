"""Question answering over a fixed list of answers: VQAv2, MUSIC-AVQA and their kin."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics import Metric

from hmmoe.errors import ConfigError
from hmmoe.metrics.grouped import GroupMean
from hmmoe.types import OUTSIDE, Batch, ModelOutput
from tasks.base import Task


class QuestionAnswering(Task):
    """Which of the answers? Accuracy overall (``acc``) and by part (``acc_<part>``).

    Reads from the batch, beside the model's inputs:

        label  (B,) int64 index of the answer, or (B, answers) float soft targets
        score  optional (B, answers) float: what the official evaluator gives for every answer; without it an answer is
               right when it is the label
        kind   list of B str: what ``parts`` refer to

    A batch without ``label`` (a server keeps its answers) is predicted and not scored.

    Args:
        answers: how many there are.
        loss: "cross_entropy" of the one right answer; "bce": binary cross-entropy of every answer against soft targets,
            summed over the answers, as VLMo trains VQAv2 (``vlmo/modules/objectives.py``).
        parts: name of a part -> the kinds of questions that it averages over.
        kwargs: see ``Task``.
    """

    def __init__(
        self,
        *args: Any,
        answers: int,
        loss: Literal["cross_entropy", "bce"] = "cross_entropy",
        parts: Mapping[str, Sequence[str]] | None = None,
        **kwargs: Any,
    ) -> None:
        if loss not in ("cross_entropy", "bce"):
            raise ConfigError(f"task.loss must be cross_entropy or bce, not {loss!r}")
        self.answers, self.loss = answers, loss
        self.parts = {name: tuple(kinds) for name, kinds in (parts or {}).items()}
        super().__init__(*args, **kwargs)

    def metrics(self, split: str) -> dict[str, Metric]:
        """Parts where the model is judged, not in training."""
        parts = {} if split == "train" else {f"acc_{name}": GroupMean(kinds) for name, kinds in self.parts.items()}
        return {"acc": GroupMean(), **parts}

    def scored(self, batch: Batch) -> bool:
        """Whether the answers are known here."""
        return "label" in batch

    def price(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Mean over the questions.

        Raises:
            ConfigError: targets and loss, or targets and head, do not go together.
        """
        logits, label = output.logits.float(), batch["label"]
        soft = label.is_floating_point()
        if soft != (self.loss == "bce") or logits.shape[-1] != self.answers or (soft and label.shape != logits.shape):
            raise ConfigError(
                f"task.loss={self.loss} with task.answers={self.answers}: found targets {tuple(label.shape)} "
                f"({'soft' if soft else 'one answer each'}) and logits {tuple(logits.shape)}; soft targets want "
                "task.loss=bce, single answers cross_entropy, and the head as many classes as there are answers"
            )
        if soft:
            return F.binary_cross_entropy_with_logits(logits, label) * self.answers
        known = (label != OUTSIDE).sum().clamp(min=1)
        return F.cross_entropy(logits, label, ignore_index=OUTSIDE, reduction="sum") / known

    def count(self, metrics: nn.ModuleDict, output: ModelOutput, batch: Batch) -> None:
        """Every question counts once."""
        chosen = output.logits.detach().argmax(-1)
        right = batch["score"].gather(1, chosen[:, None])[:, 0] if "score" in batch else chosen == batch["label"]
        for metric in metrics.values():
            if isinstance(metric, GroupMean):
                metric.update(right.to(torch.float32), batch.get("kind"))

    def predict(self, output: ModelOutput, batch: Batch) -> dict[str, Any]:
        """Index of the answer; the label's, where there is one; the kind of question."""
        columns: dict[str, Any] = {"prediction": output.logits.argmax(-1).tolist()}
        if "label" in batch:
            label = batch["label"]
            columns["label"] = (label.argmax(-1) if label.is_floating_point() else label).tolist()
        if "score" in batch:
            columns["score"] = batch["score"].gather(1, output.logits.argmax(-1)[:, None])[:, 0].tolist()
        return columns | ({"kind": batch["kind"]} if "kind" in batch else {})
