"""Miniature MUSIC-AVQA: short mp4 files in which one object is seen and one or two sounds are heard, and questions.

Every clip gets four questions with four different answers (the name of what is seen, yes, no, and one or two), so
whoever sees or hears only cannot do better than 1/4. Every wording has its answers in (nearly) equal shares, a name of
four or one of two, so whoever reads only cannot do better than 0.45. Of the four, one asks of the picture, one of the
sound or of the picture, one of the sound and one of both: sight, sound and words together reach 1, no two of them do.
"""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from datamodules.mini.ave import ceiling
from datamodules.mini.base import InBlocks
from datamodules.mini.clip import write_clip
from datamodules.mini.scenes import object_image
from datamodules.mini.sounds import synthesize

SECONDS = 4
INSTRUMENTS = ("violin", "piano", "drum", "flute")
"""Names that stand for the first generated objects and sounds."""
NUMBERS = ("one", "two")
NAME = "What kind of musical instrument is it?"
MATCH = "Is this sound from the instrument in the video?"
COUNT = "How many types of musical instruments sound in the video?"
SOUND = ("Audio", "Is there a <Object> sound?")
SIGHT = ("Visual", "Is there a <Object> in the entire video?")


class Plan(NamedTuple):
    """Content of a clip: what is seen, what is heard in its two halves, and which question is asked of whom."""

    seen: int
    heard: tuple[int, int]
    ask_sound: bool
    named: int

    @property
    def matches(self) -> bool:
        """Whether what is seen is also heard."""
        return self.seen in self.heard

    def questions(self) -> list[dict[str, str]]:
        """Four rows with different answers, without numbers and clip."""
        name, other = INSTRUMENTS[self.seen], INSTRUMENTS[self.named]
        yes_no, asked = ("no", "yes"), SOUND if self.ask_sound else SIGHT
        return [
            _row("Visual", "Location", NAME, name),
            _row(asked[0], "Counting", asked[1], yes_no[not self.matches], other),
            _row("Audio-Visual", "Existential", MATCH, yes_no[self.matches]),
            _row("Audio-Visual", "Counting", COUNT, NUMBERS[self.heard[0] != self.heard[1]]),
        ]


def _row(modality: str, kind: str, template: str, answer: str, *values: str) -> dict[str, str]:
    return {
        "type": json.dumps([modality, kind]),
        "question_content": template,
        "templ_values": json.dumps(values),
        "anser": answer,
    }


def plan_block() -> list[Plan]:
    """48 clips: each object with three of each sort: one sound or two, its own among them or not.

    What the yes-or-no question names is chosen so that its answer is the other one than that on the match, and that
    every name has either answer equally often.
    """
    plans = []
    used: Counter[tuple[bool, bool, int]] = Counter()
    for seen in range(len(INSTRUMENTS)):
        for place, heard in enumerate(_heard(seen)):
            # Either question goes with matches and with mismatches, with one sound and with two.
            ask_sound = bool((place // 4 + place % 4 // 2 + seen) % 2)
            there = set(heard) if ask_sound else {seen}
            matches = seen in heard
            wanted = set(range(len(INSTRUMENTS))) - there if matches else there
            named = min(wanted, key=lambda name: (used[ask_sound, matches, name], (name - seen) % len(INSTRUMENTS)))
            used[ask_sound, matches, named] += 1
            plans.append(Plan(seen, heard, ask_sound, named))
    return plans


def _heard(seen: int) -> Iterator[tuple[int, int]]:
    others = [index for index in range(len(INSTRUMENTS)) if index != seen]
    for place, other in enumerate(others):
        yield seen, seen
        yield other, other
        yield (seen, other) if place % 2 else (other, seen)
        yield other, others[place - 1]


def cues(plans: Sequence[Plan]) -> tuple[list[tuple], list[str]]:
    """(picture, sound, question) and answer of every question."""
    rows = [(plan, row) for plan in plans for row in plan.questions()]
    seen = [(plan.seen, plan.heard, row["question_content"] + row["templ_values"]) for plan, row in rows]
    return seen, [row["anser"] for _, row in rows]


class MiniMusicAVQA(InBlocks):
    """MUSIC-AVQA's layout: ``json/avqa-<split>.json`` with its odd keys and ``video/<8 digits>.mp4``.

    Args:
        root: folder to write.
        size: side of the square pictures, even.
        fps: frames per second.
        sample_rate: of the sound.
        common: see ``InBlocks``; a block is 48 clips with 4 questions.
    """

    def __init__(
        self, root: str | Path, *, size: int = 96, fps: int = 4, sample_rate: int = 16000, **common: Any
    ) -> None:
        self.size, self.fps, self.sample_rate = size, fps, sample_rate
        super().__init__(root, media={"size": size, "fps": fps, "sample_rate": sample_rate}, **common)

    def fill(self, folder: Path) -> dict[str, dict[str, float]]:
        """Render, encode, ask."""
        (folder / "json").mkdir()
        (folder / "video").mkdir()
        ceilings, clip = {}, 0
        for number, (split, blocks) in enumerate(self.blocks.items()):
            rng = np.random.default_rng((self.seed, number))
            plans = [plan for _ in range(blocks) for plan in plan_block()]
            rows: list[dict[str, Any]] = []
            for index in rng.permutation(len(plans)):
                clip += 1
                self._render(folder / "video" / f"{clip:08d}.mp4", plans[index], rng)
                for row in plans[index].questions():
                    rows.append({"video_id": f"{clip:08d}", "question_id": len(rows) + 1, **row, "question_deleted": 0})
            (folder / "json" / f"avqa-{split}.json").write_text(json.dumps(rows))
            ceilings[split] = single_modality(plans)
        return ceilings

    def _render(self, path: Path, plan: Plan, rng: np.random.Generator) -> None:
        pictures = np.stack([object_image(rng, plan.seen, self.size) for _ in range(SECONDS)])
        heard = [plan.heard[2 * second // SECONDS] for second in range(SECONDS)]
        sound = np.concatenate([synthesize(rng, index, 1.0, self.sample_rate) for index in heard])
        write_clip(path, pictures, sound, fps=self.fps, sample_rate=self.sample_rate)


def single_modality(plans: Sequence[Plan]) -> dict[str, float]:
    """What the best rule reaches on these questions that has one modality only."""
    known, answers = cues(plans)
    names = ("vision_alone", "audio_alone", "text_alone")
    return {name: ceiling([cue[place] for cue in known], answers) for place, name in enumerate(names)}
