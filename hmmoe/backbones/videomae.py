"""VideoMAE of transformers: pre-norm layers over tubes of 2 frames x 16 x 16 pixels."""

from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import VideoMAEConfig, VideoMAEModel

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.hf_weights import create, refuse_other_sizes


class VideoMAE(Encoder):
    """A transformers ``VideoMAEModel``, opened between its FFN and dropout. All frames of a sample make one segment.

    Args:
        weights: local folder, hub:<owner>/<name>, or None for random ones. Positions are fixed sinusoids.
        pool: "mean"; there is no class token.
        options: keys of ``VideoMAEConfig`` that override the stored ones, such as ``num_frames`` and ``image_size``.
    """

    clips: ClassVar[bool] = True
    roles: ClassVar[Roles] = {
        "q": ("attention.attention.query", 0, 1),
        "k": ("attention.attention.key", 0, 1),
        "v": ("attention.attention.value", 0, 1),
        "o": ("attention.output.dense", 0, 1),
        "fc1": ("intermediate.dense", 0, 1),
        "fc2": ("output.dense", 0, 1),
    }

    def __init__(self, *, weights: str | None = None, pool: Pooling = "mean", **options: Any) -> None:
        library, unfit = create(VideoMAEModel, VideoMAEConfig, weights, options)
        refuse_other_sizes(weights, unfit)
        depth = len(library.encoder.layer)
        super().__init__(library, widths=[library.config.hidden_size] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.library.encoder.layer[k]

    def embed(self, x: Float[Tensor, "B T C H W"], keep: Bool[Tensor, "B N"] | None) -> tuple[Tensor, Context]:
        """Frames to tubes."""
        return self.library.embeddings(x, None), {}

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the FFN on the normalised stream."""
        layer = self.block(k)
        residual = layer.attention(layer.layernorm_before(x)) + x
        inp = layer.layernorm_after(residual)
        return Half(residual, inp, layer.output.dense(layer.intermediate(inp)))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Dropout and residual."""
        return self.block(k).output.dropout(half.out) + half.residual

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm, where this configuration has one (others norm after pooling)."""
        return x if self.library.layernorm is None else self.library.layernorm(x)
