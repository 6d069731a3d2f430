"""Audio Spectrogram Transformer of transformers: pre-norm blocks over 16 x 16 patches of a log-mel picture."""

import logging
from typing import Any, ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import ASTConfig, ASTModel

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.hf_weights import create, folder_of
from hmmoe.backbones.weights import read_state
from hmmoe.errors import ConfigError

log = logging.getLogger(__name__)


class AST(Encoder):
    """A transformers ``ASTModel``, opened between its MLP and dropout.

    Args:
        weights: local folder, hub:<owner>/<name>, or None for random ones. Position embeddings of a clip of another
            length are interpolated over time (transformers alone would leave them at zero).
        pool: "cls" (mean of the class and distillation tokens) or "mean".
        options: keys of ``ASTConfig`` that override the stored ones, such as ``max_length`` (frames).
    """

    prefix = 2
    roles: ClassVar[Roles] = {
        "q": ("attention.q_proj", 0, 1),
        "k": ("attention.k_proj", 0, 1),
        "v": ("attention.v_proj", 0, 1),
        "o": ("attention.o_proj", 0, 1),
        "fc1": ("mlp.fc1", 0, 1),
        "fc2": ("mlp.fc2", 0, 1),
    }

    def __init__(self, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library, unfit = create(ASTModel, ASTConfig, weights, options)
        if unfit:
            _resize_positions(library, folder_of(weights), unfit)
        depth = len(library.layers)
        super().__init__(library, widths=[library.config.hidden_size] * depth, stages=[depth], pool=pool)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.library.layers[k]

    def embed(self, x: Float[Tensor, "S 1 mel frames"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Log-mel pictures to tokens; transformers wants time before frequency."""
        return self.library.embeddings(x.squeeze(1).transpose(1, 2)), {}

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


def _resize_positions(library: ASTModel, folder: str, unfit: list[str]) -> None:
    """Interpolate the stored (mel x time) grid of position embeddings to this model's clip length."""
    if any(not key.endswith("embeddings.position_embeddings") for key in unfit):
        raise ConfigError(f"{folder} and the requested sizes differ in {unfit[:3]}: correct the backbone's options")
    state = read_state(f"{folder}/model.safetensors")
    (stored,) = (value.float() for key, value in state.items() if key.endswith("embeddings.position_embeddings"))
    rows, columns = library.embeddings.get_shape(library.config)
    prefix, grid = stored[:, : AST.prefix], stored[:, AST.prefix :].unflatten(1, (rows, -1)).permute(0, 3, 1, 2)
    sized = nn.functional.interpolate(grid, size=(rows, columns), mode="bilinear", align_corners=False)
    with torch.no_grad():
        library.embeddings.position_embeddings.copy_(torch.cat((prefix, sized.flatten(2).transpose(1, 2)), 1))
    log.info("position embeddings of %s: %d time steps interpolated to %d", folder, grid.shape[-1], columns)
