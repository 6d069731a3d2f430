"""Frames and sound of whole clips, however long: frames spread evenly, slices of sound from all over."""

from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor

from datamodules.media.cache import Field, RowCache
from datamodules.media.image import Pixels, crop
from datamodules.media.logmel import LogMel
from datamodules.music_avqa_media import Clips, View, windows
from hmmoe.errors import ConfigError


class Take(NamedTuple):
    """What is taken of every clip.

    Args:
        frames: how many; the clip is cut into as many equal parts and each gives its middle frame.
        slices: of sound, each as long as the backbone's log-mel picture; of the clip's consecutive slices as many parts
            give one each, a clip with fewer leaves the last places empty.
        jitter: in training a random frame and slice of every part instead of the middle one.
        area: range of the share of a frame that a training crop keeps, one crop for all frames of a clip; None keeps
            all.
        flip: mirror half of the training clips.
    """

    frames: int
    slices: int = 0
    jitter: bool = False
    area: tuple[float, float] | None = None
    flip: bool = False

    @property
    def augments(self) -> bool:
        """Whether training sees other frames than the test."""
        return self.jitter or self.flip or self.area is not None

    def check(self) -> None:
        """Refuse what cannot be.

        Raises:
            ConfigError: names the keys.
        """
        if self.frames < 1 or self.slices < 0:
            raise ConfigError(f"data.frames={self.frames}, data.slices={self.slices}: expected 1 or more, 0 or more")
        if self.area is not None and not (len(self.area) == 2 and 0 < self.area[0] <= self.area[1] <= 1):
            raise ConfigError(f"data.area={list(self.area)}: expected two shares in 0..1, the smaller first, or null")


def spread(parts: int, rng: np.random.Generator | None) -> np.ndarray:
    """One place in each of ``parts`` equal parts of 0..1: the middle, or a random one."""
    inside = np.full(parts, 0.5) if rng is None else rng.uniform(size=parts)
    return (np.arange(parts) + inside) / parts


def slice_starts(seconds: float, length: float, count: int, rng: np.random.Generator | None) -> list[float]:
    """Seconds at which ``count`` of the consecutive slices of ``length`` seconds begin, in order."""
    whole = max(1, int(np.ceil(seconds / length - 1e-6)))
    places = np.arange(count) if whole <= count else (spread(count, rng) * whole).astype(int)
    return [float(place * length) for place in places]


class Footage:
    """The media of the clips of one split; what does not change from epoch to epoch may be kept.

    Args:
        names: of the clips.
        clips: where their pictures and sounds are.
        take: what is taken of them.
        pixels, logmel: readers of the modalities; None leaves one out.
        keep, limit_gb: of the cache, see ``RowCache``; the limit holds for frames and sound together.
        name: of the split.
    """

    def __init__(
        self,
        names: Iterable[str],
        clips: Clips,
        take: Take,
        *,
        pixels: Pixels | None,
        logmel: LogMel | None,
        keep: Literal["memory", "none"],
        limit_gb: float,
        name: str,
    ) -> None:
        self.clips, self.take, self.pixels, self.logmel = clips, take, pixels, logmel
        self._row = {clip: row for row, clip in enumerate(dict.fromkeys(names))}
        fields = [Field((take.frames, *pixels.shape), torch.uint8), Field((take.frames,), torch.bool)] if pixels else []
        if logmel:
            fields += [Field((take.slices, *logmel.shape), torch.float32), Field((take.slices,), torch.bool)]
        self.cache = RowCache(len(self._row), fields, keep=keep, limit_gb=limit_gb, name=f"frames and sound of {name}")

    def get(self, clip: str, rng: np.random.Generator | None) -> dict[str, Any]:
        """vision (T, 3, H, W), audio (A, 1, mels, frames), keep {modality: (T,) or (A,)}."""
        if rng is not None and self.take.augments:
            media = list(self._decode(clip, rng))
        else:
            media = list(self.cache.get(self._row[clip], lambda: self._decode(clip, None)))
        sample: dict[str, Any] = {}
        keep: dict[str, Tensor] = {}
        if self.pixels is not None:
            pictures, keep["vision"] = media.pop(0), media.pop(0)
            if rng is not None and self.take.flip and rng.random() < 0.5:
                pictures = pictures.flip(-1)
            sample["vision"] = self.pixels.normalise(pictures) * keep["vision"].view(-1, 1, 1, 1)
        if self.logmel is not None:
            sample["audio"], keep["audio"] = media
        return sample | {"keep": keep} if keep else sample

    def _decode(self, clip: str, rng: np.random.Generator | None) -> tuple[Tensor, ...]:
        places = rng if self.take.jitter else None
        media: tuple[Tensor, ...] = ()
        if self.pixels is not None:
            times = spread(self.take.frames, places) * self.clips.seconds(clip)
            media += self.clips.pictures(clip, times.tolist(), self.pixels, self._view(rng))
        if self.logmel is not None:
            sound = self.clips.sound(clip, self.logmel.sample_rate)
            length = self.logmel.frames * self.logmel.shift / self.logmel.sample_rate
            starts = slice_starts(len(sound) / self.logmel.sample_rate, length, self.take.slices, places)
            media += windows(sound, starts, self.logmel)
        return media

    def _view(self, rng: np.random.Generator | None) -> View | None:
        area = self.take.area
        if rng is None or area is None:
            return None
        # Frames ride behind the channels, so that one crop cuts them all.
        return lambda frames: np.moveaxis(crop(np.moveaxis(frames, 0, -1), rng, area, (1.0, 1.0)), -1, 0)
