"""torchvision's Video Swin: pre-norm blocks over windows in space and time, all frames of a sample in one pass."""

from collections.abc import Sequence
from typing import Any, ClassVar

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models.video.swin_transformer import SwinTransformer3d

from hmmoe.backbones.base import Context, Encoder, Half, Pooling, Roles
from hmmoe.backbones.weights import load_strictly, read_state


class Swin3D(Encoder):
    """A torchvision ``SwinTransformer3d`` without its classifier, opened between its MLP and stochastic depth.

    Maps stay (B, T, H, W, C) inside, a site sees (B, T*H*W, C).

    Args:
        weights: local torchvision file, None for random ones (a VALOR checkpoint brings its own).
        stride: frames from one patch to the next. Published Video Swins take 2; VALOR takes 1 and appends an empty
            frame, so that T frames stay T.
        embed_dim, depths, num_heads, window_size: sizes of the model; the defaults are Video Swin-base.
        pool: "mean"; there is no class token.
        options: further keywords of ``SwinTransformer3d``, such as ``stochastic_depth_prob``.
    """

    clips: ClassVar[bool] = True
    roles: ClassVar[Roles] = {
        "q": ("attn.qkv", 0, 3),
        "k": ("attn.qkv", 1, 3),
        "v": ("attn.qkv", 2, 3),
        "o": ("attn.proj", 0, 1),
        "fc1": ("mlp.0", 0, 1),
        "fc2": ("mlp.3", 0, 1),
    }

    def __init__(
        self,
        *,
        weights: str | None = None,
        stride: int = 2,
        embed_dim: int = 128,
        depths: Sequence[int] = (2, 2, 18, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_size: Sequence[int] = (8, 7, 7),
        pool: Pooling = "mean",
        **options: Any,
    ) -> None:
        library = SwinTransformer3d([2, 4, 4], embed_dim, list(depths), list(num_heads), list(window_size), **options)
        library.head = nn.Identity()
        if weights is not None:
            load_strictly(library, read_state(weights), source=weights, unused=("head.",))
        self.overlap = 2 - stride
        library.patch_embed.proj.stride = (stride, 4, 4)
        library.patch_embed.tuple_patch_size = (stride, 4, 4)  # what it pads a clip to
        widths = [embed_dim * 2**stage for stage, depth in enumerate(depths) for _ in range(depth)]
        super().__init__(library, widths=widths, stages=depths, pool=pool)
        self.places = [(stage, j) for stage, depth in enumerate(depths) for j in range(depth)]

    def block(self, k: int) -> nn.Module:
        """The k-th block, counted over all stages; ``features`` holds stages and mergings in turn."""
        stage, place = self.places[k]
        return self.library.features[2 * stage][place]

    def embed(self, x: Float[Tensor, "B T C H W"], keep: Bool[Tensor, "B N"] | None) -> tuple[Tensor, Context]:
        """Frames to a map of patches. ``ctx["grid"]`` is an empty tensor that carries the map's extents."""
        x = F.pad(x.transpose(1, 2), (0, 0, 0, 0, 0, self.overlap))
        x = self.library.pos_drop(self.library.patch_embed(x))
        return x, {"grid": x.new_empty(*x.shape[1:4], 0)}

    def half(self, k: int, x: Float[Tensor, "B T H W C"], ctx: Context) -> Half:
        """Merge patches at the start of a stage, window attention, then the MLP on the normalised stream."""
        stage, place = self.places[k]
        if place == 0 and stage > 0:
            x = self.library.features[2 * stage - 1](x)
        block = self.block(k)
        residual = x + block.stochastic_depth(block.attn(block.norm1(x)))
        inp = block.norm2(residual)
        return Half(residual.flatten(1, 3), inp.flatten(1, 3), block.mlp(inp).flatten(1, 3))

    def merge(self, k: int, half: Half, ctx: Context) -> Float[Tensor, "B T H W D"]:
        """Stochastic depth and residual."""
        frames, height, width, _ = ctx["grid"].shape
        for _ in range(self.places[k][0]):
            height, width = (height + 1) // 2, (width + 1) // 2
        x = half.residual + self.block(k).stochastic_depth(half.out)
        return x.unflatten(1, (frames, height, width))

    def finish(self, x: Float[Tensor, "B T H W D"], ctx: Context) -> Float[Tensor, "B N D"]:
        """The final norm."""
        return self.library.norm(x).flatten(1, 3)
