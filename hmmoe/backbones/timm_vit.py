"""timm's plain vision transformers: ViT, DeiT, CLIP, SigLIP, DINOv2."""

from typing import ClassVar

import timm
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context
from hmmoe.backbones.timm_prenorm import TimmPreNorm


class TimmViT(TimmPreNorm):
    """A timm ``VisionTransformer``."""

    kind: ClassVar[type[nn.Module]] = timm.models.vision_transformer.VisionTransformer
    flavour: ClassVar[type[nn.Module]] = timm.models.vision_transformer.Block

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens, prefix tokens first."""
        model = self.library
        return model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(x)))), {}

    def attend(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """Plain self-attention."""
        return self.block(k).attn(x)

    def scale(self, block: nn.Module, branch: int, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """Layer scale is a module here (identity where the model has none)."""
        return getattr(block, f"ls{branch}")(x)
