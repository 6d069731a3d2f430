"""Miniature AVSBench: pictures of two objects of which some sound, in either release's layout.

Only sight and sound together tell the mask. One object lies in the left half of the picture, one in the right. Clips
come in blocks that share their pictures and their sounds:

* The same five pictures come with every set of sounding objects equally often: in S4 with either object, in MS3, second
  by second, with either, both and none (an empty mask). Who sees only can do no better than the best of the four
  guesses nothing, first, second and both: the expected J is convex in the share of either object that a guess covers,
  and pixels outside of both never help. In S4 this is exactly 1/2.
* The same sound track comes with a second series of pictures that has the two objects in exchanged halves. Who hears
  only faces two masks equally often, and can do no better than the best of four guesses: what both masks share, either
  of them, and all of both (in the share of either mask's own pixels the sum of both J is convex). Where one object
  sounds the masks are disjoint: exactly 1/2, so 1/2 in S4; where both sound they overlap a little; silence is certain.
"""

import csv
import wave
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from jaxtyping import Bool, Float32, UInt8
from PIL import Image

from datamodules.avs_corpus import FRAMES, SUBSETS, Clip, Files
from datamodules.mini.base import MiniatureWriter
from datamodules.mini.scenes import object_pixels
from datamodules.mini.sounds import synthesize
from hmmoe.errors import ConfigError

KINDS = (0, 1, 3, 6)
"""Drawn and sounding categories, those with the most solid outlines; the names of ``categories`` stand for them."""
CHANGES = (2, 3)
"""Seconds at which an MS3 clip goes over to its second set of sounding objects."""
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
FIRST, SECOND, BOTH, NONE = (0,), (1,), (0, 1), ()
SEQUENCES = {
    "s4": ((FIRST, FIRST), (SECOND, SECOND)),
    "ms3": ((FIRST, SECOND), (SECOND, FIRST), (BOTH, NONE), (NONE, BOTH)),
}
"""Which objects of a pair sound before and after the change; every second sees every set equally often."""
NAMES, COUNTS = ("guitar", "dog", "helicopter", "lion"), {"s4": 3, "ms3": 2}
BLOCKS = {"s4": {"train": 48, "val": 2, "test": 2}, "ms3": {"train": 24, "val": 3, "test": 3}}
"""S4 trains on one mask a clip, MS3 on five."""


class Scene(NamedTuple):
    """Five pictures of a pair of objects, and the pixels of either."""

    pictures: UInt8[np.ndarray, "5 S S 3"]
    objects: Bool[np.ndarray, "2 5 S S"]


def draw_scene(rng: np.random.Generator, kinds: Sequence[int], size: int, *, turned: bool) -> Scene:
    """Colours and scale hold for the clip, places change every second; ``turned`` exchanges the halves."""
    ground, *inks = rng.uniform(0, 255, (3, 3))
    while min(np.abs(ground - ink).sum() for ink in inks) < 180:
        ground, *inks = rng.uniform(0, 255, (3, 3))
    scales = rng.uniform(0.4, 0.48, 2) * size / 2
    pictures = np.tile(ground, (FRAMES, size, size, 1))
    objects = np.zeros((2, FRAMES, size, size), dtype=bool)
    for which, (kind, ink, scale) in enumerate(zip(kinds, inks, scales, strict=True)):
        shift = size / 2 if (which == 1) != turned else 0.0
        for frame in range(FRAMES):
            centre = rng.uniform(scale, size - scale), shift + rng.uniform(scale, size / 2 - scale)
            objects[which, frame] = object_pixels(kind, size, centre, scale)
            pictures[frame, objects[which, frame]] = ink
    noisy = pictures + rng.normal(0, 8, pictures.shape)
    return Scene(np.clip(noisy, 0, 255).astype(np.uint8), objects)


