"""The W&B dashboard as code: sections and panels over what every run logs. Needs the extra ``dashboard``."""

from collections.abc import Sequence
from typing import Any

from hmmoe.errors import ConfigError

KINDS = ("single", "cross", "channel")


def workspace(
    entity: str, project: str, *, split: str = "test", metric: str = "acc", modalities: Sequence[str] = ()
) -> Any:
    """A workspace with five sections: scores, methods, sizes, utilisation, collapse.

    Args:
        entity, project: where it will stand.
        split, metric: the closing score that methods and sizes are compared by, ``result/<split>/<metric>``.
        modalities: whose utilisation curves are shown.

    Raises:
        ConfigError: the package wandb-workspaces is not installed.
    """
    try:
        from wandb_workspaces import workspaces as ws
        from wandb_workspaces.reports import v2 as wr
    except ImportError as error:
        raise ConfigError("the dashboard needs wandb-workspaces: pip install 'hmmoe[dashboard]'") from error
    score = wr.SummaryMetric(f"result/{split}/{metric}")
    cost = {name: wr.SummaryMetric(f"result/{name}") for name in ("trained_percent", "flops_per_sample", "step_ms")}
    method, rank, experts = (wr.Config(name) for name in ("choices.peft", "peft.rank", "peft.experts_per_group"))

    def line(title: str, *metrics: str) -> Any:
        return wr.LinePlot(title=title, x="epoch", y=list(metrics))

    def curves(modality: str) -> list[Any]:
        key = f"experts/{modality}"
        return [
            line(f"{modality}: share of each kind", *(f"{key}/share_{kind}" for kind in KINDS)),
            line(f"{modality}: entropy of the groups, mean and worst site", f"{key}/entropy", f"{key}/entropy_min"),
            line(f"{modality}: largest share of a group", f"{key}/max_share"),
        ]

    def column(name: Any, title: str, **options: Any) -> Any:
        return wr.ParallelCoordinatesPlotColumn(name, display_name=title, **options)

    sections = [
        ws.Section(
            name="Scores",
            is_open=True,
            panels=[
                line(f"Training, {metric}", f"train/{metric}"),
                line(f"Validation, {metric}", f"val/{metric}"),
                line("Loss", "train/loss", "val/loss"),
            ],
        ),
        ws.Section(
            name="Methods",
            is_open=True,
            panels=[
                wr.BarPlot(
                    title=f"{split} {metric} by method", metrics=[score], groupby=method, groupby_rangefunc="stddev"
                ),
                wr.ScatterPlot(title="Score against trained share, %", x=cost["trained_percent"], y=score, log_x=True),
                wr.ScatterPlot(title="Score against FLOPs of a sample", x=cost["flops_per_sample"], y=score),
                wr.ScatterPlot(title="Score against milliseconds of a training step", x=cost["step_ms"], y=score),
            ],
        ),
        ws.Section(
            name="Rank x experts",
            is_open=True,
            panels=[
                wr.ScatterPlot(title="Rank x experts per group, coloured by score", x=rank, y=experts, z=score),
                wr.ParallelCoordinatesPlot(
                    columns=[
                        column(method, "method"),
                        column(rank, "rank"),
                        column(experts, "experts per group"),
                        column(cost["trained_percent"], "trained %", log=True),
                        column(score, f"{split} {metric}"),
                    ]
                ),
                wr.ParameterImportancePlot(with_respect_to=f"result/{split}/{metric}"),
            ],
        ),
        ws.Section(
            name="Expert utilisation",
            is_open=True,
            panels=[
                wr.MediaBrowser(title="Load by site", media_keys=["experts/heatmap_train"]),
                wr.MediaBrowser(title="Kinds by depth", media_keys=["experts/kinds_by_depth_train"]),
                *(panel for modality in modalities for panel in curves(modality)),
            ],
        ),
        ws.Section(
            name="Collapse",
            is_open=True,
            panels=[
                wr.ScalarChart(title="Collapse alarms, last epoch", metric="experts/alarms", groupby_aggfunc="max"),
                line("Collapse alarms", "experts/alarms"),
                line("Dead experts", *(f"experts/{modality}/dead" for modality in modalities)),
            ],
        ),
    ]
    return ws.Workspace(entity=entity, project=project, name="hmmoe", sections=sections)
