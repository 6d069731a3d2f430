"""timm's plain vision transformers (ViT, DeiT, CLIP, SigLIP, DINOv2): pre-norm blocks."""

from typing import Any, ClassVar

import timm
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.timm_weights import ROLES, create, drop_pooling, expect


class TimmViT(Encoder):
    """A timm ``VisionTransformer``, opened between its MLP and layer scale.

    Args:
        name: timm model name.
        weights: local file, "hub" for timm's own, None for random ones.
        pool: "cls" (mean of the prefix tokens), "mean" (of the patches) or "library" (SigLIP: its attention pooling).
        options: further keywords of ``timm.create_model``, such as ``img_size``.
    """

    roles: ClassVar[Roles] = ROLES

    def __init__(self, name: str, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library = create(name, weights, options)
        expect(library, timm.models.vision_transformer.VisionTransformer, timm.models.vision_transformer.Block)
        self.prefix = library.num_prefix_tokens
        drop_pooling(library, pool)
        depth = len(library.blocks)
        super().__init__(library, widths=[library.embed_dim] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th block."""
        return self.library.blocks[k]

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens, prefix tokens first."""
        model = self.library
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x)))), {}

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the MLP on the normalised stream."""
        block = self.block(k)
        residual = x + block.drop_path1(block.ls1(block.attn(block.norm1(x))))
        inp = block.norm2(residual)
        return Half(residual, inp, block.mlp(inp))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Layer scale, stochastic depth, residual."""
        block = self.block(k)
        return half.residual + block.drop_path2(block.ls2(half.out))

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.norm(x)

    def own_pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """What timm hands to a classifier."""
        return self.library.forward_head(tokens, pre_logits=True)
