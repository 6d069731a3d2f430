"""AVSBench in both layouts, against hand-made clips whose brightness and pitch tell the second."""

import logging
import shutil
import wave
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.avs import AVSBench
from datamodules.avs_corpus import MS3, S4, Files, Release, read_clips
from datamodules.sampling import Draw
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.datamodules.conftest import AUDIO, RATE, VISION, brightness, hertz

INPUTS = {"vision": VISION, "audio": AUDIO}
SHEETS = {
    ("s4", "new"): """vid,uid,s_min,s_sec,a_obj,split,label
-abcdefghi0,-abcdefghi0_0_5000,0,0,dog,train,v1s
vvvvvvvvvv0,vvvvvvvvvv0_0_5000,0,0,h orse,val,v1s
tttttttttt0,tttttttttt0_0_5000,0,0,emergency-car,test,v1s
mmmmmmmmmm0_0,mmmmmmmmmm0_0,0,0,dog_man,train,v1m
zzzzzzzzzz0,zzzzzzzzzz0_0_10000,0,0,dog,train,v2
""",
    ("s4", "old"): """name,start,category,split
-abcdefghi0,0,dog,train
vvvvvvvvvv0,0,h orse,val
tttttttttt0,0,emergency-car,test
""",
    ("ms3", "new"): """vid,uid,s_min,s_sec,a_obj,split,label
mmmmmmmmmm0_0,mmmmmmmmmm0_0,0,0,dog_man,train,v1m
vvvvvvvvvv0_1,vvvvvvvvvv0_1,0,0,dog,val,v1m
tttttttttt0_0,tttttttttt0_0,0,0,man,test,v1m
-abcdefghi0,-abcdefghi0_0_5000,0,0,dog,train,v1s
""",
    ("ms3", "old"): """name,split
mmmmmmmmmm0_0,train
vvvvvvvvvv0_1,val
tttttttttt0_0,test
""",
}
KINDS = list(SHEETS)


