"""BEiT-3 (Wang et al., arXiv 2208.10442; microsoft/unilm, beit3/, and microsoft/torchscale): picture first.

Every weight exists twice, A for the picture and B for the text; only the softmax of the attention is joint. Norms
inside attention and FFN as in Magneto (arXiv 2210.06423). Names follow the published checkpoints.
"""

import logging
import math
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from timm.layers import trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.backbones.base import Half, Roles
from hmmoe.backbones.multiway import MultiwayModel
from hmmoe.backbones.weights import load_strictly, log_resized, read_state, resize_grid
from hmmoe.errors import ConfigError

log = logging.getLogger(__name__)

PATCH = 16
FIRST = 2
"""Positions start at row 2, after fairseq's habit; rows 0 and 1 are never read."""

BRANCHES = {"vision": "A", "text": "B"}
PREFIX = "beit3."
POSITIONS = "encoder.embed_positions.A.weight"


class FFN(nn.Module):
    """fc1, GELU, LayerNorm, fc2."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.ffn_layernorm = nn.LayerNorm(4 * width)

    def forward(self, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """The branch, without residual."""
        return self.fc2(self.ffn_layernorm(F.gelu(self.fc1(x))))


class Pair(nn.ModuleDict):
    """A module for the picture (A) and one of its kind for the text (B)."""

    def forward(self, x: Float[Tensor, "S N D"], split: int) -> Float[Tensor, "S N E"]:
        """A on the first ``split`` tokens, B on the others."""
        return torch.cat((self["A"](x[:, :split]), self["B"](x[:, split:])), 1)


def norms(width: int) -> Pair:
    """A LayerNorm for each."""
    return Pair({branch: nn.LayerNorm(width) for branch in "AB"})


def linears(width: int) -> Pair:
    """A square linear layer for each."""
    return Pair({branch: nn.Linear(width, width) for branch in "AB"})


class Attention(nn.Module):
    """Fused attention of all to all with projections by modality and a norm before the last one."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (linears(width) for _ in range(4))
        self.inner_attn_ln = norms(width)

    def forward(self, x: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"], split: int) -> Float[Tensor, "S N D"]:
        """Keys that are not kept are out."""
        q, k, v = (
            proj(x, split).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=keep[:, None, None]).transpose(1, 2).flatten(2)
        return self.out_proj(self.inner_attn_ln(out, split), split)


class Layer(nn.Module):
    """Pre-norm layer."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.self_attn_layer_norm, self.self_attn = norms(width), Attention(width, heads)
        self.final_layer_norm = norms(width)
        self.ffn = Pair({branch: FFN(width) for branch in "AB"})


class BEiT3(MultiwayModel):
    """The joint pass over a picture and a sentence.

    Args:
        width: D. Base 768, large 1024.
        depth: layers. 12, 24.
        heads: attention heads. 12, 16.
        size: side of the square picture in pixels; positions of a file at another size are resized.
        vocabulary: rows of the word table (beit3.spm: 64,010).
        positions: rows of the table of text positions.
        weights: local torch or safetensors file, None for random ones.

    Raises:
        ConfigError: sizes that cannot be, or a file that does not fit.
        WeightsMissing: no such file.
    """

    order: ClassVar[tuple[str, str]] = ("vision", "text")
    roles: ClassVar[Roles] = {
        "q": ("self_attn.q_proj.{}", 0, 1),
        "k": ("self_attn.k_proj.{}", 0, 1),
        "v": ("self_attn.v_proj.{}", 0, 1),
        "o": ("self_attn.out_proj.{}", 0, 1),
        "fc1": ("ffn.{}.fc1", 0, 1),
        "fc2": ("ffn.{}.fc2", 0, 1),
    }

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        size: int = 224,
        vocabulary: int = 64010,
        positions: int = 1024,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        if width % heads or size % PATCH or depth < 1:
            raise ConfigError(
                f"backbone.model: width={width} must be a multiple of heads={heads}, size={size} one of {PATCH}, and "
                f"depth={depth} at least 1"
            )
        self.width, self.depth, self.grid = width, depth, size // PATCH
        self.text_embed = nn.Embedding(vocabulary, width)
        self.vision_embed = nn.Module()
        self.vision_embed.cls_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.vision_embed.proj = nn.Conv2d(3, width, PATCH, PATCH)
        self.encoder = nn.Module()
        rows = {"A": self.grid**2 + 1 + FIRST, "B": positions}
        self.encoder.embed_positions = nn.ModuleDict({branch: nn.Embedding(n, width) for branch, n in rows.items()})
        self.encoder.layers = nn.ModuleList(Layer(width, heads) for _ in range(depth))
        self.encoder.layer_norm = norms(width)
        self.apply(_start)
        if weights is not None:
            load_strictly(self, published(self, read_state(weights), source=weights), source=weights)

    def block(self, k: int) -> nn.Module:
        """The k-th layer."""
        return self.encoder.layers[k]

    def branch(self, k: int, modality: str) -> str:
        """A or B."""
        return BRANCHES[modality]

    def embed(
        self, vision: Float[Tensor, "S C H W"], ids: Int[Tensor, "S L"], keep: Bool[Tensor, "S L"], segments: int
    ) -> dict[str, Float[Tensor, "S _N D"]]:
        """Patches and words with their positions; padding is zero, as the authors have it."""
        patches = self.vision_embed.proj(vision).flatten(2).transpose(1, 2)
        image = torch.cat((self.vision_embed.cls_token.expand(len(patches), -1, -1), patches), 1)
        text = self.text_embed(ids) + self._positions("B", ids.shape[1])
        return {"vision": image + self._positions("A", image.shape[1]), "text": text * keep[..., None]}

    def _positions(self, branch: str, count: int) -> Float[Tensor, "N D"]:
        return self.encoder.embed_positions[branch].weight[FIRST : FIRST + count]

    def attend(
        self, k: int, x: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"], split: int
    ) -> Float[Tensor, "S N D"]:
        """Attention."""
        layer = self.block(k)
        return x + layer.self_attn(layer.self_attn_layer_norm(x, split), keep, split)

    def half(self, k: int, modality: str, residual: Float[Tensor, "S N D"]) -> Half:
        """The modality's own FFN."""
        layer, branch = self.block(k), BRANCHES[modality]
        inp = layer.final_layer_norm[branch](residual)
        return Half(residual, inp, layer.ffn[branch](inp))

    def finish(self, modality: str, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """The final norm of the modality."""
        return self.encoder.layer_norm[BRANCHES[modality]](x)

    def pool(self, modality: str, tokens: Float[Tensor, "S N D"]) -> Float[Tensor, "S D"]:
        """The first token: [CLS] of the picture, <s> of the sentence. NLVR2's head reads both, VQA's the former."""
        return tokens[:, 0]

    def released(self) -> dict[str, Tensor]:
        """As published: all names begin with ``beit3.``."""
        return {f"{PREFIX}{name}": tensor for name, tensor in self.state_dict().items()}


def _start(module: nn.Module) -> None:
    """The authors' random start, for runs without weights."""
    if isinstance(module, nn.Linear | nn.Embedding):
        trunc_normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)


def published(model: BEiT3, state: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """A published checkpoint in the sizes of ``model``.

    What stands outside ``beit3.`` is the head of some task (mlm_head, mim_head, language_head, vision_head, pooler,
    head) and is left out; so is the mask token of pre-training. Positions of the picture are resized. All is logged.
    """
    inside = {key.removeprefix(PREFIX): value for key, value in state.items() if key.startswith(PREFIX)}
    if inside:
        others = sorted({key.split(".")[0] for key in state if not key.startswith(PREFIX)})
        log.info("%s: left out beside %s: %s", source, PREFIX, ", ".join(others) or "nothing")
    state = inside or dict(state)
    state.pop("vision_embed.mask_token", None)
    stored, prefix = dict(state), FIRST + 1
    if POSITIONS in state:
        old, new = math.isqrt(max(len(state[POSITIONS]) - prefix, 0)), model.grid
        if old != new:
            state[POSITIONS] = resize_grid(state[POSITIONS], prefix, (old, old), (new, new), mode="bicubic")
    log_resized(source, stored, state)
    return state
