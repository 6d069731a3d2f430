"""Miniature MSR-VTT: clips of a tower of blocks with a sound, with questions, or with sentences to find them by.

Questions: four on every clip, two of the picture and two of the sound, with four different answers (a colour, a number,
a sound, yes or no), so whoever sees or hears only cannot do better than 1/4. Every wording has its answers in equal
shares, so whoever reads only cannot do better than 17/48. Words with sight or sound reach about 2/3, all three 1.
Retrieval: every sentence tells the colours of the lowest and the highest block and the sound. Each of 9 sights comes
with each of 4 sounds once in the test: whoever compares pictures only finds the right one of 4 in 1/4 of the cases,
sounds only in 1/9.
"""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.mini.ave import ceiling
from datamodules.mini.base import InBlocks, MiniatureWriter
from datamodules.mini.clip import write_clip
from datamodules.mini.scenes import render_box
from datamodules.mini.sentences import COLORS, DIGITS
from datamodules.mini.sounds import synthesize
from datamodules.mini.vqav2 import HEIGHTS, Tower

HEARD = {"bell": 0, "hiss": 2, "engine": 3, "whistle": 5}
"""Words for generated sounds."""
SECONDS = 2
TEMPLATES = (
    "there is a {sound} with a {base} block at the base and a {top} block at the top",
    "a {sound} with a tower that has a {top} block at the top and a {base} block at the base",
    "a {top} block is at the top and a {base} block is at the base and a {sound}",
    "there is a {sound} and a tower with a {base} base and a {top} top",
)


class Asked(NamedTuple):
    """What a clip shows and sounds, and which sound one of its questions is about."""

    base: str
    height: int
    sound: str
    named: str

    def questions(self) -> list[tuple[str, str]]:
        """Four, with different answers."""
        return [
            ("what color is the block at the base?", self.base),
            ("how many blocks does the tower have?", DIGITS[self.height]),
            ("what is the sound?", self.sound),
            (f"is there a {self.named}?", "yes" if self.named == self.sound else "no"),
        ]


def plan_block() -> list[Asked]:
    """72 clips: every colour, height and sound, with a question about this sound and with one about another."""
    plans, names = [], list(HEARD)
    for (i, base), (j, height), (k, sound) in product(enumerate(COLORS), enumerate(HEIGHTS), enumerate(names)):
        other = names[(k + 1 + (i + j) % (len(names) - 1)) % len(names)]
        plans += [Asked(base, height, sound, sound), Asked(base, height, sound, other)]
    return plans


def single_modality(plans: Sequence[Asked]) -> dict[str, float]:
    """What the best rule reaches on these questions that has one modality only."""
    rows = [(plan, *row) for plan in plans for row in plan.questions()]
    answers = [answer for _, _, answer in rows]
    return {
        "vision_alone": ceiling([plan[:2] for plan, _, _ in rows], answers),
        "audio_alone": ceiling([plan.sound for plan, _, _ in rows], answers),
        "text_alone": ceiling([text for _, text, _ in rows], answers),
    }


class MiniMSRVTTQA(InBlocks):
    """MSRVTT-QA's layout: ``<split>_qa.json`` and ``videos/video<n>.mp4``.

    Args:
        root: folder to write.
        fps: frames per second.
        sample_rate: of the sound.
        common: see ``InBlocks``; a block is 72 clips with 4 questions.
    """

    def __init__(self, root: str | Path, *, fps: int = 4, sample_rate: int = 16000, **common: Any) -> None:
        self.fps, self.sample_rate = fps, sample_rate
        super().__init__(root, media={"fps": fps, "sample_rate": sample_rate}, **common)

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Render, encode, ask."""
        (folder / "videos").mkdir()
        ceilings, clip, number = {}, 0, 0
        for place, (split, blocks) in enumerate(self.blocks.items()):
            rng = np.random.default_rng((self.seed, place))
            plans = [plan for _ in range(blocks) for plan in plan_block()]
            rows = []
            for index in rng.permutation(len(plans)):
                plan = plans[index]
                top = str(rng.choice([color for color in COLORS if color != plan.base]))
                tower = Tower(plan.base, top, plan.height, plan.base)
                path = folder / "videos" / f"video{clip}.mp4"
                render(path, tower, plan.sound, rng, fps=self.fps, sample_rate=self.sample_rate)
                for text, answer in plan.questions():
                    rows.append({"answer": answer, "id": number, "question": text, "video_id": clip})
                    number += 1
                clip += 1
            (folder / f"{split}_qa.json").write_text(json.dumps(rows))
            ceilings[split] = single_modality(plans)
        return ceilings


def render(path: Path, tower: Tower, sound: str, rng: np.random.Generator, *, fps: int, sample_rate: int) -> None:
    """A clip that shows a tower and sounds."""
    pictures = np.stack([render_box(tower.box(rng)) for _ in range(SECONDS)])
    track = np.concatenate([synthesize(rng, HEARD[sound], 1.0, sample_rate) for _ in range(SECONDS)])
    write_clip(path, pictures, track, fps=fps, sample_rate=sample_rate)


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

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Render, encode, tell."""
        (folder / "videos").mkdir()
        rng, whole = np.random.default_rng(self.seed), scenes()
        ordered = [whole[index] for index in rng.permutation(len(whole))]
        clips = [scene for scene in ordered for _ in range(self.blocks)]
        tested = [whole[index] for index in rng.permutation(len(whole))]
        videos, sentences = [], []
        for clip, scene in enumerate([*clips, *tested]):
            name = f"video{clip}"
            tower = Tower(scene.base, scene.top, int(rng.choice(HEIGHTS)), scene.base)
            path = folder / "videos" / f"{name}.mp4"
            render(path, tower, scene.sound, rng, fps=self.fps, sample_rate=self.sample_rate)
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
        return {"test": alone}

    def _list(self, path: Path, tested: Sequence[Scene], first: int) -> None:
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["key", "vid_key", "video_id", "sentence"])
            for place, scene in enumerate(tested):
                sentence = scene.sentences()[place % len(TEMPLATES)]
                writer.writerow([f"ret{place}", f"msr{first + place}", f"video{first + place}", sentence])
