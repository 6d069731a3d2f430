"""Frames and sounds of MUSIC-AVQA at given seconds, from the videos or from what the peers extract of them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from datamodules.media.audio import read_sound
from datamodules.media.image import Pixels, read_rgb
from datamodules.media.logmel import LogMel
from datamodules.media.video import read_frames
from hmmoe.errors import DataBroken

FRAMES, SOUNDS = ("frames", "video_frames"), ("audio", "raw_audio")
"""Folder names of the authors' scripts and of LAVISH."""


class Clips:
    """Where a clip's picture and sound are.

    Args:
        root: of the dataset.
        extracted: read ``frames/<id>/*.jpg`` and ``audio/<id>.wav`` (LAVISH: ``video_frames``, ``raw_audio``) instead
            of ``video/<id>.mp4``.
        fps: of the extracted frames.
    """

    def __init__(self, root: Path, *, extracted: bool, fps: float) -> None:
        self.root, self.extracted, self.fps = root, extracted, fps
        self.frames, self.sounds = (_first(root, names) for names in (FRAMES, SOUNDS))

    def folders(self, *, vision: bool, audio: bool) -> list[Path]:
        """The folders that are read."""
        if not self.extracted:
            return [self.root / "video"]
        return [self.frames] * vision + [self.sounds] * audio

    def files(self, clip: str, *, vision: bool, audio: bool) -> list[Path]:
        """What a clip needs."""
        if not self.extracted:
            return [self.root / "video" / f"{clip}.mp4"]
        return [self.frames / clip] * vision + [self.sounds / f"{clip}.wav"] * audio

    def pictures(self, clip: str, times: Sequence[float], pixels: Pixels) -> tuple[Tensor, Tensor]:
        """The frame at each time: (T, 3, H, W) uint8, and which of them exist (T,)."""
        if not self.extracted:
            frames, there = read_frames(self.root / "video" / f"{clip}.mp4", times)
            return pixels.resize(frames), torch.from_numpy(there)
        paths = sorted((self.frames / clip).glob("*.jpg"))
        if not paths:
            raise DataBroken(f"{self.frames / clip} holds no jpg: extract the frames of this clip again")
        rows = [int(time * self.fps) for time in times]
        pictures = torch.zeros(len(times), *pixels.shape, dtype=torch.uint8)
        for place, row in enumerate(rows):
            if row < len(paths):
                pictures[place] = pixels.resize(read_rgb(paths[row])[None])[0]
        return pictures, torch.tensor([row < len(paths) for row in rows])

    def spectra(self, clip: str, starts: Sequence[float], logmel: LogMel) -> tuple[Tensor, Tensor]:
        """One picture of sound from each start on: (T, 1, mels, frames), zero and not kept where there is none."""
        path = self.sounds / f"{clip}.wav" if self.extracted else self.root / "video" / f"{clip}.mp4"
        sound = read_sound(path, logmel.sample_rate)
        sound = np.zeros(0, np.float32) if sound is None else sound
        length = logmel.window + (logmel.shape[2] - 1) * logmel.shift
        begins = [round(start * logmel.sample_rate) for start in starts]
        windows = np.zeros((len(starts), length), np.float32)
        for window, begin in zip(windows, begins, strict=True):
            piece = sound[begin : begin + length]
            window[: len(piece)] = piece
        there = torch.tensor([begin + logmel.window <= len(sound) for begin in begins])
        return logmel(torch.from_numpy(windows)) * there.view(-1, 1, 1, 1), there


def _first(root: Path, names: Sequence[str]) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])
