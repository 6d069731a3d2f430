"""VLMo (Bao et al., arXiv 2111.02358; microsoft/unilm, vlmo/): text first, shared attention, FFNs by modality.

Names follow the published checkpoints, so that a file loads key by key. Left out is what the joint pass never reads:
the single-modality FFNs of the blocks that have a joint one, absolute text positions where a relative bias does the
work (transformers' BertEmbeddings adds them always, which is wrong for base and large), and the pre-training heads.
"""

import logging
import math
from typing import ClassVar, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from scipy.interpolate import RectBivariateSpline
from timm.layers import Mlp, trunc_normal_
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.backbones.base import Half, Roles
from hmmoe.backbones.multiway import MultiwayModel
from hmmoe.backbones.weights import load_strictly, log_resized, read_state, resize_grid
from hmmoe.errors import ConfigError

log = logging.getLogger(__name__)

PATCH = 16
APART = 3
"""Relations of a class token, in the rows after a table's distances: to the others, from the others, to itself."""

UNUSED = (
    "mlm_score.",
    "itm_score.",
    "itc_",
    "logit_scale",
    "logit_vl_scale",
    "vqa_classifier.",
    "nlvr2_classifier.",
    "relative_position_index",
    "text_relative_position_index",
    "text_imag_relative_position_index",
    "text_embeddings.position_ids",
)
"""Prefixes of checkpoint keys without a place here: pre-training heads, classifiers, indices that are computed."""

DEEPSPEED = "module."
TABLE = "relative_position_bias_table"
TYPES = "token_type_embeddings.weight"
WORD_POSITIONS = "text_embeddings.position_embeddings.weight"
PATCH_POSITIONS = "transformer.pos_embed"


class Attention(nn.Module):
    """Fused self-attention; queries and values have a bias, keys none."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_bias, self.v_bias = nn.Parameter(torch.zeros(width)), nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"], bias: Float[Tensor, "1 heads N N"] | None
    ) -> Float[Tensor, "S N D"]:
        """``bias`` joins the logits; keys that are not kept are out."""
        # The module is called, not its weight, so that methods which wrap a linear layer work on it too.
        qkv = self.qkv(x)
        qkv = qkv + torch.cat((self.q_bias, torch.zeros_like(self.v_bias), self.v_bias)).to(qkv.dtype)
        q, k, v = qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mask = keep[:, None, None]
        if bias is not None:
            mask = bias.to(q.dtype).masked_fill(~mask, float("-inf"))
        return self.proj(F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2))


class Block(nn.Module):
    """Pre-norm block; ``branches`` are vl for a joint FFN, else text and imag."""

    def __init__(self, width: int, heads: int, branches: tuple[str, ...], layer_scale: float | None) -> None:
        super().__init__()
        self.norm1, self.attn = nn.LayerNorm(width, eps=1e-6), Attention(width, heads)
        for branch in branches:
            self.add_module(f"norm2_{branch}", nn.LayerNorm(width, eps=1e-6))
            self.add_module(f"mlp_{branch}", Mlp(width, 4 * width))
        for name in ("gamma_1", "gamma_2"):
            gamma = None if layer_scale is None else nn.Parameter(torch.full((width,), layer_scale))
            self.register_parameter(name, gamma)


class Transformer(nn.Module):
    """The blocks, the picture's embedding and the final norm."""

    def __init__(self, width: int, grid: int, blocks: list[Block], *, absolute: bool) -> None:
        super().__init__()
        self.cls_token = nn.Parameter(trunc_normal_(torch.empty(1, 1, width), std=0.02))
        self.pos_embed = nn.Parameter(trunc_normal_(torch.empty(1, grid**2 + 1, width), std=0.02)) if absolute else None
        self.patch_embed = nn.Module()
        self.patch_embed.proj = nn.Conv2d(3, width, PATCH, PATCH)
        self.blocks = nn.ModuleList(blocks)
        self.norm = nn.LayerNorm(width, eps=1e-6)


