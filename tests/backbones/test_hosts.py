"""What must hold for every family once it carries adapters."""

from functools import partial

import pytest
import torch

from hmmoe.backbones.towers import Towers
from hmmoe.model import AdaptedModel
from hmmoe.peft.lora import LoRA
from hmmoe.trainable import check_live
from tests import small
from tests.backbones.families import FAMILIES, KEEP

SINGLE = small.hmmoe(groups={"single": {}})


def adapted(family, peft, **options):
    """The family as the only tower of a model, and a batch for it."""
    encoder, x = FAMILIES[family].build(), FAMILIES[family].make()
    modality = "text" if x.dtype == torch.int64 else "audio" if x.shape[1] == 1 else "vision"
    backbone = Towers({modality: encoder})
    small.perturb(backbone)
    model = AdaptedModel(backbone, peft, small.head(), **options)
    if modality == "text":
        x = {"ids": x, "keep": KEEP}
    elif not encoder.clips:
        x = x[:, None]
    return model, {"id": ["a", "b"], modality: x}


@pytest.mark.parametrize("family", FAMILIES)
def test_checkpointing_leaves_gradients_equal(family):
    grads = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        model, batch = adapted(family, SINGLE, checkpointing=checkpointing)
        small.move(model)
        model(batch).logits.square().sum().backward()
        check_live(model)
        grads.append([p.grad for p in model.peft.parameters()])
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_moves_nothing_of_the_backbone(family):
    torch.manual_seed(0)
    model, batch = adapted(family, SINGLE)
    small.move(model)
    model.train()
    before = {name: tensor.clone() for name, tensor in model.backbone.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    first = model(batch).logits
    first.square().sum().backward()
    optimizer.step()
    assert (model(batch).logits - first).abs().max() > 1e-6
    torch.testing.assert_close(dict(model.backbone.state_dict()), before, rtol=0, atol=0)
    assert all(p.grad is None for p in model.backbone.parameters())


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("role", ["q", "k", "v", "o", "fc1", "fc2"])
def test_lora_lives_on_every_role(family, role):
    model, batch = adapted(family, partial(LoRA, rank=2, targets=(role,)))
    small.move(model)
    model(batch).logits.square().sum().backward()
    check_live(model)
    trained = [p for n, p in model.backbone.named_parameters() if p.requires_grad]
    assert len(trained) >= 2 * len(model.backbone.sites) and any(p.grad.abs().max() > 0 for p in trained)
