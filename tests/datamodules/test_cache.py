"""Decoded media in memory and on disk: equal to the files, never of other settings, never older than its files."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from datamodules.ave import AVE
from datamodules.avs import AVSBench
from datamodules.base import DataModule
from datamodules.media.cache import Cache, Field, Keep
from datamodules.media.disk import MANIFEST, Shelf
from datamodules.msrvtt import MSRVTTQA, MSRVTTRetrieval
from datamodules.msvd import MSVDQA, MSVDRetrieval
from datamodules.music_avqa import MusicAVQA
from datamodules.nlvr import NLVR
from datamodules.nlvr2 import NLVR2
from datamodules.prepare import make
from datamodules.sampling import Draw
from datamodules.vqav2 import VQAv2
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.datamodules import test_avs, test_nlvr2, test_video_text, test_vqav2
from tests.datamodules.conftest import AUDIO, VISION, clip, write_nlvr
from tests.datamodules.test_music_avqa import ROWS

BOTH = {"vision": VISION, "audio": AUDIO}


class Letters:
    """Decodes text files to the codes of their first two letters, and counts how often."""

    fields = (Field((2,), torch.uint8), Field((), torch.bool))

    def __init__(self, folder: Path, shift: int = 0) -> None:
        self.folder, self.shift, self.calls = folder, shift, 0

    def recipe(self) -> dict[str, Any]:
        return {"reader": "letters", "shift": self.shift}

    def sources(self, key: str) -> list[Path]:
        return [self.folder / key]

    def decode(self, key: str) -> tuple[torch.Tensor, ...]:
        self.calls += 1
        text = self.sources(key)[0].read_text()
        if len(text) < 2:
            raise DataBroken(f"{key} is cut off")
        return torch.tensor([ord(letter) + self.shift for letter in text[:2]], dtype=torch.uint8), torch.tensor(True)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    (tmp_path / "words").mkdir()
    for word in ("ab", "cd", "ef"):
        (tmp_path / "words" / word).write_text(word)
    return tmp_path / "words"


def kept(words: Path, mode: str = "disk", **settings) -> Cache:
    keep = Keep(mode, 1.0, words.parent / "decoded")
    return Cache(["ab", "cd", "ef", "ab"], Letters(words, **settings), keep, name="words")


def test_every_mode_gives_the_same(words: Path):
    on_disk, in_memory, plain = kept(words), kept(words, "memory"), kept(words, "none")
    assert [made.key for made in make(on_disk, workers=0)] == ["ab", "cd", "ef"]
    for key in plain.keys:
        for cache in (on_disk, in_memory, in_memory):
            for ours, theirs in zip(cache.get(key), plain.get(key), strict=True):
                assert ours.dtype == theirs.dtype and torch.equal(ours, theirs)
    assert in_memory.decoder.calls == 3 and plain.decoder.calls == 9 and on_disk.decoder.calls == 3


def test_memory_has_a_limit(words: Path):
    with pytest.raises(ConfigError, match=r"would keep 0\.0 GB of words, over data\.cache_gb=1e-09.*data\.cache=disk"):
        Cache(["ab"], Letters(words), Keep("memory", 1e-9), name="words")
    with pytest.raises(ConfigError, match=r"data\.cache=shelf: expected memory, disk or none"):
        Keep("shelf").check()


def test_a_run_without_a_prepared_cache_is_refused(words: Path):
    with pytest.raises(DataMissing, match=r"decoded holds no words as wanted\. To make it, run `python -m datamodules"):
        kept(words).check()
    with pytest.raises(DataBroken, match=r"has no entry ab"):
        kept(words).get("ab")


def test_a_cache_of_other_settings_is_never_read(words: Path):
    list(make(kept(words), workers=0))
    with pytest.raises(DataMissing, match=r"made with other settings: shift was 0, is 1"):
        kept(words, shift=1).check()
    list(make(kept(words, shift=1), workers=0))
    assert kept(words, shift=1).get("ab")[0].tolist() == [98, 99]
    assert kept(words).get("ab")[0].tolist() == [97, 98]


def test_a_kill_loses_what_was_in_work_and_nothing_else(words: Path):
    begun = make(kept(words), workers=0)
    next(begun), next(begun)
    manifest = kept(words).shelf.folder / MANIFEST
    with manifest.open("a") as file:
        file.write('{"key": "ef", "by')
    cache = kept(words)
    with pytest.raises(DataMissing, match=r"holds 2 of 3 entries of words, not ef; to go on where it stopped"):
        cache.check()
    assert [made.key for made in make(cache, workers=0)] == ["ef"]
    assert cache.decoder.calls == 1
    kept(words).check()


def test_a_source_that_changed_is_noticed_and_made_anew(words: Path):
    list(make(kept(words), workers=0))
    (words / "cd").write_text("xyz")
    with pytest.raises(DataMissing, match=r"1 of 3 entries of words are older than their files, such as cd \(.*cd\)"):
        kept(words).check()
    assert [made.key for made in make(kept(words), workers=0)] == ["cd"]
    assert kept(words).get("cd")[0].tolist() == [120, 121]
    os.utime(words / "ab", ns=(1, 1))
    assert kept(words).wanting() == ([], ["ab"])


def test_a_damaged_entry_is_named_and_made_anew(words: Path):
    cache = kept(words)
    list(make(cache, workers=0))
    path = cache.shelf.path("ab")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    fresh = kept(words)
    fresh.check()  # reads no content
    with pytest.raises(DataBroken, match=rf"{path.name} \(ab\) has another checksum .*prepare` again with --check"):
        fresh.get("ab")
    assert [made.key for made in make(kept(words), workers=0, check=True)] == ["ab"]
    assert kept(words).get("ab")[0].tolist() == [97, 98]
    path.unlink()
    with pytest.raises(DataBroken, match=r"\(ab\) is gone"):
        kept(words).get("ab")


def test_a_file_that_cannot_be_decoded_is_reported_and_the_others_are_made(words: Path):
    (words / "cd").write_text("c")
    made = {one.key: one.fault for one in make(kept(words), workers=0)}
    assert made == {"ab": "", "cd": "cd is cut off", "ef": ""}
    assert kept(words).wanting() == (["cd"], [])


def test_a_broken_manifest_is_named(words: Path):
    cache = kept(words)
    list(make(cache, workers=0))
    manifest = cache.shelf.folder / MANIFEST
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([lines[0], "{}", *lines[2:]]) + "\n")
    with pytest.raises(DataBroken, match=r"manifest\.jsonl, line 2 is no entry .*: delete"):
        kept(words).check()


def test_two_workers_make_what_one_process_makes(words: Path):
    list(make(kept(words), workers=2))
    kept(words).check()
    assert kept(words).get("ef")[0].tolist() == [101, 102]


def test_the_recipe_decides_the_folder_not_its_order(tmp_path: Path):
    assert Shelf(tmp_path, {"a": 1, "b": 2}).folder == Shelf(tmp_path, {"b": 2, "a": 1}).folder
    assert Shelf(tmp_path, {"a": 1}).folder != Shelf(tmp_path, {"a": 2}).folder


def music_root(root: Path) -> Path:
    (root / "json").mkdir(parents=True)
    (root / "video").mkdir()
    for split, rows in ROWS.items():
        (root / "json" / f"avqa-{split}.json").write_text(json.dumps(rows))
    for name in ("00000001", "va00000002", "00000003"):
        clip(root / "video" / f"{name}.mp4", seconds=3, sound=name != "00000003")
    return root


CLIPS = {"frames": 2, "test_frames": 4, "flip": True}
SILENT = CLIPS | {"inputs": {"vision": VISION}}
DATASETS: dict[str, tuple[Callable[[Path], Path], Callable[..., DataModule], dict[str, Any]]] = {
    "avs_s4": (lambda root: test_avs.write(root, "s4", "old"), AVSBench, {"subset": "s4", "mask_size": 8}),
    "msrvtt_qa": (test_video_text.write_msrvtt, MSRVTTQA, CLIPS | {"answers": 2}),
    "msrvtt_retrieval": (test_video_text.write_msrvtt, MSRVTTRetrieval, CLIPS | {"held_out": 1}),
    "msvd_qa": (test_video_text.write_msvd, MSVDQA, SILENT | {"answers": 1}),
    "msvd_retrieval": (test_video_text.write_msvd, MSVDRetrieval, SILENT),
    "music_avqa": (music_root, MusicAVQA, {"segments": 2, "every": 2.0, "answers": 3}),
    "nlvr": (write_nlvr, NLVR, {"val_directories": 2, "inputs": {"vision": VISION}}),
    "nlvr2": (test_nlvr2.write_nlvr2, NLVR2, {"val_directories": 1, "inputs": {"vision": VISION}}),
    "vqav2": (
        test_vqav2.write_vqa,
        VQAv2,
        {"held_out": 2, "answers": 3, "occurrences": 3, "inputs": {"vision": VISION}},
    ),
}


def same(one: Any, other: Any) -> bool:
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and torch.equal(one, other)
    return one == other


@pytest.mark.parametrize("name", DATASETS)
def test_a_dataset_gives_equal_batches_from_files_and_from_disk(name: str, tmp_path: Path):
    write, kind, settings = DATASETS[name]
    root = write(tmp_path / name)

    def data(cache: str) -> DataModule:
        return kind(root, **{"inputs": BOTH, "batch_size": 2, "cache": cache} | settings)

    prepared, plain = data("disk"), data("none")
    with pytest.raises(DataMissing, match=r"datamodules\.prepare"):
        prepared.prepare_data()
    for split in {split.name for split in prepared.splits}:
        assert not [made.fault for made in make(prepared.examples(split).media, workers=0) if made.fault]
    fresh = data("disk")
    fresh.prepare_data()
    for split in {split.name for split in prepared.splits}:
        examples, raw = fresh.examples(split), plain.examples(split)
        for entropy in (None, (0, 1)):
            draws = [Draw(index, entropy) for index in range(len(raw))]
            assert same(examples[draws], raw[draws])


def test_ave_reads_from_disk_what_it_reads_from_video(ave_root: Path, tmp_path: Path):
    root = tmp_path / "AVE"
    shutil.copytree(ave_root, root)
    data = AVE(root, inputs=BOTH, batch_size=2, cache="disk", cache_dir=tmp_path / "elsewhere", flip=True)
    for split in ("train", "val", "test"):
        list(make(data.examples(split).media, workers=0))
    plain = AVE(ave_root, inputs=BOTH, batch_size=2, flip=True)
    draws = [Draw(0, (3, 1)), Draw(1, None)]
    assert same(data.examples("train")[draws], plain.examples("train")[draws])
    assert not (root / "decoded").exists()
    with pytest.raises(DataMissing, match=r"other settings: vision\.size was \[16, 16\], is \[24, 24\]"):
        AVE(
            root,
            inputs={"vision": VISION | {"size": 24}, "audio": AUDIO},
            batch_size=2,
            cache="disk",
            cache_dir=tmp_path / "elsewhere",
        ).prepare_data()
