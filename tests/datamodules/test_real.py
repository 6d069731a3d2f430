"""The published files themselves: `make test-real`, with $HMMOE_REAL_DATA or shared/realdata beside the checkout."""

import gzip
import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from datamodules.ave_annotations import BACKGROUND, CATEGORIES, read_events
from datamodules.nlvr import NLVR
from datamodules.nlvr_corpus import ORDERS, find_pictures, read_boxes
from tests.datamodules.conftest import VISION

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def real() -> Path:
    root = Path(os.environ.get("HMMOE_REAL_DATA", Path(__file__).parents[3] / "shared" / "realdata"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}")
    return root


@pytest.fixture(scope="module")
def nlvr(real: Path, tmp_path_factory: pytest.TempPathFactory) -> NLVR:
    root = tmp_path_factory.mktemp("real") / "nlvr"
    subprocess.run([sys.executable, real / "nlvr1" / "unpack.py", root], check=True, capture_output=True)
    return NLVR(root, inputs={"vision": VISION}, batch_size=64)


@pytest.mark.parametrize("name", ["Annotations.txt", "Annotations_with_header.txt"])
def test_ave_annotations(real: Path, name: str):
    events = read_events(real / "ave" / name)
    assert len(events) == 4143
    assert len({event.video for event in events}) == 4097
    assert [CATEGORIES[c] for c in dict.fromkeys(event.category for event in events)] == list(CATEGORIES)
    assert list(CATEGORIES) == (real / "ave" / "categories.txt").read_text().splitlines()


def test_ave_labels_equal_the_published_ones(real: Path):
    h5py = pytest.importorskip("h5py")
    with gzip.open(real / "ave" / "labels_closs.h5.gz") as file, h5py.File(io.BytesIO(file.read())) as published:
        (events,) = (np.array(published[key]) for key in published)
    ours = np.stack([event.labels().numpy() != BACKGROUND for event in read_events(real / "ave" / "Annotations.txt")])
    assert np.array_equal(ours, events == 1)


def test_ave_splits_are_the_published_rows(real: Path):
    h5py = pytest.importorskip("h5py")
    events = read_events(real / "ave" / "Annotations.txt")
    for split, count, background in (("train", 3339, 0.169), ("val", 402, 0.182), ("test", 402, 0.178)):
        own = read_events(real / "ave" / f"{split}Set.txt")
        with h5py.File(real / "ave" / f"{split}_order.h5") as order:
            assert own == [events[row] for row in np.array(order["order"])]
        assert len(own) == count
        labels = np.stack([event.labels().numpy() for event in own])
        assert (labels == BACKGROUND).mean() == pytest.approx(background, abs=5e-4)


def test_nlvr_counts_and_majority(nlvr: NLVR):
    counts = {name: split["count"] for name, split in nlvr.manifest()["splits"].items()}
    assert counts["train"] + counts["val"] == 12408
    assert [counts[name] for name in ("dev", "test", "hidden")] == [989, 990, 985]
    lines = nlvr.references()
    majority = {"dev": (0.553, 0.064), "test": (0.562, 0.109), "hidden": (0.554, 0.086)}
    for split, expected in majority.items():
        assert tuple(lines[split].values()) == pytest.approx(expected, abs=6e-4)


def test_rebuilt_box_orders_equal_published_pictures(nlvr: NLVR, real: Path):
    """At most 7 of 40,000 pixels differ, by at most 14."""
    compared = 0
    for path in sorted((real / "nlvr1" / "originals").glob("*.png")):
        split, n, m, k = path.stem.split("-")
        first = find_pictures(nlvr.root, split).get(f"{split}-{n}-{m}-0")
        if first is None:
            continue
        apart = np.abs(read_boxes(first)[list(ORDERS[int(k)])].astype(int) - read_boxes(path).astype(int))
        assert apart.max() <= 14
        assert (apart.max(axis=-1) > 0).sum() <= 7
        compared += 1
    assert compared >= 60


def test_every_real_picture_of_dev_becomes_a_batch(nlvr: NLVR):
    loader = nlvr.val_dataloader()[nlvr.val_splits.index("dev")]
    seen = [name for batch in loader for name in batch["id"]]
    assert len(set(seen)) == 989
