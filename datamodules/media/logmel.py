"""Log-mel filter banks in plain torch, for batches of windows.

``scale: kaldi`` is the recipe of ``torchaudio.compliance.kaldi.fbank`` with a Hann window and no dither, which AST
and LAVISH use: frames without padding, mean removed per frame, pre-emphasis 0.97, symmetric Hann, power spectrum
zero-padded to the next power of two, triangles in Kaldi mel space, natural logarithm.

``scale: decibel`` (CLAP, HTS-AT) and ``scale: whisper`` are those of librosa: centred frames over reflected edges,
periodic Hann, power spectrum, Slaney's triangles of equal area; 10 log10, or Whisper's log10 that is cut 8 below the
loudest value and mapped by (x + 4) / 4.
"""

import math
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from hmmoe.errors import ConfigError

FLOOR = torch.finfo(torch.float32).eps
PRE_EMPHASIS = 0.97


def mel_triangles(bins: int, mels: int, sample_rate: int, low_hz: float, high_hz: float) -> Float[Tensor, "bins mels"]:
    """Filters between ``low_hz`` and ``high_hz``, equally spaced and triangular on the Kaldi mel scale."""

    def to_mel(hertz: Tensor) -> Tensor:
        return 1127.0 * torch.log1p(hertz / 700.0)

    low, high = to_mel(torch.tensor([low_hz, high_hz], dtype=torch.float64))
    corners = low + (high - low) * torch.arange(mels + 2, dtype=torch.float64) / (mels + 1)
    here = to_mel(torch.arange(bins, dtype=torch.float64) * sample_rate / (2 * (bins - 1)))[:, None]
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    rising, falling = (here - left) / (centre - left), (right - here) / (right - centre)
    return torch.minimum(rising, falling).clamp_min(0).float()


class LogMel:
    """Windows of sound as pictures, as the audio tower wants them (``inputs.audio``).

    Args:
        sample_rate: of the sound that comes in.
        mels: filters, the picture's height.
        window_ms, shift_ms: length and step of a frame, cut to whole samples.
        frames: the picture's width; shorter ones get zeros at the end (before normalisation, as AST), longer ones are
            cut.
        mean, std: (x - mean) / (2 std), the convention of AST.
        low_hz, high_hz: lower edge of the first filter, upper edge of the last (None: half the sample rate).
        scale: kaldi, decibel or whisper.
    """

    def __init__(
        self,
        *,
        sample_rate: int,
        mels: int,
        window_ms: float,
        shift_ms: float,
        frames: int,
        mean: float,
        std: float,
        low_hz: float = 20.0,
        high_hz: float | None = None,
        scale: Literal["kaldi", "decibel", "whisper"] = "kaldi",
    ) -> None:
        self.window, self.shift = int(sample_rate * window_ms / 1000), int(sample_rate * shift_ms / 1000)
        if min(self.window, self.shift, mels, frames) < 1 or std <= 0:
            raise ConfigError(
                "backbone.inputs.audio: expected positive mels, frames and std, and a window and shift of at least one "
                f"sample; found mels={mels}, frames={frames}, std={std}, window_ms={window_ms}, shift_ms={shift_ms}"
            )
        if scale not in ("kaldi", "decibel", "whisper"):
            raise ConfigError(f"backbone.inputs.audio.scale must be kaldi, decibel or whisper, not {scale!r}")
        self.sample_rate, self.frames, self.mean, self.std, self.scale = sample_rate, frames, mean, std, scale
        high_hz = sample_rate / 2 if high_hz is None else high_hz
        self._band = (low_hz, high_hz)
        if scale == "kaldi":
            self.size = 2 ** math.ceil(math.log2(self.window))
            self._hann = torch.hann_window(self.window, periodic=False)
            self._filters = mel_triangles(self.size // 2 + 1, mels, sample_rate, low_hz, high_hz)
        else:
            self.size = self.window
            self._hann = torch.hann_window(self.window)
            slaney = mel_filter_bank(
                self.size // 2 + 1, mels, low_hz, high_hz, sample_rate, norm="slaney", mel_scale="slaney"
            )
            self._filters = torch.from_numpy(slaney).float()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Of one window's picture: (1, mels, frames)."""
        return (1, self._filters.shape[1], self.frames)

    def recipe(self) -> dict[str, Any]:
        """What decides the pictures: every setting."""
        sizes = {"window": self.window, "shift": self.shift, "shape": list(self.shape), "band": list(self._band)}
        level = {"mean": self.mean, "std": self.std}
        return {"sample_rate": self.sample_rate, "scale": self.scale, **sizes, **level}

    def fbank(self, sound: Float[Tensor, "n samples"]) -> Float[Tensor, "n frames mels"]:
        """Raw log energies of as many frames as fit; none if the window is shorter than one frame."""
        if self.scale != "kaldi":
            return self._librosa(sound)
        if sound.shape[-1] < self.window:
            return sound.new_zeros(len(sound), 0, self._filters.shape[1])
        frames = sound.unfold(-1, self.window, self.shift)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat([frames[..., :1], frames[..., :-1]], dim=-1)
        spectrum = torch.fft.rfft((frames - PRE_EMPHASIS * before) * self._hann, n=self.size)
        return (spectrum.abs().square() @ self._filters).clamp_min(FLOOR).log()

    def _librosa(self, sound: Float[Tensor, "n samples"]) -> Float[Tensor, "n frames mels"]:
        if sound.shape[-1] <= self.size // 2:  # too short to be reflected
            return sound.new_zeros(len(sound), 0, self._filters.shape[1])
        spectrum = torch.stft(sound, self.size, self.shift, window=self._hann, return_complex=True)
        energies = (spectrum.abs().square().transpose(1, 2) @ self._filters).clamp_min(1e-10).log10()
        if self.scale == "decibel":
            return 10 * energies
        energies = energies[:, :-1]
        return (torch.maximum(energies, energies.amax((1, 2), keepdim=True) - 8) + 4) / 4

    def __call__(self, sound: Float[Tensor, "n samples"]) -> Float[Tensor, "n 1 mels frames"]:
        """Normalised pictures."""
        energies = self.fbank(sound)[:, : self.frames]
        energies = torch.nn.functional.pad(energies, (0, 0, 0, self.frames - energies.shape[1]))
        return ((energies - self.mean) / (2 * self.std)).transpose(1, 2).unsqueeze(1).contiguous()
