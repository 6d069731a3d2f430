"""The two commands: decode once, go on after a kill, say what is there and what is not."""

import io
import shutil
from pathlib import Path

import pytest
import torch
from rich.console import Console

import conf
from datamodules.ave import AVE
from datamodules.mini.base import STAMP
from datamodules.prepare import main as prepare_main
from datamodules.prepare import prepare
from datamodules.sampling import Draw
from datamodules.verify import main as verify_main
from datamodules.verify import report, verify
from hmmoe.errors import ConfigError, DataMissing
from hmmoe.runtime.compose import datamodule
from tests.datamodules.conftest import AUDIO, VISION

WORDS = ("scale=mini", "backbone.inputs.vision.size=16")
PUBLISHED = {"train": 2, "val": 1, "test": 1}


@pytest.fixture
def root(ave_root: Path, tmp_path: Path) -> Path:
    shutil.copytree(ave_root, tmp_path / "AVE_Dataset")
    return tmp_path / "AVE_Dataset"


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if AVE had four events."""
    monkeypatch.setattr(AVE, "published", lambda self: PUBLISHED)


def ave(root: Path, **settings) -> AVE:
    return AVE(root, **{"inputs": {"vision": VISION, "audio": AUDIO}, "batch_size": 2} | settings)


def console() -> Console:
    return Console(file=io.StringIO(), width=160)


def test_prepared_once_it_is_read_as_it_is(root: Path):
    said = console()
    assert prepare(ave(root, cache="disk"), said) == []
    assert "train: frames and sound of train in" in said.file.getvalue()
    data = ave(root, cache="disk")
    data.prepare_data()
    ours, theirs = (d.examples("test")[[Draw(0, None)]] for d in (data, ave(root)))
    assert all(torch.equal(ours[name], theirs[name]) for name in ("vision", "audio"))
    for split in ("train", "val", "test"):
        data.examples(split).media.decoder.decode = lambda key: pytest.fail("decoded again")
    assert prepare(data, console()) == []


def test_a_broken_video_is_named_and_the_rest_is_made(root: Path):
    (root / "AVE" / "silentsile0.mp4").write_bytes(b"<html>")
    (fault,) = prepare(ave(root, cache="disk"), console())
    assert fault.startswith("val, silentsile0: ") and "cut off or damaged" in fault
    with pytest.raises(DataMissing, match=r"holds no frames and sound of val|holds 0 of 1|holds 2 of"):
        ave(root, cache="disk").prepare_data()


def test_training_that_decodes_anew_is_said_so(root: Path):
    said = console()
    data = ave(root, cache="disk")
    data.examples("train").media.keep = data.keep._replace(mode="none")
    prepare(data, said)
    assert "train: decoded anew in every epoch" in said.file.getvalue()


def test_a_whole_dataset_is_whole(root: Path, sizes: None):
    for quick in (True, False):
        found = list(verify(ave(root, missing="zero"), quick=quick))
        assert [(one.split, one.annotated, one.published, one.files) for one in found] == [
            ("train", 2, 2, 1),
            ("val", 1, 1, 1),
            ("test", 1, 1, 1),
        ]
        assert report(found, console())


def test_what_is_missing_or_broken_is_listed(root: Path, sizes: None):
    with (root / "valSet.txt").open("a") as file:
        file.write("Cat&gonegonegon&good&0&10\n")
    with (root / "Annotations.txt").open("a") as file:
        file.write("\nCat&gonegonegon&good&0&10\n")
    path = root / "AVE" / "-shortshor0.mp4"
    path.write_bytes(path.read_bytes()[:2000])
    train, val, test = verify(ave(root, missing="zero"))
    assert train.whole
    assert not val.whole and (val.annotated, val.published) == (2, 1)
    assert [lost.name for lost in val.missing] == ["gonegonegon.mp4"]
    assert not test.whole and "-shortshor0.mp4" in test.broken[0]
    said = console()
    assert not report([train, val, test], said)
    assert "NOT WHOLE" in said.file.getvalue() and "val, missing: " in said.file.getvalue()
    path.write_bytes(b"")
    *_, test = verify(ave(root, missing="zero"), quick=True)
    assert test.broken == (f"{path} is empty",)


def test_a_cache_is_verified_with_its_checksums(root: Path, sizes: None):
    prepare(ave(root, cache="disk"), console())
    assert [found.cache for found in verify(ave(root, missing="zero", cache="disk"))] == ["whole"] * 3
    data = ave(root, missing="zero", cache="disk")
    data.examples("test").media.shelf.path("-shortshor0").write_bytes(b"x")
    found = list(verify(data))
    assert found[2].cache == "1 with a wrong checksum, such as -shortshor0"
    assert found[2].whole and not report(found, console())


def test_a_miniature_has_no_published_sizes(root: Path):
    (root / STAMP).write_text("{}")
    assert {found.published for found in verify(ave(root, missing="zero"), quick=True)} == {None}
    (root / STAMP).unlink()
    assert [found.published for found in verify(ave(root, missing="zero"), quick=True)] == [3339, 402, 402]


def test_the_commands_take_the_settings_of_a_run(root: Path, sizes: None, capsys: pytest.CaptureFixture[str]):
    given = ["ave", "--root", str(root), *WORDS]
    assert verify_main([*given, "--quick"]) == 0
    assert prepare_main(given) == 0
    assert verify_main([*given, "data.cache=disk"]) == 0
    (root / "AVE" / "silentsile0.mp4").unlink()
    assert verify_main([*given, "--quick"]) == 1
    assert "silentsile0.mp4" in capsys.readouterr().out.replace("\n", "")
    assert prepare_main(given) == 2
    assert "1 of 1 examples of val lack a file" in capsys.readouterr().err
    assert verify_main(["ave", "--root", str(root / "nowhere"), *WORDS]) == 1
    assert prepare_main(["ava", "--root", str(root)]) == 2
    assert "Did you mean experiment=ave_hmmoe?" in capsys.readouterr().err


@pytest.mark.parametrize("name", sorted(path.stem for path in (Path(conf.__file__).parent / "data").glob("*.yaml")))
def test_every_dataset_has_its_command_and_its_published_sizes(name: str, tmp_path: Path):
    data = datamodule(name, ["scale=mini", "data.cache=disk"], root=tmp_path)
    assert data.keep.mode == "disk" and data.keep.folder == tmp_path / "decoded" and "text" not in data.inputs
    names = {part for parts in data.published() for part in parts.split("+")}
    assert names and names <= {split.name for split in data.splits}
    assert set(data.test_splits) <= names


def test_a_wrong_setting_is_named_before_anything_is_read(root: Path):
    with pytest.raises(ConfigError, match=r"data\.missing: expected one of refuse, drop, zero, found 'skip'"):
        datamodule("ave", [*WORDS, "data.missing=skip"], root=root)
    data = datamodule("nlvr2", ["data.val_directories=2"], root=root)
    assert set(data.inputs) == {"vision"} and data.val_directories == 2 and data.root == root