class TextEmbeddings(nn.Module):
    """Words, one type, a LayerNorm; positions only without a relative bias."""

    def __init__(self, vocabulary: int, width: int, length: int, *, absolute: bool) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(vocabulary, width)
        self.token_type_embeddings = nn.Embedding(2, width)  # only the first row is ever read
        self.position_embeddings = nn.Embedding(length, width) if absolute else None
        self.LayerNorm = nn.LayerNorm(width, eps=1e-12)

    def forward(self, ids: Int[Tensor, "S L"]) -> Float[Tensor, "S L D"]:
        """Ids to embeddings."""
        x = self.word_embeddings(ids) + self.token_type_embeddings.weight[0]
        if self.position_embeddings is not None:
            x = x + self.position_embeddings.weight[: ids.shape[1]]
        return self.LayerNorm(x)


class VLMo(MultiwayModel):
    """The joint pass over a sentence and a picture. Branch output: ``gamma_2 * mlp(norm2(x))``.

    The streams hand out the *scaled* FFN output: under layer scale (0.1 at the start of the authors' training) a delta
    would be shrunk tenfold.

    Args:
        width: D. Base 768, base plus 544, large 1024.
        depth: blocks. 12, 24, 24.
        heads: attention heads. 12, 16, 16.
        joint: first block with one FFN for both modalities. 10, 21, 21.
        size: side of the square picture in pixels; the tables of a file at another size are resized.
        length: most tokens of a sentence.
        positions: "relative" (base, large) or "absolute" (base plus).
        layer_scale: start value of the gammas, None for none (base plus).
        images: pictures with a type embedding of their own; 1 gives all of a sample the same. A file with fewer types
            lends them its first picture's, as the authors do before NLVR2 (two pictures).
        vocabulary: rows of the word table.
        table_length: sentence length that the relative table was made for.
        weights: local torch or safetensors file, None for random ones.

    Raises:
        ConfigError: sizes that cannot be, or a file that does not fit.
        WeightsMissing: no such file.
    """

    order: ClassVar[tuple[str, str]] = ("text", "vision")
    roles: ClassVar[Roles] = {
        "q": ("attn.qkv", 0, 3),
        "k": ("attn.qkv", 1, 3),
        "v": ("attn.qkv", 2, 3),
        "o": ("attn.proj", 0, 1),
        "fc1": ("mlp_{}.fc1", 0, 1),
        "fc2": ("mlp_{}.fc2", 0, 1),
    }

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        joint: int,
        size: int = 224,
        length: int = 40,
        positions: Literal["relative", "absolute"] = "relative",
        layer_scale: float | None = 0.1,
        images: int = 1,
        vocabulary: int = 30522,
        table_length: int = 196,
        weights: str | None = None,
    ) -> None:
        super().__init__()
        _refuse(width=width, depth=depth, heads=heads, joint=joint, size=size, length=length, images=images)
        if positions not in ("relative", "absolute") or length > table_length:
            raise ConfigError(
                f"backbone.model.positions must be relative or absolute and length at most table_length={table_length},"
                f" found {positions!r} and {length}"
            )
        absolute = positions == "absolute"
        self.width, self.depth, self.heads, self.joint, self.images = width, depth, heads, joint, images
        self.length, self.grid, self.off_grid = length, size // PATCH, 2 * table_length + 5
        blocks = [Block(width, heads, ("vl",) if k >= joint else ("text", "imag"), layer_scale) for k in range(depth)]
        self.transformer = Transformer(width, self.grid, blocks, absolute=absolute)
        self.text_embeddings = TextEmbeddings(vocabulary, width, length, absolute=absolute)
        self.token_type_embeddings = nn.Embedding(1 + images, width)
        self.pooler = nn.ModuleDict({"dense": nn.Linear(width, width)})
        self.relative_position_bias_table = None
        if not absolute:
            rows = (2 * self.grid - 1) ** 2 + self.off_grid
            self.relative_position_bias_table = nn.Parameter(torch.zeros(rows, heads * depth))
            self.register_buffer("index", relative_index(self.grid, length, table_length), persistent=False)
        self.apply(_start)
        if weights is not None:
            state = published(self, read_state(weights), source=weights)
            load_strictly(self, state, source=weights, unused=UNUSED)

    def block(self, k: int) -> nn.Module:
        """The k-th block."""
        return self.transformer.blocks[k]

    def branch(self, k: int, modality: str) -> str:
        """vl in the joint blocks, else text or imag."""
        return "vl" if k >= self.joint else {"text": "text", "vision": "imag"}[modality]

    def embed(
        self, vision: Float[Tensor, "S C H W"], ids: Int[Tensor, "S L"], keep: Bool[Tensor, "S L"], segments: int
    ) -> dict[str, Float[Tensor, "S _N D"]]:
        """Words and patches, each with the embedding of its type; picture t of a sample has type 1 + t."""
        if segments > self.images > 1:
            raise ConfigError(
                f"a sample has {segments} pictures, but backbone.model.images={self.images}: set it to {segments}, or "
                "to 1 to give all of them the same type"
            )
        net, types = self.transformer, self.token_type_embeddings.weight
        patches = net.patch_embed.proj(vision).flatten(2).transpose(1, 2)
        image = torch.cat((net.cls_token.expand(len(patches), -1, -1), patches), 1)
        if net.pos_embed is not None:
            image = image + net.pos_embed
        kinds = types[1 : 1 + segments] if self.images > 1 else types[1:2].expand(segments, -1)
        image = (image.unflatten(0, (-1, segments)) + kinds[:, None]).flatten(0, 1)
        return {"text": self.text_embeddings(ids) + types[0], "vision": image}

    def attend(
        self, k: int, x: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"], split: int
    ) -> Float[Tensor, "S N D"]:
        """Attention under the relative bias of block k, scaled."""
        block = self.block(k)
        out = block.attn(block.norm1(x), keep, self._bias(k, split))
        return x + (out if block.gamma_1 is None else block.gamma_1 * out)

    def _bias(self, k: int, split: int) -> Float[Tensor, "1 heads N N"] | None:
        """One table for all blocks, a slice of columns each; a shorter sentence reads a part of the index."""
        if self.relative_position_bias_table is None:
            return None
        index = self.index
        if split < self.length:
            at = torch.arange(len(index), device=index.device)
            rows = torch.cat((at[:split], at[self.length :]))
            index = index[rows][:, rows]
        columns = self.relative_position_bias_table[:, k * self.heads : (k + 1) * self.heads]
        return F.embedding(index, columns).permute(2, 0, 1)[None]

    def half(self, k: int, modality: str, residual: Float[Tensor, "S N D"]) -> Half:
        """The modality's own FFN, or the joint one, under layer scale."""
        block, branch = self.block(k), self.branch(k, modality)
        inp = block.get_submodule(f"norm2_{branch}")(residual)
        out = block.get_submodule(f"mlp_{branch}")(inp)
        return Half(residual, inp, out if block.gamma_2 is None else block.gamma_2 * out)

    def finish(self, modality: str, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """The final norm, one for both."""
        return self.transformer.norm(x)

    def pool(self, modality: str, tokens: Float[Tensor, "S N D"]) -> Float[Tensor, "S D"]:
        """Text: tanh of the pooler on the first token, which the authors' VQA and NLVR2 heads read. Vision: [CLS]."""
        return torch.tanh(self.pooler["dense"](tokens[:, 0])) if modality == "text" else tokens[:, 0]


def _refuse(*, width: int, depth: int, heads: int, joint: int, size: int, length: int, images: int) -> None:
    """Sizes that cannot be."""
    if width % heads or size % PATCH or not 0 <= joint <= depth or min(depth, length, images) < 1:
        raise ConfigError(
            f"backbone.model: width={width} must be a multiple of heads={heads}, size={size} one of {PATCH}, joint="
            f"{joint} lie in 0..depth={depth}, and depth, length={length} and images={images} be at least 1"
        )


def _start(module: nn.Module) -> None:
    """The authors' random start, for runs without weights."""
    if isinstance(module, nn.Linear):
        trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)


