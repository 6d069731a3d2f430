"""CLIP's two towers of transformers: pre-norm layers, the text under a causal mask."""

from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel, PreTrainedModel
from transformers.masking_utils import create_causal_mask

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.hf_weights import create, refuse_other_sizes, resize_positions


class ClipLayers(Encoder):
    """A transformers model whose ``encoder.layers`` are CLIP's, opened between its MLP and the residual.

    Args:
        library: the model.
        pool: see ``Encoder``.
    """

    roles: ClassVar[Roles] = {
        "q": ("self_attn.q_proj", 0, 1),
        "k": ("self_attn.k_proj", 0, 1),
        "v": ("self_attn.v_proj", 0, 1),
        "o": ("self_attn.out_proj", 0, 1),
        "fc1": ("mlp.fc1", 0, 1),
        "fc2": ("mlp.fc2", 0, 1),
    }
    causal: ClassVar[dict[str, bool]] = {}
    """What the library tells its attention beside the mask."""

    def __init__(self, library: PreTrainedModel, *, pool: Pooling) -> None:
        depth = len(library.encoder.layers)
        super().__init__(library, widths=[library.config.hidden_size] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.library.encoder.layers[k]

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the MLP on the normalised stream."""
        layer = self.block(k)
        branch, _ = layer.self_attn(hidden_states=layer.layer_norm1(x), attention_mask=ctx.get("mask"), **self.causal)
        residual = x + branch
        inp = layer.layer_norm2(residual)
        return Half(residual, inp, layer.mlp(inp))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Residual."""
        return half.residual + half.out


class ClipVision(ClipLayers):
    """A transformers ``CLIPVisionModel``.

    Its own forward norms only the class token; here every token passes that norm, as VALOR and others do, so that
    patches are features too. The class token is the library's pooled output.

    Args:
        weights: local folder (a whole CLIP will do), hub:<owner>/<name>, or None for random ones. Position embeddings
            of another picture size are interpolated (bicubic).
        pool: "cls" or "mean".
        options: keys of ``CLIPVisionConfig`` that override the stored ones, such as ``image_size``.
    """

    prefix = 1

    def __init__(self, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library, unfit = create(CLIPVisionModel, CLIPVisionConfig, weights, options)
        resize_positions(library, weights, unfit, key="embeddings.position_embedding.weight", prefix=1, mode="bicubic")
        super().__init__(library, pool=pool)

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens, class token first."""
        return self.library.pre_layrnorm(self.library.embeddings(x)), {}

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm, on all tokens."""
        return self.library.post_layernorm(x)


class ClipText(ClipLayers):
    """A transformers ``CLIPTextModel``.

    Args:
        weights: local folder (a whole CLIP will do), hub:<owner>/<name>, or None for random ones.
        pool: "last" (the end-of-text token, the library's pooled output) or "mean".
        options: keys of ``CLIPTextConfig`` that override the stored ones.
    """

    causal: ClassVar[dict[str, bool]] = {"is_causal": True}

    def __init__(self, *, weights: str | None = None, pool: Pooling = "last", **options: Any) -> None:
        library, unfit = create(CLIPTextModel, CLIPTextConfig, weights, options)
        refuse_other_sizes(weights, unfit)
        super().__init__(library, pool=pool)

    def embed(self, x: Int[Tensor, "S L"], keep: Bool[Tensor, "S L"] | None) -> tuple[Tensor, Context]:
        """Token ids to embeddings, and the library's causal mask."""
        hidden = self.library.embeddings(input_ids=x)
        mask = None if keep is None else (keep | ~keep.any(1, keepdim=True)).long()  # a missing text attends to itself
        mask = create_causal_mask(
            config=self.library.config, inputs_embeds=hidden, attention_mask=mask, past_key_values=None
        )
        return hidden, {"mask": mask}

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.final_layer_norm(x)
