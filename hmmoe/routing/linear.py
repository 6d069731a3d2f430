"""A router's logits in float32 whatever the tokens are, without keeping the tokens in float32."""

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable
from torch.nn import functional as F


class WideLinear(torch.autograd.Function):
    """``F.linear`` in the weight's dtype. The way back casts the tokens again: bfloat16 ones are kept as they are, by
    others too, where autograd would keep a float32 copy of every stream at every site.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """x (..., D) of any dtype, weight (L, D), bias (L): logits (..., L)."""
        ctx.save_for_backward(x, weight)
        return F.linear(x.to(weight.dtype), weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor, Tensor]:
        """Gradients of the tokens, in their dtype, and of weight and bias."""
        x, weight = ctx.saved_tensors
        rows = grad.flatten(0, -2)
        of_x = (grad @ weight).to(x.dtype) if ctx.needs_input_grad[0] else None
        return of_x, rows.T @ x.flatten(0, -2).to(weight.dtype), rows.sum(0)
