"""Logits in float32, tokens kept as they are."""

import torch
from torch.nn import functional as F

from hmmoe.routing.linear import WideLinear


def test_it_is_a_linear_map_and_so_is_its_way_back():
    given = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in ((2, 3, 4), (5, 4), (5,))]
    torch.testing.assert_close(WideLinear.apply(*given), F.linear(*given))
    assert torch.autograd.gradcheck(WideLinear.apply, given)


def test_no_wide_copy_of_the_tokens_is_kept():
    x = torch.randn(2, 3, 4).bfloat16().requires_grad_()
    weight, bias = torch.randn(5, 4, requires_grad=True), torch.zeros(5, requires_grad=True)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        logits = WideLinear.apply(x, weight, bias)
    assert logits.dtype == torch.float32 and set(kept) == {x.data_ptr(), weight.data_ptr()}
    logits.square().sum().backward()
    wide = x.detach().float().requires_grad_()
    F.linear(wide, weight.detach(), bias.detach()).square().sum().backward()
    assert x.grad.dtype == torch.bfloat16
    torch.testing.assert_close(x.grad, wide.grad.bfloat16())
