"""AVE: which event is both seen and heard in each of ten seconds? Frames and sound are decoded from the mp4 files."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.ave_annotations import BACKGROUND, SECONDS, Event, read_events
from datamodules.base import DataModule, Examples, Split, build
from datamodules.media.audio import read_sound
from datamodules.media.cache import Field, RowCache
from datamodules.media.image import Pixels
from datamodules.media.logmel import LogMel
from datamodules.media.video import read_frames
from hmmoe.errors import ConfigError, DataBroken, DataMissing

log = logging.getLogger(__name__)

MIDPOINTS = tuple(second + 0.5 for second in range(SECONDS))


class AVEExamples(Examples):
    """Annotated events of one split; second t of sound goes with the frame in the middle of second t.

    Args:
        events: rows of the split.
        videos: folder of ``<id>.mp4``.
        pixels, logmel: readers of the modalities; None leaves one out.
        flip: mirror half of the clips in training.
        keep, limit_gb: of the caches, see ``RowCache``; the limit holds for frames and sound together.
        name: of the split.
    """

    def __init__(
        self,
        events: Sequence[Event],
        videos: Path,
        pixels: Pixels | None,
        logmel: LogMel | None,
        *,
        flip: bool,
        keep: Literal["memory", "none"],
        limit_gb: float,
        name: str,
    ) -> None:
        self.events, self.videos, self.pixels, self.logmel, self.flip = events, videos, pixels, logmel, flip
        fields = [Field((SECONDS, *pixels.shape), torch.uint8), Field((SECONDS,), torch.bool)] if pixels else []
        if logmel:
            fields += [Field((SECONDS, *logmel.shape), torch.float32), Field((SECONDS,), torch.bool)]
        self.cache = RowCache(len(events), fields, keep=keep, limit_gb=limit_gb, name=f"frames and sound of {name}")

    def __len__(self) -> int:
        return len(self.events)

    def rows(self) -> list[tuple[str, list[int]]]:
        """Id and label of every second."""
        return [(_id(event), event.labels().tolist()) for event in self.events]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, label (10,), vision (10, 3, S, S), audio (10, 1, mels, frames), keep {modality: (10,)}."""
        event = self.events[index]
        sample: dict[str, Any] = {"id": _id(event), "label": event.labels(), "keep": {}}
        media = list(self.cache.get(index, lambda: self._decode(self.videos / f"{event.video}.mp4")))
        if self.pixels is not None:
            pixels, there = media.pop(0), media.pop(0)
            if self.flip and rng is not None and rng.random() < 0.5:
                pixels = pixels.flip(-1)
            sample["vision"] = self.pixels.normalise(pixels) * there.view(-1, 1, 1, 1)
            sample["keep"]["vision"] = there
        if self.logmel is not None:
            sample["audio"], sample["keep"]["audio"] = media
        return sample

    def _decode(self, path: Path) -> tuple[Tensor, ...]:
        frames = read_frames(path, MIDPOINTS) if self.pixels else None
        media: tuple[Tensor, ...] = (self.pixels.resize(frames[0]), torch.from_numpy(frames[1])) if frames else ()
        return (*media, *self._sound(path)) if self.logmel else media

    def _sound(self, path: Path) -> tuple[Float[Tensor, "10 1 mels frames"], Bool[Tensor, "10"]]:
        """Pictures of the ten whole seconds, zero and not kept where the track holds no whole frame of a second."""
        rate = self.logmel.sample_rate
        seconds = np.zeros(SECONDS * rate, np.float32)
        sound = read_sound(path, rate)
        length = 0 if sound is None else min(len(sound), len(seconds))
        if length:
            seconds[:length] = sound[:length]
        there = torch.arange(SECONDS) * rate + self.logmel.window <= length
        return self.logmel(torch.from_numpy(seconds).view(SECONDS, rate)) * there.view(-1, 1, 1, 1), there


class AVE(DataModule):
    """AVE in its published layout (see ``DataModule`` for what is not listed here).

    Args:
        missing: what to do about annotated videos without a file: "refuse", or "drop" them (counted in the manifest).
        flip: mirror half of the clips in training.
        cache: keep decoded frames and log-mel pictures in "memory", or "none".
        cache_gb: limit of that, for each split and process.
    """

    splits = (Split("train", "train"), Split("val", "validation"), Split("test", "test"))
    modalities = ("vision", "audio")
    layout = """
Expected: <root>/AVE/<11-character id>.mp4 (4,097 videos of ten seconds), <root>/Annotations.txt,
<root>/trainSet.txt, <root>/valSet.txt, <root>/testSet.txt.
Get it: AVE_Dataset.zip, linked in the README of github.com/YapengTian/AVE-ECCV18; unpack it."""

    def __init__(
        self,
        root: str | Path,
        *,
        missing: Literal["refuse", "drop"] = "refuse",
        flip: bool = False,
        cache: Literal["memory", "none"] = "none",
        cache_gb: float = 16.0,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        if missing not in ("refuse", "drop"):
            raise ConfigError(f"data.missing={missing}: expected refuse or drop")
        self.policy, self.flip, self.cache, self.cache_gb = missing, flip, cache, cache_gb
        self.videos = self.root / "AVE"

    def absent(self) -> list[Path]:
        """Video folder and text files."""
        wanted = [self.videos, *self.annotations("train"), *self.annotations("val"), *self.annotations("test")]
        return [path for path in dict.fromkeys(wanted) if not path.exists()]

    def annotations(self, split: str) -> list[Path]:
        """The list of all events and the one of the split."""
        return [self.root / "Annotations.txt", self.root / f"{split}Set.txt"]

    def load(self, split: str) -> AVEExamples:
        """Read one split; its rows must be among the annotations."""
        every, chosen = self.annotations(split)
        events = read_events(chosen)
        if strangers := set(events) - set(read_events(every)):
            raise DataBroken(
                f"{chosen} has {len(strangers)} rows that are not in {every}, such as {min(strangers)}: "
                "the two files belong to different releases, fetch both again"
            )
        here = {path.stem for path in self.videos.glob("*.mp4")}
        whole = [event for event in events if event.video in here]
        examples = AVEExamples(
            self._accept(whole, events, split),
            self.videos,
            build(Pixels, self.inputs, "vision"),
            build(LogMel, self.inputs, "audio"),
            flip=self.flip,
            keep=self.cache,
            limit_gb=self.cache_gb,
            name=split,
        )
        examples.dropped = len(events) - len(whole)
        return examples

    def references(self) -> dict[str, dict[str, float]]:
        """Always background; a perfect video label with every second an event; a miniature's single modalities."""
        lines = {}
        for split in self.val_splits + self.test_splits:
            labels = torch.stack([event.labels() for event in self.examples(split).events])
            background = (labels == BACKGROUND).float().mean().item()
            lines[split] = {"background": background, "video_label": 1 - background, **self.ceilings(split)}
        return lines

    def _accept(self, whole: list[Event], events: list[Event], split: str) -> list[Event]:
        lacking = sorted({event.video for event in events} - {event.video for event in whole})
        if not lacking:
            return whole
        report = f"{len(lacking)} videos of {split} are not in {self.videos}, such as {lacking[0]}.mp4"
        if self.policy == "refuse" or not whole:
            raise DataMissing(f"{report}: complete them, or set data.missing=drop to score only what is there")
        log.warning("%s: data.missing=drop leaves %d of %d events", report, len(whole), len(events))
        return whole


def _id(event: Event) -> str:
    """Video and class index: a video may be annotated for several events."""
    return f"{event.video}#{event.category}"
