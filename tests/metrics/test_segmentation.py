"""J and F: small cases by hand, the official numbers, and no batch, order or process that matters."""

import json
import os
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor

from hmmoe.errors import ConfigError
from hmmoe.metrics.segmentation import THRESHOLDS, FMeasure, Jaccard, frame_curves, frame_iou
from tests.ranks import run_ranks

METRICS = [lambda: Jaccard("video"), lambda: Jaccard("set"), lambda: FMeasure("video"), lambda: FMeasure("set")]


def videos(count: int = 5, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Logits, masks (some empty) and which frames count."""
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(count, 4, 6, 6, generator=generator)
    masks = torch.rand(count, 4, 6, 6, generator=generator) < 0.4
    masks[0] = False
    masks[1, 2] = False
    annotated = torch.rand(count, 4, generator=generator) < 0.8
    annotated[:, 0] = True
    return logits, masks, annotated


def by_thresholds(logit: Tensor, mask: Tensor) -> list[float]:
    """The official loop over thresholds, one frame."""
    chance, curve = logit.sigmoid(), []
    for step in torch.linspace(0, 1 - 1e-10, 255):
        chosen = chance >= step
        hits = (chosen & mask).sum().item()
        precision, recall = hits / (chosen.sum().item() + 1e-20), hits / (mask.sum().item() + 1e-20)
        below = 0.3 * precision + recall
        curve.append(1.3 * precision * recall / below if below else 0.0)
    return curve


def test_iou_by_hand():
    masks = torch.tensor([[[True, True], [False, False]], [[False, False], [False, False]]])
    logits = torch.tensor([[[1.0, -1.0], [1.0, 0.0]], [[1.0, -1.0], [0.0, -2.0]]])
    assert frame_iou(logits, masks).tolist() == pytest.approx([1 / 3, 3 / 4])


def test_a_logit_of_zero_is_negative():
    full = torch.ones(1, 2, 2, dtype=torch.bool)
    assert frame_iou(torch.zeros(1, 2, 2), full).item() == 0
    assert frame_iou(torch.zeros(1, 2, 2), ~full).item() == 1


def test_curves_equal_the_loop_over_thresholds():
    logits, masks, _ = videos(2, seed=3)
    logits[0, 0, 0, :3] = torch.tensor([0.0, 40.0, -120.0])
    masks[0, 0] = torch.rand(6, 6) < 0.5
    for logit, mask, curve in zip(logits[0], masks[0], frame_curves(logits[0], masks[0]), strict=True):
        assert len(curve) == THRESHOLDS
        assert curve.tolist() == pytest.approx(by_thresholds(logit, mask), abs=1e-9)


def test_video_and_set_differ_as_their_names_say():
    """Two videos of one frame, perfect at unlike thresholds: each has F = 1, no single threshold has."""
    logits = torch.tensor([[[[3.0, 2.0]]], [[[-2.0, -3.0]]]])
    masks = torch.tensor([[[[True, False]]], [[[True, False]]]])
    video, pooled = FMeasure("video"), FMeasure("set")
    for metric in (video, pooled):
        metric.update(logits, masks)
    assert video.compute().item() == pytest.approx(1.0)
    half = 1.3 * 0.5 / (0.3 * 0.5 + 1)  # one picture found exactly, the other as a whole
    assert pooled.compute().item() == pytest.approx((1 + half) / 2)


def test_a_video_of_empty_masks_counts_as_zero_in_the_official_f_only():
    logits, masks, _ = videos(2)
    assert not masks[0].any()
    whole, rest = FMeasure("video"), FMeasure("video")
    whole.update(logits, masks)
    rest.update(logits[1:], masks[1:])
    assert whole.compute().item() == pytest.approx(rest.compute().item() / 2)
    pooled, pooled_rest = FMeasure("set"), FMeasure("set")
    pooled.update(logits, masks)
    pooled_rest.update(logits[1:], masks[1:])
    assert pooled.compute() == pooled_rest.compute()


@pytest.mark.parametrize("make", METRICS)
def test_frames_without_annotation_change_nothing(make):
    logits, masks, annotated = videos()
    first, second = make(), make()
    first.update(logits, masks, annotated)
    noise = torch.where(annotated[..., None, None], logits, -7.0)
    second.update(noise, masks ^ ~annotated[..., None, None], annotated)
    torch.testing.assert_close(first.compute(), second.compute(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("make", METRICS)
def test_batches_and_order_do_not_matter(make):
    logits, masks, annotated = videos()
    whole, parts, turned = make(), make(), make()
    whole.update(logits, masks, annotated)
    for start, end in pairwise((0, 1, 4, 5)):
        parts.update(logits[start:end], masks[start:end], annotated[start:end])
    order = torch.tensor([3, 0, 4, 2, 1])
    turned.update(logits[order], masks[order], annotated[order])
    for other in (parts, turned):
        torch.testing.assert_close(other.compute(), whole.compute(), rtol=0, atol=1e-7)


@pytest.mark.parametrize("make", METRICS)
def test_two_ranks_give_what_one_gives(make):
    logits, masks, annotated = videos()
    whole = make()
    whole.update(logits, masks, annotated)

    def one_rank(rank: int) -> float:
        metric, own = make(), slice(0, 3) if rank == 0 else slice(3, 5)
        metric.update(logits[own], masks[own], annotated[own])
        return metric.compute().item()

    assert run_ranks(one_rank) == pytest.approx([whole.compute().item()] * 2, abs=1e-7)


def test_reset_forgets():
    logits, masks, annotated = videos()
    metric, fresh = Jaccard("video"), Jaccard("video")
    metric.update(logits[:2], masks[:2], annotated[:2])
    metric.reset()
    for one in (metric, fresh):
        one.update(logits[2:], masks[2:], annotated[2:])
    assert metric.compute() == fresh.compute()


def test_unknown_average_is_named(unchecked):
    with pytest.raises(ConfigError, match="average must be video or set"):
        FMeasure("batch")


# ---- the official functions' own output


@pytest.fixture(scope="module")
def golden() -> dict:
    root = Path(os.environ.get("HMMOE_REAL_DATA", Path(__file__).parents[3] / "shared" / "realdata"))
    path = root / "golden" / "avs_official.json"
    if not path.is_file():
        pytest.skip(f"no golden values at {path}")
    return json.loads(path.read_text())


def drawn(golden: dict) -> tuple[Tensor, Tensor]:
    """The six videos as the file describes them."""
    y, x = torch.meshgrid(torch.arange(golden["height"]), torch.arange(golden["width"]), indexing="ij")
    logits, masks = [], []
    for frame in (frame for video in golden["spec"] for frame in video):
        p, gt = frame["pred"], frame["gt"]
        distance = ((y - p["cy"]) ** 2 + (x - p["cx"]) ** 2).double().sqrt()
        logits.append((p["r"] - distance) * p["scale"] + p["amp"] * torch.sin(0.7 * x.double() + 0.3 * y.double()))
        empty = torch.zeros(y.shape, dtype=torch.bool)
        masks.append(empty if gt is None else (y - gt["cy"]) ** 2 + (x - gt["cx"]) ** 2 <= gt["r"] ** 2)
    shape = (len(golden["spec"]), -1)
    return torch.stack(logits).float().unflatten(0, shape), torch.stack(masks).unflatten(0, shape)


@pytest.mark.real
@pytest.mark.parametrize("size", [1, 2, 4, 6])
def test_golden_batches(golden: dict, size: int):
    """A batch of the official script is one long video to the metric: one video each gives the official score."""
    logits, masks = drawn(golden)
    expected = golden[f"batch{size}"]
    jaccard, f_measure = Jaccard("video"), FMeasure("video")
    for group in expected["groups"]:
        for metric in (jaccard, f_measure):
            metric.update(logits[group].flatten(0, 1)[None], masks[group].flatten(0, 1)[None])
    assert jaccard.compute().item() == pytest.approx(expected["miou"], abs=1e-6)
    assert f_measure.compute().item() == pytest.approx(expected["F"], abs=1e-6)


@pytest.mark.real
def test_golden_pooled_is_the_batch_of_all(golden: dict):
    logits, masks = drawn(golden)
    for metric, name in ((Jaccard("set"), "miou"), (FMeasure("set"), "F")):
        for video in range(len(logits)):
            metric.update(logits[video : video + 1], masks[video : video + 1])
        assert metric.compute().item() == pytest.approx(golden["batch6"][name], abs=1e-6)


@pytest.mark.real
def test_golden_corner_cases(golden: dict):
    found = {}
    for name in golden["edge"]:
        value = 0.0 if "zero" in name else (9.0 if name.endswith("positive") else -9.0)
        masks = torch.full((1, 5, 32, 32), "full_gt" in name)
        jaccard, f_measure = Jaccard("video"), FMeasure("video")
        for metric in (jaccard, f_measure):
            metric.update(torch.full((1, 5, 32, 32), value), masks)
        found[name] = {"iou": jaccard.compute().item(), "F": f_measure.compute().item()}
    for name, expected in golden["edge"].items():
        assert found[name] == pytest.approx(expected, abs=1e-6), name
