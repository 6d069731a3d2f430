"""MSVD: 1,970 silent clips with many sentences each; questions and retrieval, on two different splits.

Retrieval divides the clips of ``youtube_mapping.txt`` by number into 1,200 / 100 / 670, the questions into 1,200 / 250
/ 520: 150 clips that retrieval tests on are among those that the questions choose the model on.
"""

from collections.abc import Sequence
from pathlib import Path

from datamodules.video_text import VideoQA, VideoRetrieval, held_out
from datamodules.video_text_annotations import (
    Captions,
    Question,
    read_caption_map,
    read_corpus,
    read_ids,
    read_mapping,
    read_question_map,
    read_questions,
    read_raw_captions,
)
from hmmoe.errors import DataBroken

PLACES = {"videos": ("YouTubeClips", "videos", "video"), "frames": ("frames_fps4", "frames"), "suffix": ".avi"}
NAMES = ("train", "val", "test")
LAST = {"train": 1200, "val": 1300, "test": 1970}
"""Number of the last clip of every split of retrieval."""
MEDIA = """
and <root>/YouTubeClips/<id>_<start>_<end>.avi; with data.media=extracted <root>/frames_fps4/<clip>/*.jpg. No clip has
sound."""


def valor_lists(root: Path, task: str, held: int) -> dict[str, list[str]]:
    """Clips of VALOR's ``<split>_id_<task>.json``; without one for val, ``held`` of train's."""
    lists = {name: read_ids(root / f"{name}_id_{task}.json") for name in ("train", "test")}
    if (path := root / f"val_id_{task}.json").exists():
        return lists | {"val": read_ids(path)}
    chosen = held_out(lists["train"], held)
    divided = {name: [c for c in lists["train"] if (c in chosen) == (name == "val")] for name in ("train", "val")}
    return lists | divided


def valor_files(root: Path, task: str) -> list[Path]:
    """The lists, of which that for val may lack."""
    paths = [root / f"{name}_id_{task}.json" for name in NAMES]
    return [path for path in paths if path.exists() or not path.name.startswith("val")]


class MSVDQA(VideoQA):
    """MSVD-QA: 30,933 / 6,415 / 13,157 machine-made questions, answers of one word; arguments as ``VideoQA``."""

    modalities = ("vision", "text")
    places, valor_file = PLACES, "txt_mapper_vqa.json"
    layout = f"""
Expected: <root>/{{train,val,test}}_qa.json and youtube_mapping.txt; or VALOR's <root>/txt_mapper_vqa.json and
{{train,test}}_id_vqa.json;
{MEDIA.strip()}
Get it: questions from github.com/xudejing/video-question-answering; docs/data_video_text.md says where clips are."""

    def published(self) -> dict[str, int]:
        """Questions; how many VALOR's list trains on is not known here."""
        return {"test": 13157} if self.valor else {"train": 30933, "val": 6415, "test": 13157}

    def files(self) -> list[Path]:
        """Annotation files of the layout."""
        if self.valor:
            return [self.root / self.valor_file, *valor_files(self.root, "vqa")]
        return [*(self.root / f"{name}_qa.json" for name in NAMES), self.root / "youtube_mapping.txt"]

    def read(self) -> dict[str, list[Question]]:
        """Questions by split."""
        if self.valor:
            lists = valor_lists(self.root, "vqa", self.held)
            return {name: read_question_map(self.root / self.valor_file, lists[name]) for name in NAMES}
        names = read_mapping(self.root / "youtube_mapping.txt")
        return {name: read_questions(self.root / f"{name}_qa.json", lambda video: names[video]) for name in NAMES}


class MSVDRetrieval(VideoRetrieval):
    """1,200 / 100 / 670 clips; every sentence of a test clip is a query; arguments as ``VideoRetrieval``."""

    modalities = ("vision", "text")
    places, valor_file = PLACES, "txt_mapper.json"
    layout = f"""
Expected: <root>/raw-captions.pkl or the authors' csv (video_corpus.csv), and {{train,val,test}}_list.txt or
youtube_mapping.txt; or VALOR's <root>/txt_mapper.json and {{train,test}}_id_ret_cap.json;
{MEDIA.strip()}
Get it: github.com/ArrowLuo/CLIP4Clip links sentences and lists; docs/data_video_text.md says where clips are."""

    def published(self) -> dict[str, int]:
        """Clips; how many VALOR's list trains on is not known here."""
        return {"test": 670} if self.valor else {"train": 1200, "val": 100, "test": 670}

    def files(self) -> list[Path]:
        """Annotation files of the layout."""
        if self.valor:
            return [self.root / self.valor_file, *valor_files(self.root, "ret_cap")]
        told = _first(self.root, ("raw-captions.pkl", "video_corpus.csv", "MSR Video Description Corpus.csv"))
        lists = [self.root / f"{name}_list.txt" for name in NAMES]
        return [told, *(lists if lists[0].exists() else [self.root / "youtube_mapping.txt"])]

    def read(self) -> dict[str, Captions]:
        """Sentences by split."""
        told, *lists = self.files()
        if self.valor:
            captions, names = read_caption_map(told), valor_lists(self.root, "ret_cap", self.held)
        else:
            captions = read_raw_captions(told) if told.suffix == ".pkl" else read_corpus(told)
            names = (
                self._by_number(lists[0]) if len(lists) == 1 else dict(zip(NAMES, map(read_ids, lists), strict=True))
            )
        for name, own in names.items():
            if lacking := [clip for clip in own if clip not in captions]:
                raise DataBroken(
                    f"{told} has nothing on {lacking[0]} and {len(lacking) - 1} more of {name}: fetch the files again"
                )
        if twice := _twice(names):
            raise DataBroken(f"{lists[0].parent}: {twice} is listed in two splits: fetch the lists again")
        return {name: Captions((clip, captions[clip]) for clip in names[name]) for name in NAMES}

    @staticmethod
    def _by_number(path: Path) -> dict[str, list[str]]:
        clips_by_number = read_mapping(path)
        bounds = dict(zip(NAMES, zip((0, *LAST.values()), LAST.values(), strict=False), strict=True))
        ordered = sorted(clips_by_number)
        return {
            name: [clips_by_number[number] for number in ordered if first < number <= last]
            for name, (first, last) in bounds.items()
        }


def _first(root: Path, names: Sequence[str]) -> Path:
    return next((root / name for name in names if (root / name).exists()), root / names[0])


def _twice(lists: dict[str, list[str]]) -> str | None:
    seen: set[str] = set()
    for own in lists.values():
        if shared := seen.intersection(own):
            return min(shared)
        seen.update(own)
    return None
