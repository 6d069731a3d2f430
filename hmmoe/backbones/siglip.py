"""SigLIP's two towers of transformers: CLIP's layers without class token and without causal mask."""

from typing import Any

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from hmmoe.backbones.base import Context, Pooling
from hmmoe.backbones.clip import ClipLayers
from hmmoe.backbones.hf_weights import create, refuse_other_sizes, resize_positions


class SiglipVision(ClipLayers):
    """A transformers ``SiglipVisionModel``.

    Args:
        weights: local folder (a whole SigLIP will do), hub:<owner>/<name>, or None for random ones. Position embeddings
            of another picture size are interpolated (bicubic).
        pool: "library" (its attention pooling) or "mean".
        options: keys of ``SiglipVisionConfig`` that override the stored ones, such as ``image_size``.
    """

    def __init__(self, *, weights: str | None = None, pool: Pooling = "library", **options: Any) -> None:
        library, unfit = create(SiglipVisionModel, SiglipVisionConfig, weights, options)
        resize_positions(library, weights, unfit, key="embeddings.position_embedding.weight", prefix=0, mode="bicubic")
        if pool != "library":
            library.head = nn.Identity()  # nothing runs through it
        super().__init__(library, pool=pool)

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to patches."""
        return self.library.embeddings(x), {}

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.post_layernorm(x)

    def own_pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """The pretrained probe's attention over all patches."""
        return self.library.head(tokens)


class SiglipText(ClipLayers):
    """A transformers ``SiglipTextModel``.

    It was trained without an attention mask, on texts filled up to full length: padding is read inside the tower, as
    the authors do, and still left out of experts and statistics.

    Args:
        weights: local folder (a whole SigLIP will do), hub:<owner>/<name>, or None for random ones.
        pool: "library" (the last position through the pretrained linear head) or "mean".
        options: keys of ``SiglipTextConfig`` that override the stored ones.
    """

    def __init__(self, *, weights: str | None = None, pool: Pooling = "library", **options: Any) -> None:
        library, unfit = create(SiglipTextModel, SiglipTextConfig, weights, options)
        refuse_other_sizes(weights, unfit)
        if pool != "library":
            library.head = nn.Identity()  # nothing runs through it
        super().__init__(library, pool=pool)

    def embed(self, x: Int[Tensor, "S L"], keep: Bool[Tensor, "S L"] | None) -> tuple[Tensor, Context]:
        """Token ids to embeddings."""
        return self.library.embeddings(input_ids=x), {}

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.final_layer_norm(x)

    def own_pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """The last position, padding or not."""
        return self.library.head(tokens[:, -1])
