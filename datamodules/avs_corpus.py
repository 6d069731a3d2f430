"""AVSBench's two object subsets on disk: annotation rows, and where pictures, masks and sounds lie in either release.

Sources: Zhou et al., "Audio-Visual Segmentation", ECCV 2022 (arXiv 2207.05042) and IJCV 2024 (arXiv 2301.13190);
OpenNLPLab/AVSBench, avs_scripts/avs_{s4,ms3}/{config,dataloader}.py for the old release and
avs_scripts/avss/color_dataloader.py for the new one.
"""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from datamodules.lines import read_text
from hmmoe.errors import DataBroken

FRAMES = 5
"""Pictures of every clip, one a second."""
SPLITS = ("train", "val", "test")


class Clip(NamedTuple):
    """One annotated clip. ``name`` is what the official scripts call it, ``uid`` its folder in the new release."""

    name: str
    uid: str
    category: str
    split: str


class Columns(NamedTuple):
    """Where a sheet holds what: the name of a column, or its place; None where it is not told."""

    name: str | int
    uid: str | int
    category: str | int | None
    split: str | int = "split"


class Release(NamedTuple):
    """Files below the root, as patterns of a clip's fields and ``k``, the frame's number counted from ``first``."""

    sheet: str
    columns: Columns
    frame: str
    mask: str
    sound: str
    first: int
    label: str | None = None
    """What the column ``label`` says of this subset; None where the sheet holds no other."""

    def folders(self) -> list[str]:
        """What must be there before any clip is looked up."""
        patterns = (self.frame, self.mask, self.sound)
        return list(dict.fromkeys(pattern.partition("{")[0].rstrip("/") for pattern in patterns))


class Files(NamedTuple):
    """The files of clips below a root; frames are counted from 0, whatever their names say."""

    root: Path
    release: Release

    def picture(self, clip: Clip, frame: int) -> Path:
        """The frame of a second."""
        return self._place(self.release.frame, clip, frame)

    def mask(self, clip: Clip, frame: int) -> Path:
        """Its annotation."""
        return self._place(self.release.mask, clip, frame)

    def sound(self, clip: Clip) -> Path:
        """The sound track of all five seconds."""
        return self._place(self.release.sound, clip, 0)

    def _place(self, pattern: str, clip: Clip, frame: int) -> Path:
        return self.root / pattern.format(k=frame + self.release.first, **clip._asdict())


class Subset(NamedTuple):
    """One of the two tasks."""

    old: Release
    new: Release
    training_masks: int
    """How many of a training clip's frames, from the first on, have a mask; elsewhere all have one."""
    saved: str
    """Folder of a clip's predicted masks, as the official scripts name it."""
    sizes: tuple[int, int, int]
    """Published numbers of clips for training, validation and test."""


def _new(label: str) -> Release:
    base = f"{label}/{{uid}}"
    return Release(
        sheet="metadata.csv",
        columns=Columns("vid", "uid", "a_obj"),
        frame=f"{base}/frames/{{k}}.jpg",
        mask=f"{base}/labels_rgb/{{k}}.png",
        sound=f"{base}/audio.wav",
        first=0,
        label=label,
    )


S4 = Subset(
    old=Release(
        sheet="Single-source/s4_meta_data.csv",
        columns=Columns(0, 0, 2),
        frame="Single-source/s4_data/visual_frames/{split}/{category}/{name}/{name}_{k}.png",
        mask="Single-source/s4_data/gt_masks/{split}/{category}/{name}/{name}_{k}.png",
        sound="Single-source/s4_data/audio_wav/{split}/{category}/{name}.wav",
        first=1,
    ),
    new=_new("v1s"),
    training_masks=1,
    saved="{category}/{name}",
    sizes=(3452, 740, 740),
)
MS3 = Subset(
    old=Release(
        sheet="Multi-sources/ms3_meta_data.csv",
        columns=Columns(0, 0, None),
        frame="Multi-sources/ms3_data/visual_frames/{name}/{name}.mp4_{k}.png",
        mask="Multi-sources/ms3_data/gt_masks/{split}/{name}/{name}_{k}.png",
        sound="Multi-sources/ms3_data/audio_wav/{split}/{name}.wav",
        first=1,
    ),
    new=_new("v1m"),
    training_masks=FRAMES,
    saved="{name}",
    sizes=(296, 64, 64),
)
SUBSETS = {"s4": S4, "ms3": MS3}


def read_clips(path: Path, release: Release) -> list[Clip]:
    """The subset's rows of a sheet, in its order; rows of other subsets are passed over.

    Raises:
        DataBroken: names the row, counted from 1 as in an editor, or the split that has none.
    """
    header, *rows = list(csv.reader(io.StringIO(read_text(path), newline=""))) or [[]]
    places = [_place(path, header, column) for column in release.columns]
    label = None if release.label is None else _place(path, header, "label")
    last = max(place for place in (*places, label) if place is not None)
    clips: dict[str, Clip] = {}
    for number, row in enumerate(rows, start=2):
        if row and len(row) <= last:
            raise DataBroken(f"{_fault(path, number, row)}too few columns; mend the row or fetch the file again")
        if row and (label is None or row[label] == release.label):
            clip = _parse(row, places, _fault(path, number, row))
            if clip.name in clips:
                raise DataBroken(
                    f"{_fault(path, number, row)}{clip.name} stands there already: leave one of the rows, or fetch the "
                    "file again"
                )
            clips[clip.name] = clip
    if empty := [split for split in SPLITS if split not in {clip.split for clip in clips.values()}]:
        kind = f" of label {release.label}" if release.label else ""
        raise DataBroken(f"{path} has no row{kind} with split={empty[0]}: fetch the file again")
    return list(clips.values())


def _place(path: Path, header: Sequence[str], column: str | int | None) -> int | None:
    if not isinstance(column, str):
        return column
    if column not in header:
        raise DataBroken(
            f"{path} begins with {','.join(header)!r}: expected a header with a column {column}; fetch the file again, "
            "or set data.release=old or new to name the release that it belongs to"
        )
    return list(header).index(column)


def _fault(path: Path, number: int, row: Sequence[str]) -> str:
    return f"{path}, row {number} is {','.join(row)!r}: "


def _parse(row: Sequence[str], places: Sequence[int | None], fault: str) -> Clip:
    clip = Clip(*("" if place is None else row[place] for place in places))
    if clip.split not in SPLITS:
        raise DataBroken(f"{fault}unknown split {clip.split!r}, expected one of {', '.join(SPLITS)}; mend the row")
    if not clip.name or not clip.uid:
        raise DataBroken(f"{fault}it names no clip; mend the row or fetch the file again")
    return clip
