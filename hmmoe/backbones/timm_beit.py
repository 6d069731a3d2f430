"""timm's BEiT and BEiTv2: relative bias per block or shared by all."""

from typing import ClassVar

import timm
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context
from hmmoe.backbones.timm_prenorm import TimmPreNorm


class TimmBeit(TimmPreNorm):
    """A timm ``Beit``."""

    kind: ClassVar[type[nn.Module]] = timm.models.beit.Beit
    flavour: ClassVar[type[nn.Module]] = timm.models.beit.Block

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens, class token first, and the relative bias where all blocks share one."""
        model = self.library
        x = model.patch_embed(x)
        x = torch.cat((model.cls_token.expand(x.shape[0], -1, -1), x), 1)
        if model.pos_embed is not None:
            x = x + model.pos_embed
        return model.pos_drop(x), {"bias": None if model.rel_pos_bias is None else model.rel_pos_bias()}

    def attend(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """Self-attention with the shared relative bias."""
        return self.block(k).attn(x, shared_rel_pos_bias=ctx["bias"])
