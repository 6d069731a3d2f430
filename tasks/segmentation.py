"""Audio-visual segmentation (AVSBench S4 and MS3): which pixels belong to what sounds, in every second."""

from typing import Any

import torch
from torch import Tensor, nn
from torchmetrics import Metric

from hmmoe.errors import ConfigError
from hmmoe.losses.masks import mask_bce, soft_iou
from hmmoe.metrics.segmentation import FMeasure, Jaccard, frame_iou
from hmmoe.types import Batch, ModelOutput
from tasks.base import Task


class Segmentation(Task):
    """J and F, each ``official`` (per video, as AVSBench's scripts at one video per batch) and ``pooled``.

    Args:
        iou_weight: of the soft IoU loss beside the binary cross-entropy; the peers train with the latter alone.
        kwargs: see ``Task``.
    """

    def __init__(self, *args: Any, iou_weight: float = 0.0, **kwargs: Any) -> None:
        if iou_weight < 0:
            raise ConfigError(f"task.iou_weight={iou_weight}: expected 0 or more")
        self.iou_weight = iou_weight
        super().__init__(*args, **kwargs)

    def metrics(self, split: str) -> dict[str, Metric]:
        """In training J alone."""
        training: dict[str, Metric] = {"J_official": Jaccard("video")}
        if split == "train":
            return training
        return training | {"F_official": FMeasure("video"), "J_pooled": Jaccard("set"), "F_pooled": FMeasure("set")}

    def price(self, output: ModelOutput, batch: Batch) -> Tensor:
        """Mean over annotated frames.

        Raises:
            ConfigError: the head's masks have another size than the data's.
        """
        if output.logits.shape != batch["mask"].shape:
            raise ConfigError(
                f"the head predicts {tuple(output.logits.shape)}, the masks are {tuple(batch['mask'].shape)} (samples, "
                "segments, height, width): set task.head.size to data.mask_size"
            )
        there = batch["annotated"]
        logits, masks = output.logits[there], batch["mask"][there]
        loss = mask_bce(logits, masks)
        return loss + self.iou_weight * soft_iou(logits, masks) if self.iou_weight else loss

    def count(self, metrics: nn.ModuleDict, output: ModelOutput, batch: Batch) -> None:
        """Annotated frames count."""
        for name, metric in metrics.items():
            if name != "loss":
                metric.update(output.logits.detach(), batch["mask"], batch["annotated"])

    def predict(self, output: ModelOutput, batch: Batch) -> dict[str, Any]:
        """The folder of every video's masks and its J; ``pictures`` holds the masks as 0 and 255 by file name.

        Names as AVSBench's save_mask gives them: frames count from 0.
        """
        there, iou = batch["annotated"], torch.zeros(batch["annotated"].shape, dtype=torch.float64)
        iou[there.cpu()] = frame_iou(output.logits[there], batch["mask"][there]).cpu()
        positive = (output.logits.float().sigmoid() > 0.5).to(torch.uint8).mul(255).cpu()
        pictures = {
            f"{folder}/{name}_{k}.png": mask
            for name, folder, masks in zip(batch["id"], batch["saved"], positive, strict=True)
            for k, mask in enumerate(masks)
        }
        mean = iou.sum(1) / there.cpu().sum(1).clamp(min=1)
        return {"prediction": list(batch["saved"]), "J": mean.tolist(), "pictures": pictures}
