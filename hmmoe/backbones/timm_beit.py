"""timm's BEiT and BEiTv2: pre-norm blocks, the layer scale is a bare parameter, relative bias per block or shared."""

from typing import Any, ClassVar

import timm
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.timm_weights import ROLES, create, drop_pooling, expect


class TimmBeit(Encoder):
    """A timm ``Beit``, opened between its MLP and layer scale.

    Args:
        name: timm model name, such as beitv2_base_patch16_224.
        weights: local file, "hub" for timm's own, None for random ones.
        pool: "cls", "mean" (of the patches) or "library".
        options: further keywords of ``timm.create_model``, such as ``img_size``.
    """

    prefix = 1
    roles: ClassVar[Roles] = ROLES

    def __init__(self, name: str, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library = create(name, weights, options)
        expect(library, timm.models.beit.Beit, timm.models.beit.Block)
        drop_pooling(library, pool)
        depth = len(library.blocks)
        super().__init__(library, widths=[library.embed_dim] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th block."""
        return self.library.blocks[k]

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens, class token first, and the relative bias where all blocks share one."""
        model = self.library
        x = model.patch_embed(x)
        x = torch.cat((model.cls_token.expand(x.shape[0], -1, -1), x), 1)
        if model.pos_embed is not None:
            x = x + model.pos_embed
        return model.pos_drop(x), {"bias": None if model.rel_pos_bias is None else model.rel_pos_bias()}

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the MLP on the normalised stream."""
        block = self.block(k)
        branch = block.attn(block.norm1(x), shared_rel_pos_bias=ctx["bias"])
        residual = x + block.drop_path1(scaled(block.gamma_1, branch))
        inp = block.norm2(residual)
        return Half(residual, inp, block.mlp(inp))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Layer scale, stochastic depth, residual."""
        block = self.block(k)
        return half.residual + block.drop_path2(scaled(block.gamma_2, half.out))

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm (identity where timm norms after pooling)."""
        return self.library.norm(x)

    def own_pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """What timm hands to a classifier."""
        return self.library.forward_head(tokens, pre_logits=True)


def scaled(gamma: nn.Parameter | None, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
    """Layer scale where the model has one."""
    return x if gamma is None else gamma * x
