"""What all datasets of video clips share: where the clips are and how they are read."""

from abc import abstractmethod
from pathlib import Path
from typing import Any, Literal

from datamodules.base import DataModule
from datamodules.media.clips import Clips
from hmmoe.errors import ConfigError

Media = Literal["video", "extracted"]


class ClipData(DataModule):
    """Examples about clips (see ``DataModule`` for what is not listed here).

    Args:
        media: "video" reads the published clips, "extracted" frames and sound that were taken of them.
        fps: of extracted frames.
    """

    def __init__(self, root: str | Path, *, media: Media = "video", fps: float, **common: Any) -> None:
        super().__init__(root, **common)
        if media not in ("video", "extracted") or fps <= 0:
            raise ConfigError(f"data.media={media}, data.fps={fps}: expected video or extracted, more than zero")
        self.clips = self.footage_of(extracted=media == "extracted", fps=fps)

    @abstractmethod
    def footage_of(self, *, extracted: bool, fps: float) -> Clips:
        """Where the clips are."""

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
