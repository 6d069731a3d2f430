"""Miniature MSVD: silent clips of a tower of blocks, with questions, or with sentences to find them by.

Questions: the towers and questions of the miniature VQA v2 in MSVD-QA's files: who sees only reaches 1/4, who reads
only 3/8.
Retrieval: every sentence tells the colours of the lowest and of the highest block and how many there are. Each of the
27 towers comes once in the test, with four sentences: each has one right clip, and who does not look finds it in 1 of
27 cases.
"""

import json
import pickle
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from types import MappingProxyType

import numpy as np

from datamodules.mini.ave import LETTERS, ceiling
from datamodules.mini.base import InBlocks
from datamodules.mini.clip import write_clip
from datamodules.mini.scenes import render_box
from datamodules.mini.sentences import COLORS, DIGITS
from datamodules.mini.vqav2 import HEIGHTS, Tower, ask, plan

SECONDS, FPS = 2, 4
TEMPLATES = (
    "there is a tower with {count} blocks with a {base} block at the base and a {top} block at the top",
    "a {top} block is at the top and a {base} block is at the base of a tower of {count} blocks",
    "a tower of {count} blocks that has a {top} top and a {base} base",
    "{count} blocks with a {base} block as the base and a {top} block at the top",
)


class MiniMSVDBase(InBlocks):
    """Clips with names as MSVD's; a block is every tower once."""

    def clips(self, folder: Path, towers: list[Tower]) -> Iterator[tuple[str, str, Tower, np.random.Generator]]:
        """Split, name, tower and the split's random numbers of every clip, written."""
        (folder / "YouTubeClips").mkdir()
        for number, (split, blocks) in enumerate(self.blocks.items()):
            rng = np.random.default_rng((self.seed, number))
            for index in rng.permutation(blocks * len(towers)):
                tower = towers[index % len(towers)]
                start = int(rng.integers(100))
                name = f"{''.join(rng.choice(list(LETTERS), size=11))}_{start}_{start + SECONDS}"
                pictures = np.stack([render_box(tower.box(rng)) for _ in range(SECONDS)])
                write_clip(folder / "YouTubeClips" / f"{name}.avi", pictures, None, fps=FPS, sample_rate=16000)
                yield split, name, tower, rng


class MiniMSVDQA(MiniMSVDBase):
    """MSVD-QA's layout: ``<split>_qa.json``, ``youtube_mapping.txt``; blocks of 36 clips with 4 questions."""

    usual = MappingProxyType({"train": 8, "val": 1, "test": 1})

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Draw, ask, write."""
        rows: dict[str, list[dict]] = {split: [] for split in self.blocks}
        lines: list[str] = []
        for split, name, tower, rng in self.clips(folder, plan()):
            lines.append(f"{name} vid{len(lines) + 1}")
            for question in ask(tower, rng):
                answer = question.references[0]
                answer = DIGITS[int(answer)] if answer.isdecimal() else answer
                row = {"answer": answer, "id": sum(map(len, rows.values())), "question": question.text}
                rows[split].append(row | {"video_id": len(lines)})
        (folder / "youtube_mapping.txt").write_text("\n".join(lines) + "\n")
        ceilings = {}
        for split, own in rows.items():
            (folder / f"{split}_qa.json").write_text(json.dumps(own))
            answers = [row["answer"] for row in own]
            ceilings[split] = {
                "vision_alone": ceiling([row["video_id"] for row in own], answers),
                "text_alone": ceiling([row["question"] for row in own], answers),
            }
        return ceilings


class MiniMSVD(MiniMSVDBase):
    """The layout of MSVD's retrieval: ``raw-captions.pkl`` and ``<split>_list.txt``; blocks of 27 clips."""

    usual = MappingProxyType({"train": 10, "val": 1, "test": 1})

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Draw, tell, write."""
        towers = [Tower(base, top, height, base) for base, top, height in product(COLORS, COLORS, HEIGHTS)]
        lists: dict[str, list[str]] = {split: [] for split in self.blocks}
        captions = {}
        for split, name, tower, _ in self.clips(folder, towers):
            lists[split].append(name)
            told = {"base": tower.base, "top": tower.top, "count": DIGITS[tower.height]}
            captions[name] = [template.format(**told).split() for template in TEMPLATES]
        (folder / "raw-captions.pkl").write_bytes(pickle.dumps(captions, protocol=2))
        for split, names in lists.items():
            (folder / f"{split}_list.txt").write_text("\n".join(names) + "\n")
        return {
            split: dict.fromkeys(("vision_alone_t2v_R1", "text_alone_t2v_R1"), 1 / len(names))
            for split, names in lists.items()
        }
