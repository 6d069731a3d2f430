"""AVE: which event is both seen and heard in each of ten seconds? From mp4, or as the peers extract it."""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from datamodules.ave_annotations import BACKGROUND, CATEGORIES, FIELDS, SECONDS, Event, read_events
from datamodules.base import TRAIN_VAL_TEST, Examples, build
from datamodules.clip_data import ClipData, Media
from datamodules.media.cache import Cache, Field, Keep
from datamodules.media.clips import Clips
from datamodules.media.image import Pixels
from datamodules.media.logmel import LogMel
from hmmoe.errors import DataBroken

MIDPOINTS = tuple(second + 0.5 for second in range(SECONDS))
PLACES = {"videos": ("AVE", "videos"), "frames": ("video_frames", "frames"), "sounds": ("raw_audio", "wave", "audio")}
"""Folder names of the authors, of LAVISH (video_frames, raw_audio) and of DG-SCT (frames, wave)."""


class Seconds:
    """Decodes a video of ten seconds: the frame in the middle and the sound of each.

    Args:
        clips: where the videos are.
        pixels, logmel: readers of the modalities; None leaves one out.
        fills: zeros that are not kept stand in for a file that is not there.
    """

    def __init__(self, clips: Clips, pixels: Pixels | None, logmel: LogMel | None, *, fills: bool) -> None:
        self.clips, self.pixels, self.logmel, self.fills = clips, pixels, logmel, fills
        self.fields = [Field((SECONDS, *pixels.shape), torch.uint8), Field((SECONDS,), torch.bool)] if pixels else []
        if logmel:
            self.fields += [Field((SECONDS, *logmel.shape), torch.float32), Field((SECONDS,), torch.bool)]

    def recipe(self) -> dict[str, Any]:
        """See ``Decoder``."""
        own = {"vision": self.pixels and self.pixels.recipe(), "audio": self.logmel and self.logmel.recipe()}
        return {"reader": "ave seconds", "clips": self.clips.recipe(), **own}

    def sources(self, key: str) -> list[Path]:
        """The video; or the folder of frames and the sound file."""
        return self.clips.sources(key, vision=self.pixels is not None, audio=self.logmel is not None)

    def decode(self, key: str) -> tuple[Tensor, ...]:
        """Frames and which of them exist, pictures of sound and which of them exist."""
        media: tuple[Tensor, ...] = ()
        if self.pixels is not None:
            if self.fills and self.clips.lacking(key, vision=True, audio=False):
                media += tuple(torch.zeros(field.shape, dtype=field.dtype) for field in self.fields[:2])
            else:
                media += self.clips.pictures(key, MIDPOINTS, self.pixels)
        if self.logmel is not None:
            lacks = self.fills and self.clips.lacking(key, vision=False, audio=True)
            media += self._spectra(np.zeros(0) if lacks else self.clips.sound(key, self.logmel.sample_rate))
        return media

    def _spectra(self, sound: np.ndarray) -> tuple[Float[Tensor, "10 1 mels frames"], Bool[Tensor, "10"]]:
        """Pictures of the ten whole seconds, zero and not kept where the track holds no whole frame of a second."""
        rate = self.logmel.sample_rate
        seconds = np.zeros(SECONDS * rate, np.float32)
        length = min(len(sound), len(seconds))
        seconds[:length] = sound[:length]
        there = torch.arange(SECONDS) * rate + self.logmel.window <= length
        return self.logmel(torch.from_numpy(seconds).view(SECONDS, rate)) * there.view(-1, 1, 1, 1), there


