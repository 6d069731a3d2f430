"""Heads: missing segments never count, order does not matter where it should not, shapes by level."""

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.heads.fusion import FusionHead
from hmmoe.heads.segments import SegmentFusionHead
from hmmoe.types import Features

WIDTHS = {"vision": 6, "text": 4}


def features(keep: torch.Tensor | None = None) -> dict[str, Features]:
    torch.manual_seed(1)
    mask = None if keep is None else keep[:, :, None].expand(-1, -1, 5)
    vision = Features(torch.randn(2, 3, 5, 6), mask, torch.randn(2, 3, 6))
    return {"vision": vision, "text": Features(torch.randn(2, 1, 7, 4), None, torch.randn(2, 1, 4))}


def heads():
    torch.manual_seed(0)
    return [
        FusionHead(WIDTHS, classes=2, hidden=8, level="sample", norm=True),
        SegmentFusionHead(WIDTHS, classes=2, hidden=8),
        SegmentFusionHead(WIDTHS, classes=2, hidden=8, fusion="product"),
    ]


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_missing_segment_does_not_count(which):
    head = heads()[which].eval()
    keep = torch.tensor([[True, True, False], [True, True, True]])
    first = features(keep)
    changed = first["vision"].pooled.clone()
    changed[0, 2] = 100.0
    second = first | {"vision": first["vision"]._replace(pooled=changed)}
    torch.testing.assert_close(head(first), head(second), rtol=0, atol=0)
    assert (head(features())[0] - head(first)[0]).abs().max() > 1e-4


@pytest.mark.parametrize("which", [0, 1, 2])
def test_the_order_of_segments_does_not_matter(which):
    head, given = heads()[which].eval(), features()
    turned = given | {"vision": given["vision"]._replace(pooled=given["vision"].pooled.flip(1))}
    torch.testing.assert_close(head(given), head(turned))


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_sample_without_any_segment_is_finite(which):
    head = heads()[which].eval()
    assert head(features(torch.zeros(2, 3, dtype=torch.bool))).isfinite().all()


def test_every_segment_gets_its_own_logits():
    head = FusionHead({"vision": 6, "audio": 4}, classes=5, hidden=8, level="segment")
    pair = {"vision": features()["vision"], "audio": Features(torch.randn(2, 3, 7, 4), None, torch.randn(2, 3, 4))}
    assert head(pair).shape == (2, 3, 5)


def test_what_one_segment_alone_shows_can_be_told_from_what_all_show():
    """Mean and maximum over segments: one loud segment of three differs from three a third as loud."""
    head = heads()[1].eval()
    one, all_ = torch.zeros(1, 3, 6), torch.full((1, 3, 6), 1.0) * torch.tensor([3.0, -1, 2, 0, 1, -2])
    one[0, 0] = all_[0, 0] * 3
    text = features()["text"]
    text = Features(text.tokens[:1], None, text.pooled[:1])
    outs = [head({"vision": Features(torch.zeros(1, 3, 5, 6), None, v), "text": text}) for v in (one, all_)]
    assert (outs[0] - outs[1]).abs().max() > 1e-3


def test_unknown_level_is_named(unchecked):
    with pytest.raises(ConfigError, match=r"level must be segment or sample"):
        FusionHead(WIDTHS, classes=2, hidden=8, level="frame")
