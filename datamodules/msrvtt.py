"""MSR-VTT: ten thousand short clips with sound; questions, and retrieval on the split 1k-A."""

from pathlib import Path
from typing import Any

from datamodules.video_text import VideoQA, VideoRetrieval, held_out
from datamodules.video_text_annotations import (
    Captions,
    Question,
    read_caption_map,
    read_ids,
    read_msrvtt,
    read_question_map,
    read_questions,
    read_test_list,
)
from hmmoe.errors import DataBroken

PLACES = {
    "videos": ("videos/all", "videos", "video"),
    "frames": ("frames_fps4", "frames"),
    "sounds": ("audio_22050hz", "audio"),
    "mute": True,  # some clips have no sound track
}
MEDIA = """
and <root>/videos/video0.mp4 .. video9999.mp4 (or videos/all/); with data.media=extracted <root>/frames_fps4/<id>/*.jpg
and, where a clip has a sound track, <root>/audio_22050hz/<id>.wav."""


def clip_name(video: Any) -> str:
    """6513 or "video6513" to the latter."""
    return f"video{int(str(video).removeprefix('video'))}"


class MSRVTTQA(VideoQA):
    """MSRVTT-QA: 158,581 / 12,278 / 72,821 machine-made questions on the full split; arguments as ``VideoQA``.

    VALOR's layout has no questions to choose the model on: ``held_out`` clips of its training list serve for that.
    """

    modalities = ("vision", "audio", "text")
    places, valor_file = PLACES, "txt_mapper_vqa.json"
    layout = f"""
Expected: <root>/{{train,val,test}}_qa.json; or VALOR's <root>/txt_mapper_vqa.json and
standardsplit_{{train,test}}_id.json;
{MEDIA.strip()}
Get it: questions from github.com/xudejing/video-question-answering; docs/data_video_text.md says where clips are."""

    def published(self) -> dict[str, int]:
        """Questions; how many VALOR's list trains on is not known here."""
        return {"test": 72821} if self.valor else {"train": 158581, "val": 12278, "test": 72821}

    def files(self) -> list[Path]:
        """JSON files of the layout."""
        if self.valor:
            names = (self.valor_file, "standardsplit_train_id.json", "standardsplit_test_id.json")
            return [self.root / name for name in names]
        return [self.root / f"{split.name}_qa.json" for split in self.splits]

    def read(self) -> dict[str, list[Question]]:
        """Questions by split."""
        if not self.valor:
            names = (split.name for split in self.splits)
            return {name: read_questions(self.root / f"{name}_qa.json", clip_name) for name in names}
        questions, train, test = self.files()
        trained = read_ids(train)
        held = held_out(trained, self.held)
        parts = {
            "train": [c for c in trained if c not in held],
            "val": [c for c in trained if c in held],
            "test": read_ids(test),
        }
        return {name: read_question_map(questions, own) for name, own in parts.items()}


class MSRVTTRetrieval(VideoRetrieval):
    """1k-A: 1,000 test clips with a sentence each, 9,000 others with 20 each; arguments as ``VideoRetrieval``.

    1k-A has no clips to choose the model on: ``held_out`` of the 9,000 serve for that, with their first sentence each,
    as the test has one.
    """

    modalities = ("vision", "audio", "text")
    places, valor_file = PLACES, "txt_mapper_1kAsplit_test.json"
    layout = f"""
Expected: <root>/MSRVTT_JSFUSION_test.csv, and <root>/MSRVTT_data.json or {{train_val,test}}_videodatainfo.json; or
VALOR's <root>/txt_mapper.json, txt_mapper_1kAsplit_test.json and 1KAsplit_{{train,test}}_id.json;
{MEDIA.strip()}
Get it: github.com/ArrowLuo/CLIP4Clip links csv and json; docs/data_video_text.md says where clips are."""

    def published(self) -> dict[str, int]:
        """Clips."""
        return {"train+val": 9000, "test": 1000}

    def files(self) -> list[Path]:
        """JSON and csv files of the layout."""
        if self.valor:
            ids = [self.root / f"1KAsplit_{name}_id.json" for name in ("train", "test")]
            return [self.root / "txt_mapper.json", self.root / self.valor_file, *ids]
        parts = [self.root / f"{part}_videodatainfo.json" for part in ("train_val", "test")]
        whole = [self.root / "MSRVTT_data.json"]
        return [
            *(parts if parts[0].exists() and not whole[0].exists() else whole),
            self.root / "MSRVTT_JSFUSION_test.csv",
        ]

    def read(self) -> dict[str, Captions]:
        """Sentences by split."""
        *told, last = self.files()
        if self.valor:
            told, last = self.files()[:2], self.files()[2]
            every, test = read_caption_map(told[0]), read_caption_map(told[1])
            named = read_ids(self.files()[3])
            test, trained = self._pick(test, named, told[1]), self._pick(every, read_ids(last), told[0])
        else:
            every = Captions((clip, own) for path in told for clip, own in read_msrvtt(path).items())
            test = read_test_list(last)
            self._pick(every, list(test), told[0])
            trained = Captions((clip, own) for clip, own in every.items() if clip not in test)
        if shared := sorted(trained.keys() & test.keys()):
            raise DataBroken(f"{last}: {shared[0]} is listed for training and for the test: fetch the files again")
        held = held_out(list(trained), self.held)
        return {
            "train": Captions((clip, own) for clip, own in trained.items() if clip not in held),
            "val": Captions((clip, own[:1]) for clip, own in trained.items() if clip in held),
            "test": test,
        }

    @staticmethod
    def _pick(captions: Captions, names: list[str], path: Path) -> Captions:
        if lacking := [name for name in names if name not in captions]:
            raise DataBroken(f"{path} has nothing on {lacking[0]} and {len(lacking) - 1} more: fetch the files again")
        return Captions((name, captions[name]) for name in names)
