"""AVSBench: which pixels belong to what sounds? One picture and one second of sound for each of five seconds."""

import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.avs_corpus import FRAMES, SPLITS, SUBSETS, Clip, Files, Release, read_clips
from datamodules.base import TRAIN_VAL_TEST, DataModule, Examples, build
from datamodules.media.audio import read_sound
from datamodules.media.cache import Cache, Field, Keep
from datamodules.media.image import Pixels, read_rgb
from datamodules.media.logmel import LogMel
from hmmoe.errors import ConfigError, DataBroken
from hmmoe.metrics.segmentation import FMeasure, Jaccard

log = logging.getLogger(__name__)

SURE = 20.0
"""Logit of a reference mask's pixels: its sigmoid is within 1e-8 of 1."""


class Seconds:
    """Decodes a clip's masks, pictures and sound, a second each.

    Args:
        clips: rows of the split.
        files: where theirs lie.
        pixels, logmel: readers of the modalities; None leaves one out.
        mask_size: side of the masks that are handed out.
        annotated: how many frames, from the first on, have a mask.
        frames: how many of the five seconds are handed out.
        fills: zeros that are not kept stand in for a picture that is not there.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        files: Files,
        pixels: Pixels | None,
        logmel: LogMel | None,
        *,
        mask_size: int,
        annotated: int,
        frames: int,
        fills: bool,
    ) -> None:
        self.files, self.pixels, self.logmel, self.fills = files, pixels, logmel, fills
        self.mask_size, self.frames, self.annotated = mask_size, frames, torch.arange(frames) < annotated
        self._clips = {clip.name: clip for clip in clips}
        self.fields = [Field((frames, mask_size, mask_size), torch.bool)]
        if pixels:
            self.fields += [Field((frames, *pixels.shape), torch.uint8), Field((frames,), torch.bool)]
        if logmel:
            self.fields += [Field((frames, *logmel.shape), torch.float32), Field((frames,), torch.bool)]

    def recipe(self) -> dict[str, Any]:
        """See ``Decoder``."""
        own = {"reader": "avs seconds", "sheet": self.files.release.sheet, "label": self.files.release.label}
        own |= {"mask_size": self.mask_size, "frames": self.frames, "masks": int(self.annotated.sum())}
        return own | {"vision": self.pixels and self.pixels.recipe(), "audio": self.logmel and self.logmel.recipe()}

    def sources(self, key: str) -> list[Path]:
        """Masks, pictures and the sound, which may be missing."""
        clip = self._clips[key]
        masks = [self.files.mask(clip, k) for k in range(int(self.annotated.sum()))]
        pictures = [self.files.picture(clip, k) for k in range(self.frames)] if self.pixels else []
        return [*masks, *pictures, *([self.files.sound(clip)] if self.logmel else [])]

    def decode(self, key: str) -> tuple[Tensor, ...]:
        """Masks, pictures and which of them exist, pictures of sound and which of them exist."""
        clip = self._clips[key]
        masks = torch.zeros(self.frames, self.mask_size, self.mask_size, dtype=torch.bool)
        pictures, there = [], torch.ones(self.frames, dtype=torch.bool)
        for k in range(self.frames):
            size = None
            if self.pixels is not None and self.fills and not self.files.picture(clip, k).is_file():
                pictures.append(torch.zeros(self.pixels.shape, dtype=torch.uint8))
                there[k] = False
            elif self.pixels is not None:
                picture = read_rgb(self.files.picture(clip, k))
                pictures.append(self.pixels.resize(np.stack([picture]))[0])  # a copy: Pillow gives read-only arrays
                size = picture.shape[:2]
            if self.annotated[k]:
                masks[k] = self.mask(clip, k, size)
        media = (masks, torch.stack(pictures), there) if pictures else (masks,)
        return (*media, *self._sound(self.files.sound(clip))) if self.logmel else media

    def mask(self, clip: Clip, k: int, size: tuple[int, int] | None) -> Bool[Tensor, "M M"]:
        """Foreground is every pixel that is not black: 1-bit, grey, palette and coloured masks are all published."""
        path = self.files.mask(clip, k)
        mask = read_rgb(path).any(-1)
        if size is not None and mask.shape != size:
            raise DataBroken(
                f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels, its picture "
                f"{self.files.picture(clip, k)} {size[1]} x {size[0]}: the two belong to different "
                "releases, fetch both again"
            )
        if mask.shape == (self.mask_size, self.mask_size):
            return torch.from_numpy(mask)
        whole = torch.from_numpy(mask)[None, None].float()
        return interpolate(whole, self.mask_size, mode="nearest-exact")[0, 0].bool()

    def _sound(self, path: Path) -> tuple[Float[Tensor, "T 1 mels frames"], Bool[Tensor, " T"]]:
        """Pictures of the whole seconds; after the end of the track the last one is repeated, as officially.

        Without a file, or a track, zeros that are not kept.
        """
        rate = self.logmel.sample_rate
        sound = read_sound(path, rate) if path.is_file() else None
        last = -1 if sound is None else (len(sound) - self.logmel.window) // rate
        if last < 0:
            return torch.zeros(self.frames, *self.logmel.shape), torch.zeros(self.frames, dtype=torch.bool)
        seconds = np.zeros(FRAMES * rate, np.float32)
        seconds[: len(sound)] = sound[: len(seconds)]
        pictures = self.logmel(torch.from_numpy(seconds).view(FRAMES, rate)[: self.frames])
        return pictures[torch.arange(self.frames).clamp(max=last)], torch.ones(self.frames, dtype=torch.bool)


class AVSExamples(Examples):
    """Clips of one split.

    Args:
        clips: rows of the split.
        seconds: decoder of theirs.
        saved: folder of a clip's predicted masks in the official naming, as a pattern of its fields.
        flip: mirror half of the clips, with their masks, in training.
        keep: of what is decoded, see ``Cache``.
        name: of the split.
    """

    def __init__(
        self, clips: Sequence[Clip], seconds: Seconds, keep: Keep, *, saved: str, flip: bool, name: str
    ) -> None:
        self.clips, self.seconds, self.saved, self.flip = clips, seconds, saved, flip
        self.frames, self.annotated = seconds.frames, seconds.annotated
        names = (clip.name for clip in clips)
        self.media = Cache(names, seconds, keep, name=f"frames, masks and sound of {name}")

    def __len__(self) -> int:
        return len(self.clips)

    def rows(self) -> list[tuple[str, str]]:
        """Name and category."""
        return [(clip.name, clip.category) for clip in self.clips]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, saved, mask (T, M, M), annotated (T,), vision (T, 3, S, S), audio (T, 1, mels, frames), keep.

        ``saved`` is the folder of the predicted masks in the official naming; the mask of a frame that is not
        annotated is empty.
        """
        clip = self.clips[index]
        mask, *media = self.media.get(clip.name)
        turn = self.flip and rng is not None and rng.random() < 0.5
        sample: dict[str, Any] = {
            "id": clip.name,
            "saved": self.saved.format(**clip._asdict()),
            "mask": mask.flip(-1) if turn else mask,
            "annotated": self.annotated,
            "keep": {},
        }
        if self.seconds.pixels is not None:
            pixels, there = media.pop(0), media.pop(0)
            pixels = self.seconds.pixels.normalise(pixels.flip(-1) if turn else pixels)
            sample["vision"], sample["keep"]["vision"] = pixels * there.view(-1, 1, 1, 1), there
        if self.seconds.logmel is not None:
            sample["audio"], sample["keep"]["audio"] = media
        return sample

    def masks(self) -> Iterator[Bool[Tensor, "T M M"]]:
        """The annotated masks of every clip, pictures left alone."""
        for clip in self.clips:
            yield torch.stack([self.seconds.mask(clip, k, None) for k in range(int(self.annotated.sum()))])


