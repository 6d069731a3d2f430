"""Miniature MSR-VTT: clips with sound, with questions, or with sentences to find them by.

Questions: the clips and questions of the miniature MUSIC-AVQA (sight, sound and words together reach 1; see there what
one of them reaches) in MSR-VTT's files.
Retrieval: a tower of blocks is seen and a sound is heard, and every sentence tells the colours of its lowest and its
highest block and the sound. Each of 9 sights comes with each of 4 sounds once in the test: whoever compares pictures
only finds the right one of 4 in 1/4 of the cases, sounds only in 1/9.
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from datamodules.mini.base import MiniatureWriter
from datamodules.mini.clip import write_clip
from datamodules.mini.music_avqa import MiniMusicAVQA, plan_block, single_modality
from datamodules.mini.scenes import render_box
from datamodules.mini.sentences import COLORS
from datamodules.mini.sounds import synthesize
from datamodules.mini.vqav2 import HEIGHTS, Tower
from datamodules.music_avqa_annotations import fill

HEARD = {"bell": 0, "hiss": 2, "engine": 3, "whistle": 5}
"""Words for generated sounds."""
SECONDS = 2
TEMPLATES = (
    "there is a {sound} with a {base} block at the base and a {top} block at the top",
    "a {sound} with a tower that has a {top} block at the top and a {base} block at the base",
    "a {top} block is at the top and a {base} block is at the base and a {sound}",
    "there is a {sound} and a tower with a {base} base and a {top} top",
)


class MiniMSRVTTQA(MiniMusicAVQA):
    """MSRVTT-QA's layout: ``<split>_qa.json`` and ``videos/video<n>.mp4``; arguments as ``MiniMusicAVQA``."""

    def fill(self, folder: Path) -> None:
        """Render, encode, ask."""
        (folder / "videos").mkdir()
        ceilings, clip, number = {}, 0, 0
        for place, (split, blocks) in enumerate(self.blocks.items()):
            rng = np.random.default_rng((self.seed, place))
            plans = [plan for _ in range(blocks) for plan in plan_block()]
            rows = []
            for index in rng.permutation(len(plans)):
                self._render(folder / "videos" / f"video{clip}.mp4", plans[index], rng)
                for asked in plans[index].questions():
                    text = fill(asked["question_content"], json.loads(asked["templ_values"])).lower()
                    rows.append({"answer": asked["anser"], "id": number, "question": text, "video_id": clip})
                    number += 1
                clip += 1
            (folder / f"{split}_qa.json").write_text(json.dumps(rows))
            ceilings[split] = single_modality(plans)
        (folder / "reference.json").write_text(json.dumps(ceilings, indent=1) + "\n")


class Scene(NamedTuple):
    """What a clip shows and sounds."""

    base: str
    top: str
    sound: str

    def sentences(self) -> list[str]:
        """One from every template."""
        return [template.format(**self._asdict()) for template in TEMPLATES]


def scenes() -> list[Scene]:
    """All 36."""
    return [Scene(*parts) for parts in product(COLORS, COLORS, HEARD)]


def found_alone(cues: Sequence[object]) -> float:
    """R@1 of whoever knows of a clip its cue only: the right one of all that share it, by chance."""
    shared = Counter(cues)
    return sum(1 / shared[cue] for cue in cues) / len(cues)


class MiniMSRVTT(MiniatureWriter):
    """1k-A's layout: ``MSRVTT_data.json``, ``MSRVTT_JSFUSION_test.csv`` and ``videos/video<n>.mp4``.

    Args:
        root: folder to write.
        blocks: how many training clips of every one of 36 scenes; clips of one scene follow each other, so that
            held-out clips that are spread evenly are of all scenes.
        seed: of all content.
        fps: frames per second.
        sample_rate: of the sound.
    """

    def __init__(
        self, root: str | Path, *, blocks: int = 9, seed: int = 0, fps: int = 4, sample_rate: int = 16000
    ) -> None:
        self.blocks, self.seed, self.fps, self.sample_rate = blocks, seed, fps, sample_rate
        super().__init__(root, blocks=blocks, seed=seed, fps=fps, sample_rate=sample_rate)

    def fill(self, folder: Path) -> None:
        """Render, encode, tell."""
        (folder / "videos").mkdir()
        rng, whole = np.random.default_rng(self.seed), scenes()
        ordered = [whole[index] for index in rng.permutation(len(whole))]
        clips = [scene for scene in ordered for _ in range(self.blocks)]
        tested = [whole[index] for index in rng.permutation(len(whole))]
        videos, sentences = [], []
        for clip, scene in enumerate([*clips, *tested]):
            name = f"video{clip}"
            self._render(folder / "videos" / f"{name}.mp4", scene, rng)
            videos.append({"video_id": name, "category": 0, "split": "train" if clip < len(clips) else "test"})
            sentences += [
                {"video_id": name, "caption": caption, "sen_id": len(sentences) + place}
                for place, caption in enumerate(scene.sentences())
            ]
        (folder / "MSRVTT_data.json").write_text(json.dumps({"videos": videos, "sentences": sentences}))
        self._list(folder / "MSRVTT_JSFUSION_test.csv", tested, len(clips))
        alone = {
            "vision_alone_t2v_R1": found_alone([scene[:2] for scene in tested]),
            "audio_alone_t2v_R1": found_alone([scene.sound for scene in tested]),
        }
        (folder / "reference.json").write_text(json.dumps({"test": alone}, indent=1) + "\n")

    def _list(self, path: Path, tested: Sequence[Scene], first: int) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "vid_key", "video_id", "sentence"])
            for place, scene in enumerate(tested):
                sentence = scene.sentences()[place % len(TEMPLATES)]
                writer.writerow([f"ret{place}", f"msr{first + place}", f"video{first + place}", sentence])

    def _render(self, path: Path, scene: Scene, rng: np.random.Generator) -> None:
        tower = Tower(scene.base, scene.top, int(rng.choice(HEIGHTS)), scene.base)
        pictures = np.stack([render_box(tower.box(rng)) for _ in range(SECONDS)])
        sound = np.concatenate([synthesize(rng, HEARD[scene.sound], 1.0, self.sample_rate) for _ in range(SECONDS)])
        write_clip(path, pictures, sound, fps=self.fps, sample_rate=self.sample_rate)
