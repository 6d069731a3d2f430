"""BERT and RoBERTa of transformers: post-norm layers, a delta on the FFN's dense output passes the last LayerNorm."""

from typing import Any, ClassVar

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, BertModel, PretrainedConfig, PreTrainedModel, RobertaConfig, RobertaModel
from transformers.masking_utils import create_bidirectional_mask

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.hf_weights import create, refuse_other_sizes


class Bert(Encoder):
    """A transformers ``BertModel`` without pooler (MiniLM too), opened between its FFN and dropout.

    Args:
        weights: local folder, hub:<owner>/<name>, or None for random ones.
        pool: "cls" (first token) or "mean" (of the other kept tokens).
        options: keys of the config class that override the stored ones.
    """

    prefix = 1
    roles: ClassVar[Roles] = {
        "q": ("attention.self.query", 0, 1),
        "k": ("attention.self.key", 0, 1),
        "v": ("attention.self.value", 0, 1),
        "o": ("attention.output.dense", 0, 1),
        "fc1": ("intermediate.dense", 0, 1),
        "fc2": ("output.dense", 0, 1),
    }
    kind: ClassVar[type[PreTrainedModel]] = BertModel
    config: ClassVar[type[PretrainedConfig]] = BertConfig

    def __init__(self, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library, unfit = create(self.kind, self.config, weights, options, add_pooling_layer=False)
        refuse_other_sizes(weights, unfit)
        depth = len(library.encoder.layer)
        super().__init__(library, widths=[library.config.hidden_size] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.library.encoder.layer[k]

    def embed(self, x: Int[Tensor, "S L"], keep: Bool[Tensor, "S L"] | None) -> tuple[Tensor, Context]:
        """Token ids to embeddings, and the library's own attention mask."""
        hidden = self.library.embeddings(input_ids=x)
        mask = None if keep is None else (keep | ~keep.any(1, keepdim=True)).long()  # a missing text attends to itself
        mask = create_bidirectional_mask(config=self.library.config, inputs_embeds=hidden, attention_mask=mask)
        return hidden, {"mask": mask}

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Self-attention with its own norm, then the FFN without its dropout, residual and norm."""
        layer = self.block(k)
        residual = layer.attention(x, ctx["mask"])[0]
        return Half(residual, residual, layer.output.dense(layer.intermediate(residual)))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Dropout, residual, LayerNorm."""
        output = self.block(k).output
        return output.LayerNorm(output.dropout(half.out) + half.residual)

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """BERT ends with its last layer."""
        return x


class Roberta(Bert):
    """A transformers ``RobertaModel`` without pooler; positions count from the first token that is no padding."""

    kind: ClassVar[type[PreTrainedModel]] = RobertaModel
    config: ClassVar[type[PretrainedConfig]] = RobertaConfig