class AVSBench(DataModule):
    """AVSBench's single-source (S4) or multi-source (MS3) subset (see ``DataModule`` for what is not listed here).

    Args:
        subset: "s4": one source, training clips have a mask for the first frame only; "ms3": several, five masks.
        release: file layout: "new" (metadata.csv, v1s, v1m), "old" (Single-source, Multi-sources), or "auto": new
            where metadata.csv lies at the root.
        mask_size: side of the masks in loss and score; officially 224. Others are resized to it, nearest pixel.
        train_frames: hand out "all" five seconds in training, or those that are "annotated": where segments do not
            see each other, S4 then trains on the same loss at a fifth of the cost.
        flip: mirror half of the clips in training.
    """

    splits = TRAIN_VAL_TEST
    modalities = ("vision", "audio")
    fixed_segments = (("vision", FRAMES), ("audio", FRAMES))
    layout = """
Expected, new release: <root>/metadata.csv and <root>/v1s/<uid>/ (S4), <root>/v1m/<uid>/ (MS3), each with
frames/{0..4}.jpg, labels_rgb/{0..4}.png (S4 train: 0.png only), audio.wav.
Old release: <root>/Single-source/s4_meta_data.csv and s4_data/{visual_frames,gt_masks,audio_wav}/..., or
<root>/Multi-sources/ms3_meta_data.csv and ms3_data/...
Get it: by request, see the README of github.com/OpenNLPLab/AVSBench; docs/data_avs.md has the details."""

    def __init__(
        self,
        root: str | Path,
        *,
        subset: Literal["s4", "ms3"],
        release: Literal["auto", "old", "new"] = "auto",
        mask_size: int = 224,
        train_frames: Literal["all", "annotated"] = "all",
        flip: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        for key, value, choice in (
            ("subset", subset, tuple(SUBSETS)),
            ("release", release, ("auto", "old", "new")),
            ("train_frames", train_frames, ("all", "annotated")),
        ):
            if value not in choice:
                raise ConfigError(f"data.{key}={value}: expected {', '.join(choice[:-1])} or {choice[-1]}")
        if mask_size < 1:
            raise ConfigError(f"data.mask_size={mask_size}: expected 1 or more")
        self.subset, self.asked, self.mask_size = SUBSETS[subset], release, mask_size
        self.train_frames, self.flip = train_frames, flip

    @property
    def release(self) -> Release:
        """Names of the files, by what lies at the root unless it was said."""
        new = self.asked == "new" or (self.asked == "auto" and (self.root / self.subset.new.sheet).is_file())
        return self.subset.new if new else self.subset.old

    def absent(self) -> list[Path]:
        """Sheet and folders."""
        wanted = [self.root / name for name in (self.release.sheet, *self.release.folders())]
        return [path for path in wanted if not path.exists()]

    def annotations(self, split: str) -> list[Path]:
        """The sheet, one for all splits."""
        return [self.root / self.release.sheet]

    def load(self, split: str) -> AVSExamples:
        """Read one split and look for its files."""
        files = Files(self.root, self.release)
        clips = [clip for clip in read_clips(self.annotations(split)[0], self.release) if clip.split == split]
        annotated = self.subset.training_masks if split == "train" else FRAMES
        clips = self.accept(split, clips, lambda clip: _lacking(files.mask, clip, annotated), target=True)
        pictures = FRAMES if "vision" in self.inputs else 0
        clips = self.accept(split, clips, lambda clip: _lacking(files.picture, clip, pictures))
        if "audio" in self.inputs and (silent := sum(not files.sound(clip).is_file() for clip in clips)):
            log.warning("%d of %d clips of %s have no sound file: they are silent", silent, len(clips), split)
        seconds = Seconds(
            clips,
            files,
            build(Pixels, self.inputs, "vision"),
            build(LogMel, self.inputs, "audio"),
            mask_size=self.mask_size,
            annotated=annotated,
            frames=annotated if split == "train" and self.train_frames == "annotated" else FRAMES,
            fills=self.fills,
        )
        return AVSExamples(clips, seconds, self.keep, saved=self.subset.saved, flip=self.flip, name=split)

    def published(self) -> dict[str, int]:
        """Clips."""
        return dict(zip(SPLITS, self.subset.sizes, strict=True))

    def references(self) -> dict[str, dict[str, float]]:
        """Masks that need no model: all, nothing, and where training objects lie; a miniature's single modalities.

        The last one is as large as the average training mask and covers the pixels that are most often foreground.
        """
        prior = _prior(self.examples("train").masks())
        guesses = {"foreground": torch.ones_like(prior), "background": torch.zeros_like(prior), "prior": prior}
        lines = {}
        for split in dict.fromkeys(self.val_splits + self.test_splits):
            meters = {name: (Jaccard("video"), FMeasure("video")) for name in guesses}
            for masks in self.examples(split).masks():
                for name, guess in guesses.items():
                    for meter in meters[name]:
                        meter.update(((2 * guess.float() - 1) * SURE).expand(masks.shape)[None], masks[None])
            lines[split] = {}
            for name, (jaccard, f_measure) in meters.items():
                lines[split] |= {f"{name}_J": jaccard.compute().item(), f"{name}_F": f_measure.compute().item()}
            lines[split] |= self.ceilings(split)
        return lines


def _lacking(place: Callable[[Clip, int], Path], clip: Clip, count: int) -> Path | None:
    """The first of a clip's pictures, or masks, that is not there. A sound may lack: the clip is silent then."""
    return next((path for path in (place(clip, k) for k in range(count)) if not path.is_file()), None)


def _prior(masks: Iterator[Bool[Tensor, "T M M"]]) -> Bool[Tensor, "M M"]:
    """As many pixels as the average mask has, those that are foreground most often."""
    total, frames = torch.zeros(()), 0
    for mask in masks:
        total, frames = total + mask.sum(0), frames + len(mask)
    prior = torch.zeros(total.numel(), dtype=torch.bool)
    prior[total.flatten().argsort(descending=True, stable=True)[: round(total.sum().item() / frames)]] = True
    return prior.view(total.shape)
