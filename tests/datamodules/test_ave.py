"""AVE against hand-made annotations and clips whose brightness and pitch tell the second."""

import shutil
from pathlib import Path

import pytest
import torch

from datamodules.ave import AVE
from datamodules.ave_annotations import BACKGROUND, CATEGORIES, Event, read_events
from datamodules.sampling import Draw
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.datamodules.conftest import AUDIO, VISION, brightness

INPUTS = {"vision": VISION, "audio": AUDIO}
BANJO, MANDOLIN = CATEGORIES.index("Banjo"), CATEGORIES.index("Mandolin")


def ave(root: Path, **settings) -> AVE:
    return AVE(root, **{"inputs": INPUTS, "batch_size": 2} | settings)


def test_labels_are_the_annotated_seconds(ave_root: Path):
    batch = ave(ave_root).examples("train")[[Draw(0, None), Draw(1, None)]]
    assert batch["id"] == [f"wholewhole0#{BANJO}", f"wholewhole0#{MANDOLIN}"]
    assert batch["label"].dtype == torch.int64
    assert batch["label"].tolist() == [[BACKGROUND] * 2 + [BANJO] * 3 + [BACKGROUND] * 5, [MANDOLIN] * 10]
    assert Event(3, "x", 0, 0).labels().tolist() == [BACKGROUND] * 10  # one published row is like that


def test_a_batch_has_the_published_shapes_and_second_t_meets_second_t(ave_root: Path):
    (batch,) = ave(ave_root).train_dataloader()
    assert batch["vision"].shape == (2, 10, 3, 16, 16)
    assert batch["audio"].shape == (2, 10, 1, 16, 96)
    assert batch["keep"]["vision"].all()
    assert batch["keep"]["audio"].all()
    seen = (batch["vision"][0].mean(dim=(1, 2, 3)) * 0.5 + 0.5) * 255
    assert seen.tolist() == pytest.approx([brightness(second) for second in range(10)], abs=4)
    strongest = batch["audio"][0].mean(dim=(1, 3)).argmax(dim=1)
    assert (strongest.diff() >= 0).all()
    assert strongest.unique().numel() >= 6  # pitch rises by the second


def test_only_the_wanted_modalities_are_read(ave_root: Path):
    batch = ave(ave_root, inputs={"audio": AUDIO}).examples("train")[[Draw(0, None)]]
    assert "vision" not in batch
    assert set(batch["keep"]) == {"audio"}


def test_a_clip_without_sound_is_zero_and_not_kept(ave_root: Path):
    batch = ave(ave_root).examples("val")[[Draw(0, None)]]
    assert not batch["audio"].any()
    assert not batch["keep"]["audio"].any()
    assert batch["keep"]["vision"].all()


def test_seconds_after_the_end_are_not_kept(ave_root: Path):
    batch = ave(ave_root).examples("test")[[Draw(0, None)]]
    assert batch["keep"]["audio"][0].tolist()[:6] == [True] * 6
    assert not batch["keep"]["audio"][0, 7:].any()
    assert not batch["keep"]["vision"][0, 7:].any()
    assert not batch["vision"][0, 7:].any()
    assert not batch["audio"][0, 7:].any()


