"""VQA v2: a question about a COCO picture, answered from the 3,129 usual answers; official layout and score."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from datamodules.answers import check_parts, check_size
from datamodules.base import DataModule, Examples, Split, build
from datamodules.media.cache import Cache, Keep
from datamodules.media.image import Pixels, crop, read_rgb
from datamodules.media.pictures import Pictures
from datamodules.media.text import Text
from datamodules.priors import Priors
from datamodules.sentences import Sentences
from datamodules.vqav2_annotations import (
    ANSWER_TYPES,
    AnswerList,
    Question,
    build_answers,
    read_answers,
    read_questions,
)
from hmmoe.errors import ConfigError
from hmmoe.metrics.vqa import score

PROTOCOLS = {
    "train_val": (Split("train", "train"), Split("val", "validation"), Split("val2014", "test")),
    "trainval": (Split("trainval", "train"), Split("rest_val", "validation")),
}


def picture_path(root: Path, folder: str, image: int) -> Path:
    """COCO's name: twelve digits."""
    return root / folder / f"COCO_{folder}_{image:012d}.jpg"


class VQAExamples(Examples):
    """Questions of one split, with their picture; a picture that several questions share is kept once.

    Args:
        questions: each with the path of its picture.
        answers: the list that targets index.
        pictures: decoder of theirs; None leaves them out.
        text: tokenizer; None leaves the words out.
        keep: of what is decoded, see ``Cache``; crops are made from the files.
        area: share of the picture that a training crop keeps, None for the whole picture.
        flip: mirror half of the pictures in training.
        name: of the split.
    """

    def __init__(
        self,
        questions: Sequence[tuple[Question, Path]],
        answers: AnswerList,
        pictures: Pictures | None,
        text: Text | None,
        keep: Keep,
        *,
        area: tuple[float, float] | None,
        flip: bool,
        name: str,
    ) -> None:
        self.questions, self.answers, self.pictures, self.area, self.flip = questions, answers, pictures, area, flip
        if pictures is not None:
            keys = (str(path.relative_to(pictures.root)) for _, path in questions)
            self.media = Cache(keys, pictures, keep, name=f"pictures of {name}")
        self.sentences = Sentences(text, (question.text for question, _ in questions))

    def __len__(self) -> int:
        return len(self.questions)

    def rows(self) -> list[tuple[int, str]]:
        """Id and most frequent answer."""
        return [(question.number, question.answer) for question, _ in self.questions]

    def sample(self, index: int, rng: np.random.Generator | None) -> dict[str, Any]:
        """id, vision (1, 3, H, W), text {ids (L,), keep (L,)}; with annotations label and score (answers,) and kind.

        Under data.missing=zero also keep {"vision": (1,)}.
        """
        question, path = self.questions[index]
        sample: dict[str, Any] = {"id": str(question.number), **self.sentences.get(question.text)}
        if self.pictures is not None:
            pixels, there = self._picture(self.pictures, path, rng)
            sample |= self.pictures.normalised(pixels[None], there[None])
        if question.references:
            sample["label"] = self._dense(self.answers.targets(question.references))
            sample["score"] = self._dense(self.answers.scores(question.references))
            sample["kind"] = question.kind
        return sample

    def _picture(self, pictures: Pictures, path: Path, rng: np.random.Generator | None) -> tuple[Tensor, Tensor]:
        if rng is not None and self.area is not None and path.exists():
            pixels, there = pictures.pixels.resize(crop(read_rgb(path), rng, self.area)[None])[0], torch.tensor(True)
        else:
            pixels, there = self.media.get(str(path.relative_to(pictures.root)))
        return pixels.flip(-1) if rng is not None and self.flip and rng.random() < 0.5 else pixels, there

    def _dense(self, values: Mapping[int, float]) -> Tensor:
        dense = torch.zeros(len(self.answers.answers))
        for index, value in values.items():
            dense[index] = value
        return dense


