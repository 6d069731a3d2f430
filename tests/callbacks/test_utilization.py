"""Every epoch's utilisation from a real Trainer: counts, accumulation, two processes, resume, alarm, pictures."""

import csv
import logging
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
import yaml
from lightning.pytorch.loggers import WandbLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from hmmoe.analysis.usage_table import UsageTable, read_usage
from hmmoe.callbacks.utilization import ExpertUtilization
from hmmoe.errors import ConfigError
from hmmoe.runtime.signatures import signature
from hmmoe.types import Routing

CALLBACKS = Path(__file__).parents[2] / "conf" / "callbacks"
TOKENS, SIZE = 5, 8
GROUPS = ("single", "cross:audio", "channel:audio")


class Toy(L.LightningModule):
    """Routes every token of x (B, N, 9) by its own values: logits of 3 groups and of 2 experts in each."""

    val_splits, test_splits = ("val", "dev"), ("test",)

    def __init__(self, *, routes: bool = True, collapsed: bool = False) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.routes, self.collapsed = routes, collapsed

    def _step(self, x: Tensor) -> dict[str, Any]:
        group = x[..., :3] + (torch.tensor([0.0, 9.0, 0.0]) if self.collapsed else 0)
        probs = x[..., 3:].unflatten(-1, (3, 2)).softmax(-1)
        selected = probs == probs.amax(-1, keepdim=True)
        routing = Routing(group.softmax(-1), probs * selected, selected, probs, x[..., 0] > -1, GROUPS, (2, 2, 2))
        return {"loss": (self.scale * x).mean(), "routing": {("site00", "vision"): routing} if self.routes else {}}

    def training_step(self, x: Tensor, batch_idx: int) -> dict[str, Any]:
        return self._step(x)

    def validation_step(self, x: Tensor, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self._step(x)

    def test_step(self, x: Tensor, batch_idx: int, dataloader_idx: int = 0) -> dict[str, Any]:
        return self._step(x)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def samples(count: int = SIZE, seed: int = 0) -> Tensor:
    return torch.randn(count, TOKENS, 9, generator=torch.Generator().manual_seed(seed))


def trainer(folder: Path, callback: ExpertUtilization, **options: Any) -> L.Trainer:
    defaults = {"max_epochs": 1, "logger": False, "accelerator": "cpu", "enable_progress_bar": False}
    quiet = {"enable_model_summary": False, "enable_checkpointing": False, "default_root_dir": folder}
    return L.Trainer(callbacks=[callback], **(defaults | quiet | options))


def fit(folder: Path, module: Toy | None = None, *, batch: int = 2, count: int = SIZE, **options: Any) -> L.Trainer:
    callback = ExpertUtilization(folder / "routing", **options.pop("callback", {"figures_every": 0}))
    checkpoint = options.pop("checkpoint", None)
    made = trainer(folder, callback, **options)
    validation = [DataLoader(samples(4, seed), 2) for seed in (1, 2)]
    made.fit(module or Toy(), DataLoader(samples(count), batch), validation, ckpt_path=checkpoint, weights_only=True)
    return made


def tables(folder: Path) -> dict[tuple[int, str], UsageTable]:
    return {table[:2]: table for table in read_usage(folder / "routing")}


def test_every_split_gets_its_table_and_padding_is_out(tmp_path: Path) -> None:
    fit(tmp_path, max_epochs=2)
    found = tables(tmp_path)
    assert set(found) == {(epoch, split) for epoch in (0, 1) for split in ("train", "val", "dev")}
    x = samples()
    keep = x[..., 0] > -1
    probs = x[..., 3:].unflatten(-1, (3, 2)).softmax(-1)
    weights = (x[..., :3].softmax(-1).unsqueeze(-1) * probs * (probs == probs.amax(-1, keepdim=True)))[keep]
    rows = {(row.group, row.expert): row for row in found[1, "train"].rows}
    assert rows["single", None].tokens == int(keep.sum())
    assert rows["single", None].weight_share == pytest.approx(float(weights.sum((0, 2))[0] / weights.sum()), rel=1e-5)
    expected = float(weights.sum(0)[2, 1] / weights.sum(0)[2].sum())
    assert rows["channel:audio", 1].weight_share == pytest.approx(expected, rel=1e-5)
    assert found[0, "val"].rows[0].tokens == int((samples(4, 1)[..., 0] > -1).sum())


def test_gradient_accumulation_changes_nothing(tmp_path: Path) -> None:
    fit(tmp_path / "plain")
    fit(tmp_path / "accumulated", accumulate_grad_batches=3)
    assert tables(tmp_path / "plain") == tables(tmp_path / "accumulated")


def test_two_processes_count_what_one_counts(tmp_path: Path) -> None:
    fit(tmp_path / "one", batch=4)
    fit(tmp_path / "two", strategy="ddp_fork", devices=2)
    assert tables(tmp_path / "one") == tables(tmp_path / "two")


def test_a_resumed_run_goes_on_with_its_tables(tmp_path: Path) -> None:
    first = fit(tmp_path)
    first.save_checkpoint(tmp_path / "last.ckpt")
    before = (tmp_path / "routing" / "epoch_0000_train.csv").read_bytes()
    fit(tmp_path, max_epochs=2, checkpoint=tmp_path / "last.ckpt")
    assert {epoch for epoch, split in tables(tmp_path) if split == "train"} == {0, 1}
    assert (tmp_path / "routing" / "epoch_0000_train.csv").read_bytes() == before


def test_metrics_have_stable_names(tmp_path: Path) -> None:
    logged = fit(tmp_path).callback_metrics
    names = {key.removeprefix("experts/vision/") for key in logged if key.startswith("experts/vision/")}
    shares = {"share_single", "share_cross", "share_channel"}
    assert names == {"entropy", "entropy_min", "expert_entropy", "max_share", "dead"} | shares
    assert logged["experts/alarms"] == 0
    assert sum(logged[f"experts/vision/{name}"].item() for name in shares) == pytest.approx(1)


def test_too_many_keys_are_cut_and_it_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"figures_every": 0, "detail": "full", "max_keys": 9}
    logged = fit(tmp_path, max_epochs=2, callback=options).callback_metrics
    assert "experts/site00/vision/entropy" in logged and "experts/site00/vision/dead" not in logged
    assert sum("max_keys" in record.message for record in caplog.records) == 1