def relative_index(grid: int, length: int, table_length: int) -> Int[Tensor, "N N"]:
    """Row of the bias table for every (query, key) of text, [CLS] and patches.

    Rows: (2 grid - 1)^2 offsets between patches, 3 relations of the image's [CLS], text to image, image to text,
    2 table_length - 3 offsets between words, 3 relations of the text's [CLS].
    """
    at = torch.stack(torch.meshgrid(torch.arange(grid), torch.arange(grid), indexing="ij")).flatten(1)
    offset = at[:, :, None] - at[:, None] + grid - 1
    near = (2 * grid - 1) ** 2
    image = _with_class(offset[0] * (2 * grid - 1) + offset[1], near)
    words = torch.arange(length - 1)
    first = near + APART + 2
    text = _with_class(words[None] - words[:, None] + table_length - 2 + first, first + 2 * table_length - 3)
    top = torch.cat((text, text.new_full((length, len(image)), near + APART)), 1)
    bottom = torch.cat((image.new_full((len(image), length), near + APART + 1), image), 1)
    return torch.cat((top, bottom))


def _with_class(index: Int[Tensor, "n n"], first: int) -> Int[Tensor, "m m"]:
    """A class token in front; its relations have the rows from ``first`` on."""
    index = F.pad(index, (1, 0, 1, 0))
    index[0], index[:, 0], index[0, 0] = first, first + 1, first + 2
    return index


