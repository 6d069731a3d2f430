"""Audio Spectrogram Transformer of transformers: ViT's layers over 16 x 16 patches of a log-mel picture."""

from typing import Any

from jaxtyping import Bool, Float
from torch import Tensor
from transformers import ASTConfig, ASTModel

from hmmoe.backbones.base import Context, Pooling
from hmmoe.backbones.hf_vit import ViTLayers
from hmmoe.backbones.hf_weights import create, resize_positions


class AST(ViTLayers):
    """A transformers ``ASTModel``.

    Args:
        weights: local folder, hub:<owner>/<name>, or None for random ones. Position embeddings of a clip of another
            length are interpolated over time (transformers alone would leave them at zero).
        pool: "cls" (mean of the class and distillation tokens) or "mean".
        options: keys of ``ASTConfig`` that override the stored ones, such as ``max_length`` (frames).
    """

    prefix = 2

    def __init__(self, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library, unfit = create(ASTModel, ASTConfig, weights, options)
        rows, columns = library.embeddings.get_shape(library.config)
        resize_positions(
            library,
            weights,
            unfit,
            key="embeddings.position_embeddings",
            prefix=self.prefix,
            mode="bilinear",
            grid=(rows, columns),
        )
        super().__init__(library, pool=pool)

    def embed(self, x: Float[Tensor, "S 1 mel frames"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Log-mel pictures to tokens; transformers wants time before frequency."""
        return self.library.embeddings(x.squeeze(1).transpose(1, 2)), {}
