"""ViT of transformers, and the pre-norm layer that it shares with AST."""

from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel, ViTConfig, ViTModel

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.hf_weights import create, resize_positions


class ViTLayers(Encoder):
    """A transformers model whose ``layers`` are ViT's, opened between its MLP and dropout.

    Args:
        library: the model, without pooler.
        pool: "cls" (mean of the prefix tokens) or "mean" (of the patches).
    """

    roles: ClassVar[Roles] = {
        "q": ("attention.q_proj", 0, 1),
        "k": ("attention.k_proj", 0, 1),
        "v": ("attention.v_proj", 0, 1),
        "o": ("attention.o_proj", 0, 1),
        "fc1": ("mlp.fc1", 0, 1),
        "fc2": ("mlp.fc2", 0, 1),
    }

    def __init__(self, library: PreTrainedModel, *, pool: Pooling) -> None:
        depth = len(library.layers)
        super().__init__(library, widths=[library.config.hidden_size] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.library.layers[k]

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the MLP on the normalised stream."""
        layer = self.block(k)
        residual = layer.dropout(layer.attention(layer.layernorm_before(x), None)[0]) + x
        inp = layer.layernorm_after(residual)
        return Half(residual, inp, layer.mlp(inp))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Dropout and residual."""
        return self.block(k).dropout(half.out) + half.residual

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.layernorm(x)


class HfViT(ViTLayers):
    """A transformers ``ViTModel`` without pooler.

    Args:
        weights: local folder, hub:<owner>/<name>, or None for random ones. Position embeddings of another picture
            size are interpolated (bicubic).
        pool: "cls" or "mean".
        options: keys of ``ViTConfig`` that override the stored ones, such as ``image_size``.
    """

    prefix = 1

    def __init__(self, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library, unfit = create(ViTModel, ViTConfig, weights, options, add_pooling_layer=False)
        resize_positions(
            library, weights, unfit, key="embeddings.position_embeddings", prefix=self.prefix, mode="bicubic"
        )
        super().__init__(library, pool=pool)

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens."""
        return self.library.embeddings(x), {}
