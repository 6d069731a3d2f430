"""Hydra sweeper ``halving``: successive halving, arXiv 1502.07943, over random mixes.

Every round trains its mixes from scratch, for a share of the epochs; one of ``keep`` goes on. The draws are seeded, so
a sweep that was stopped finds its jobs again. Settings: ``conf/hydra/sweeper/halving.yaml``.
"""

import csv
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from hmmoe.errors import ConfigError
from hydra_plugins.hmmoe_halving._mixes import Tried, facts, mixes, pareto
from hydra_plugins.hmmoe_launcher._names import split
from hydra_plugins.hmmoe_launcher._record import read
from hydra_plugins.hmmoe_launcher._screen import say, shown

EPOCHS = "trainer.max_epochs"


class Halving(Sweeper):
    """Random mixes; the better ones train longer; the last round's are compared at equal length.

    Args:
        space: axis to choices; a choice is a string of overrides, so what must go together stands together.
        trials: mixes of the first round.
        keep: one of so many goes on.
        rounds: the last one trains for ``trainer.max_epochs``, the one before for a share of 1 / keep of it.
        seed: of the draw.
    """

    def __init__(
        self, space: Mapping[str, Sequence[str]], trials: int = 12, keep: int = 3, rounds: int = 3, seed: int = 1
    ) -> None:
        for name, value, least in (("trials", trials, 1), ("keep", keep, 2), ("rounds", rounds, 1)):
            if value < least:
                raise ConfigError(f"hydra.sweeper.{name}={value}: must be {least} or more")
        if not space:
            raise ConfigError("hydra.sweeper.space is empty: sweep=expert_mix has one")
        self.space, self.trials, self.keep, self.rounds, self.seed = space, trials, keep, rounds, seed
        self._started = 0

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Take what Hydra hands over, and make the launcher."""
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> list[Tried]:
        """Search; the mixes of the last round, best first.

        Raises:
            JobsFailed: after everything else is done, if a job has no result.
        """
        given = OverridesParser.create(config_loader=self.hydra_context.config_loader).parse_overrides(arguments)
        ((*variants,),) = BasicSweeper.split_arguments(given, None)
        said = {split(word)[0] for word in variants[0]}
        left = [
            tuple(word for word in mix if split(word)[0] not in said)
            for mix in mixes(self.space, self.trials, self.seed)
        ]
        left = list(dict.fromkeys(left))
        whole, mode = int(self.config.trainer.max_epochs), getattr(self.config.mode, "value", self.config.mode)
        failed: list[JobReturn] = []
        tried: list[Tried] = []
        for number in range(self.rounds):
            epochs = max(1, round(whole / self.keep ** (self.rounds - 1 - number)))
            say(f"round {number + 1} of {self.rounds}: {len(left)} mixes, {epochs} epochs")
            tried = self._round(left, variants, epochs, failed)
            tried.sort(key=lambda one: one.score, reverse=mode == "max")
            left = [one.words for one in tried[: math.ceil(len(left) / self.keep)]]
            if not left:
                break
        self._conclude(tried, mode)
        for answer in failed:
            _ = answer.return_value  # raises
        return tried

    def _round(
        self, left: Sequence[tuple[str, ...]], variants: Sequence[Sequence[str]], epochs: int, failed: list[JobReturn]
    ) -> list[Tried]:
        fixed = [[word for word in variant if split(word)[0] != EPOCHS] for variant in variants]
        batch = [[*mix, f"{EPOCHS}={epochs}", *variant] for mix in left for variant in fixed]
        self.validate_batch_is_legal(batch)
        answers = self.launcher.launch(batch, self._started)
        self._started += len(batch)
        tried = []
        for index, mix in enumerate(left):
            own = answers[index * len(fixed) : (index + 1) * len(fixed)]
            lost = [answer for answer in own if answer.status != JobStatus.COMPLETED or answer.return_value is None]
            failed += [answer for answer in lost if answer.status != JobStatus.COMPLETED]
            if not lost:
                folders = tuple(str(answer.working_dir) for answer in own)
                score = sum(answer.return_value for answer in own) / len(own)
                tried.append(Tried(mix, score, *facts(read(Path(folders[0]) / "result.json")), folders))
        return tried

    def _conclude(self, tried: Sequence[Tried], mode: str) -> None:
        """``pareto.csv`` and the table of the last round."""
        from rich.console import Console
        from rich.table import Table

        front = pareto(tried, mode)
        file = Path(self.config.hydra.sweep.dir) / "pareto.csv"
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["pareto", "score", "trained", "share_percent", "flops_per_sample", "mix", "folders"])
            for one, on_front in zip(tried, front, strict=True):
                costs = (one.trained, one.share_percent, one.flops)
                folders = " ".join(Path(folder).name for folder in one.folders)
                writer.writerow([int(on_front), one.score, *costs, " ".join(one.words), folders])
        title = f"Last round, * not beaten in score, parameters and FLOPs: {shown(file)}"
        table = Table(title=title, title_justify="left")
        for column in ("", str(self.config.monitor), "of backbone", "FLOPs", "mix"):
            table.add_column(column, justify="left" if column in ("", "mix") else "right", overflow="fold")
        for one, on_front in zip(tried, front, strict=True):
            percent = "" if one.share_percent is None else f"{one.share_percent:.2f} %"
            flops = "" if one.flops is None else f"{one.flops:.3g}"
            table.add_row("*" if on_front else "", f"{one.score:.4f}", percent, flops, " ".join(one.words))
        console: Any = Console(highlight=False)
        (console if console.is_terminal else Console(width=130, highlight=False)).print(table, markup=False)
