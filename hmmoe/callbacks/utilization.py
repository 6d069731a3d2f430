"""Who computes at which site: every epoch as metrics, as a tidy table and as pictures, with an alarm on collapse."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.loggers import WandbLogger

from hmmoe.analysis.usage_summary import summary
from hmmoe.analysis.usage_table import UsageTable, read_usage, write_usage
from hmmoe.callbacks.collapse import find_alarms, warning
from hmmoe.callbacks.routed import RoutedBatches
from hmmoe.errors import ConfigError
from hmmoe.routing.stats import RoutingStats
from hmmoe.types import Routing

log = logging.getLogger(__name__)


class ExpertUtilization(RoutedBatches):
    """Counts the routing that the task's steps return (key "routing") and reports it; silent where nothing routes.

    Writes ``<folder>/epoch_0003_<split>.csv`` for every split (a test after n epochs carries n),
    ``epoch_0003_train.png`` and, at the end of training or a test, ``kinds_by_depth_<split>.png`` and ``history.png``.
    Logs for the training split ``experts/<modality>/{entropy, entropy_min, expert_entropy, max_share, dead,
    share_<kind>}`` and ``experts/alarms``; a mean over sites never stands without the worst site beside it.

    Args:
        folder: where tables and pictures go, usually the run's ``routing``.
        detail: "full" adds ``experts/<site>/<modality>/{entropy, max_share, dead}``.
        max_keys: most metric keys of an epoch; what is beyond is in the tables only, which is said once.
        figures_every: epochs between heat maps; the last is always drawn. 0 draws nothing.
        share_alarm: share of a stream's weight above which one kind of expert has taken over.
        dead_below: ratio to the fair share below which a group or an expert is dead.
        quiet_steps: optimizer steps without alarms, unless the last epoch ends within them. A fresh method is the
            identity through a zero up-projection: the router learns nothing at first, and a random start may look
            collapsed.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        detail: Literal["summary", "full"] = "summary",
        max_keys: int = 200,
        figures_every: int = 1,
        share_alarm: float = 0.8,
        dead_below: float = 0.05,
        quiet_steps: int = 100,
    ) -> None:
        if detail not in ("summary", "full"):
            raise ConfigError(f"callbacks.utilization.detail must be summary or full, not {detail!r}")
        if not 0 < share_alarm <= 1:
            raise ConfigError(f"callbacks.utilization.share_alarm is a share, 0 < share <= 1, not {share_alarm}")
        if not 0 <= dead_below < 1:
            raise ConfigError(f"callbacks.utilization.dead_below is a ratio, 0 <= ratio < 1, not {dead_below}")
        self.folder = Path(folder)
        self.detail, self.max_keys, self.figures_every = detail, max_keys, figures_every
        self.share_alarm, self.dead_below, self.quiet_steps = share_alarm, dead_below, quiet_steps
        self._stats: dict[str, RoutingStats] = {}
        self._last: UsageTable | None = None
        self._capped = False

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Start counting the epoch."""
        self._stats.pop("train", None)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Count a training batch."""
        self._hand_on(trainer, "train", outputs, batch)

    def on_routed(self, trainer: L.Trainer, split: str, routing: Mapping[tuple[str, str], Routing], batch: Any) -> None:
        """Count a batch."""
        self._stats.setdefault(split, RoutingStats(dead_below=self.dead_below)).update(routing)

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the training split: table, metrics, alarm, heat map."""
        table = self._finish(trainer, "train")
        if table is None:
            return
        alarms = []
        if trainer.global_step >= self.quiet_steps or table.epoch + 1 == trainer.max_epochs:
            alarms = find_alarms(table.rows, share_alarm=self.share_alarm)
        # Equal on all ranks already; sync_dist only tells Lightning so.
        values = self._capped_to(summary(table.rows, detail=self.detail)) | {"experts/alarms": float(len(alarms))}
        pl_module.log_dict(values, sync_dist=True)
        self._last = table
        if trainer.is_global_zero:
            if alarms:
                log.warning(warning(alarms, table.epoch))
            if self.figures_every and (table.epoch + 1) % self.figures_every == 0:
                self._draw_heatmap(trainer, table)

    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the validation splits."""
        if not trainer.sanity_checking:
            for split in dict.fromkeys(pl_module.val_splits):
                self._finish(trainer, split)

    def on_test_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Report the test splits, with pictures."""
        for split in dict.fromkeys(pl_module.test_splits):
            table = self._finish(trainer, split)
            if table is not None and self.figures_every and trainer.is_global_zero:
                self._draw_heatmap(trainer, table)
                self._draw_kinds(trainer, table)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Draw what only the end, or the whole, of training can show."""
        table, self._last = self._last, None
        if table is None or not self.figures_every or not trainer.is_global_zero:
            return
        if (table.epoch + 1) % self.figures_every:
            self._draw_heatmap(trainer, table)
        self._draw_kinds(trainer, table)
        from hmmoe.analysis.heatmap import usage_history

        tables = [table for table in read_usage(self.folder) if table.split == "train"]
        self._draw(trainer, usage_history(tables, "Expert kinds over training"), "history", "experts/history")

    def _finish(self, trainer: L.Trainer, split: str) -> UsageTable | None:
        """Gather one split over all ranks and write its table."""
        stats = self._stats.pop(split, None)
        if stats is None:
            return None
        table = UsageTable(trainer.current_epoch, split, stats.compute())
        if trainer.is_global_zero:
            write_usage(self.folder, table)
        return table

    def _capped_to(self, values: dict[str, float]) -> dict[str, float]:
        if len(values) > self.max_keys and not self._capped:
            self._capped = True
            log.warning(
                f"{len(values)} utilisation metrics, only the first {self.max_keys} are logged (the tables in "
                f"{self.folder} hold all): raise callbacks.utilization.max_keys or set detail=summary"
            )
        return dict(list(values.items())[: self.max_keys])

    def _draw_heatmap(self, trainer: L.Trainer, table: UsageTable) -> None:
        from hmmoe.analysis.heatmap import usage_heatmap  # matplotlib costs half a second at the first figure only

        title = f"Expert utilisation, {_when(trainer, table)}"
        name = f"epoch_{table.epoch:04d}_{table.split}"
        self._draw(trainer, usage_heatmap(table.rows, title), name, f"experts/heatmap_{table.split}")

    def _draw_kinds(self, trainer: L.Trainer, table: UsageTable) -> None:
        from hmmoe.analysis.heatmap import kinds_by_depth

        title = f"Expert kinds by depth, {_when(trainer, table)}"
        key = f"experts/kinds_by_depth_{table.split}"
        self._draw(trainer, kinds_by_depth(table.rows, title), f"kinds_by_depth_{table.split}", key)

    def _draw(self, trainer: L.Trainer, figure: Any, name: str, key: str) -> None:
        from hmmoe.analysis.heatmap import save_figure

        path = save_figure(figure, self.folder / f"{name}.png")
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.log_image(key, [str(path)])


def _when(trainer: L.Trainer, table: UsageTable) -> str:
    """Split and epoch, counted from 1; a test is of the weights that were kept, not of the last epoch."""
    return table.split if trainer.testing else f"{table.split}, epoch {table.epoch + 1}"
