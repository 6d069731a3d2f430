"""J and F of audio-visual segmentation as AVSBench counts them (OpenNLPLab/AVSBench, avs_s4/utils/utility.py).

The official scripts average over batches, so their F hangs on the evaluation batch size: it takes the maximum over
thresholds once per batch. Here the average is named and no batch matters:

* "video" is the official script at its default of one video per batch: a value per video, then the mean over videos.
* "set" takes all frames of the split as one batch: what others report as the pooled score.
"""

from abc import abstractmethod
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torchmetrics import Metric

from hmmoe.errors import ConfigError

Average = Literal["video", "set"]
THRESHOLDS = 255
BETA_SQUARED = 0.3


def frame_iou(logits: Float[Tensor, "F H W"], masks: Bool[Tensor, "F H W"]) -> Float[Tensor, " F"]:
    """Intersection over union of every frame; where the mask is empty, the share of pixels predicted negative.

    A pixel is positive where the float32 sigmoid exceeds 0.5, so a logit of zero is negative.
    """
    positive = logits.float().sigmoid() > 0.5
    inter, union = (positive & masks).sum((1, 2)), (positive | masks).sum((1, 2))
    share = 1 - positive.double().mean((1, 2))
    return torch.where(masks.any(2).any(1), inter / (union.double() + 1e-7), share)


def frame_curves(logits: Float[Tensor, "F H W"], masks: Bool[Tensor, "F H W"]) -> Float[Tensor, "F 255"]:
    """F-measure of every frame at 255 thresholds on the sigmoid, float64, zero where it is undefined.

    ``(1 + b) P R / (b P + R)`` with b = 0.3. Pixels are counted once into the gaps between thresholds; sums from above
    give what lies over each. The last float32 threshold is 1.0, the first 0.0, which every pixel reaches.
    """
    frames = len(logits)
    steps = torch.linspace(0, 1 - 1e-10, THRESHOLDS, device=logits.device)
    reached = torch.bucketize(logits.float().sigmoid().flatten(1), steps, right=True)
    bins = THRESHOLDS + 1
    place = (torch.arange(frames, device=logits.device)[:, None] * 2 + masks.flatten(1)) * bins + reached
    counts = torch.bincount(place.flatten(), minlength=frames * 2 * bins).view(frames, 2, bins)
    above = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:].double()
    hits, chosen = above[:, 1], above.sum(1)
    precision, recall = hits / (chosen + 1e-20), hits / (masks.sum((1, 2))[:, None] + 1e-20)
    curves = (1 + BETA_SQUARED) * precision * recall / (BETA_SQUARED * precision + recall)
    return curves.nan_to_num(nan=0.0)


class _Averaged(Metric):
    """Sum and count of one value per video or per frame."""

    full_state_update = False
    higher_is_better = True
    total: Tensor
    count: Tensor

    def __init__(self, average: Average) -> None:
        super().__init__()
        if average not in ("video", "set"):
            raise ConfigError(f"average must be video or set, not {average!r}")
        self.average = average
        self.add_state("total", torch.zeros(self.size(), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def size(self) -> tuple[int, ...]:
        """Shape of the sum."""
        return ()

    def update(
        self,
        logits: Float[Tensor, "B T H W"],
        masks: Bool[Tensor, "B T H W"],
        annotated: Bool[Tensor, "B T"] | None = None,
    ) -> None:
        """Add a batch of videos; only ``annotated`` frames count (None: all), a video without one does not."""
        if annotated is None:
            annotated = masks.new_ones(masks.shape[:2])
        values, counted = self.score(logits.flatten(0, 1), masks.flatten(0, 1))
        counted &= annotated.flatten()
        values = torch.where(counted.view(-1, *[1] * (values.ndim - 1)), values, 0.0)
        if self.average == "set":
            self.total += values.sum(0)
            self.count += counted.sum()
            return
        frames = counted.view(masks.shape[:2]).sum(1)
        means = values.unflatten(0, masks.shape[:2]).sum(1) / frames.clamp(min=1).view(-1, *[1] * (values.ndim - 1))
        self.total += self.peak(means).sum(0)
        self.count += annotated.any(1).sum()

    @abstractmethod
    def score(
        self, logits: Float[Tensor, "F H W"], masks: Bool[Tensor, "F H W"]
    ) -> tuple[Float[Tensor, "F *size"], Bool[Tensor, " F"]]:
        """Value of every frame, and which frames have one."""

    def peak(self, means: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
        """One number from a mean over frames."""
        return means

    def compute(self) -> Tensor:
        """In 0..1; NaN before the first frame."""
        if self.average == "set":
            return self.peak(self.total / self.count).float()
        return (self.total / self.count).float()


class Jaccard(_Averaged):
    """J, the mean intersection over union.

    Args:
        average: "video" or "set", see above; they agree where all videos have equally many annotated frames.
    """

    def score(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """See ``frame_iou``; every frame counts."""
        return frame_iou(logits, masks), masks.new_ones(len(masks))


class FMeasure(_Averaged):
    """F, the largest value of the mean curve over thresholds.

    Frames with an empty mask are left out of the curves; a video of nothing else counts as 0, as in the official
    script. Threshold 0 selects every pixel, so even an all-negative prediction scores above 0.

    Args:
        average: "video" takes the maximum per video, "set" once over all frames.
    """

    def size(self) -> tuple[int, ...]:
        """A curve where the maximum comes last."""
        return (THRESHOLDS,) if self.average == "set" else ()

    def score(self, logits: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
        """See ``frame_curves``."""
        return frame_curves(logits, masks), masks.any(2).any(1)

    def peak(self, means: Tensor) -> Tensor:
        """Over the thresholds."""
        return means.amax(-1)
