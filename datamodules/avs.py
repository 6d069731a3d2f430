"""AVSBench: which pixels belong to what sounds? One picture and one second of sound for each of five seconds."""

import json
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import interpolate

from datamodules.avs_corpus import FRAMES, SUBSETS, Clip, Files, Release, read_clips
from datamodules.base import DataModule, Examples, Split, build
from datamodules.media.audio import read_sound
from datamodules.media.cache import Field, RowCache
from datamodules.media.image import Pixels, read_rgb
from datamodules.media.logmel import LogMel
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from hmmoe.metrics.segmentation import FMeasure, Jaccard

log = logging.getLogger(__name__)

REFERENCE_FILE = "reference.json"
"""Written by the miniature: {split: {name: score}} of what a single modality can reach there."""
SURE = 20.0
"""Logit of a reference mask's pixels: its sigmoid is within 1e-8 of 1."""


class AVSExamples(Examples):
    """Clips of one split.

    Args:
        clips: rows of the split.
        files: where theirs lie.
        pixels, logmel: readers of the modalities; None leaves one out.
        saved: folder of a clip's predicted masks in the official naming, as a pattern of its fields.
        mask_size: side of the masks that are handed out.
        annotated: how many frames, from the first on, have a mask.
        frames: how many of the five seconds are handed out.
        flip: mirror half of the clips, with their masks, in training.
        keep, limit_gb: of the cache, see ``RowCache``.
        name: of the split.
    """

    def __init__(
        self,
        clips: Sequence[Clip],
        files: Files,
        pixels: Pixels | None,
        logmel: LogMel | None,
        *,
        saved: str,
        mask_size: int,
        annotated: int,
        frames: int,
        flip: bool,
        keep: Literal["memory", "none"],
        limit_gb: float,
        name: str,
    ) -> None:
        self.clips, self.files, self.pixels, self.logmel = clips, files, pixels, logmel
        self.saved, self.mask_size, self.flip = saved, mask_size, flip
        self.frames, self.annotated = frames, torch.arange(frames) < annotated
        fields = [Field((frames, mask_size, mask_size), torch.bool)]
        if pixels:
            fields.append(Field((frames, *pixels.shape), torch.uint8))
        if logmel:
            fields += [Field((frames, *logmel.shape), torch.float32), Field((frames,), torch.bool)]
        label = f"frames, masks and sound of {name}"
        self.cache = RowCache(len(clips), fields, keep=keep, limit_gb=limit_gb, name=label)

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
        mask, *media = self.cache.get(index, lambda: self._decode(clip))
        turn = self.flip and rng is not None and rng.random() < 0.5
        sample: dict[str, Any] = {
            "id": clip.name,
            "saved": self.saved.format(**clip._asdict()),
            "mask": mask.flip(-1) if turn else mask,
            "annotated": self.annotated,
            "keep": {},
        }
        if self.pixels is not None:
            pixels = media.pop(0)
            sample["vision"] = self.pixels.normalise(pixels.flip(-1) if turn else pixels)
            sample["keep"]["vision"] = torch.ones(self.frames, dtype=torch.bool)
        if self.logmel is not None:
            sample["audio"], sample["keep"]["audio"] = media
        return sample

    def masks(self) -> Iterator[Bool[Tensor, "T M M"]]:
        """The annotated masks of every clip, pictures left alone."""
        for clip in self.clips:
            yield torch.stack([self._mask(clip, k, None) for k in range(int(self.annotated.sum()))])

    def _decode(self, clip: Clip) -> tuple[Tensor, ...]:
        masks = torch.zeros(self.frames, self.mask_size, self.mask_size, dtype=torch.bool)
        pictures = []
        for k in range(self.frames):
            size = None
            if self.pixels is not None:
                picture = read_rgb(self.files.picture(clip, k))
                pictures.append(self.pixels.resize(np.stack([picture]))[0])  # a copy: Pillow gives read-only arrays
                size = picture.shape[:2]
            if self.annotated[k]:
                masks[k] = self._mask(clip, k, size)
        media = (masks, torch.stack(pictures)) if pictures else (masks,)
        return (*media, *self._sound(self.files.sound(clip))) if self.logmel else media

    def _mask(self, clip: Clip, k: int, size: tuple[int, int] | None) -> Bool[Tensor, "M M"]:
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


