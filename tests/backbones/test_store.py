"""Frozen weights kept in bfloat16: half the memory, under autocast only."""

from functools import partial

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.peft.bottleneck import ParallelAdapter, SeriesAdapter
from hmmoe.peft.lora import LoRA
from hmmoe.peft.policies import LinearProbe
from hmmoe.trainable import check_live
from tests import small

METHODS = {
    "hmmoe": small.hmmoe(),
    "lora": partial(LoRA, rank=2, targets=("q", "v", "fc1")),
    "series": partial(SeriesAdapter, rank=2),
    "parallel": partial(ParallelAdapter, rank=2),
    "probe": LinearProbe,
}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_learns_on_it(method):
    model = small.model("vision", "audio", "text", peft=METHODS[method], store="bfloat16")
    frozen = {n: p for n, p in model.backbone.named_parameters() if not p.requires_grad}
    assert frozen and all(p.dtype == torch.bfloat16 for p in frozen.values())
    small.move(model, scale=0.1)
    batch = small.batch("vision", "audio", "text")
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(batch).logits
    logits.float().square().sum().backward()
    check_live(model)
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad)


def test_it_answers_like_float32_up_to_rounding():
    batch = small.batch("vision", "text")
    answers = []
    for store in ("float32", "bfloat16"):
        torch.manual_seed(0)
        model = small.model("vision", "text", store=store).eval()
        small.move(model, scale=0.1)
        with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
            answers.append(model(batch).logits.float())
    torch.testing.assert_close(*answers, rtol=0.05, atol=0.05)


def test_the_fingerprint_is_that_of_what_is_stored():
    assert small.towers("vision").fingerprint() != small.towers("vision", store="bfloat16").fingerprint()


def test_without_autocast_it_says_what_to_set():
    model = small.model("vision", "text", store="bfloat16")
    with pytest.raises(ConfigError, match=r"set precision=bf16-mixed"):
        model(small.batch("vision", "text"))


def test_other_dtypes_are_named(unchecked):
    with pytest.raises(ConfigError, match="must be float32 or bfloat16, not 'int8'"):
        small.towers("vision", store="int8")