def test_the_memory_cache_changes_nothing_and_decodes_once(ave_root: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(ave_root, root)
    draws = [Draw(0, None), Draw(1, None)]
    kept, plain = ave(root, cache="memory").examples("train"), ave(root).examples("train")
    first = kept[draws]
    for name in ("vision", "audio"):
        assert torch.equal(first[name], plain[draws][name])
    shutil.rmtree(root / "AVE")
    assert torch.equal(kept[draws]["audio"], first["audio"])
    with pytest.raises(DataMissing, match=r"no media file at .*wholewhole0\.mp4"):
        plain[draws]


def test_a_worker_fills_the_cache_for_its_parent(ave_root: Path):
    data = ave(ave_root, cache="memory", num_workers=1)
    list(data.test_dataloader()[0])
    media = data.examples("test").media
    media.decoder.decode = lambda key: pytest.fail("decoded again")
    assert media.get("-shortshor0")[0].any()


def test_a_cache_beyond_its_limit_is_refused(ave_root: Path):
    with pytest.raises(ConfigError, match=r"frames and sound of train, over data\.cache_gb=1e-06"):
        ave(ave_root, cache="memory", cache_gb=1e-6).examples("train")


def test_flipping_mirrors_some_clips_in_training_only(ave_root: Path):
    examples = ave(ave_root, flip=True).examples("train")
    examples.media.decoder.decode = lambda key: (
        ramp,
        torch.ones(10, dtype=torch.bool),
        torch.zeros(10),
        torch.zeros(10),
    )
    ramp = torch.arange(16, dtype=torch.uint8).expand(10, 3, 16, 16)
    assert torch.equal(examples[[Draw(0, None)]]["vision"][0], examples.pixels.normalise(ramp))
    directions = {bool(examples[[Draw(0, (0, epoch))]]["vision"][0, 0, 0, 0].diff().sum() > 0) for epoch in range(20)}
    assert directions == {True, False}


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("newline", [True, False])
def test_both_published_variants_of_the_annotations_read_alike(tmp_path: Path, header: bool, newline: bool):
    rows = ["Race car, auto racing&-a_&good&0&10", "Frying (food)&b&good&3&5"]
    text = "\n".join([*["Category&VideoID&Quality&StartTime&EndTime"][: int(header)], *rows]) + "\n" * newline
    (tmp_path / "Annotations.txt").write_text(text)
    assert read_events(tmp_path / "Annotations.txt") == [Event(4, "-a_", 0, 10), Event(10, "b", 3, 5)]


@pytest.mark.parametrize(
    "row, message",
    [
        ("Banjo&b&good&3", r"row 2 is 'Banjo&b&good&3': expected Category&VideoID&Quality&StartTime&EndTime"),
        ("Bango&b&good&3&5", r"'Bango' is no category of AVE; did you mean 'Banjo'"),
        ("Banjo&b&good&5&3", r"row 2 .*0 <= StartTime <= EndTime <= 10"),
        ("Banjo&b&good&0&11", r"0 <= StartTime <= EndTime <= 10"),
        ("Banjo&b&good&-1&x", r"mend the row"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: str, message: str):
    path = tmp_path / "trainSet.txt"
    path.write_text(f"Banjo&a&good&0&10\n{row}\n")
    with pytest.raises(DataBroken, match=message) as caught:
        read_events(path)
    assert str(path) in str(caught.value)


def test_an_event_that_comes_twice_and_a_file_without_rows_are_named(tmp_path: Path):
    path = tmp_path / "trainSet.txt"
    path.write_text("Banjo&abc&good&0&10\nCat&abc&good&0&2\nBanjo&abc&good&0&3\n")
    with pytest.raises(DataBroken, match=r"trainSet\.txt, row 3 .*abc has a row for Banjo already; delete one"):
        read_events(path)
    path.write_text("Category&VideoID&Quality&StartTime&EndTime\n")
    with pytest.raises(DataBroken, match=r"trainSet\.txt holds no row: fetch the file again"):
        read_events(path)
    path.write_bytes(b"Banjo&\xff\xfe&good&0&10\n")
    with pytest.raises(DataBroken, match=r"trainSet\.txt is no text in UTF-8"):
        read_events(path)


def test_a_broken_row_shows_before_training(ave_root: Path, tmp_path: Path):
    shutil.copytree(ave_root, tmp_path / "copy")
    (tmp_path / "copy" / "testSet.txt").write_text("Banjo&wholewhole0&good&2\n")
    with pytest.raises(DataBroken, match=r"testSet\.txt, row 1"):
        ave(tmp_path / "copy").prepare_data()


def test_a_split_of_another_release_is_refused(ave_root: Path, tmp_path: Path):
    shutil.copytree(ave_root, tmp_path / "copy")
    (tmp_path / "copy" / "valSet.txt").write_text("Banjo&wholewhole0&good&2&6\n")
    with pytest.raises(DataBroken, match=r"valSet\.txt has 1 rows that are not in .*Annotations\.txt"):
        ave(tmp_path / "copy").examples("val")


def test_a_missing_video_is_refused_or_dropped(ave_root: Path, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(ave_root, root)
    more = "Banjo&gonegonegon&good&0&10\n"
    for name in ("Annotations.txt", "trainSet.txt"):
        path = root / name
        path.write_text(path.read_text().rstrip("\n") + "\n" + more)
    with pytest.raises(DataMissing, match=r"1 of 3 examples of train .*gonegonegon\.mp4.*data\.missing=drop"):
        ave(root).examples("train")
    manifest = ave(root, missing="drop").manifest()
    assert manifest["splits"]["train"]["count"] == 2
    assert manifest["splits"]["train"]["dropped"] == 1


def test_references_are_background_and_the_perfect_video_label(ave_root: Path):
    data = ave(ave_root)
    assert (data.val_splits, data.test_splits) == (("val",), ("test",))
    assert data.references()["val"] == {"background": pytest.approx(0.8), "video_label": pytest.approx(0.2)}
