"""Whisper's encoder of transformers: pre-norm layers over log-mel frames, two frames a token."""

import logging
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import WhisperConfig, WhisperModel

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.hf_weights import create, refuse_other_sizes, stored_tensor

log = logging.getLogger(__name__)

POSITIONS = "encoder.embed_positions.weight"


class Whisper(Encoder):
    """The encoder of a transformers ``WhisperModel``, opened between its FFN and dropout.

    Args:
        weights: local folder, hub:<owner>/<name>, or None for random ones.
        pool: "mean"; there is no class token.
        options: keys of ``WhisperConfig`` that override the stored ones. ``max_source_positions`` below the stored 1500
            (half the number of log-mel frames) keeps the first positions, which are sinusoids.
    """

    roles: ClassVar[Roles] = {
        "q": ("self_attn.q_proj", 0, 1),
        "k": ("self_attn.k_proj", 0, 1),
        "v": ("self_attn.v_proj", 0, 1),
        "o": ("self_attn.out_proj", 0, 1),
        "fc1": ("fc1", 0, 1),
        "fc2": ("fc2", 0, 1),
    }

    def __init__(self, *, weights: str | None = None, pool: Pooling = "mean", **options: Any) -> None:
        model, unfit = create(WhisperModel, WhisperConfig, weights, options, unread=("decoder.",))
        library = model.encoder
        wanted = library.max_source_positions
        if unfit == [POSITIONS] and len(stored := stored_tensor(weights, POSITIONS)) > wanted:
            with torch.no_grad():
                library.embed_positions.weight.copy_(stored[:wanted])
            log.info("%s: the first %d of %d positions are used", weights, wanted, len(stored))
            unfit = []
        refuse_other_sizes(weights, unfit)
        depth = len(library.layers)
        super().__init__(library, widths=[library.config.d_model] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.library.layers[k]

    def embed(self, x: Float[Tensor, "S 1 mel frames"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Log-mel frames through two convolutions, and positions."""
        model = self.library
        x = F.gelu(model.conv2(F.gelu(model.conv1(x.squeeze(1)))))
        x = x.permute(0, 2, 1) + model.embed_positions.weight
        return F.dropout(x, model.dropout, self.training), {}

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the two linear layers on the normalised stream."""
        layer = self.block(k)
        branch, _ = layer.self_attn(hidden_states=layer.self_attn_layer_norm(x), attention_mask=None)
        residual = x + F.dropout(branch, layer.dropout, self.training)
        inp = layer.final_layer_norm(residual)
        hidden = F.dropout(layer.activation_fn(layer.fc1(inp)), layer.activation_dropout, self.training)
        return Half(residual, inp, layer.fc2(hidden))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Dropout and residual."""
        return half.residual + F.dropout(half.out, self.block(k).dropout, self.training)

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm."""
        return self.library.layer_norm(x)

    def publish(self, folder: Path) -> Path:
        """A folder of ``WhisperModel`` without its decoder, which ``weights`` does not ask for."""
        state = {f"encoder.{name}": tensor for name, tensor in self.library.state_dict().items()}
        self.library.save_pretrained(str(folder), state_dict=state)
        return folder