def test_a_collapse_is_named_with_place_and_remedy(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    options = {"figures_every": 0, "quiet_steps": 8}
    with caplog.at_level(logging.WARNING):
        made = fit(tmp_path, Toy(collapsed=True), batch=16, count=64, max_epochs=2, callback=options)
    (message,) = [record.message for record in caplog.records if "collapse" in record.message]
    assert "in epoch 2:" in message  # the first ended after 4 steps, inside quiet_steps; messages count from 1
    assert "site00, vision: kind 'cross' takes 100% of the weight (limit 80%)" in message
    assert "group 'single' is dead (0.00 of its fair share)" in message
    assert "peft.balance_weight" in message
    assert made.callback_metrics["experts/alarms"] == 3


def test_a_method_without_routing_leaves_nothing_behind(tmp_path: Path) -> None:
    made = fit(tmp_path, Toy(routes=False), callback={})
    assert not (tmp_path / "routing").exists()
    assert not any(key.startswith("experts") for key in made.callback_metrics)


def test_pictures_come_at_their_interval_and_at_the_end(tmp_path: Path) -> None:
    made = fit(tmp_path, max_epochs=3, callback={"figures_every": 2})
    pictures = {path.name for path in (tmp_path / "routing").glob("*.png")}
    assert pictures == {"epoch_0001_train.png", "epoch_0002_train.png", "kinds_by_depth_train.png", "history.png"}
    made.test(Toy(), DataLoader(samples(), 2), verbose=False)
    added = {path.name for path in (tmp_path / "routing").glob("*.png")} - pictures
    assert added == {"epoch_0003_test.png", "kinds_by_depth_test.png"}
    with (tmp_path / "routing" / "epoch_0003_test.csv").open() as file:
        assert {row["split"] for row in csv.DictReader(file)} == {"test"}


class Recorder(WandbLogger):
    """W&B's logger without W&B behind it."""

    name, version, experiment, save_dir = "recorder", "0", None, None

    def __init__(self) -> None:
        self.images: list[str] = []

    def log_image(self, key: str, images: list[Any], step: int | None = None, **options: Any) -> None:
        assert all(Path(image).is_file() for image in images)
        self.images.append(key)

    def log_metrics(self, *args: Any, **options: Any) -> None: ...
    def log_hyperparams(self, *args: Any, **options: Any) -> None: ...
    def log_graph(self, *args: Any, **options: Any) -> None: ...
    def save(self) -> None: ...
    def finalize(self, status: str) -> None: ...
    def after_save_checkpoint(self, checkpoint_callback: Any) -> None: ...


def test_weights_and_biases_gets_the_pictures(tmp_path: Path) -> None:
    logger = Recorder()
    fit(tmp_path, callback={}, logger=logger, log_every_n_steps=1)
    assert logger.images == ["experts/heatmap_train", "experts/kinds_by_depth_train", "experts/history"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"share_alarm": 80}, "is a share"), ({"dead_below": 2.0}, "is a ratio"), ({"detail": "all"}, "summary or full")],
)
def test_settings_out_of_range_are_named(tmp_path: Path, wrong: dict[str, Any], message: str, unchecked: None) -> None:
    with pytest.raises(ConfigError, match=message):
        ExpertUtilization(tmp_path, **wrong)


@pytest.mark.parametrize("name", ["token_examples", "utilization"])
def test_every_setting_stands_in_its_file(name: str):
    """A message that says "raise callbacks.utilization.max_keys" must name a key that is there."""
    node = yaml.safe_load((CALLBACKS / f"{name}.yaml").read_text())[name]
    assert set(node) - {"_target_"} == set(signature(node["_target_"]).parameters)
