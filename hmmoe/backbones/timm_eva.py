"""timm's EVA-02 and DINOv3: rotary positions, SwiGLU or plain MLPs."""

from typing import Any, ClassVar

import timm
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Pooling, Roles
from hmmoe.backbones.timm_prenorm import TimmPreNorm


class TimmEva(TimmPreNorm):
    """A timm ``Eva``; ``pool: cls`` is the mean of class and register tokens."""

    kind: ClassVar[type[nn.Module]] = timm.models.eva.Eva
    flavour: ClassVar[type[nn.Module]] = timm.models.eva.EvaBlock

    def __init__(self, name: str, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        super().__init__(name, weights=weights, pool=pool, **options)
        self.roles = _roles(self.library.blocks[0])

    def embed(self, x: Float[Tensor, "S C H W"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Pictures to tokens, prefix tokens first, and the rotary positions (one per block in mixed mode)."""
        model = self.library
        x, rope = model._pos_embed(model.patch_embed(x))
        return model.norm_pre(x), {"rope": rope}

    def attend(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """Self-attention with rotary positions."""
        rope = ctx["rope"]
        if rope is not None and getattr(self.library, "rope_mixed", False):
            rope = rope[k]
        return self.block(k).attn(x, rope=rope)


def _roles(block: nn.Module) -> Roles:
    """Fused or split q, k, v; the value half of a SwiGLU counts as fc1."""
    fused = getattr(block.attn, "qkv", None) is not None
    names = {role: ("attn.qkv", part, 3) if fused else (f"attn.{role}_proj", 0, 1) for part, role in enumerate("qkv")}
    first = "mlp.fc1_x" if hasattr(block.mlp, "fc1_x") else "mlp.fc1"
    return names | {"o": ("attn.proj", 0, 1), "fc1": (first, 0, 1), "fc2": ("mlp.fc2", 0, 1)}