def put(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def drawn(frame: int) -> np.ndarray:
    """Mask of a frame: its first columns."""
    mask = np.zeros((8, 8), dtype=bool)
    mask[:, : frame + 1] = True
    return mask


def encoded(mask: np.ndarray, frame: int) -> Image.Image:
    """In turn the published encodings: grey, 1-bit, a palette of two, coloured."""
    grey = Image.fromarray(mask.astype(np.uint8) * 255)
    if frame == 1:
        return grey.convert("1")
    if frame == 2:
        palette = Image.fromarray(mask.astype(np.uint8)).convert("P")
        palette.putpalette([0, 0, 0, 0, 0, 128])
        return palette
    return Image.fromarray(mask[..., None] * np.array([64, 0, 0], np.uint8)) if frame == 3 else grey


def write_wav(path: Path, seconds: float) -> None:
    """Pitch tells the second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    time = np.arange(RATE) / RATE
    track = np.concatenate([0.3 * np.sin(2 * np.pi * hertz(second) * time) for second in range(5)])
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
        file.writeframes((track[: round(seconds * RATE)] * 32767).astype("<i2").tobytes())


def write(root: Path, subset: str, release: str) -> Path:
    """Three clips in the published layout; the sound of test ends after 2.5 seconds, that of val lacks."""
    form: Release = getattr({"s4": S4, "ms3": MS3}[subset], release)
    sheet = root / form.sheet
    sheet.parent.mkdir(parents=True, exist_ok=True)
    sheet.write_text(SHEETS[subset, release])
    files = Files(root, form)
    for clip in read_clips(sheet, form):
        for frame in range(5):
            put(files.picture(clip, frame), Image.new("RGB", (8, 8), (brightness(frame),) * 3))
            if frame == 0 or subset == "ms3" or clip.split != "train":
                put(files.mask(clip, frame), encoded(drawn(frame), frame))
        if clip.split != "val":
            write_wav(files.sound(clip), 2.5 if clip.split == "test" else 5)
    if release == "old":  # val has no sound, its folder is there
        (root / form.folders()[2]).mkdir(exist_ok=True)
    return root


@pytest.fixture(scope="session")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    return {kind: write(tmp_path_factory.mktemp("-".join(kind)), *kind) for kind in KINDS}


def avs(root: Path, subset: str, **settings) -> AVSBench:
    return AVSBench(root, **{"subset": subset, "inputs": INPUTS, "batch_size": 2, "mask_size": 8} | settings)


def first(root: Path, subset: str, split: str, **settings) -> dict:
    return avs(root, subset, **settings).examples(split)[[Draw(0, None)]]


@pytest.mark.parametrize("kind", KINDS)
def test_both_releases_give_the_same_batches(roots, kind):
    subset = kind[0]
    batch = first(roots[kind], subset, "test")
    assert batch["vision"].shape == (1, 5, 3, 16, 16)
    assert batch["audio"].shape == (1, 5, 1, 16, 96)
    assert batch["id"] == ["tttttttttt0" if subset == "s4" else "tttttttttt0_0"]
    assert batch["saved"] == ["emergency-car/tttttttttt0" if subset == "s4" else "tttttttttt0_0"]
    assert batch["mask"].dtype == torch.bool
    for frame in range(5):
        assert np.array_equal(batch["mask"][0, frame].numpy(), drawn(frame)), frame
    seen = (batch["vision"][0].mean(dim=(1, 2, 3)) * 0.5 + 0.5) * 255
    assert seen.tolist() == pytest.approx([brightness(frame) for frame in range(5)], abs=4)


def test_training_has_one_mask_in_s4_and_five_in_ms3(roots):
    s4 = first(roots["s4", "new"], "s4", "train")
    assert s4["annotated"].tolist() == [[True, False, False, False, False]]
    assert s4["mask"][0, 0].any() and not s4["mask"][0, 1:].any()
    assert s4["vision"].shape[1] == 5
    assert first(roots["ms3", "new"], "ms3", "train")["annotated"].all()


def test_training_on_annotated_frames_alone_is_a_part_of_all(roots):
    data = avs(roots["s4", "new"], "s4", train_frames="annotated")
    few, all_ = data.examples("train")[[Draw(0, None)]], first(roots["s4", "new"], "s4", "train")
    for name in ("vision", "audio", "mask", "annotated"):
        assert torch.equal(few[name], all_[name][:, :1]), name
    assert data.examples("val")[[Draw(0, None)]]["vision"].shape[1] == 5


def test_second_t_of_sound_and_its_end(roots):
    whole, short = (first(roots["s4", "new"], "s4", split)["audio"][0] for split in ("train", "test"))
    strongest = whole.mean(dim=(1, 3)).argmax(dim=1)
    assert (strongest.diff() >= 0).all() and strongest.unique().numel() >= 3
    assert torch.equal(short[:2], whole[:2])
    assert not torch.equal(short[2], whole[2])
    assert torch.equal(short[3], short[2]) and torch.equal(short[4], short[2])  # the last window is repeated


def test_a_clip_without_sound_is_zero_and_not_kept(roots, caplog):
    with caplog.at_level(logging.WARNING):
        batch = first(roots["s4", "old"], "s4", "val")
    assert not batch["audio"].any() and not batch["keep"]["audio"].any()
    assert batch["keep"]["vision"].all()
    assert "1 of 1 clips of val have no sound file" in caplog.text


def test_only_the_wanted_modalities_are_read(roots):
    batch = first(roots["s4", "new"], "s4", "test", inputs={"vision": VISION})
    assert "audio" not in batch and set(batch["keep"]) == {"vision"}


def test_masks_of_another_size_are_resized_to_the_nearest_pixel(roots):
    mask = first(roots["ms3", "old"], "ms3", "test", mask_size=16)["mask"][0]
    assert mask.shape == (5, 16, 16)
    assert mask[2].sum() == 16 * 6


def test_the_memory_cache_changes_nothing_and_decodes_once(roots, tmp_path):
    shutil.copytree(roots["s4", "new"], tmp_path / "copy")
    kept = avs(tmp_path / "copy", "s4", cache="memory").examples("test")
    before = kept[[Draw(0, None)]]
    shutil.rmtree(tmp_path / "copy" / "v1s")
    after, plain = kept[[Draw(0, None)]], first(roots["s4", "new"], "s4", "test")
    for name in ("vision", "audio", "mask"):
        assert torch.equal(before[name], plain[name]) and torch.equal(after[name], plain[name]), name


def test_flipping_mirrors_pictures_and_masks_together_in_training_only(roots):
    examples = avs(roots["s4", "new"], "s4", flip=True).examples("train")
    plain = examples[[Draw(0, None)]]["mask"]
    masks = [examples[[Draw(0, (0, epoch))]]["mask"] for epoch in range(20)]
    assert any(torch.equal(mask, plain) for mask in masks)
    assert any(torch.equal(mask, plain.flip(-1)) and not torch.equal(mask, plain) for mask in masks)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("x,x,0,0,dog,trian,v1s", r"row 7 is 'x,x,0,0,dog,trian,v1s': unknown split 'trian', expected one of train"),
        ("x,x,0,v1s", r"row 7 is 'x,x,0,v1s': too few columns"),
        (",x,0,0,dog,train,v1s", r"row 7 .* names no clip"),
        ("-abcdefghi0,y,0,0,dog,train,v1s", r"-abcdefghi0 stands there already: leave one of the rows"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, row: str, message: str):
    sheet = tmp_path / "metadata.csv"
    sheet.write_text(SHEETS["s4", "new"] + row + "\n")
    with pytest.raises(DataBroken, match=message) as caught:
        read_clips(sheet, S4.new)
    assert str(sheet) in str(caught.value)


def test_a_short_row_a_wrong_header_and_an_empty_split_are_named(tmp_path: Path):
    sheet = tmp_path / "sheet.csv"
    sheet.write_text("name,start,category,split\na,0\n")
    with pytest.raises(DataBroken, match=r"row 2 is 'a,0': too few columns"):
        read_clips(sheet, S4.old)
    sheet.write_text("video,uid\na,b\n")
    with pytest.raises(DataBroken, match=r"expected a header with a column vid; .*data\.release=old or new"):
        read_clips(sheet, S4.new)
    sheet.write_text("name,split\na,train\nb,val\n")
    with pytest.raises(DataBroken, match=r"no row with split=test"):
        read_clips(sheet, MS3.old)
    sheet.write_text("")
    with pytest.raises(DataBroken, match="expected a header"):
        read_clips(sheet, S4.new)


def test_a_missing_mask_is_refused_or_dropped(roots, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(roots["s4", "new"], root)
    shutil.copytree(root / "v1s" / "tttttttttt0_0_5000", root / "v1s" / "more")
    with (root / "metadata.csv").open("a") as file:
        file.write("more0000000,more,0,0,dog,test,v1s\n")
    (root / "v1s" / "more" / "labels_rgb" / "3.png").unlink()
    with pytest.raises(DataMissing, match=r"1 of 2 examples of test lack a file, .*more/labels_rgb/3\.png.*missing"):
        avs(root, "s4").prepare_data()
    data = avs(root, "s4", missing="drop")
    assert data.manifest()["splits"]["test"]["dropped"] == 1
    (root / "v1s" / "tttttttttt0_0_5000" / "frames" / "4.jpg").unlink()
    with pytest.raises(DataMissing, match=r"1 of 1 examples of test lack a file, .*frames/4\.jpg"):
        avs(root, "s4", missing="drop").examples("test")


def test_a_mask_of_another_size_than_its_picture_is_named(roots, tmp_path: Path):
    root = tmp_path / "copy"
    shutil.copytree(roots["ms3", "old"], root)
    path = next((root / "Multi-sources" / "ms3_data" / "gt_masks" / "test").rglob("*_3.png"))
    Image.new("L", (4, 6)).save(path)
    with pytest.raises(DataBroken, match=rf"{path.name} is 4 x 6 pixels, its picture .*\.mp4_3\.png 8 x 8"):
        first(root, "ms3", "test")


@pytest.mark.parametrize("kind", KINDS)
def test_an_absent_dataset_is_described(kind, tmp_path: Path):
    with pytest.raises(DataMissing, match=r"(?s)no complete AVSBench dataset.*Expected, new release.*scale=mini"):
        avs(tmp_path, kind[0], release=kind[1]).prepare_data()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subset": "avss"}, r"data\.subset=avss: expected s4 or ms3"),
        ({"release": "2022"}, r"data\.release=2022: expected auto, old or new"),
        ({"train_frames": "first"}, r"data\.train_frames=first"),
        ({"missing": "skip"}, r"data\.missing=skip: expected refuse, drop or zero"),
        ({"mask_size": 0}, r"data\.mask_size=0"),
    ],
)
def test_settings_that_can_not_be_are_named(settings, message, tmp_path: Path):
    with pytest.raises(ConfigError, match=message):
        avs(tmp_path, **{"subset": "s4"} | settings)


def test_references_by_hand(roots):
    """Masks of 1 to 5 of 8 columns; the only training mask is the first column."""
    lines = avs(roots["s4", "new"], "s4").references()
    assert set(lines) == {"val", "test"}
    f = [1.3 * share / (0.3 * share + 1) for share in np.arange(1, 6) / 8]
    assert lines["test"]["foreground_J"] == pytest.approx(np.mean(np.arange(1, 6) / 8))
    assert lines["test"]["foreground_F"] == pytest.approx(np.mean(f))
    assert lines["test"]["background_J"] == 0
    assert lines["test"]["background_F"] == pytest.approx(np.mean(f))  # threshold 0 selects everything
    assert lines["test"]["prior_J"] == pytest.approx(np.mean(1 / np.arange(1, 6)))


def test_the_manifest_is_the_same_for_both_releases_in_count(roots):
    old, new = (avs(roots["ms3", release], "ms3").manifest()["splits"] for release in ("old", "new"))
    assert [split["count"] for split in old.values()] == [split["count"] for split in new.values()] == [1, 1, 1]
