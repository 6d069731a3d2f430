"""timm's EVA-02 and DINOv3: pre-norm blocks with rotary positions and SwiGLU or plain MLPs."""

from typing import Any

import timm
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.timm_beit import scaled
from hmmoe.backbones.timm_weights import create, drop_pooling, expect


class TimmEva(Encoder):
    """A timm ``Eva``, opened between its MLP and layer scale.

    Args:
        name: timm model name, such as eva02_base_patch14_224 or vit_base_patch16_dinov3.
        weights: local file, "hub" for timm's own, None for random ones.
        pool: "cls" (mean of class and register tokens), "mean" (of the patches) or "library".
        options: further keywords of ``timm.create_model``, such as ``img_size``.
    """

    def __init__(self, name: str, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library = create(name, weights, options)
        expect(library, timm.models.eva.Eva, timm.models.eva.EvaBlock)
        self.prefix = library.num_prefix_tokens
        drop_pooling(library, pool)
        depth = len(library.blocks)
        super().__init__(library, widths=[library.embed_dim] * depth, stages=[depth], pool=pool)
        self.roles = _roles(library.blocks[0])

    def block(self, k: int) -> nn.Module:
        """The k-th block."""
        return self.library.blocks[k]

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens, prefix tokens first, and the rotary positions (one per block in mixed mode)."""
        model = self.library
        x, rope = model._pos_embed(model.patch_embed(x))
        return model.norm_pre(x), {"rope": rope}

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the MLP on the normalised stream."""
        block, rope = self.block(k), ctx["rope"]
        if rope is not None and getattr(self.library, "rope_mixed", False):
            rope = rope[k]
        residual = x + block.drop_path1(scaled(block.gamma_1, block.attn(block.norm1(x), rope=rope)))
        inp = block.norm2(residual)
        return Half(residual, inp, block.mlp(inp))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Layer scale, stochastic depth, residual."""
        block = self.block(k)
        return half.residual + block.drop_path2(scaled(block.gamma_2, half.out))

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm (identity where timm norms after pooling)."""
        return self.library.norm(x)

    def own_pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """What timm hands to a classifier."""
        return self.library.forward_head(tokens, pre_logits=True)


def _roles(block: nn.Module) -> Roles:
    """Fused or split q, k, v; the value half of a SwiGLU counts as fc1."""
    fused = getattr(block.attn, "qkv", None) is not None
    names = {role: ("attn.qkv", part, 3) if fused else (f"attn.{role}_proj", 0, 1) for part, role in enumerate("qkv")}
    first = "mlp.fc1_x" if hasattr(block.mlp, "fc1_x") else "mlp.fc1"
    return names | {"o": ("attn.proj", 0, 1), "fc1": (first, 0, 1), "fc2": ("mlp.fc2", 0, 1)}
