"""AVSBench's published sheet and test lists: `make test-real`, with $HMMOE_REAL_DATA or shared/realdata."""

import os
from collections import Counter
from pathlib import Path

import pytest

from datamodules.avs_corpus import MS3, S4, Clip, Subset, read_clips

pytestmark = pytest.mark.real

SIZES = {"s4": {"train": 3452, "val": 740, "test": 740}, "ms3": {"train": 296, "val": 64, "test": 64}}
SUBSETS = {"s4": S4, "ms3": MS3}


@pytest.fixture(scope="module")
def folder() -> Path:
    root = Path(os.environ.get("HMMOE_REAL_DATA", Path(__file__).parents[3] / "shared" / "realdata")) / "avs"
    if not root.is_dir():
        pytest.skip(f"no real data at {root}")
    return root


def clips(folder: Path, subset: Subset) -> list[Clip]:
    return read_clips(folder / "metadata.csv", subset.new)


@pytest.mark.parametrize("name", SIZES)
def test_splits_have_the_published_sizes(folder: Path, name: str):
    assert Counter(clip.split for clip in clips(folder, SUBSETS[name])) == SIZES[name]


@pytest.mark.parametrize("name", SIZES)
def test_names_of_the_test_split_are_those_of_the_published_lists(folder: Path, name: str):
    """Every line names a frame, 1 to 5, of a clip."""
    lines = (folder / f"avs1_{name}_test.csv").read_text().splitlines()
    published = Counter(line.split(",")[0].rpartition("_")[0] for line in lines)
    assert set(published.values()) == {5}
    assert set(published) == {clip.name for clip in clips(folder, SUBSETS[name]) if clip.split == "test"}


def test_categories_of_s4_with_the_mistyped_one_as_published(folder: Path):
    categories = Counter(clip.category for clip in clips(folder, S4))
    assert len(categories) == 24 and categories["h orse"] == 1


def test_mask_files_are_as_many_as_published(folder: Path):
    count = {}
    for name, subset in SUBSETS.items():
        per_clip = [subset.training_masks if clip.split == "train" else 5 for clip in clips(folder, subset)]
        count[name] = sum(per_clip)
    assert count == {"s4": 10852, "ms3": 2120}
