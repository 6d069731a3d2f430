"""Segmentation: the loss by hand, annotated frames only, both scores, masks under their official names."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from hmmoe.callbacks.predictions import Predictions
from hmmoe.errors import ConfigError
from hmmoe.heads.segmentation import PyramidHead
from hmmoe.losses.masks import mask_bce, soft_iou
from hmmoe.metrics.segmentation import frame_iou
from hmmoe.model import AdaptedModel
from tasks.segmentation import Segmentation
from tests import small
from tests.tasks.test_tasks import RECIPE, SPLITS, loader, trainer


def task(**options) -> Segmentation:
    head = partial(PyramidHead, size=options.pop("size", 20), channels=8, dilations=(1,))
    backbone = small.Towers({"vision": small.swin(), "audio": small.ast()}, meet="segment")
    small.perturb(backbone)
    return Segmentation(AdaptedModel(backbone, small.hmmoe(), head), recipe=RECIPE, **SPLITS, **options)


def batch(seed: int = 0):
    torch.manual_seed(seed)
    return small.batch("vision", "audio") | {
        "mask": torch.rand(2, 3, 20, 20) < 0.3,
        "annotated": torch.tensor([[True, False, False], [True, True, True]]),
        "saved": ["dog/sample0", "dog/sample1"],
    }


def test_fits_reports_every_split_and_writes_the_masks(tmp_path):
    module = task(iou_weight=0.5)
    run = trainer(callbacks=[Predictions(tmp_path)])
    run.fit(module, loader(batch), [loader(batch)])
    assert {"train/J_official", "val/J_official", "val/J_pooled", "val/F_pooled"} <= set(run.callback_metrics)
    (scores,) = run.test(module, [loader(batch, 1)], verbose=False)
    names = {"J_official", "F_official", "J_pooled", "F_pooled"}
    alone = {f"{name}_only_{modality}" for name in names for modality in ("vision", "audio")}
    assert {f"test/{name}" for name in names | alone} <= set(scores)
    positive = (module.eval().model(batch()).logits.sigmoid() > 0.5).numpy()
    for row in range(2):
        for k in range(3):
            with Image.open(tmp_path / "test" / "dog" / f"sample{row}" / f"sample{row}_{k}.png") as image:
                assert np.array_equal(np.asarray(image) == 255, positive[row, k])
    lines = (tmp_path / "test.csv").read_text().splitlines()
    assert lines[0] == "id,prediction,J" and lines[1].startswith("sample0,dog/sample0,0.")


def test_losses_by_hand():
    logits, masks = torch.randn(3, 4, 4), torch.rand(3, 4, 4) < 0.5
    p, m = logits.sigmoid(), masks.float()
    by_hand = -(m * p.log() + (1 - m) * (1 - p).log()).mean()
    torch.testing.assert_close(mask_bce(logits, masks), by_hand)
    inter, union = (p * m).sum((1, 2)), (p + m - p * m).sum((1, 2))
    torch.testing.assert_close(soft_iou(logits, masks), (1 - (inter + 1) / (union + 1)).mean())
    empty = torch.zeros(1, 4, 4, dtype=torch.bool)
    assert soft_iou(torch.full((1, 4, 4), -20.0), empty) < 1e-4 < 0.5 < soft_iou(torch.full((1, 4, 4), 9.0), empty)


@pytest.mark.parametrize("weight", [0.0, 2.0])
def test_the_price_is_that_of_annotated_frames(weight):
    module, given = task(iou_weight=weight).eval(), batch()
    output = module.model(given)
    logits, masks = output.logits[given["annotated"]], given["mask"][given["annotated"]]
    expected = F.binary_cross_entropy_with_logits(logits, masks.float()) + weight * soft_iou(logits, masks)
    torch.testing.assert_close(module.price(output, given), expected)
    other = given | {"mask": given["mask"] ^ ~given["annotated"][..., None, None]}
    torch.testing.assert_close(module.price(output, other), module.price(output, given), rtol=0, atol=0)


def test_scores_and_predictions_are_those_of_annotated_frames():
    module, given = task().eval(), batch()
    _, output = module.step(given, "val")
    iou = frame_iou(output.logits.flatten(0, 1), given["mask"].flatten(0, 1)).view(2, 3)
    videos = [iou[0, 0].item(), iou[1].mean().item()]
    scores = {name: metric.compute().item() for name, metric in module.scores["on val"].items()}
    assert scores["J_official"] == pytest.approx(np.mean(videos), abs=1e-6)
    assert scores["J_pooled"] == pytest.approx((iou[0, 0] + iou[1].sum()).item() / 4, abs=1e-6)
    assert module.predict(output, given)["J"] == pytest.approx(videos, abs=1e-6)


def test_masks_of_another_size_and_a_negative_weight_are_named():
    with pytest.raises(ConfigError, match=r"set task\.head\.size to data\.mask_size"):
        task(size=24).step(batch(), "val")
    with pytest.raises(ConfigError, match=r"task\.iou_weight=-1"):
        task(iou_weight=-1.0)
