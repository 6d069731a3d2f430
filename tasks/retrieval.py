"""Retrieval between sentences and clips by a dual encoder: no pair ever passes through the model together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch import distributed as dist
from torchmetrics import Metric

from hmmoe.errors import ConfigError
from hmmoe.heads.projection import CLIP, TEXT, ProjectionHead
from hmmoe.losses.contrast import contrast
from hmmoe.metrics.consistency import group_number
from hmmoe.metrics.retrieval import Candidates, Retrieval
from hmmoe.types import Batch, ModelOutput
from tasks.base import Task, detached, missing


class ClipRetrieval(Task):
    """Contrastive training, then ranks: sentence to clip (t2v) and clip to sentence (v2t).

    Where text meets a clip at some site of the backbone, or in its attention, the model runs twice: on the clips with
    the text missing, and on the sentences with the clips missing (zeros and a keep of False), in training as in the
    test. Where it does not (VALOR without ``cross``), once. Either way N sentences and N clips cost 2 N passes, and
    neither vector depends on the other side.

    Reads from the batch, beside the model's inputs: ``id`` of the clips; ``sentence``, names of the sentences in
    ``text``, one to a clip; in evaluation ``more``, the clips' further sentences: {ids (M, L), keep (M, L),
    names (M), clip (M) names}.

    Args:
        among: what a clip's sentence is ranked among, see ``Retrieval``.
        kwargs: see ``Task``; ``single_modality`` scores clips again by picture and by sound alone, if they have both.

    Raises:
        ConfigError: another head than ``ProjectionHead``.
    """

    def __init__(self, *args: Any, among: Candidates = "clips", **kwargs: Any) -> None:
        self.among = among
        super().__init__(*args, **kwargs)
        if not isinstance(self.model.head, ProjectionHead):
            raise ConfigError(
                f"retrieval compares the vectors of hmmoe.heads.projection.ProjectionHead, task.head is "
                f"{type(self.model.head).__name__}"
            )
        backbone = self.model.backbone
        self.of_clip = tuple(m for m in backbone.modalities if m != "text")
        self.apart = all("text" not in site.widths or len(site.widths) == 1 for site in backbone.sites)
        self.rows_at_end: dict[str, list[dict[str, Any]]] = {}
        self.arrays_at_end: dict[str, dict[str, Any]] = {}
        self._names: dict[int, str] = {}
        self._owners: dict[str, str] = {}

    def ablated(self, modalities: Sequence[str]) -> tuple[str, ...]:
        """Clips with one of their modalities; a query always has its text."""
        clip = tuple(m for m in modalities if m != "text")
        return clip if len(clip) > 1 else ()

    def metrics(self, split: str) -> dict[str, Metric]:
        """Ranks where the model is judged, not in training."""
        return {} if split == "train" else {"ranks": Retrieval(self.among)}

    def encode(self, batch: Batch) -> ModelOutput:
        """Vectors of the clips and of as many sentences, (B, 2, D); routing of either from its own pass."""
        if self.apart:
            return self.model(batch)
        clips, texts = self.model(missing(batch, ["text"])), self.model(self.text_only(batch))
        vectors = torch.stack((clips.logits[:, CLIP], texts.logits[:, TEXT]), 1)
        features = clips.features | {"text": texts.features["text"]}
        routing = {key: (texts if key[1] == "text" else clips).routing[key] for key in clips.routing}
        return ModelOutput(vectors, features, routing)

    def text_only(self, batch: Batch) -> Batch:
        """The sentences with missing clips, as short as the backbone takes them: zeros teach nothing."""
        inputs = self.model.backbone.inputs
        clips = {m: batch[m][:, : inputs.get(m, {}).get("segments", 1)] for m in self.of_clip}
        return missing(batch | clips | {"keep": {}}, self.of_clip)

    def encode_more(self, batch: Batch) -> Tensor:
        """Vectors (M, D) of the further sentences, as many at once as there are clips."""
        more, size = batch["more"], len(batch["id"])
        parts = []
        for start in range(0, len(more["ids"]), size):
            ids, keep = (more[key][start : start + size] for key in ("ids", "keep"))
            clips = {m: batch[m][: len(ids)] for m in self.of_clip}
            part = {"id": more["names"][start : start + size], "text": {"ids": ids, "keep": keep}, **clips}
            parts.append(self.model(self.text_only(part)).logits[:, TEXT])
        return torch.cat(parts)

    def sentences(self, output: ModelOutput, batch: Batch) -> tuple[Tensor, list[str], list[str]]:
        """Vectors, names and clips of all sentences of a batch."""
        texts, names, owners = output.logits[:, TEXT], list(batch["sentence"]), list(batch["id"])
        if "more" not in batch:
            return texts, names, owners
        more = batch["more"]
        return torch.cat((texts, self.encode_more(batch))), names + more["names"], owners + more["clip"]

    def step(self, batch: Batch, split: str) -> tuple[Tensor, ModelOutput]:
        """As every task's, by separate passes; in training nothing is ranked."""
        output = self.encode(batch)
        loss = self.price(output, batch)
        metrics = self.scores[f"on {split}"]
        metrics["loss"].update(loss.detach(), len(batch["id"]))
        if split != "train":
            self.count(metrics, output, batch)
        return loss, output

    def test_step(self, batch: Batch, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        """Count one batch of a test split; what is predicted is known at the end."""
        split = self.test_splits[dataloader_idx]
        output = self.encode(batch)
        metrics = self.scores[f"on {split}"]
        metrics["loss"].update(self.price(output, batch), len(batch["id"]))
        told = self.sentences(output, batch)
        metrics["ranks"].update(*told, output.logits[:, CLIP], batch["id"])
        for modality in self.alone:
            others = [m for m in self.model.backbone.modalities if m != modality]
            clips = self.model(missing(batch, others)).logits[:, CLIP]
            self.scores[f"on {split} only {modality}"]["ranks"].update(*told, clips, batch["id"])
        _, names, owners = told
        self._names |= {group_number(name): name for name in (*names, *batch["id"])}
        self._owners |= dict(zip(names, owners, strict=True))
        return {"id": [], "routing": detached(output)}

    def price(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Contrastive loss of the clips and one sentence of each, over all processes in training."""
        with torch.autocast(output.logits.device.type, enabled=False):
            clips, texts = output.logits.float().unbind(1)
            return contrast(clips, texts, self.model.head.temperature(), gather=self.training)

    def count(self, metrics: nn.ModuleDict, output: ModelOutput, batch: Batch) -> None:
        """Every clip and every sentence once."""
        metrics["ranks"].update(*self.sentences(output, batch), output.logits[:, CLIP], batch["id"])

    def predict(self, output: ModelOutput, batch: Batch) -> dict[str, Any]:
        """Nothing: ranks are known at the end, see ``rows_at_end``."""
        return {}

    def on_test_epoch_end(self) -> None:
        """Rows of the predictions file and what the official evaluators read, a matrix of scores; then the scores."""
        self.rows_at_end = {split: self._rows(split) for split in self.test_splits}
        super().on_test_epoch_end()

    def _rows(self, split: str) -> list[dict[str, Any]]:
        """id of a sentence, its clip (label), the clip that scores highest (prediction), ranks; on rank 0 only."""
        metric = self.scores[f"on {split}"]["ranks"]
        names, owners = self._names, self._owners
        with metric.sync_context():
            found = metric.ranking()
        if dist.is_available() and dist.is_initialized():
            gathered: list[Any] = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, (names, owners))
            names, owners = ({k: v for part in parts for k, v in part.items()} for parts in zip(*gathered, strict=True))
        if not self.trainer.is_global_zero:
            return []
        self.arrays_at_end[f"{split}_similarity"] = {
            "scores": found.scores.numpy(),
            "sentences": np.array([names[number] for number in found.sentences.tolist()]),
            "clips": np.array([names[number] for number in found.clips.tolist()]),
        }
        of_clip = dict(zip(found.clips.tolist(), found.video_to_text.tolist(), strict=True))
        told = (found.sentences.tolist(), found.first.tolist(), found.text_to_video.tolist())
        rows = []
        for sentence, first, rank in zip(*told, strict=True):
            clip = owners[names[sentence]]
            row = {"id": names[sentence], "prediction": names[first], "label": clip, "rank": rank}
            rows.append(row | {"rank_of_clip": of_clip[group_number(clip)]})
        return rows
