"""Writing a generated dataset to disk once: all of it or nothing, and again when its recipe has changed."""

import hashlib
import json
import os
import shutil
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

from datamodules.base import REFERENCE_FILE
from hmmoe.errors import DataBroken

STAMP = "miniature.json"


class MiniatureWriter(ABC):
    """Base of the generators: a dataset in the real layout below ``root``.

    Args:
        root: folder to write; must not exist, or hold an earlier miniature.
        settings: everything else that decides the content.
    """

    def __init__(self, root: str | Path, **settings: Any) -> None:
        self.root = Path(root)
        self._stamp = json.loads(json.dumps({"writer": type(self).__name__, "code": _code(), **settings}))

    @abstractmethod
    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Write everything into an empty folder; the same files for the same settings.

        Returns:
            By split and name what a single modality can reach there, for ``REFERENCE_FILE``.
        """

    def write(self) -> None:
        """Make ``root`` what the settings and this code say; does nothing where it is so already.

        Two processes may call it at once: each fills a folder of its own, the first to finish wins.

        Raises:
            DataBroken: ``root`` holds something that no miniature writer made.
        """
        if self._is_current():
            return
        if self.root.exists() and not (self.root / STAMP).is_file():
            raise DataBroken(
                f"{self.root} is there and is not a generated miniature, so it is left alone: move it away, or set "
                "data.miniature.root to a new folder"
            )
        fresh, old = (self.root.with_name(f".{self.root.name}.{word}.{os.getpid()}") for word in ("fresh", "old"))
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(parents=True)
        try:
            alone = self.fill(fresh)
            (fresh / REFERENCE_FILE).write_text(json.dumps(alone, indent=1) + "\n")
            (fresh / STAMP).write_text(json.dumps(self._stamp, indent=1) + "\n")
            if self.root.exists() and not self._is_current():
                self.root.rename(old)
            if not self._is_current():
                fresh.rename(self.root)
        finally:
            for folder in (fresh, old):
                shutil.rmtree(folder, ignore_errors=True)

    def _is_current(self) -> bool:
        try:
            return json.loads((self.root / STAMP).read_text()) == self._stamp
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return False


class InBlocks(MiniatureWriter):
    """A miniature made of blocks that are balanced in themselves.

    Args:
        root: folder to write.
        blocks: by split, how many.
        seed: of all content.
        media: everything else that decides the content.
    """

    usual: ClassVar[Mapping[str, int]] = MappingProxyType({"train": 3, "val": 1, "test": 1})
    """Blocks where none are named."""

    def __init__(
        self,
        root: str | Path,
        *,
        blocks: Mapping[str, int] | None = None,
        seed: int = 0,
        media: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        self.blocks, self.seed = dict(blocks or self.usual), seed
        super().__init__(root, blocks=self.blocks, seed=seed, **media)


def _code() -> str:
    """Hash of the generators' source, so that a change in them is a change of the data."""
    digest = hashlib.sha256()
    for path in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()
