"""Questions and sentences about clips as MSR-VTT and MSVD come: the authors' files, and those of VALOR.

Sources: Xu et al., "MSR-VTT", CVPR 2016; Chen and Dolan, "Collecting Highly Parallel Data for Paraphrase Evaluation",
ACL 2011 (MSVD); Xu et al., "Video Question Answering via Gradually Refined Attention over Appearance and Motion", ACM
MM 2017 (questions of both); TXH-mercury/VALOR, ``datasets``; ArrowLuo/CLIP4Clip (1k-A and MSVD's lists). Machine-made
answers ("actres", "coversation") are kept as they are: the lists of answers contain them.
"""

import csv
import io
import json
import pickle
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from datamodules.lines import read_text
from hmmoe.errors import DataBroken

FETCH = "mend it or fetch the file again"
SOURCES = ("clean", "unverified")
"""Of MSVD's descriptions, those that the field uses."""
FORMS = ("what", "who", "how", "when", "where")
"""Question words of the published tables; ``kind`` is "other" where a question starts differently."""


class Question(NamedTuple):
    """One question on a clip."""

    name: str
    clip: str
    text: str
    answer: str

    @property
    def kind(self) -> str:
        """The question word."""
        first = self.text.split(maxsplit=1)[0].lower()
        return first if first in FORMS else "other"


class Captions(dict[str, list[str]]):
    """Sentences by clip, in the order of the file."""


def broken(path: Path, place: object, expected: str, found: object) -> NoReturn:
    """The one message for a bad row."""
    raise DataBroken(f"{path}, {place}: expected {expected}, found {str(found)[:200]}: {FETCH}")


def read_json(path: Path, kind: type, what: str) -> Any:
    """A JSON file whose outermost value is a list or an object.

    Raises:
        DataBroken: no JSON, or the other one.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as fault:
        raise DataBroken(f"{path}: expected JSON ({fault}): fetch the file again") from fault
    if not isinstance(content, kind):
        raise DataBroken(f"{path}: expected {what}, found a {type(content).__name__}: fetch the file again")
    return content


def filled(*values: Any) -> bool:
    """Whether all are strings with something in them."""
    return all(isinstance(value, str) and value.strip() for value in values)


def read_questions(path: Path, name_of: Callable[[Any], str]) -> list[Question]:
    """The authors' ``<split>_qa.json``: a list of {id, video_id, question, answer}.

    Args:
        path: file.
        name_of: the clip of a row's ``video_id``; KeyError, TypeError or ValueError where there is none.

    Raises:
        DataBroken: names file, row (counted from 0) and remedy.
    """
    questions, seen = [], set()
    for place, row in enumerate(read_json(path, list, "a list of questions")):
        try:
            question = Question(str(row["id"]), name_of(row["video_id"]), row["question"], row["answer"])
        except (KeyError, TypeError, ValueError):
            broken(path, f"row {place}", "id, the video_id of a clip, question and answer", row)
        if not filled(question.text, question.answer):
            broken(path, f"row {place}", "a question and an answer in words", row)
        if question.name in seen:
            broken(path, f"row {place}", "an id that no other row has", row)
        seen.add(question.name)
        questions.append(question)
    return questions


def read_question_map(path: Path, clips: Sequence[str]) -> list[Question]:
    """VALOR's ``txt_mapper_vqa.json``, clip -> [{question, answer}]; of ``clips`` those that have questions."""
    content, questions = read_json(path, dict, "an object from clip to questions"), []
    for clip in clips:
        rows = content.get(clip, [])
        if not isinstance(rows, list):
            broken(path, clip, "a list of questions", rows)
        for place, row in enumerate(rows):
            if not isinstance(row, dict) or not filled(row.get("question"), row.get("answer")):
                broken(path, f"{clip}[{place}]", "a question and an answer in words", row)
            questions.append(Question(f"{clip}#{place}", clip, row["question"], row["answer"]))
    return questions


def read_ids(path: Path) -> list[str]:
    """A JSON list of clips, or a text file with one in each line.

    Raises:
        DataBroken: something else, or a clip twice.
    """
    names = read_json(path, list, "a list of clips") if path.suffix == ".json" else read_text(path).split()
    seen = set()
    for place, name in enumerate(names):
        if not filled(name) or name in seen:
            broken(path, f"entry {place}", "the name of a clip that is not listed before", name)
        seen.add(name)
    return names


def read_caption_map(path: Path) -> Captions:
    """VALOR's ``txt_mapper*.json``: clip -> one sentence or a list of them."""
    captions = Captions()
    for clip, given in read_json(path, dict, "an object from clip to sentences").items():
        captions[clip] = [given] if isinstance(given, str) else given
        if not isinstance(given, str | list) or not given or not filled(*captions[clip]):
            broken(path, clip, "a sentence, or a list of them", given)
    return captions


