"""Miniature AVE: generated ten-second mp4 files in which only sight and sound together tell the event.

Each video has two parts. Of picture and sound, both change at the same second; in exactly one part they show and sound
the same category, and that part is the event. The plan pairs the videos so that every sequence of pictures (and every
sequence of sounds) comes once with the event in its first part and once, with equal change, in its second: whoever sees
or hears only can do no better than 0.5 on any split, however much of the clip is taken in. Both together reach 1.
"""

from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.mini.base import InBlocks
from datamodules.mini.clip import write_clip
from datamodules.mini.scenes import object_image
from datamodules.mini.sounds import synthesize

SECONDS = 10
CHANGES = (3, 4, 6, 7)
"""Seconds at which the second part begins."""
HEADER = "Category&VideoID&Quality&StartTime&EndTime"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


class Plan(NamedTuple):
    """Content of one video: category seen and heard in each of the two parts, and where the second begins."""

    seen: tuple[int, int]
    heard: tuple[int, int]
    change: int

    @property
    def event(self) -> tuple[int, int, int]:
        """Category, first second, second after the last."""
        if self.seen[0] == self.heard[0]:
            return self.seen[0], 0, self.change
        return self.seen[1], self.change, SECONDS

    def by_second(self, parts: tuple[int, int]) -> list[int]:
        """The category in every second."""
        return [parts[second >= self.change] for second in range(SECONDS)]

    def labels(self) -> list[int | None]:
        """Category of the event in every second, None where there is none."""
        category, start, end = self.event
        return [category if start <= second < end else None for second in range(SECONDS)]


def plan_block(categories: int, shift: int) -> list[Plan]:
    """2 * categories^2 videos, balanced in themselves.

    With pictures (a, b) go the sounds (a, b + shift), event first, and (a + shift, b), event second; all modulo
    ``categories``. The change hangs on (a + b) modulo ``categories``, which both videos of either pair share.
    """
    plans = []
    for a in range(categories):
        for b in range(categories):
            for heard in ((a, (b + shift) % categories), ((a + shift) % categories, b)):
                plans.append(Plan((a, b), heard, CHANGES[(a + b) % categories % len(CHANGES)]))
    return plans


def ceiling(cues: Iterable[Hashable], labels: Iterable[Hashable]) -> float:
    """Accuracy of the best rule that answers from the cue alone, fitted to these very labels."""
    counts: defaultdict[Hashable, Counter[Hashable]] = defaultdict(Counter)
    for cue, label in zip(cues, labels, strict=True):
        counts[cue][label] += 1
    best = sum(counter.most_common(1)[0][1] for counter in counts.values())
    return best / sum(counter.total() for counter in counts.values())


class MiniAVE(InBlocks):
    """AVE's layout: ``AVE/<id>.mp4``, Annotations.txt, split files.

    Args:
        root: folder to write.
        categories: official names that stand for the generated objects and sounds.
        size: side of the square pictures, even.
        fps: frames per second.
        sample_rate: of the sound.
        header: write the header line into Annotations.txt and the split files.
        common: see ``InBlocks``; a block is 2 * categories^2 videos.
    """

    def __init__(
        self,
        root: str | Path,
        *,
        categories: Sequence[str] = ("Church bell", "Male speech, man speaking", "Bark", "Violin, fiddle"),
        size: int = 96,
        fps: int = 8,
        sample_rate: int = 16000,
        header: bool = True,
        **common: Any,
    ) -> None:
        self.categories, self.header = tuple(categories), header
        self.size, self.fps, self.sample_rate = size, fps, sample_rate
        media = {"size": size, "fps": fps, "sample_rate": sample_rate, "header": header}
        super().__init__(root, media={"categories": self.categories} | media, **common)

    def plans(self) -> dict[str, list[Plan]]:
        """The videos of every split; blocks go through the shifts in turn."""
        count = len(self.categories)
        splits, shift = {}, 0
        for split, blocks in self.blocks.items():
            splits[split] = []
            for _ in range(blocks):
                splits[split] += plan_block(count, shift % (count - 1) + 1)
                shift += 1
        return splits

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Render, encode, annotate."""
        (folder / "AVE").mkdir()
        every: list[str] = []
        ceilings = {}
        for number, (split, plans) in enumerate(self.plans().items()):
            rng = np.random.default_rng((self.seed, number))
            rows = [self._write(folder / "AVE", plans[index], rng) for index in rng.permutation(len(plans))]
            self._list(folder / f"{split}Set.txt", rows)
            every += rows
            ceilings[split] = single_modality(plans)
        self._list(folder / "Annotations.txt", sorted(every, key=lambda row: self.categories.index(row.split("&")[0])))
        return ceilings

    def _write(self, folder: Path, plan: Plan, rng: np.random.Generator) -> str:
        identifier = "".join(rng.choice(list(LETTERS), size=11))
        pictures = np.stack([object_image(rng, index, self.size) for index in plan.by_second(plan.seen)])
        sounds = [synthesize(rng, index, 1.0, self.sample_rate) for index in plan.by_second(plan.heard)]
        write_clip(
            folder / f"{identifier}.mp4", pictures, np.concatenate(sounds), fps=self.fps, sample_rate=self.sample_rate
        )
        category, start, end = plan.event
        return f"{self.categories[category]}&{identifier}&good&{start}&{end}"

    def _list(self, path: Path, rows: Sequence[str]) -> None:
        path.write_text("\n".join([HEADER, *rows] if self.header else rows) + "\n")


def single_modality(plans: Sequence[Plan]) -> dict[str, Any]:
    """What the best rule reaches on these videos that knows one modality's whole sequence, and the second asked for."""
    seconds = [(plan, second) for plan in plans for second in range(SECONDS)]
    labels = [plan.labels()[second] for plan, second in seconds]
    return {
        "vision_alone": ceiling([(plan.seen, plan.change, second) for plan, second in seconds], labels),
        "audio_alone": ceiling([(plan.heard, plan.change, second) for plan, second in seconds], labels),
    }
