"""Generated AVSBench: real layouts, and one modality alone can not do better than what is stated."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from datamodules.avs import AVSBench
from datamodules.mini.avs import FIRST, SECOND, SEQUENCES, MiniAVS, draw_scene, vision_ceiling
from datamodules.sampling import Draw
from hmmoe.errors import ConfigError
from hmmoe.metrics.segmentation import Jaccard
from tests.datamodules.conftest import AUDIO, VISION

SMALL = {"categories": ("guitar", "dog"), "blocks": {"train": 1, "val": 1, "test": 1}, "size": 32}
INPUTS = {"vision": VISION | {"size": 32}, "audio": AUDIO}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Path]:
    roots = {}
    for subset in ("s4", "ms3"):
        for release in ("new", "old"):
            roots[subset, release] = tmp_path_factory.mktemp("mini") / f"{subset}_{release}"
            MiniAVS(roots[subset, release], subset=subset, release=release, **SMALL).write()
    return roots


def read(root: Path, subset: str, split: str = "test") -> dict:
    """All clips of a split in one batch."""
    data = AVSBench(root, subset=subset, inputs=INPUTS, batch_size=2, mask_size=32)
    data.prepare_data()
    examples = data.examples(split)
    return examples[[Draw(index, None) for index in range(len(examples))]]


def jaccard(masks: torch.Tensor, guess: torch.Tensor) -> float:
    metric = Jaccard("video")
    metric.update((2 * guess.float() - 1).expand(masks.shape), masks)
    return metric.compute().item()


@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_the_real_datamodule_reads_both_layouts_alike(written, subset):
    new, old = (read(written[subset, release], subset) for release in ("new", "old"))
    assert new["id"] == old["id"] and new["saved"] == old["saved"]
    assert torch.equal(new["mask"], old["mask"]) and torch.equal(new["audio"], old["audio"])
    assert (new["vision"] - old["vision"]).abs().mean() < 0.1  # jpeg and png
    assert new["keep"]["audio"].all()


@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_no_guess_from_sight_alone_beats_the_stated_ceiling(written, subset):
    """Clips with equal pictures are scored with one guess for all: a corner reaches the ceiling, none beats it."""
    batch = read(written[subset, "old"], subset)  # png: equal pictures are equal bytes
    stated = json.loads((written[subset, "old"] / "reference.json").read_text())["test"]["vision_alone_J"]
    looks = batch["vision"].flatten(1).unique(dim=0, return_inverse=True)[1]
    assert looks.bincount().tolist() == [len(SEQUENCES[subset])] * 2
    rng, reached = np.random.default_rng(0), []
    for look in looks.unique():
        masks = batch["mask"][looks == look]
        for frame in range(5):
            truth = masks[:, frame : frame + 1]
            parts = [mask for mask in truth if mask.any()]
            corners = [torch.zeros_like(truth[0]), truth.any(0), *parts]
            best = max(jaccard(truth, guess[None]) for guess in corners)
            for _ in range(20):
                share = torch.from_numpy(rng.random(truth.shape[1:]) < rng.random())
                for guess in (truth.any(0) & share, parts[0] | (truth.any(0) & share), share):
                    assert jaccard(truth, guess[None]) <= best + 1e-6
            reached.append(best)
    assert np.mean(reached) == pytest.approx(stated, abs=1e-6)
    assert stated == pytest.approx(0.5, abs=1e-6) if subset == "s4" else 0.6 < stated < 0.75


@pytest.mark.parametrize("subset", ["s4", "ms3"])
def test_no_guess_from_sound_alone_beats_the_stated_ceiling(written, subset):
    """Clips with equal tracks are scored with one guess for both: a corner reaches the ceiling, none beats it."""
    batch = read(written[subset, "old"], subset)
    stated = json.loads((written[subset, "old"] / "reference.json").read_text())["test"]["audio_alone_J"]
    tracks = batch["audio"].flatten(1).unique(dim=0, return_inverse=True)[1]
    assert set(tracks.bincount().tolist()) == {2}
    rng, reached = np.random.default_rng(0), []
    for track in tracks.unique():
        for frame in range(5):
            truth = batch["mask"][tracks == track, frame : frame + 1]
            one, other = truth
            best = max(jaccard(truth, guess[None]) for guess in (one & other, one, other, one | other))
            for _ in range(20):
                share = torch.from_numpy(rng.random(one.shape) < rng.random())
                for guess in ((one & other) | ((one | other) & share), one | (other & share), share):
                    assert jaccard(truth, guess[None]) <= best + 1e-6
            reached.append(best)
    assert np.mean(reached) == pytest.approx(stated, abs=1e-6)
    assert stated == pytest.approx(0.5, abs=1e-6) if subset == "s4" else 0.6 < stated < 0.75


def test_ms3_has_empty_masks_and_two_sources_and_s4_one(written):
    assert read(written["s4", "new"], "s4")["mask"].flatten(2).any(-1).all()
    filled = read(written["ms3", "new"], "ms3")["mask"].flatten(2).any(-1)
    assert filled.float().mean() == 0.75


def test_training_masks_of_s4_are_the_first_frames(written):
    assert read(written["s4", "new"], "s4", "train")["annotated"].sum(1).tolist() == [1] * 4
    train = [path.parent for path in (written["s4", "old"] / "Single-source/s4_data/gt_masks/train").rglob("*.png")]
    assert len(train) == len(set(train)) == 4


def test_objects_keep_to_their_halves_until_turned():
    for turned in (False, True):
        scene = draw_scene(np.random.default_rng(1), (0, 1), 32, turned=turned)
        left = scene.objects[..., :16].any((1, 2, 3))
        right = scene.objects[..., 16:].any((1, 2, 3))
        assert left.tolist() == [not turned, turned] and right.tolist() == [turned, not turned]


def test_the_ceiling_of_one_or_the_other_is_a_half():
    scene = draw_scene(np.random.default_rng(2), (0, 3), 32, turned=False)
    assert vision_ceiling(scene.objects, [FIRST, SECOND]) == pytest.approx(0.5)
    assert vision_ceiling(scene.objects, [FIRST]) == 1


def test_writing_again_gives_the_same_files(written, tmp_path: Path):
    MiniAVS(tmp_path / "again", subset="s4", **SMALL).write()
    for path in written["s4", "new"].rglob("*"):
        if path.is_file():
            assert (tmp_path / "again" / path.relative_to(written["s4", "new"])).read_bytes() == path.read_bytes()


def test_settings_that_can_not_be_are_named(tmp_path: Path):
    with pytest.raises(ConfigError, match="expected subset s4 or ms3"):
        MiniAVS(tmp_path, subset="avss")
    with pytest.raises(ConfigError, match="expected 2 to 4 names, found 1"):
        MiniAVS(tmp_path, subset="s4", categories=("dog",))
