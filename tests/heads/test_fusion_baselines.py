"""GMU and late fusion against their formulas."""

import pytest
import torch
from hydra.utils import instantiate

from hmmoe.heads.gmu import GMUHead
from hmmoe.heads.late_fusion import LateFusionHead
from hmmoe.runtime.check import check
from hmmoe.types import Features
from tests.runs import composed

WIDTHS = {"vision": 6, "audio": 4}


def features() -> dict[str, Features]:
    return {m: Features(torch.randn(3, 2, 5, d), None, torch.randn(3, 2, d)) for m, d in WIDTHS.items()}


def test_gmu_of_two_is_the_sigmoid_gate():
    head, given = GMUHead(WIDTHS, classes=3, hidden=7, level="segment"), features()
    x, y = given["vision"].pooled, given["audio"].pooled
    weight, bias = head.gates.weight, head.gates.bias
    z = torch.sigmoid(torch.cat((x, y), -1) @ (weight[:7] - weight[7:]).T + bias[:7] - bias[7:])
    h = z * torch.tanh(head.maps["vision"](x)) + (1 - z) * torch.tanh(head.maps["audio"](y))
    torch.testing.assert_close(head(given), head.out(h))
    assert sum(p.numel() for p in head.parameters()) == (10 + 2) * 7 + (10 + 1) * 14 + 8 * 3


def test_late_fusion_is_the_mean_of_separate_votes():
    head, given = LateFusionHead(WIDTHS, classes=3, hidden=7, level="sample"), features()
    votes = [head.outs[m](torch.nn.functional.gelu(head.hiddens[m](f.pooled.mean(1)))) for m, f in given.items()]
    torch.testing.assert_close(head(given), (votes[0] + votes[1]) / 2)
    other = given | {"audio": given["audio"]._replace(pooled=torch.randn(3, 2, 4))}
    torch.testing.assert_close(
        2 * head(given) - votes[1],
        2 * head(other)
        - head.outs["audio"](torch.nn.functional.gelu(head.hiddens["audio"](other["audio"].pooled.mean(1)))),
    )
    assert sum(p.numel() for p in head.parameters()) == 12 * 7 + 2 * (8 * 3)


def test_every_part_learns():
    for kind in (GMUHead, LateFusionHead):
        head = kind(WIDTHS, classes=3, hidden=7, level="segment", act=None, norm=True, dropout=0.1)
        head(features()).square().sum().backward()
        assert all(p.grad is not None and p.grad.any() for p in head.parameters())


@pytest.mark.parametrize("target", ["hmmoe.heads.gmu.GMUHead", "hmmoe.heads.late_fusion.LateFusionHead"])
def test_one_word_on_the_command_line(target):
    words = ("experiment=ave_hmmoe", "scale=mini", "peft=linear_probe", f"task.head._target_={target}")
    with composed(*words, "paths.run_dir=run") as cfg:
        classes = check(cfg)["task"]["head"]["classes"]
        assert instantiate(cfg.task.head)(WIDTHS)(features()).shape == (3, 2, classes)