def read_msrvtt(path: Path) -> Captions:
    """MSR-VTT's ``*datainfo.json`` or the merged ``MSRVTT_data.json``: clips of ``videos`` with their ``sentences``."""
    content = read_json(path, dict, "an object with videos and sentences")
    captions = Captions()
    for place, row in _listed(path, content, "videos"):
        if not isinstance(row, dict) or not filled(row.get("video_id")) or row["video_id"] in captions:
            broken(path, f"videos[{place}]", "a video_id that no other one has", row)
        captions[row["video_id"]] = []
    for place, row in _listed(path, content, "sentences"):
        if not isinstance(row, dict) or row.get("video_id") not in captions or not filled(row.get("caption")):
            broken(path, f"sentences[{place}]", "a caption and the video_id of one of videos", row)
        captions[row["video_id"]].append(row["caption"])
    return captions


def _listed(path: Path, content: dict[str, Any], key: str) -> Iterator[tuple[int, Any]]:
    if not isinstance(content.get(key), list):
        broken(path, key, "a list", content.get(key))
    return enumerate(content[key])


def _rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[int, dict[str, str]]]:
    """Line number and columns of a csv file with a header."""
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if lacking := set(columns) - set(reader.fieldnames or ()):
        broken(path, "line 1", f"a header with {', '.join(sorted(lacking))}", reader.fieldnames)
    for row in reader:
        if any(row[column] is None for column in columns):
            broken(path, f"line {reader.line_num}", f"{', '.join(columns)}", row)
        yield reader.line_num, row


def read_test_list(path: Path) -> Captions:
    """``MSRVTT_JSFUSION_test.csv`` of 1k-A: key, vid_key, video_id, sentence; a clip and its only sentence."""
    captions = Captions()
    for line, row in _rows(path, ("video_id", "sentence")):
        if not filled(row["video_id"], row["sentence"]) or row["video_id"] in captions:
            broken(path, f"line {line}", "a sentence and a video_id that is not listed before", row)
        captions[row["video_id"]] = [row["sentence"]]
    return captions


def read_corpus(path: Path) -> Captions:
    """MSVD's csv: English descriptions whose source is clean or unverified, by <VideoID>_<Start>_<End>."""
    captions = Captions()
    for line, row in _rows(path, ("VideoID", "Start", "End", "Source", "Language", "Description")):
        if row["Language"] != "English" or row["Source"] not in SOURCES:
            continue
        if not filled(row["VideoID"]) or not (row["Start"].isdecimal() and row["End"].isdecimal()):
            broken(path, f"line {line}", "VideoID and whole seconds Start and End", row)
        if filled(row["Description"]):  # a few were left empty
            captions.setdefault(f"{row['VideoID']}_{row['Start']}_{row['End']}", []).append(row["Description"].strip())
    return captions


class _Plain(pickle.Unpickler):
    """Reads lists, dicts and strings; a file that names any class or function is refused."""

    def find_class(self, module: str, name: str) -> NoReturn:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")


def read_raw_captions(path: Path) -> Captions:
    """``raw-captions.pkl`` of MSVD: clip -> lists of words. Nothing but plain values is unpickled."""
    try:
        with path.open("rb") as file:
            content = _Plain(file, encoding="utf-8").load()
    except (pickle.UnpicklingError, EOFError, UnicodeDecodeError, AttributeError, IndexError) as fault:
        raise DataBroken(f"{path}: expected a pickle of plain lists ({fault}): fetch the file again") from fault
    captions = Captions()
    for clip, lists in content.items() if isinstance(content, dict) else [("", content)]:
        if not filled(clip) or not isinstance(lists, list) or not all(isinstance(words, list) for words in lists):
            broken(path, clip or "the whole", "lists of words by clip", lists)
        captions[clip] = [" ".join(words) for words in lists]
    return captions


def read_mapping(path: Path) -> dict[int, str]:
    """``youtube_mapping.txt``: "<clip> vid<number>" in every line; number -> clip."""
    names: dict[int, str] = {}
    for place, line in enumerate(read_text(path).splitlines(), start=1):
        clip, _, number = line.strip().rpartition(" ")
        digits = number.removeprefix("vid")
        if not line.strip():
            continue
        if not clip or not digits.isdecimal() or int(digits) in names:
            broken(path, f"line {place}", '"<clip> vid<number>" with a number of its own', line)
        names[int(digits)] = clip.strip()
    return names
