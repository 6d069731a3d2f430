"""timm's Swin v1 (pre-norm) and Swin-V2 (residual post-norm: a delta on the MLP output passes ``norm2``).

For Swin-V2 the order is the paper's: FFN, adapter, norm.
"""

from typing import Any, ClassVar

import timm
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.timm_weights import ROLES, create, expect


class TimmSwin(Encoder):
    """A timm ``SwinTransformer``; maps stay NHWC inside, a site sees (S, H*W, D).

    Takes one-channel pictures too (log-mel, as LAVISH feeds them): they are repeated over the model's channels.

    Args:
        name: timm model name.
        weights: local file, "hub" for timm's own, None for random ones.
        pool: "mean"; these models have no class token.
        options: further keywords of ``timm.create_model``, such as ``img_size`` and ``window_size``.
    """

    roles: ClassVar[Roles] = ROLES
    kind: ClassVar[type[nn.Module]] = timm.models.swin_transformer.SwinTransformer

    def __init__(self, name: str, *, weights: str | None = None, pool: Pooling = "mean", **options: Any) -> None:
        library = create(name, weights, options)
        expect(library, self.kind)
        self.places = [(s, j) for s, layer in enumerate(library.layers) for j in range(len(layer.blocks))]
        super().__init__(
            library,
            widths=[block.dim for layer in library.layers for block in layer.blocks],
            stages=[len(layer.blocks) for layer in library.layers],
            pool=pool,
        )
        self.channels = library.patch_embed.proj.in_channels

    def block(self, k: int) -> nn.Module:
        """The k-th block, counted over all stages."""
        stage, place = self.places[k]
        return self.library.layers[stage].blocks[place]

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to an NHWC map of patches."""
        return self.library.patch_embed(x.expand(-1, self.channels, -1, -1)), {}

    def half(self, k: int, x: Float[Tensor, "S H W C"], ctx: Context) -> Half:
        """Downsample at the start of a stage, window attention, then the MLP on the normalised stream."""
        block, x = self.block(k), self._enter(k, x)
        residual = (x + block.drop_path1(block._attn(block.norm1(x)))).flatten(1, 2)
        inp = block.norm2(residual)
        return Half(residual, inp, block.mlp(inp))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S H W D"]:
        """Stochastic depth, residual."""
        block = self.block(k)
        return (half.residual + block.drop_path2(half.out)).unflatten(1, tuple(block.input_resolution))

    def finish(self, x: Float[Tensor, "S H W D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.norm(x).flatten(1, 2)

    def _enter(self, k: int, x: Float[Tensor, "S H W C"]) -> Float[Tensor, "S H2 W2 D"]:
        stage, place = self.places[k]
        return self.library.layers[stage].downsample(x) if place == 0 else x


class TimmSwinV2(TimmSwin):
    """A timm ``SwinTransformerV2``: both norms stand behind their branch."""

    kind: ClassVar[type[nn.Module]] = timm.models.swin_transformer_v2.SwinTransformerV2

    def half(self, k: int, x: Float[Tensor, "S H W C"], ctx: Context) -> Half:
        """Downsample at the start of a stage, window attention, then the MLP."""
        block, x = self.block(k), self._enter(k, x)
        residual = (x + block.drop_path1(block.norm1(block._attn(x)))).flatten(1, 2)
        return Half(residual, residual, block.mlp(residual))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S H W D"]:
        """The norm that follows the MLP, stochastic depth, residual."""
        block = self.block(k)
        x = half.residual + block.drop_path2(block.norm2(half.out))
        return x.unflatten(1, tuple(block.input_resolution))
