"""What timm's plain pre-norm transformers share: ViT, BEiT, EVA."""

from abc import abstractmethod
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.timm_weights import ROLES, create, expect


class TimmPreNorm(Encoder):
    """A flat timm model of pre-norm blocks, opened between its MLP and layer scale.

    Args:
        name: timm model name.
        weights: local file, "hub" for timm's own, None for random ones.
        pool: "cls" (mean of the prefix tokens), "mean" (of the patches) or "library" (SigLIP: its attention pooling).
        options: further keywords of ``timm.create_model``, such as ``img_size``.
    """

    roles: ClassVar[Roles] = ROLES
    kind: ClassVar[type[nn.Module]]
    flavour: ClassVar[type[nn.Module]]
    """The model and the block that the family opens."""

    def __init__(self, name: str, *, weights: str | None = None, pool: Pooling = "cls", **options: Any) -> None:
        library = create(name, weights, options, pooled=pool == "library")
        expect(library, self.kind, self.flavour)
        self.prefix = library.num_prefix_tokens
        depth = len(library.blocks)
        super().__init__(library, widths=[library.embed_dim] * depth, stages=[depth], pool=pool)

    @abstractmethod
    def attend(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """Attention of block k on the normalised stream."""

    def scale(self, block: nn.Module, branch: int, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """Layer scale of branch 1 (attention) or 2 (MLP) where the model has one: a bare parameter."""
        gamma = getattr(block, f"gamma_{branch}")
        return x if gamma is None else gamma * x

    def block(self, k: int) -> nn.Module:
        """The k-th block."""
        return self.library.blocks[k]

    def half(self, k: int, x: Float[Tensor, "S N D"], ctx: Context) -> Half:
        """Attention, then the MLP on the normalised stream."""
        block = self.block(k)
        residual = x + block.drop_path1(self.scale(block, 1, self.attend(k, block.norm1(x), ctx)))
        inp = block.norm2(residual)
        return Half(residual, inp, block.mlp(inp))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "S N D"]:
        """Layer scale, stochastic depth, residual."""
        block = self.block(k)
        return half.residual + block.drop_path2(self.scale(block, 2, half.out))

    def finish(self, x: Float[Tensor, "S N D"], ctx: Context) -> Float[Tensor, "S N D"]:
        """The final norm (identity where timm norms after pooling)."""
        return self.library.norm(x)

    def own_pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """What timm hands to a classifier."""
        return self.library.forward_head(tokens, pre_logits=True)
