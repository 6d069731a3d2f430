"""What all datasets of video clips share: where the clips are and how they are read."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal

from datamodules.base import DataModule, build
from datamodules.footage import Footage, Moments
from datamodules.media.clips import Clips
from datamodules.media.image import Pixels
from datamodules.media.logmel import LogMel
from hmmoe.errors import ConfigError

Media = Literal["video", "extracted"]


class ClipData(DataModule):
    """Examples about clips (see ``DataModule`` for what is not listed here).

    Args:
        media: "video" reads the published clips, "extracted" frames and sound that were taken of them.
        fps: of extracted frames.
    """

    places: ClassVar[Mapping[str, Any]] = MappingProxyType({})
    """Where the clips are, as ``Clips`` takes it: names of folders, suffix of videos, whether clips may be mute."""

    def __init__(self, root: str | Path, *, media: Media = "video", fps: float, **common: Any) -> None:
        super().__init__(root, **common)
        if media not in ("video", "extracted") or fps <= 0:
            raise ConfigError(f"data.media={media}, data.fps={fps}: expected video or extracted, more than zero")
        self.clips = Clips(self.root, extracted=media == "extracted", fps=fps, **self.places)

    def footage(self, split: str, clips: Iterable[str], take: Moments) -> Footage:
        """The reader of a split's clips; nothing is kept where training decodes them anew in every epoch."""
        return Footage(
            clips,
            self.clips,
            take,
            pixels=build(Pixels, self.inputs, "vision"),
            logmel=build(LogMel, self.inputs, "audio"),
            keep=self.keep._replace(mode="none") if take.anew else self.keep,
            fills=self.fills,
            name=split,
        )

    def absent(self) -> list[Path]:
        """Annotation files and media folders."""
        wanted = [path for split in self.splits for path in self.annotations(split.name)]
        wanted += self.clips.folders(**self.wanted)
        return [path for path in dict.fromkeys(wanted) if not path.exists()]

    def lacking(self, clip: str) -> Path | None:
        """The first file that a clip lacks; a clip without a sound track lacks nothing."""
        return self.clips.lacking(clip, **self.wanted)

    def needs(self, path: Path) -> bool:
        """All but the extracted sound of clips that may be silent."""
        return not (self.clips.mute and path.parent == self.clips.sounds)
