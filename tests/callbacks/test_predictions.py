"""Prediction files: a table for people, and what the dataset's evaluator reads."""

import csv
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch

from hmmoe.callbacks.predictions import Predictions


def test_rows_go_to_the_table_and_to_the_official_format(tmp_path: Path, unchecked: None):
    class Data:
        def submission(self, split: str, rows: list[dict]) -> dict[str, str]:
            return {f"{split}.txt": ";".join(f"{row['id']}={row['prediction']}" for row in rows)}

    trainer = SimpleNamespace(world_size=1, is_global_zero=True, datamodule=Data())
    task = SimpleNamespace(test_splits=("test", "hidden"))
    callback = Predictions(tmp_path / "predictions")
    callback.on_test_start(trainer, task)
    for loader, ids in ((0, ["b", "a"]), (1, ["c"])):
        outputs = {"id": ids, "prediction": [7] * len(ids), "score": torch.ones(len(ids)), "routing": {}}
        callback.on_test_batch_end(trainer, task, outputs, None, 0, loader)
    callback.on_test_end(trainer, task)
    with (tmp_path / "predictions" / "test.csv").open() as file:
        assert list(csv.DictReader(file)) == [{"id": n, "prediction": "7", "score": "1.0"} for n in "ab"]
    assert (tmp_path / "predictions" / "test.txt").read_text() == "a=7;b=7"
    assert (tmp_path / "predictions" / "hidden.txt").read_text() == "c=7"


def test_a_test_on_bare_loaders_writes_the_table_only(tmp_path: Path, unchecked: None):
    trainer = SimpleNamespace(world_size=1, is_global_zero=True, datamodule=None)
    callback = Predictions(tmp_path)
    callback.on_test_start(trainer, None)
    callback.on_test_batch_end(trainer, SimpleNamespace(test_splits=("t",)), {"id": ["a"], "prediction": [1]}, None, 0)
    callback.on_test_end(trainer, None)
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_arrays_of_the_end_go_to_npz(tmp_path: Path, unchecked: None):
    trainer = SimpleNamespace(world_size=1, is_global_zero=True, datamodule=None)
    arrays = {"scores": np.eye(2, dtype=np.float32), "clips": np.array(["a", "b"])}
    task = SimpleNamespace(test_splits=("t",), arrays_at_end={"t_similarity": arrays})
    callback = Predictions(tmp_path)
    callback.on_test_start(trainer, task)
    callback.on_test_batch_end(trainer, task, {"id": ["a"], "prediction": [1]}, None, 0)
    callback.on_test_end(trainer, task)
    with np.load(tmp_path / "t_similarity.npz", allow_pickle=False) as read:
        assert np.array_equal(read["scores"], np.eye(2)) and read["clips"].tolist() == ["a", "b"]
