"""Frames and sounds of clips at given seconds, from the videos or from what the peers extract of them."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from datamodules.media.audio import read_array, read_sound
from datamodules.media.image import Pixels, read_rgb
from datamodules.media.logmel import LogMel
from datamodules.media.video import duration, read_frames
from hmmoe.errors import DataBroken

FRAMES, SOUNDS = ("frames", "video_frames"), ("audio", "raw_audio")
"""Folder names of the authors' scripts and of LAVISH."""
View = Callable[[np.ndarray], np.ndarray]
"""What is taken of a clip's frames, (T, H, W, 3) to (T, h, w, 3)."""


class Clips:
    """Where a clip's picture and sound are.

    Args:
        root: of the dataset.
        extracted: read ``frames/<id>/*.jpg`` and ``audio/<id>.wav`` (LAVISH: ``video_frames``, ``raw_audio``) instead
            of ``video/<id>.mp4``.
        fps: of the extracted frames.
        videos, frames, sounds: names that the folders may have; of several that are there the first counts.
        suffix: of the videos.
        mute: a clip without extracted sound is silent, not broken.
    """

    def __init__(
        self,
        root: Path,
        *,
        extracted: bool,
        fps: float,
        videos: Sequence[str] = ("video",),
        frames: Sequence[str] = FRAMES,
        sounds: Sequence[str] = SOUNDS,
        suffix: str = ".mp4",
        mute: bool = False,
    ) -> None:
        self.root, self.extracted, self.fps, self.suffix, self.mute = root, extracted, fps, suffix, mute
        self._names = (videos, frames, sounds)

    @property
    def videos(self) -> Path:
        """Folder of the videos, looked up at use: a miniature is written after this was made."""
        return _first(self.root, self._names[0])

    @property
    def frames(self) -> Path:
        """Folder of extracted frames."""
        return _first(self.root, self._names[1])

    @property
    def sounds(self) -> Path:
        """Folder of extracted sounds."""
        return _first(self.root, self._names[2])

    def folders(self, *, vision: bool, audio: bool) -> list[Path]:
        """The folders that are read."""
        if not self.extracted:
            return [self.videos]
        return [self.frames] * vision + [self.sounds] * audio

    def files(self, clip: str, *, vision: bool, audio: bool) -> list[Path]:
        """What a clip needs."""
        if not self.extracted:
            return [self.video(clip)]
        return [self.frames / clip] * vision + [self.track(clip)] * (audio and not self.mute)

    def lacking(self, clip: str, *, vision: bool, audio: bool) -> Path | None:
        """The first of these that is not there."""
        return next((path for path in self.files(clip, vision=vision, audio=audio) if not path.exists()), None)

    def sources(self, clip: str, *, vision: bool, audio: bool) -> list[Path]:
        """What is read of a clip: as ``files``, and the sound that may be missing."""
        if not self.extracted:
            return [self.video(clip)]
        return [self.frames / clip] * vision + [self.track(clip)] * audio

    def recipe(self) -> dict[str, Any]:
        """What decides, beside the files, which frame is on screen when."""
        return {"extracted": self.extracted, "fps": self.fps if self.extracted else None}

    def video(self, clip: str) -> Path:
        """The video file."""
        return self.videos / f"{clip}{self.suffix}"

    def track(self, clip: str) -> Path:
        """The extracted sound: wav, or npy where there is one."""
        array = self.sounds / f"{clip}.npy"
        return array if array.exists() else self.sounds / f"{clip}.wav"

    def seconds(self, clip: str) -> float:
        """How long the pictures last."""
        return len(self._frames(clip)) / self.fps if self.extracted else duration(self.video(clip))

    def pictures(
        self, clip: str, times: Sequence[float], pixels: Pixels, view: View | None = None
    ) -> tuple[Tensor, Tensor]:
        """The frame at each time: (T, 3, H, W) uint8, and which of them exist (T,)."""
        if not self.extracted:
            frames, there = read_frames(self.video(clip), times)
            return pixels.resize(view(frames) if view else frames), torch.from_numpy(there)
        paths, rows = self._frames(clip), [int(time * self.fps) for time in times]
        pictures = torch.zeros(len(times), *pixels.shape, dtype=torch.uint8)
        there = [place for place, row in enumerate(rows) if row < len(paths)]
        if there:
            frames = np.stack([read_rgb(paths[rows[place]]) for place in there])
            pictures[there] = pixels.resize(view(frames) if view else frames)
        return pictures, torch.tensor([row < len(paths) for row in rows])

    def _frames(self, clip: str) -> list[Path]:
        paths = sorted((self.frames / clip).glob("*.jpg"))
        if not paths:
            raise DataBroken(f"{self.frames / clip} holds no jpg: extract the frames of this clip again")
        return paths

    def sound(self, clip: str, sample_rate: int) -> np.ndarray:
        """All of its sound, mono; empty where there is none."""
        path = self.track(clip) if self.extracted else self.video(clip)
        if path.suffix == ".npy":
            return read_array(path, sample_rate)
        sound = None if self.extracted and self.mute and not path.exists() else read_sound(path, sample_rate)
        return np.zeros(0, np.float32) if sound is None else sound


def windows(sound: np.ndarray, starts: Sequence[float], logmel: LogMel) -> tuple[Tensor, Tensor]:
    """One picture of a sound from each start on, in seconds: (T, 1, mels, frames), zero and not kept where it ended."""
    length = logmel.window + (logmel.shape[2] - 1) * logmel.shift
    begins = [round(start * logmel.sample_rate) for start in starts]
    pieces = np.zeros((len(starts), length), np.float32)
    for window, begin in zip(pieces, begins, strict=True):
        piece = sound[begin : begin + length]
        window[: len(piece)] = piece
    there = torch.tensor([begin + logmel.window <= len(sound) for begin in begins])
    return logmel(torch.from_numpy(pieces)) * there.view(-1, 1, 1, 1), there


def _first(root: Path, names: Sequence[str]) -> Path:
    return next((root / name for name in names if (root / name).is_dir()), root / names[0])
