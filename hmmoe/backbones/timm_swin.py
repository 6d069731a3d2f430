"""timm's Swin-V2: residual post-norm, a delta on the MLP output passes ``norm2`` (the paper's FFN, adapter, norm)."""

from typing import Any, ClassVar

import timm
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Encoder, Half, Roles
from hmmoe.backbones.timm_weights import ROLES, create
from hmmoe.errors import ConfigError


class TimmSwinV2(Encoder):
    """A timm ``SwinTransformerV2``; maps stay NHWC inside, a site sees (S, H*W, D).

    Takes one-channel pictures too (log-mel, as LAVISH feeds them): they are repeated over the model's channels.

    Args:
        name: timm model name.
        weights: local file, "hub" for timm's own, None for random ones.
        options: further keywords of ``timm.create_model``, such as ``img_size`` and ``window_size``.
    """

    roles: ClassVar[Roles] = ROLES

    def __init__(self, name: str, *, weights: str | None = None, **options: Any) -> None:
        library = create(name, weights, options)
        if not isinstance(library, timm.models.swin_transformer_v2.SwinTransformerV2):
            raise ConfigError(f"{name} is a {type(library).__name__}, which another family file opens")
        stages = [len(layer.blocks) for layer in library.layers]
        widths = [block.dim for layer in library.layers for block in layer.blocks]
        super().__init__(library, widths=widths, stages=stages, pool="mean")
        self.places = [(s, j) for s, depth in enumerate(stages) for j in range(depth)]
        self.channels = library.patch_embed.proj.in_channels

    def block(self, k: int) -> nn.Module:
        """The k-th block, counted over all stages."""
        stage, place = self.places[k]
        return self.library.layers[stage].blocks[place]

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to an NHWC map of patches."""
        return self.library.patch_embed(x.expand(-1, self.channels, -1, -1)), {}

    def half(self, k: int, x: Float[Tensor, "S H W C"], ctx: Context) -> Half:
        """Downsample at the start of a stage, window attention, then the MLP."""
        stage, place = self.places[k]
        if place == 0:
            x = self.library.layers[stage].downsample(x)
        block = self.block(k)
        x = x + block.drop_path1(block.norm1(block._attn(x)))
        residual = x.flatten(1, 2)
        return Half(residual, residual, block.mlp(residual))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S H W D"]:
        """The norm that follows the MLP, stochastic depth, residual."""
        block = self.block(k)
        x = half.residual + block.drop_path2(block.norm2(half.out))
        height, width = block.input_resolution
        return x.unflatten(1, (height, width))

    def finish(self, x: Float[Tensor, "S H W D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.norm(x).flatten(1, 2)
