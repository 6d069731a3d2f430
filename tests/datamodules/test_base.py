"""What all datamodules share: refusals, manifest, loaders, miniature only where it belongs."""

import shutil
from pathlib import Path

import pytest
import torch

from datamodules.ave import AVE
from datamodules.nlvr import NLVR
from hmmoe.errors import ConfigError, DataMissing
from tests.datamodules.conftest import AUDIO, VISION


class Copy:
    """A miniature that copies a folder and counts how often."""

    def __init__(self, root: Path, source: Path) -> None:
        self.root, self.source, self.calls = root, source, 0

    def write(self) -> None:
        self.calls += 1
        shutil.copytree(self.source, self.root, dirs_exist_ok=True)


def test_a_missing_dataset_says_what_where_and_what_runs_without(tmp_path: Path):
    data = AVE(tmp_path / "AVE", inputs={"vision": VISION}, batch_size=2)
    with pytest.raises(DataMissing) as caught:
        data.prepare_data()
    for part in ("data.root=", "trainSet.txt", "Annotations.txt", "AVE-ECCV18", "<11-character id>.mp4", "scale=mini"):
        assert part in str(caught.value)
    with pytest.raises(DataMissing, match=r"hidden\.json[\s\S]*lil-lab/nlvr[\s\S]*scale=mini"):
        NLVR(tmp_path / "nlvr", inputs={"vision": VISION}, batch_size=2).setup("fit")


def test_the_miniature_is_written_only_at_its_own_root(tmp_path: Path, ave_root: Path, monkeypatch: pytest.MonkeyPatch):
    miniature = Copy(tmp_path / "mini", ave_root)
    misspelled = AVE(tmp_path / "rael", inputs={"vision": VISION}, batch_size=1, miniature=miniature)
    with pytest.raises(DataMissing, match="rael"):
        misspelled.prepare_data()
    AVE(ave_root, inputs={"vision": VISION}, batch_size=1, miniature=miniature).prepare_data()
    assert miniature.calls == 0
    monkeypatch.chdir(tmp_path)
    AVE("./mini", inputs={"vision": VISION}, batch_size=1, miniature=miniature).prepare_data()
    assert miniature.calls == 1


def test_a_modality_that_the_dataset_lacks_is_refused():
    with pytest.raises(ConfigError, match=r"AVE has vision, audio; the backbone also wants text: choose another"):
        AVE("anywhere", inputs={"vision": VISION, "text": {}}, batch_size=1)


def test_an_unknown_split_is_named(ave_root: Path):
    with pytest.raises(ConfigError, match=r"AVE has no split 'tset': expected one of train, val, test"):
        AVE(ave_root, inputs={"vision": VISION}, batch_size=1).examples("tset")


def test_a_wrong_key_in_inputs_is_named(ave_root: Path):
    data = AVE(ave_root, inputs={"audio": {**AUDIO, "bins": 3}}, batch_size=1)
    with pytest.raises(ConfigError, match=r"backbone\.inputs\.audio: .*'bins'"):
        data.examples("train")


def test_the_manifest_follows_labels_and_files(tmp_path: Path, ave_root: Path):
    shutil.copytree(ave_root, tmp_path / "copy")
    same = AVE(tmp_path / "copy", inputs={"vision": VISION}, batch_size=1).manifest()
    original = AVE(ave_root, inputs={"vision": VISION}, batch_size=1).manifest()
    assert original["splits"] == same["splits"]
    assert {name: split["count"] for name, split in original["splits"].items()} == {"train": 2, "val": 1, "test": 1}
    for name in ("Annotations.txt", "trainSet.txt"):
        path = tmp_path / "copy" / name
        path.write_text(path.read_text().replace("good&2&5", "good&2&6"))
    changed = AVE(tmp_path / "copy", inputs={"vision": VISION}, batch_size=1).manifest()
    assert changed["splits"]["train"]["sha256"] != original["splits"]["train"]["sha256"]


def test_worker_processes_deliver_the_same_batches(nlvr_root: Path, tokenizer: str):
    inputs = {"vision": VISION, "text": {"tokenizer": tokenizer, "length": 8}}

    def batches(workers: int) -> list[dict]:
        data = NLVR(nlvr_root, inputs=inputs, batch_size=4, num_workers=workers, val_directories=2, seed=5)
        loader = data.train_dataloader()
        drawn = []
        for epoch in range(2):
            loader.sampler.set_epoch(epoch)
            drawn += list(loader)
        return drawn

    for here, there in zip(batches(0), batches(1), strict=True):
        assert here["id"] == there["id"]
        assert torch.equal(here["vision"], there["vision"])
        assert torch.equal(here["text"]["ids"], there["text"]["ids"])


def test_loading_leaves_the_global_random_state_alone(nlvr_root: Path):
    data = NLVR(nlvr_root, inputs={"vision": VISION}, batch_size=4, val_directories=2)
    before = torch.get_rng_state()
    list(data.train_dataloader())
    list(data.val_dataloader()[0])
    assert torch.equal(torch.get_rng_state(), before)