def resize_bias(table: Float[Tensor, "old H"], side: int, grid: int) -> Float[Tensor, "new H"]:
    """A bias table for another grid of patches, as the authors do it before fine-tuning at a higher resolution.

    The old offsets are spread out in a geometric progression (near ones stay near), and an interpolating cubic spline
    is read at the whole offsets of the new grid (their scipy ``interp2d``, which is gone, gives the same numbers).

    Args:
        table: one row per offset, then the rows that no grid touches.
        side: offsets along an axis that the table has.
        grid: patches along a side of the new picture.
    """
    half, new = side // 2, grid - 1
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        reach = (1 - ratio**half) / (1 - ratio)
        low, high = (low, ratio) if reach > new else (ratio, high)
    steps = np.cumsum(ratio ** np.arange(half))
    known = np.concatenate((-steps[::-1], [0], steps))
    wanted = np.arange(-new, new + 1)
    columns = [
        RectBivariateSpline(known, known, column.reshape(side, side))(wanted, wanted).flatten()
        for column in table[: side**2].T.double().numpy()
    ]
    fitted = torch.from_numpy(np.stack(columns, 1)).to(torch.float32)
    return torch.cat((fitted, table[side**2 :].float()))


def published(model: VLMo, state: dict[str, Tensor], *, source: str) -> dict[str, Tensor]:
    """A published checkpoint in the sizes of ``model``.

    DeepSpeed's prefix goes; types are copied for further pictures; positions and bias table are resized; the
    single-modality FFNs above ``joint`` and positions that the model does not add are dropped. Each is logged.
    """
    state = {key.removeprefix(DEEPSPEED): value for key, value in state.items()}
    stored, own = dict(state), model.state_dict()
    dropped = [key for key in state if _idle(key, model)]
    for key in dropped:
        del state[key]
    if dropped:
        log.info("%s: %d tensors left out that the joint pass never reads: %s, ...", source, len(dropped), dropped[0])
    types = state.get(TYPES)
    if types is not None and 2 <= len(types) < 1 + model.images:
        state[TYPES] = torch.cat((types, types[1:2].expand(1 + model.images - len(types), -1)))
    if WORD_POSITIONS in own and WORD_POSITIONS in state:
        state[WORD_POSITIONS] = state[WORD_POSITIONS][: model.length]
    side = math.isqrt(max(len(state[TABLE]) - model.off_grid, 0)) if TABLE in own and TABLE in state else 0
    if side not in (0, 2 * model.grid - 1):
        state[TABLE] = resize_bias(state[TABLE], side, model.grid)
    if PATCH_POSITIONS in own and PATCH_POSITIONS in state:
        old, new = math.isqrt(state[PATCH_POSITIONS].shape[1] - 1), model.grid
        if old != new:
            fitted = resize_grid(state[PATCH_POSITIONS][0], 1, (old, old), (new, new), mode="bicubic")
            state[PATCH_POSITIONS] = fitted[None]
    log_resized(source, stored, state)
    return state


def _idle(key: str, model: VLMo) -> bool:
    """True for weights of the published model that its joint pass of text and image does not touch."""
    if key == WORD_POSITIONS:
        return model.relative_position_bias_table is not None
    parts = key.split(".")
    inner = key.startswith("transformer.blocks.") and parts[2].isdigit() and int(parts[2]) >= model.joint
    return inner and parts[3] in ("norm2_text", "norm2_imag", "mlp_text", "mlp_imag")
