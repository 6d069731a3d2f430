"""HTS-AT (Chen et al., arXiv 2202.00874), the audio tower of CLAP: a log-mel strip folded to a square for Swin v1."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.base import Context
from hmmoe.backbones.timm_swin import TimmSwin
from hmmoe.backbones.weights import load_strictly, read_state, write_state
from hmmoe.errors import ConfigError


class HTSAT(TimmSwin):
    """timm's Swin v1 behind a BatchNorm over mel bins and the fold of (mels x frames) to (size x size).

    The strip is stretched (bicubic) to size * ratio frames with ratio = size / mels, cut into ``ratio`` pieces in time,
    and the pieces are stacked along frequency.

    Args:
        name: timm model whose layout is taken.
        weights: a transformers CLAP file (model.safetensors) without fusion, or an original HTS-AT checkpoint; None for
            random ones.
        mels: mel bins of a picture.
        size: side of the square, a multiple of mels.
        embed_dim, depths, num_heads, window_size: sizes of the Swin; the defaults are those of both releases.
        options: further keywords of ``timm.create_model``.
    """

    def __init__(
        self,
        name: str = "swin_tiny_patch4_window7_224",
        *,
        weights: str | None = None,
        mels: int = 64,
        size: int = 256,
        embed_dim: int = 96,
        depths: Sequence[int] = (2, 2, 6, 2),
        num_heads: Sequence[int] = (4, 8, 16, 32),
        window_size: int = 8,
        **options: Any,
    ) -> None:
        if size % mels:
            raise ConfigError(f"HTSAT's size={size} must be a multiple of mels={mels}")
        super().__init__(
            name,
            img_size=size,
            in_chans=1,
            embed_dim=embed_dim,
            depths=tuple(depths),
            num_heads=tuple(num_heads),
            window_size=window_size,
            **options,
        )
        self.batch_norm = nn.BatchNorm2d(mels)
        self.size, self.ratio = size, size // mels
        if weights is not None:
            load_strictly(self, translate(read_state(weights)), source=weights, unused=UNUSED)

    def embed(self, x: Float[Tensor, "S 1 mel frames"], keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Log-mel pictures to an NHWC map of patches."""
        x = self.batch_norm(x.transpose(1, 2)).transpose(1, 2)
        return super().embed(self._fold(x), keep)

    def _fold(self, x: Float[Tensor, "S 1 mel frames"]) -> Float[Tensor, "S 1 size size"]:
        mels, frames = x.shape[-2:]
        long = self.size * self.ratio
        if frames > long:
            raise ConfigError(f"HTSAT folds at most {long} frames, found {frames}: set backbone.inputs.audio.frames")
        if frames < long:
            x = nn.functional.interpolate(x, (mels, long), mode="bicubic", align_corners=True)
        pieces = x.unflatten(3, (self.ratio, -1))  # (S, 1, mel, ratio, size)
        return pieces.transpose(2, 3).flatten(2, 3)

    def publish(self, folder: Path) -> Path:
        """The BatchNorm belongs to the tower: both under HTS-AT's names."""
        folder.mkdir(parents=True, exist_ok=True)
        return write_state(released(self.state_dict()), folder / "model.safetensors")


UNUSED = ("text_model.", "text_projection.", "audio_projection.", "logit_scale_")
UNUSED += ("spectrogram_extractor.", "logmel_extractor.", "head.", "tscam_conv.")
INDICES = (".relative_position_index", ".attn_mask")

CLAP_NAMES = {
    ".layernorm_before.": ".norm1.",
    ".layernorm_after.": ".norm2.",
    ".attention.self.relative_position_bias_table": ".attn.relative_position_bias_table",
    ".attention.output.dense.": ".attn.proj.",
    ".intermediate.dense.": ".mlp.fc1.",
    ".output.dense.": ".mlp.fc2.",
}


def translate(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """CLAP's names (transformers) or HTS-AT's (RetroCirce/HTS-Audio-Transformer) to those of ``HTSAT``.

    Queries, keys and values are fused; a patch merging stands at the start of timm's next stage.
    """
    out: dict[str, Tensor] = {}
    for key, value in state.items():
        name = re.sub(r"^(audio_model\.)?audio_encoder\.|^sed_model\.", "", key)
        name = re.sub(r"^bn0\.", "batch_norm.", name)
        name = re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) + 1}.downsample.", name)
        if name.startswith(UNUSED) or name.endswith(INDICES):
            continue
        if match := re.fullmatch(r"(.*)\.attention\.self\.(query|key|value)\.(weight|bias)", name):
            parts = [state.get(key.replace(f".{match[2]}.", f".{role}.")) for role in ("query", "key", "value")]
            if all(part is not None for part in parts):
                out[f"library.{match[1]}.attn.qkv.{match[3]}"] = torch.cat(parts)
            continue
        for old, new in CLAP_NAMES.items():
            name = name.replace(old, new)
        out[name if name.startswith("batch_norm.") else f"library.{name}"] = value
    return out


def released(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``HTSAT``'s tensors under the names of an original checkpoint, the way back of ``translate``."""

    def back(name: str) -> str:
        name = re.sub(r"^batch_norm\.", "bn0.", name.removeprefix("library."))
        return re.sub(r"^layers\.(\d+)\.downsample\.", lambda m: f"layers.{int(m[1]) - 1}.downsample.", name)

    return {f"sed_model.{back(name)}": tensor for name, tensor in state.items()}
