"""Frames and sound of clips, however long: spread evenly over a clip, or at fixed seconds."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from datamodules.media.cache import Cache, Field, Keep
from datamodules.media.clips import Clips, View, windows
from datamodules.media.image import Pixels, crop
from datamodules.media.logmel import LogMel
from hmmoe.errors import ConfigError


@runtime_checkable
class Moments(Protocol):
    """What is taken of every clip, and when."""

    area: tuple[float, float] | None
    flip: bool

    @property
    def frames(self) -> int:
        """How many pictures."""
        ...

    @property
    def slices(self) -> int:
        """How many pictures of sound."""
        ...

    @property
    def anew(self) -> bool:
        """Whether training sees other frames or sounds in every epoch."""
        ...

    def recipe(self) -> dict[str, Any]:
        """What decides it where nothing is random."""
        ...

    def times(self, seconds: Callable[[], float], rng: np.random.Generator | None) -> list[float]:
        """Seconds of the pictures in a clip of that length."""
        ...

    def starts(self, seconds: float, length: float, rng: np.random.Generator | None) -> list[float]:
        """Seconds at which the slices of ``length`` seconds begin in a sound of that length."""
        ...


class Grid(NamedTuple):
    """The same seconds of every clip: a picture in the middle of the second that begins there, a slice from there on.

    Args:
        seconds: where they begin.
    """

    seconds: tuple[float, ...]
    area: tuple[float, float] | None = None
    flip: bool = False

    @property
    def frames(self) -> int:
        """One a place."""
        return len(self.seconds)

    @property
    def slices(self) -> int:
        """One a place."""
        return len(self.seconds)

    @property
    def anew(self) -> bool:
        """Never."""
        return False

    def recipe(self) -> dict[str, Any]:
        """The seconds."""
        return {"seconds": list(self.seconds)}

    def times(self, seconds: Callable[[], float], rng: np.random.Generator | None) -> list[float]:
        """Half a second into the segment: the frame that extraction at one frame per second takes."""
        return [start + 0.5 for start in self.seconds]

    def starts(self, seconds: float, length: float, rng: np.random.Generator | None) -> list[float]:
        """As given."""
        return list(self.seconds)


class Take(NamedTuple):
    """Frames and slices spread over the clip.

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
    def anew(self) -> bool:
        """Whether training decodes in every epoch: mirroring alone does not need that."""
        return self.jitter or self.area is not None

    def recipe(self) -> dict[str, Any]:
        """How many of each."""
        return {"frames": self.frames, "slices": self.slices}

    def times(self, seconds: Callable[[], float], rng: np.random.Generator | None) -> list[float]:
        """One in every part."""
        return (spread(self.frames, rng if self.jitter else None) * seconds()).tolist()

    def starts(self, seconds: float, length: float, rng: np.random.Generator | None) -> list[float]:
        """See ``slice_starts``."""
        return slice_starts(seconds, length, self.slices, rng if self.jitter else None)

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
    """Decodes the clips of one split; what does not change from epoch to epoch may be kept.

    Args:
        names: of the clips.
        clips: where their pictures and sounds are.
        take: what is taken of them.
        pixels, logmel: readers of the modalities; None leaves one out.
        keep: of what is decoded, see ``Cache``.
        fills: zeros that are not kept stand in for a file that is not there.
        name: of the split.
    """

    def __init__(
        self,
        names: Iterable[str],
        clips: Clips,
        take: Moments,
        *,
        pixels: Pixels | None,
        logmel: LogMel | None,
        keep: Keep,
        fills: bool,
        name: str,
    ) -> None:
        self.clips, self.take, self.pixels, self.logmel, self.fills = clips, take, pixels, logmel, fills
        seen = [Field((take.frames, *pixels.shape), torch.uint8), Field((take.frames,), torch.bool)] if pixels else []
        if logmel:
            seen += [Field((take.slices, *logmel.shape), torch.float32), Field((take.slices,), torch.bool)]
        self.fields = seen
        self.cache = Cache(names, self, keep, name=f"frames and sound of {name}")

    def get(self, clip: str, rng: np.random.Generator | None) -> dict[str, Any]:
        """vision (T, 3, H, W), audio (A, 1, mels, frames), keep {modality: (T,) or (A,)}."""
        anew = rng is not None and self.take.anew
        media = list(self._decode(clip, rng) if anew else self.cache.get(clip))
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

    def recipe(self) -> dict[str, Any]:
        """See ``Decoder``."""
        own = {"reader": "footage", "clips": self.clips.recipe(), "take": self.take.recipe()}
        return own | {"vision": self.pixels and self.pixels.recipe(), "audio": self.logmel and self.logmel.recipe()}

    def sources(self, key: str) -> list[Path]:
        """The video; or the folder of frames and the wav file, there or not."""
        return self.clips.sources(key, vision=self.pixels is not None, audio=self.logmel is not None)

    def decode(self, key: str) -> tuple[Tensor, ...]:
        """Frames and which of them exist, pictures of sound and which of them exist."""
        return self._decode(key, None)

    def _decode(self, clip: str, rng: np.random.Generator | None) -> tuple[Tensor, ...]:
        media: tuple[Tensor, ...] = ()
        if self.pixels is not None:
            if self._lacks(clip, vision=True):
                media += self._nothing(self.fields[:2])
            else:
                times = self.take.times(lambda: self.clips.seconds(clip), rng)
                media += self.clips.pictures(clip, times, self.pixels, self._view(rng))
        if self.logmel is not None:
            if self._lacks(clip, vision=False):
                media += self._nothing(self.fields[-2:])
            else:
                sound = self.clips.sound(clip, self.logmel.sample_rate)
                length = self.logmel.frames * self.logmel.shift / self.logmel.sample_rate
                starts = self.take.starts(len(sound) / self.logmel.sample_rate, length, rng)
                media += windows(sound, starts, self.logmel)
        return media

    def _lacks(self, clip: str, *, vision: bool) -> bool:
        return self.fills and self.clips.lacking(clip, vision=vision, audio=not vision) is not None

    @staticmethod
    def _nothing(fields: list[Field]) -> tuple[Tensor, ...]:
        return tuple(torch.zeros(field.shape, dtype=field.dtype) for field in fields)

    def _view(self, rng: np.random.Generator | None) -> View | None:
        area = self.take.area
        if rng is None or area is None:
            return None
        # Frames ride behind the channels, so that one crop cuts them all.
        return lambda frames: np.moveaxis(crop(np.moveaxis(frames, 0, -1), rng, area, (1.0, 1.0)), -1, 0)