class AVEExamples(Examples):
    """Annotated events of one split; second t of sound goes with the frame in the middle of second t.

    Args:
        events: rows of the split.
        seconds: decoder of their videos.
        keep: of what is decoded, see ``Cache``.
        flip: mirror half of the clips in training.
        name: of the split.
    """

    def __init__(self, events: Sequence[Event], seconds: Seconds, keep: Keep, *, flip: bool, name: str) -> None:
        self.events, self.pixels, self.logmel, self.flip = events, seconds.pixels, seconds.logmel, flip
        videos = (event.video for event in events)
        self.media = Cache(videos, seconds, keep, name=f"frames and sound of {name}")

    def __len__(self) -> int:
        return len(self.events)

    def rows(self) -> list[tuple[str, list[int]]]:
        """Id and label of every second."""
        return [(_id(event), event.labels().tolist()) for event in self.events]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, label (10,), vision (10, 3, S, S), audio (10, 1, mels, frames), keep {modality: (10,)}."""
        event = self.events[index]
        sample: dict[str, Any] = {"id": _id(event), "label": event.labels(), "keep": {}}
        media = list(self.media.get(event.video))
        if self.pixels is not None:
            pixels, there = media.pop(0), media.pop(0)
            if self.flip and rng is not None and rng.random() < 0.5:
                pixels = pixels.flip(-1)
            sample["vision"] = self.pixels.normalise(pixels) * there.view(-1, 1, 1, 1)
            sample["keep"]["vision"] = there
        if self.logmel is not None:
            sample["audio"], sample["keep"]["audio"] = media
        return sample


class AVE(ClipData):
    """AVE in its published layout (see ``DataModule`` for what is not listed here).

    Args:
        media: "video" reads the mp4 files; "extracted" <frames>/<id>/*.jpg and <sounds>/<id>.wav, or .npy as DG-SCT has
            them (32 kHz).
        fps: of extracted frames, any.
        flip: mirror half of the clips in training.
    """

    splits = TRAIN_VAL_TEST
    modalities = ("vision", "audio")
    places = PLACES
    fixed_segments = (("vision", SECONDS), ("audio", SECONDS))
    layout = """
Expected: <root>/AVE/<11-character id>.mp4 (4,097 videos of ten seconds), <root>/Annotations.txt,
<root>/trainSet.txt, <root>/valSet.txt, <root>/testSet.txt; with data.media=extracted, instead of the videos,
<root>/video_frames/<id>/*.jpg and <root>/raw_audio/<id>.wav (LAVISH), or frames/<id>/*.jpg and wave/<id>.npy (DG-SCT).
Get it: AVE_Dataset.zip, linked in the README of github.com/YapengTian/AVE-ECCV18; unpack it."""

    def __init__(
        self, root: str | Path, *, media: Media = "video", fps: float = 3.0, flip: bool = False, **common: Any
    ) -> None:
        super().__init__(root, media=media, fps=fps, **common)
        self.flip = flip

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
        kept = self.accept(split, events, lambda event: self.lacking(event.video))
        pixels, logmel = build(Pixels, self.inputs, "vision"), build(LogMel, self.inputs, "audio")
        seconds = Seconds(self.clips, pixels, logmel, fills=self.fills)
        return AVEExamples(kept, seconds, self.keep, flip=self.flip, name=split)

    def published(self) -> dict[str, int]:
        """Events."""
        return {"train": 3339, "val": 402, "test": 402}

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Predicted events as rows of Annotations.txt: there is no server, and the evaluator reads labels by second.

        Every unbroken run of seconds of one category is a row; a video that is all background has one with start = end.
        """
        predicted = {row["id"].rpartition("#")[0]: row["prediction"] for row in rows}
        lines = ["&".join(FIELDS)]
        for video, classes in predicted.items():
            runs = [(key, [second for second, _ in run]) for key, run in groupby(enumerate(classes), lambda c: c[1])]
            events = [(CATEGORIES[key], run[0], run[-1] + 1) for key, run in runs if key != BACKGROUND]
            lines += [f"{name}&{video}&predicted&{a}&{b}" for name, a, b in events or [(CATEGORIES[0], 0, 0)]]
        return {f"{split}_events.txt": "\n".join(lines) + "\n"}

    def references(self) -> dict[str, dict[str, float]]:
        """Always background; a perfect video label with every second an event; a miniature's single modalities."""
        lines = {}
        for split in self.val_splits + self.test_splits:
            labels = torch.stack([event.labels() for event in self.examples(split).events])
            background = (labels == BACKGROUND).float().mean().item()
            lines[split] = {"background": background, "video_label": 1 - background, **self.ceilings(split)}
        return lines


def _id(event: Event) -> str:
    """Video and class index: a video may be annotated for several events."""
    return f"{event.video}#{event.category}"