class AVSBench(DataModule):
    """AVSBench's single-source (S4) or multi-source (MS3) subset (see ``DataModule`` for what is not listed here).

    Args:
        subset: "s4": one source, training clips have a mask for the first frame only; "ms3": several, five masks.
        release: file layout: "new" (metadata.csv, v1s, v1m), "old" (Single-source, Multi-sources), or "auto": new
            where metadata.csv lies at the root.
        mask_size: side of the masks in loss and score; officially 224. Others are resized to it, nearest pixel.
        train_frames: hand out "all" five seconds in training, or those that are "annotated": where segments do not
            see each other, S4 then trains on the same loss at a fifth of the cost.
        missing: what to do about clips without a picture or mask: "refuse", or "drop" them (counted in the manifest).
        flip: mirror half of the clips in training.
        cache: keep decoded frames, masks and log-mel pictures in "memory", or "none".
        cache_gb: limit of that, for each split and process.
    """

    splits = (Split("train", "train"), Split("val", "validation"), Split("test", "test"))
    modalities = ("vision", "audio")
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
        missing: Literal["refuse", "drop"] = "refuse",
        flip: bool = False,
        cache: Literal["memory", "none"] = "none",
        cache_gb: float = 16.0,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        for key, value, choice in (
            ("subset", subset, tuple(SUBSETS)),
            ("release", release, ("auto", "old", "new")),
            ("train_frames", train_frames, ("all", "annotated")),
            ("missing", missing, ("refuse", "drop")),
        ):
            if value not in choice:
                raise ConfigError(f"data.{key}={value}: expected {', '.join(choice[:-1])} or {choice[-1]}")
        if mask_size < 1:
            raise ConfigError(f"data.mask_size={mask_size}: expected 1 or more")
        self.subset, self.wanted, self.mask_size = SUBSETS[subset], release, mask_size
        self.train_frames, self.policy, self.flip = train_frames, missing, flip
        self.cache, self.cache_gb = cache, cache_gb

    @property
    def release(self) -> Release:
        """Names of the files, by what lies at the root unless it was said."""
        new = self.wanted == "new" or (self.wanted == "auto" and (self.root / self.subset.new.sheet).is_file())
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
        whole = self._accept(clips, files, annotated, split)
        if "audio" in self.inputs and (silent := sum(not files.sound(clip).is_file() for clip in whole)):
            log.warning("%d of %d clips of %s have no sound file: they are silent", silent, len(whole), split)
        examples = AVSExamples(
            whole,
            files,
            build(Pixels, self.inputs, "vision"),
            build(LogMel, self.inputs, "audio"),
            saved=self.subset.saved,
            mask_size=self.mask_size,
            annotated=annotated,
            frames=annotated if split == "train" and self.train_frames == "annotated" else FRAMES,
            flip=self.flip,
            keep=self.cache,
            limit_gb=self.cache_gb,
            name=split,
        )
        examples.dropped = len(clips) - len(whole)
        return examples

    def references(self) -> dict[str, dict[str, float]]:
        """Masks that need no model: all, nothing, and where training objects lie; a miniature's single modalities.

        The last one is as large as the average training mask and covers the pixels that are most often foreground.
        """
        path = self.root / REFERENCE_FILE
        alone = json.loads(path.read_text()) if path.is_file() else {}
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
            lines[split] |= alone.get(split, {})
        return lines

    def _accept(self, clips: list[Clip], files: Files, annotated: int, split: str) -> list[Clip]:
        pictures = FRAMES if "vision" in self.inputs else 0
        lacking = {clip: path for clip in clips if (path := _lacking(files, clip, pictures, annotated)) is not None}
        if not lacking:
            return clips
        report = f"{len(lacking)} of {len(clips)} clips of {split} are incomplete: no {next(iter(lacking.values()))}"
        if self.policy == "refuse" or len(lacking) == len(clips):
            raise DataMissing(f"{report}; complete them, or set data.missing=drop to score only what is there")
        log.warning("%s; data.missing=drop leaves %d clips", report, len(clips) - len(lacking))
        return [clip for clip in clips if clip not in lacking]


def _lacking(files: Files, clip: Clip, pictures: int, masks: int) -> Path | None:
    """The first picture or mask that is not there. A sound may lack: the clip is silent then."""
    wanted = [files.picture(clip, k) for k in range(pictures)] + [files.mask(clip, k) for k in range(masks)]
    return next((path for path in wanted if not path.is_file()), None)


def _prior(masks: Iterator[Bool[Tensor, "T M M"]]) -> Bool[Tensor, "M M"]:
    """As many pixels as the average mask has, those that are foreground most often."""
    total, frames = torch.zeros(()), 0
    for mask in masks:
        total, frames = total + mask.sum(0), frames + len(mask)
    prior = torch.zeros(total.numel(), dtype=torch.bool)
    prior[total.flatten().argsort(descending=True, stable=True)[: round(total.sum().item() / frames)]] = True
    return prior.view(total.shape)
