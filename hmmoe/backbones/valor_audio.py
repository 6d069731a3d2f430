"""VALOR's audio encoder: AST's transformer over log-mel patches that do not overlap, one class token."""

from functools import partial
from typing import Any

from torch import nn

from hmmoe.backbones.timm_vit import TimmViT


class ValorAudio(TimmViT):
    """A timm ``VisionTransformer`` over (mels x frames) pictures of one channel; norms have VALOR's epsilon of 1e-12.

    Args:
        name: timm model whose layout is taken.
        mels, frames: extents of a picture, multiples of 16.
        options: further keywords of ``timm.create_model``, such as ``depth``.
    """

    def __init__(
        self, name: str = "vit_base_patch16_224", *, mels: int = 64, frames: int = 512, **options: Any
    ) -> None:
        super().__init__(
            name,
            img_size=(mels, frames),
            in_chans=1,
            norm_layer=partial(nn.LayerNorm, eps=1e-12),
            **options,
        )