def vision_ceiling(objects: Bool[np.ndarray, "2 F S S"], sets: Sequence[tuple[int, ...]]) -> float:
    """Mean over frames of the best expected J of one guess, each of ``sets`` sounding equally often."""
    guesses = (FIRST, SECOND, BOTH, NONE)
    best = []
    for frame in range(objects.shape[1]):
        masks = {guess: objects[list(guess), frame].any(0) for guess in guesses}
        best.append(max(float(np.mean([_iou(masks[guess], masks[truth]) for truth in sets])) for guess in guesses))
    return float(np.mean(best))


def audio_ceiling(masks: Bool[np.ndarray, "2 F S S"]) -> float:
    """Mean over frames of the best mean J of one guess against the two masks that share a sound."""
    best = []
    for one, other in masks.swapaxes(0, 1):
        guesses = (one & other, one, other, one | other)
        best.append(max((_iou(guess, one) + _iou(guess, other)) / 2 for guess in guesses))
    return float(np.mean(best))


def _iou(guess: Bool[np.ndarray, "S S"], truth: Bool[np.ndarray, "S S"]) -> float:
    if not truth.any():
        return 1 - guess.mean()
    return (guess & truth).sum() / (guess | truth).sum()


class MiniAVS(MiniatureWriter):
    """AVSBench's layout for one subset.

    Args:
        root: folder to write.
        subset: "s4" or "ms3".
        release: "new" (metadata.csv, frames, labels_rgb, audio.wav) or "old".
        categories: official names that stand for the generated objects and sounds, at most four; None: three in S4,
            two in MS3.
        blocks: by split, how many scenes of every pair of categories: 4 clips each in S4, 8 in MS3.
        seed: of all content.
        size: side of the square pictures; those published have 224.
        sample_rate: of the sound.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        subset: Literal["s4", "ms3"],
        release: Literal["new", "old"] = "new",
        categories: Sequence[str] | None = None,
        blocks: Mapping[str, int] | None = None,
        seed: int = 0,
        size: int = 96,
        sample_rate: int = 16000,
    ) -> None:
        if subset not in SUBSETS or release not in ("new", "old"):
            raise ConfigError(f"data.miniature: expected subset s4 or ms3, release new or old: {subset}, {release}")
        names = NAMES[: COUNTS[subset]] if categories is None else tuple(categories)
        if not 2 <= len(names) <= len(KINDS):
            raise ConfigError(f"data.miniature.categories: expected 2 to {len(KINDS)} names, found {len(names)}")
        self.subset, self.release, self.categories = subset, release, names
        self.blocks = dict(blocks or BLOCKS[subset])
        self.seed, self.size, self.sample_rate = seed, size, sample_rate
        settings = {"subset": subset, "release": release, "categories": self.categories, "blocks": self.blocks}
        super().__init__(root, **settings, seed=seed, size=size, sample_rate=sample_rate)

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Draw, sound, write; then the sheet and the ceilings."""
        form = SUBSETS[self.subset]
        files = Files(folder, form.new if self.release == "new" else form.old)
        clips: list[Clip] = []
        ceilings: dict[str, dict[str, float]] = {}
        for number, (split, blocks) in enumerate(self.blocks.items()):
            rng, reached = np.random.default_rng((self.seed, number)), []
            for _ in range(blocks):
                for pair in combinations(range(len(self.categories)), 2):
                    made, ceiling = self._block(files, rng, pair, split)
                    clips += made
                    reached.append(ceiling)
            vision, audio = np.mean(reached, axis=0).tolist()
            ceilings[split] = {"vision_alone_J": vision, "audio_alone_J": audio}
        order = np.random.default_rng((self.seed, len(self.blocks))).permutation(len(clips))
        self._sheet(folder / files.release.sheet, [clips[index] for index in order])
        return ceilings

    def _block(
        self, files: Files, rng: np.random.Generator, pair: tuple[int, int], split: str
    ) -> tuple[list[Clip], tuple[float, float]]:
        """All clips of one pair of scenes, and what sight alone and sound alone reach on them."""
        kinds = [KINDS[index] for index in pair]
        scenes = [draw_scene(rng, kinds, self.size, turned=turned) for turned in (False, True)]
        change = int(rng.choice(CHANGES))
        clips, heard = [], []
        for sequence in SEQUENCES[self.subset]:
            sounding = [sequence[second >= change] for second in range(FRAMES)]
            track = np.concatenate([self._second(rng, [kinds[which] for which in now]) for now in sounding])
            masks = np.stack(
                [[scene.objects[list(now), frame].any(0) for frame, now in enumerate(sounding)] for scene in scenes]
            )
            heard.append(audio_ceiling(masks))
            for scene, own in zip(scenes, masks, strict=True):
                clip = self._name(rng, pair, sounding, split)
                self._write(files, clip, scene.pictures, own, track)
                clips.append(clip)
        sets = [sequence[0] for sequence in SEQUENCES[self.subset]]
        seen = [vision_ceiling(scene.objects, sets) for scene in scenes]
        return clips, (float(np.mean(seen)), float(np.mean(heard)))

    def _second(self, rng: np.random.Generator, kinds: Sequence[int]) -> Float32[np.ndarray, " samples"]:
        """The sounds of all kinds together, else next to silence."""
        if not kinds:
            return rng.normal(0, 0.004, self.sample_rate).astype(np.float32)
        return sum(synthesize(rng, kind, 1.0, self.sample_rate) for kind in kinds) / len(kinds)

    def _name(
        self, rng: np.random.Generator, pair: tuple[int, int], sounding: Sequence[tuple[int, ...]], split: str
    ) -> Clip:
        video = "".join(rng.choice(list(LETTERS), size=11))
        heard = sorted({pair[which] for now in sounding for which in now})
        category = "_".join(self.categories[index] for index in heard)
        if self.subset == "s4":
            return Clip(video, f"{video}_0_5000", category, split)
        return Clip(f"{video}_0", f"{video}_0", category, split)

    def _write(
        self,
        files: Files,
        clip: Clip,
        pictures: UInt8[np.ndarray, "5 S S 3"],
        masks: Bool[np.ndarray, "5 S S"],
        track: Float32[np.ndarray, " samples"],
    ) -> None:
        labelled = SUBSETS[self.subset].training_masks if clip.split == "train" else FRAMES
        for frame in range(FRAMES):
            _save(Image.fromarray(pictures[frame]), files.picture(clip, frame))
            if frame < labelled:
                _save(self._mask(masks[frame]), files.mask(clip, frame))
        path = files.sound(clip)
        path.parent.mkdir(parents=True, exist_ok=True)
        with wave.open(str(path), "wb") as file:
            file.setparams((1, 2, self.sample_rate, 0, "NONE", ""))
            file.writeframes((track * 32767).astype("<i2").tobytes())

    def _mask(self, mask: Bool[np.ndarray, "S S"]) -> Image.Image:
        """Coloured in the new release; in the old one grey (S4), or a palette of two entries (MS3)."""
        if self.release == "new":
            return Image.fromarray(np.where(mask[..., None], (128, 0, 64), 0).astype(np.uint8))
        if self.subset == "s4":
            return Image.fromarray(mask.astype(np.uint8) * 255)
        image = Image.fromarray(mask.astype(np.uint8)).convert("P")
        image.putpalette([0, 0, 0, 255, 255, 255])
        return image

    def _sheet(self, path: Path, clips: Sequence[Clip]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        label = SUBSETS[self.subset].new.label
        rows: list[Sequence[Any]]
        if self.release == "new":
            header = ("vid", "uid", "s_min", "s_sec", "a_obj", "split", "label")
            rows = [(clip.name, clip.uid, 0, 0, clip.category, clip.split, label) for clip in clips]
        elif self.subset == "s4":
            header = ("name", "start", "category", "split")
            rows = [(clip.name, 0, clip.category, clip.split) for clip in clips]
        else:
            header, rows = ("name", "split"), [(clip.name, clip.split) for clip in clips]
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([header, *rows])


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **({"quality": 95} if path.suffix == ".jpg" else {"compress_level": 1}))
