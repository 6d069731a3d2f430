"""BERT whose layers read constant tokens between self-attention and FFN, as VALOR's multimodal encoder does."""

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import BertConfig, BertModel

from hmmoe.backbones.base import Context, Encoder, Half, Roles
from hmmoe.backbones.bert import Bert
from hmmoe.backbones.hf_weights import folder_of
from hmmoe.backbones.weights import load_strictly, read_state

TYPES = "embeddings.token_type_embeddings.weight"


class BertCross(Encoder):
    """A transformers ``BertModel`` driven layer by layer, opened between its FFN and dropout.

    With ``cross`` (question answering) the sequence is [answer slots | question]: the question is a prompt with a type
    embedding of its own (row 2 of the type table), both parts count their positions from 0, slots see the slots before
    them and the question, the question sees itself only; layers run self-attention, attention to the memory, FFN. The
    pooled vector is that of the last default slot, the mask that stands for the first word of the answer.
    Without it (dual encoder for retrieval) the sentence sees all of itself and of ``contrast_prompt``, and [CLS] pools.
    Source: model/bert.py and model/pretrain.py of TXH-mercury/VALOR.

    Args:
        cross: whether layers attend to the memory; without, they have no cross-attention.
        answer: ids of the default slots, [CLS] and [MASK].
        question_prompt: ids set between [CLS] and the words of every question (VALOR-large: "answer the question").
        contrast_prompt: ids that follow every sentence of the dual encoder, as a prompt ([CLS] ... [SEP]).
        weights: folder of a plain BERT in transformers' layout, as VALOR itself was begun from one: prompts start with
            its first type embedding, cross-attention is random. None where a whole VALOR is loaded over it.
        options: keys of ``BertConfig``, before those that are stored.
    """

    prefix = 1
    roles: ClassVar[Roles] = Bert.roles

    def __init__(
        self,
        *,
        cross: bool = True,
        answer: Sequence[int] = (101, 103),
        question_prompt: Sequence[int] = (),
        contrast_prompt: Sequence[int] = (),
        weights: str | None = None,
        **options: Any,
    ) -> None:
        stored = {} if weights is None else BertConfig.from_pretrained(folder_of(weights)).to_diff_dict()
        own = {"type_vocab_size": 3, "is_decoder": cross, "add_cross_attention": cross}
        library = BertModel(BertConfig(**stored | options | own), add_pooling_layer=False)
        if weights is not None:
            _fill(library, weights)
        depth = len(library.encoder.layer)
        super().__init__(library, widths=[library.config.hidden_size] * depth, stages=[depth], pool="cls")
        self.cross = cross
        self.slots = len(answer)
        self.register_buffer("answer", torch.tensor(list(answer)), persistent=False)
        prompt = question_prompt if cross else contrast_prompt
        self.register_buffer("prompt", torch.tensor(list(prompt), dtype=torch.long), persistent=False)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.library.encoder.layer[k]

    def embed(
        self,
        x: Int[Tensor, "B L"],
        keep: Bool[Tensor, "B L"] | None,
        *,
        answer: Int[Tensor, "B A"] | None = None,
    ) -> tuple[Tensor, Context]:
        """Ids to embeddings.

        Args:
            x: the question, or the sentence of the dual encoder, with its [CLS] and [SEP].
            keep: its valid tokens.
            answer: ids of the slots where they are not the default ones (training on masked answers); 0 is padding.

        Returns:
            Embeddings and ``mask`` (B, 1, N, N), which query may see which key; ``keep`` (B, N), the valid tokens;
            ``memory``, ``memory_mask`` and ``reads`` are None until ``remember`` sets them.
        """
        keep = torch.ones_like(x, dtype=torch.bool) if keep is None else keep
        prompt = self.prompt.expand(len(x), -1)
        told = torch.ones_like(prompt, dtype=torch.bool)
        if self.cross:
            first = self.answer.expand(len(x), -1) if answer is None else answer
            first_keep = torch.ones_like(first, dtype=torch.bool) if answer is None else answer != 0
            second = torch.cat((x[:, :1], prompt, x[:, 1:]), 1)
            second_keep = torch.cat((keep[:, :1], told & keep[:, :1], keep[:, 1:]), 1)
        else:
            first, first_keep, second, second_keep = x, keep, prompt, told
        valid = torch.cat((first_keep, second_keep), 1)
        places = torch.cat([torch.arange(part.shape[1], device=x.device) for part in (first, second)])
        hidden = self.library.embeddings(
            input_ids=torch.cat((first, second), 1),
            token_type_ids=torch.cat((torch.zeros_like(first), torch.full_like(second, 2)), 1),
            position_ids=places[None],
        )
        mask = self._visible(valid, first.shape[1])
        return hidden, dict.fromkeys(("memory", "memory_mask", "reads")) | {"mask": mask, "keep": valid}

    def _visible(self, valid: Bool[Tensor, "B N"], slots: int) -> Bool[Tensor, "B 1 N N"]:
        count = valid.shape[1]
        place = torch.arange(count, device=valid.device)
        seen = valid[:, None].expand(-1, count, -1)
        if self.cross:
            # a slot sees slots up to itself, the question sees no slot
            seen = seen & ((place >= slots) | (place <= place[:, None]) & (place[:, None] < slots))
        alone = ~seen.any(-1, keepdim=True) & torch.eye(count, dtype=torch.bool, device=valid.device)
        return (seen | alone)[:, None]  # a missing text attends to itself

    def remember(self, ctx: Context, memory: Float[Tensor, "B M D"], keep: Bool[Tensor, "B M"] | None) -> Context:
        """The context with tokens for the cross-attention; a sample whose tokens are all missing skips it."""
        if keep is None:
            return ctx | {"memory": memory}
        some = keep.any(1, keepdim=True)
        return ctx | {"memory": memory, "memory_mask": (keep | ~some)[:, None, None], "reads": some[:, None]}

    def half(self, k: int, x: Float[Tensor, "B N D"], ctx: Context) -> Half:
        """Self-attention, attention to the memory, each with its own norm, then the FFN without what follows it."""
        layer = self.block(k)
        residual = layer.attention(x, ctx["mask"])[0]
        if ctx["memory"] is not None:
            read = layer.crossattention(residual, None, ctx["memory"], ctx["memory_mask"])[0]
            residual = read if ctx["reads"] is None else torch.where(ctx["reads"], read, residual)
        return Half(residual, residual, layer.output.dense(layer.intermediate(residual)))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "B N D"]:
        """Dropout, residual, LayerNorm."""
        output = self.block(k).output
        return output.LayerNorm(output.dropout(half.out) + half.residual)

    def finish(self, x: Float[Tensor, "B N D"], ctx: Context) -> Float[Tensor, "B N2 D"]:
        """All tokens of slots and question; of the dual encoder the sentence without the prompt."""
        return x if self.cross else x[:, : x.shape[1] - len(self.prompt)]

    def pool(self, tokens: Float[Tensor, "B N D"], keep: Bool[Tensor, "B N"] | None) -> Float[Tensor, "B D"]:
        """The mask's token of an answer; [CLS] of a sentence."""
        return tokens[:, self.slots - 1 if self.cross else 0]


def _fill(library: BertModel, weights: str) -> None:
    """A plain BERT's tensors; what it has no value for keeps its own."""
    state = read_state(f"{folder_of(weights)}/model.safetensors")
    state = {key.removeprefix("bert."): value.float() for key, value in state.items()}
    types = state[TYPES]
    state[TYPES] = torch.cat((types[:2], types[:1]))
    fresh = {key: value for key, value in library.state_dict().items() if ".crossattention." in key}
    load_strictly(library, fresh | state, source=weights, unused=("pooler.", "cls.", "embeddings.position_ids"))
