"""What LoRA keeps for the backward pass, what it does in bfloat16, and that merged it is the same model."""

from functools import partial

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils import parametrize

from hmmoe.errors import ConfigError
from hmmoe.peft.lora import LoRA, LowRank
from hmmoe.trainable import load_own_state, own_state
from tests import small
from tests.peft.methods import METHODS, factory, loaded

OUT, IN, RANK, TOKENS = 48, 40, 4, 24


def linear(dtype=torch.float32, **options):
    torch.manual_seed(0)
    layer = torch.nn.Linear(IN, OUT, dtype=dtype).requires_grad_(False)
    update = LowRank(layer.weight, RANK, alpha=8.0, **options)
    parametrize.register_parametrization(layer, "weight", update)
    with torch.no_grad():
        update.B.normal_()
    return layer, update


def kept(layer, x):
    """Bytes that the backward pass holds, the layer's own tensors aside."""
    own = {t.untyped_storage().data_ptr() for t in layer.state_dict().values()}
    held = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = layer(x * 1)
    return sum(held.values()), out


@pytest.mark.parametrize("freeze_a", [False, True])
def test_what_is_kept_for_the_backward_pass(freeze_a):
    """The input for the gradient of A, A x for that of B, the scaled B; never a weight. LoRA-FA lets the input go."""
    layer, _ = linear(freeze_a=freeze_a)
    held, out = kept(layer, torch.randn(TOKENS, IN, requires_grad=True))
    assert held == 4 * ((0 if freeze_a else TOKENS * IN) + TOKENS * RANK + OUT * RANK)
    assert out.requires_grad


@pytest.mark.parametrize("rows", [None, torch.tensor([0, 1, 5, 40])], ids=["all", "some"])
def test_every_reader_of_the_weight_sees_the_sum(rows):
    layer, update = linear(rows=rows)
    x = torch.randn(TOKENS, IN)
    whole = torch.zeros(OUT, RANK)
    whole[slice(None) if rows is None else rows] = update.B.detach()
    weight = layer.parametrizations.weight.original + 2.0 * whole @ update.A.detach()
    for seen in (layer.weight + 0, layer.weight.clone(), layer.weight.T.contiguous().T, torch.cat([layer.weight])):
        assert type(seen) is torch.Tensor
        torch.testing.assert_close(seen.detach(), weight)
    for out in (layer(x), F.linear(input=x, weight=layer.weight, bias=layer.bias), x @ layer.weight.T + layer.bias):
        torch.testing.assert_close(out, F.linear(x, weight, layer.bias), rtol=1e-5, atol=1e-5)
    assert layer.weight.shape == (OUT, IN) and layer.weight.dtype == torch.float32


def test_gradients_are_those_of_the_sum():
    layer, update = linear()
    x = torch.randn(TOKENS, IN, requires_grad=True)
    layer(x).square().sum().backward()
    grads = update.A.grad, update.B.grad, x.grad
    again = [t.detach().requires_grad_(True) for t in (update.A, update.B, x)]
    weight = layer.parametrizations.weight.original + 2.0 * again[1] @ again[0]
    F.linear(again[2], weight, layer.bias).square().sum().backward()
    for mine, theirs in zip(grads, again, strict=True):
        torch.testing.assert_close(mine, theirs.grad, rtol=1e-4, atol=1e-4)


def test_an_update_below_the_resolution_of_a_stored_weight_counts():
    """bfloat16 weights of 1 have steps of 2^-7: an update of 2^-11 added to them would be lost."""
    layer, update = linear(torch.bfloat16)
    with torch.no_grad():
        layer.parametrizations.weight.original.fill_(1.0)
        layer.bias.zero_()
        signs = torch.tensor([1.0, -1.0]).repeat(IN // 2)
        update.A.copy_(2.0**-6 * signs.expand(RANK, -1))
        update.B.fill_(2.0**-8)  # 2 * 4 * 2^-14 = 2^-11
    x = (torch.randn(TOKENS, 1) * signs).bfloat16()  # the frozen part is zero, so the output shows the update alone
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        out = layer(x).float()
    assert torch.equal(layer.weight + 0, layer.parametrizations.weight.original), "added to the weight it is lost"
    exact = 2.0**-11 * IN * x[:, :1].float()
    torch.testing.assert_close(out, exact.expand_as(out), rtol=0.02, atol=0)


def test_lora_fa_keeps_a_through_training_and_reload():
    model = small.model("vision", "text", peft=factory("lora_fa")).train()
    drawn = {k: v.clone() for k, v in own_state(model).items() if k.endswith(".A")}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        model(small.batch("vision", "text")).logits.square().sum().backward()
        optimizer.step()
    state = own_state(model)
    assert drawn and all(torch.equal(state[k], v) for k, v in drawn.items())
    torch.manual_seed(77)
    other = small.model("vision", "text", peft=factory("lora_fa"))
    load_own_state(other, state)
    assert all(torch.equal(own_state(other)[k], v) for k, v in drawn.items())


MERGES = [n for n in METHODS if loaded(n)._target_.rpartition(".")[2] in ("LoRA", "HFPeft", "AdaLoRA", "LinearProbe")]


@pytest.mark.parametrize("name", MERGES)
def test_merged_it_is_the_same_model_without_the_method(name):
    torch.manual_seed(3)
    model = small.model("vision", "audio", "text", peft=factory(name)).eval()
    small.move(model, 0.05)
    batch = small.batch("vision", "audio", "text")
    expected = model(batch).logits
    model.peft.merge(model.backbone)
    torch.testing.assert_close(model(batch).logits, expected, rtol=1e-5, atol=1e-5)
    fresh = small.towers("vision", "audio", "text").state_dict()
    assert model.backbone.state_dict().keys() == fresh.keys(), "nothing of the method is left"
    assert not any(p.requires_grad for p in model.backbone.parameters())


@pytest.mark.parametrize("name", ["hmmoe", "series_adapter", "lavish"])
def test_what_stands_beside_the_ffn_cannot_be_merged(name):
    model = small.model("vision", "audio", peft=factory(name))
    with pytest.raises(ConfigError, match=r"no weight of the backbone can take that over: merge the LoRA family"):
        model.peft.merge(model.backbone)


def test_lora_follows_the_slices_of_every_role():
    """k alone on a fused qkv: rows of q and v stay."""
    model = small.model("vision", peft=partial(LoRA, rank=2, targets=["k"]))
    small.move(model, 0.5)
    layer = model.backbone.tower("vision").block(0).attn.qkv
    change = (layer.weight - layer.parametrizations.weight.original).detach()
    assert change[32:64].any() and not change[:32].any() and not change[64:].any()