class VQAv2(DataModule):
    """VQA v2 in its published layout (see ``DataModule`` for what is not listed here).

    Args:
        protocol: "train_val" trains on train2014 without ``held_out`` pictures (``train``), selects on those (``val``)
            and reports val2014, for which no server is needed; "trainval" is VLMo's: train2014 and val2014
            (``trainval``) without ``held_out`` pictures of val2014 (``rest_val``), and a test set whose answers the
            server keeps.
        held_out: number of pictures held out, spread evenly over the picture numbers. (VLMo takes the last 1,000 of
            an order that was not published.)
        server: the server's set under protocol=trainval.
        answers: how many there are: the size of the head.
        occurrences: an answer is listed from so many questions of train2014 and val2014 on.
        vocabulary: JSON file with another order of the same list, or another list; None builds it.
        parts: name -> answer types that a part of the score averages over (``task.parts``).
        area: range of the share of a picture that a training crop keeps; None trains on whole pictures.
        flip: mirror half of the training pictures; questions may say left and right, so off by default.
        cache: as for every dataset; crops are made from the files.
    """

    splits = PROTOCOLS["train_val"]
    modalities = ("vision", "text")
    layout = """
Expected: <root>/{train2014,val2014,test2015}/COCO_<folder>_<12 digits>.jpg,
<root>/v2_OpenEnded_mscoco_{train2014,val2014,test2015,test-dev2015}_questions.json,
<root>/v2_mscoco_{train2014,val2014}_annotations.json; the test files under data.protocol=trainval only.
Get it: visualqa.org/download.html (questions and annotations, CC BY 4.0; balanced real images: COCO), unzip all."""

    def __init__(
        self,
        root: str | Path,
        *,
        protocol: Literal["train_val", "trainval"] = "train_val",
        held_out: int = 1000,
        server: Literal["test2015", "test-dev2015"] = "test2015",
        answers: int = 3129,
        occurrences: int = 9,
        vocabulary: str | Path | None = None,
        parts: Mapping[str, Sequence[str]] | None = None,
        area: Sequence[float] | None = None,
        flip: bool = False,
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        if protocol not in PROTOCOLS or server not in ("test2015", "test-dev2015"):
            raise ConfigError(
                f"data.protocol={protocol}, data.server={server}: expected train_val or trainval, test2015 or "
                "test-dev2015"
            )
        if area is not None and not (len(area) == 2 and 0 < area[0] <= area[1] <= 1):
            raise ConfigError(f"data.area={list(area)}: expected two shares in 0..1, the smaller one first, or null")
        self.splits = PROTOCOLS[protocol] + ((Split(server, "test"),) if protocol == "trainval" else ())
        self.protocol, self.held_out, self.server = protocol, held_out, server
        self.size, self.occurrences = answers, occurrences
        self.vocabulary = None if vocabulary is None else Path(vocabulary)
        self.parts = check_parts(parts, ANSWER_TYPES)
        self.area, self.flip = None if area is None else (area[0], area[1]), flip
        self._files: dict[str, list[Question]] = {}
        self._answers: AnswerList | None = None

    def absent(self) -> list[Path]:
        """JSON files and picture folders of this protocol."""
        names = [split.name for split in self.splits]
        wanted = [self.root / _images(folder) for name in names for folder in self._folders(name)]
        wanted += [path for name in names for path in self.annotations(name)]
        if self.vocabulary is not None:
            wanted.append(self.vocabulary)
        return [path for path in dict.fromkeys(wanted) if not path.exists()]

    def annotations(self, split: str) -> list[Path]:
        """The question files of a split, and those with answers."""
        folders = self._folders(split)
        asked = [self.root / f"v2_OpenEnded_mscoco_{folder}_questions.json" for folder in folders]
        return asked + [p for folder in folders if (p := self._answered(folder)) is not None]

    def load(self, split: str) -> VQAExamples:
        """One split; ``train`` and ``val`` (``trainval`` and ``rest_val``) share a folder and never a picture."""
        whole = [(question, path) for folder in self._folders(split) for question, path in self._read(folder)]
        whole = self._divide(split, whole)
        here = {p for folder in self._folders(split) for p in (self.root / _images(folder)).iterdir()}
        kept = self.accept(split, whole, lambda pair: None if pair[1] in here else pair[1])
        training = split in self._names("train")
        area = self.area if training else None
        pixels = build(Pixels, self.inputs, "vision")
        return VQAExamples(
            kept,
            self.answers(),
            pixels and Pictures(self.root, pixels, fills=self.fills),
            self.text(),
            self.keep._replace(mode="none") if area else self.keep,
            area=area,
            flip=self.flip,
            name=split,
        )

    def published(self) -> dict[str, int]:
        """Questions."""
        train, val, test = 443757, 214354, {"test2015": 447793, "test-dev2015": 107394}
        if self.protocol == "train_val":
            return {"train+val": train, "val2014": val}
        return {"trainval+rest_val": train + val, self.server: test[self.server]}

    def answers(self) -> AnswerList:
        """The list of answers, read or built at first use."""
        if self._answers is None:
            if self.vocabulary is not None:
                found, source = read_answers(self.vocabulary), str(self.vocabulary)
            else:
                both = (question for folder in ("train2014", "val2014") for question, _ in self._read(folder))
                found = build_answers(both, self.occurrences)
                source = f"train2014 and val2014 with data.occurrences={self.occurrences}"
            check_size(found, self.size, source)
            self._answers = AnswerList(found)
        return self._answers

    def references(self) -> dict[str, dict[str, float]]:
        """Train's most frequent answer; that of each question type; the best that the list allows."""
        (name,) = self._names("train")
        train = [question for question, _ in self.examples(name).questions]
        priors = Priors(train, {"question_type": lambda question: question.form})
        lines = {}
        for split in dict.fromkeys(self.val_splits + self.test_splits):
            asked = [question for question, _ in self.examples(split).questions if question.references]
            if asked:
                best = [max(self.answers().scores(q.references).values(), default=0.0) for q in asked]
                scores = {
                    cue: [score(guess, q.references) for guess, q in zip(guesses, asked, strict=True)]
                    for cue, guesses in priors.guesses(asked).items()
                }
                lines[split] = {
                    **{cue: float(np.mean(own)) for cue, own in scores.items()},
                    "answer_list": float(np.mean(best)),
                    **self.ceilings(split),
                }
        return lines

    def submission(self, split: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """What the official evaluator and the server read: question_id and answer."""
        words = self.answers().answers
        content = [{"question_id": int(row["id"]), "answer": words[row["prediction"]]} for row in rows]
        name = "submission.json" if split == self.server else f"{split}_submission.json"
        return {name: json.dumps(content)}

    def _folders(self, split: str) -> tuple[str, ...]:
        named = {"train": ("train2014",), "val": ("train2014",), "trainval": ("train2014", "val2014")}
        return named.get(split, ("val2014",) if split == "rest_val" else (split,))

    def _answered(self, folder: str) -> Path | None:
        return None if folder.startswith("test") else self.root / f"v2_mscoco_{folder}_annotations.json"

    def _read(self, folder: str) -> list[tuple[Question, Path]]:
        if folder not in self._files:
            asked = self.root / f"v2_OpenEnded_mscoco_{folder}_questions.json"
            self._files[folder] = read_questions(asked, self._answered(folder))
        return [(q, picture_path(self.root, _images(folder), q.image)) for q in self._files[folder]]

    def _divide(self, split: str, questions: list[tuple[Question, Path]]) -> list[tuple[Question, Path]]:
        held_from = "train2014" if self.protocol == "train_val" else "val2014"
        if split == "val2014" or split == self.server:
            return questions
        pictures = sorted({path for _, path in questions if path.parent.name == held_from})
        if not 0 < self.held_out < len(pictures):
            raise ConfigError(
                f"data.held_out={self.held_out}: expected 1 to {len(pictures) - 1} of the {len(pictures)} pictures of "
                f"{held_from}"
            )
        held = {pictures[i * len(pictures) // self.held_out] for i in range(self.held_out)}
        return [pair for pair in questions if (pair[1] in held) == (split in self._names("validation"))]


def _images(folder: str) -> str:
    """test-dev2015 is a part of test2015 and has no pictures of its own."""
    return "test2015" if folder == "test-dev2015" else folder
