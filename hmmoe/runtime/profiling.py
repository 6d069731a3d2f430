"""What methods cost on real backbones, without weights or data: ``python -m hmmoe.analysis.profile experiment=...``.

Words are those of train.py; commas make one row of a table each, and peft=all is every file of conf/peft. Parameters,
FLOPs and memory come from shapes alone (the meta device); latency builds the model with random weights and runs it.
"""

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from importlib.resources import files
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmmoe.errors import ConfigError, UserError
from hmmoe.runtime.command import explain, run_stamp
from hmmoe.runtime.compose import settings

if TYPE_CHECKING:
    from hmmoe.backbones.base import Backbone
    from hmmoe.model import AdaptedModel

log = logging.getLogger(__name__)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(prog="python -m hmmoe.analysis.profile", description=__doc__.partition(":")[0])
    made.add_argument("words", nargs="*", metavar="key=value", help="as for train.py; peft=all or peft=a,b for a table")
    made.add_argument("-m", "--multirun", action="store_true", help="accepted as in train.py; commas say enough")
    made.add_argument("--batch-sizes", default="1,32", metavar="B,B", help="of latency and memory (default 1,32)")
    made.add_argument("--segments", default="", metavar="M=T,...", help="T by modality (default: as the data has it)")
    made.add_argument("--no-latency", action="store_true", help="shapes only: seconds at any size")
    made.add_argument("--repeats", type=int, default=5, help="timed passes, their median counts (default 5)")
    made.add_argument("--patience", type=float, default=300, help="leave out passes that would take longer, in seconds")
    made.add_argument("--out", type=Path, help="folder of profile.json, .csv and .md (default logs/profile/...)")
    return made


def main(words: Sequence[str] | None = None) -> int:
    """Measure, show, save.

    Returns:
        0, or 2 with a message where something is to be set right.
    """
    asked = parser().parse_intermixed_args(words)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sizes = _numbers(asked.batch_sizes)
        segments = _pairs(asked.segments)
        rows = [
            row(label, cfg, asked, sizes, segments)
            for label, cfg in [(label, settings(chosen)) for label, chosen in combinations(asked.words)]
        ]
        from hmmoe.analysis.profile.table import save, show

        out = asked.out or Path("logs") / "profile" / run_stamp()
        save(rows, out, command=" ".join(["python -m hmmoe.analysis.profile", *(words or sys.argv[1:])]))
        show(rows, out)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    return 0


def _numbers(text: str) -> list[int]:
    parts = text.split(",")
    if not all(part.isdecimal() and int(part) > 0 for part in parts):
        raise ConfigError(f"--batch-sizes={text}: expected numbers, such as 1,32")
    return [int(part) for part in parts]


def _pairs(text: str) -> dict[str, int]:
    pairs = [part.partition("=") for part in text.split(",") if part]
    if not all(count.isdecimal() and int(count) > 0 for _, _, count in pairs):
        raise ConfigError(f"--segments={text}: expected modality=number, such as vision=10,audio=10")
    return {modality: int(count) for modality, _, count in pairs}


def combinations(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Label and words of every row: the product of all that have commas."""
    every = ",".join(sorted(path.name.removesuffix(".yaml") for path in files("conf").joinpath("peft").iterdir()))
    parsed = OverridesParser.create().parse_overrides([f"peft={every}" if w == "peft=all" else w for w in words])
    swept = [override for override in parsed if override.is_sweep_override()]
    fixed = [override.input_line for override in parsed if not override.is_sweep_override()]
    for values in product(*(list(override.sweep_string_iterator()) for override in swept)):
        chosen = [f"{override.get_key_element()}={value}" for override, value in zip(swept, values, strict=True)]
        named = [word for word in chosen if word.startswith("peft=")] + [w for w in chosen if not w.startswith("peft=")]
        given = next((word for word in fixed if word.startswith("peft=")), "")
        yield " ".join(named or [given]).replace("peft=", "") or "default", [*fixed, *chosen]


def row(
    label: str, cfg: DictConfig, asked: argparse.Namespace, sizes: Sequence[int], segments: dict[str, int]
) -> dict[str, Any]:
    """One method on one backbone; a combination that is refused says why."""
    started = time.perf_counter()
    try:
        found = {"method": label, "error": None, **measure(cfg, asked, sizes, segments)}
    except UserError as error:
        found = {"method": label, "error": str(error)}
    log.info("%s: %.1f s%s", label, time.perf_counter() - started, " (refused)" if found["error"] else "")
    return found


def measure(
    cfg: DictConfig, asked: argparse.Namespace, sizes: Sequence[int], segments: dict[str, int]
) -> dict[str, Any]:
    """All numbers of a configuration."""
    _check(cfg)
    from hmmoe.analysis.profile import dry, parts
    from hmmoe.analysis.profile.batch import blank
    from hmmoe.runtime import build, sizing
    from hmmoe.weightless import shaped, weightless

    shapes = shapes_of(cfg)
    fact = sizing.fit(cfg.peft, shapes, lambda node: build.factory(node, "peft"))
    counts = segments_of(cfg) | segments
    inputs = OmegaConf.to_container(cfg.backbone.inputs, resolve=True)
    recipe = build.part(cfg.optim, "optim")
    model = weightless(shaped(lambda: assemble(cfg, weightless(shapes))))
    total = sum(parameter.numel() for parameter in shapes.parameters())
    result: dict[str, Any] = {
        "backbone": cfg.backbone.get("_target_"),
        "budget": fact,
        "parameters": parts.parameters(model, total),
        "bytes": parts.stored_bytes(model),
        "sample": {modality: counts.get(modality, 1) for modality in inputs},
        "by_batch_size": {},
    }
    for size in sizes:
        batch = blank(inputs, counts, size=size)
        taken = dry.forward(model, batch) | dry.training_step(model, batch, lambda m: recipe.build(m, 10)["optimizer"])
        result["flops_per_sample"] = taken.pop("flops_per_sample")
        result["training_flops_per_sample"] = taken.pop("training_flops_per_sample")
        result["by_batch_size"][str(size)] = taken
    if not asked.no_latency:
        for size, spent in latencies(cfg, asked, sizes, inputs, counts).items():
            result["by_batch_size"][str(size)] |= spent
    return result


def _check(cfg: DictConfig) -> None:
    """Keys and values that the named classes do not take, before anything heavy is loaded."""
    from hmmoe.runtime.check import budget_faults, method_faults, node_faults

    groups = ("backbone", "peft", "task")
    if missing := [group for group in groups if OmegaConf.is_missing(cfg, group)]:
        raise ConfigError(f"nothing chosen for {', '.join(missing)}: say experiment=<name>")
    nodes = {group: OmegaConf.to_container(cfg[group], resolve=True) for group in groups}
    if faults := [*node_faults(nodes), *method_faults(nodes), *budget_faults(nodes["peft"])]:
        raise ConfigError("\n".join(faults))


def shapes_of(cfg: DictConfig) -> "Backbone":
    """The backbone on the meta device; built with random numbers first where its library needs some on the way."""
    from hmmoe.runtime import build
    from hmmoe.weightless import shaped, weightless

    node = without_weights(OmegaConf.to_container(cfg.backbone, resolve=True))
    if "store" in node:
        node["store"] = "float32"  # bytes and FLOPs are those of float32; lower precisions need autocast
    return weightless(shaped(lambda: build.part(node, "backbone")))


def without_weights(node: Any) -> Any:
    """Random weights everywhere."""
    if isinstance(node, dict):
        return {key: None if key == "weights" else without_weights(value) for key, value in node.items()}
    return [without_weights(value) for value in node] if isinstance(node, list) else node


def assemble(cfg: DictConfig, backbone: "Backbone") -> "AdaptedModel":
    """Backbone, method and head."""
    from hmmoe.model import AdaptedModel
    from hmmoe.runtime import build, sizing

    head = build.factory(OmegaConf.to_container(cfg.task.head, resolve=True), "task.head")
    method = build.factory(sizing.method_node(cfg.peft), "peft")
    return AdaptedModel(backbone, method, head, checkpointing=cfg.checkpointing)


def segments_of(cfg: DictConfig) -> dict[str, int]:
    """How many segments a sample has: as the backbone asks, else as the data's settings or its class say."""
    from hydra.utils import get_class

    found: dict[str, int] = {}
    if not OmegaConf.is_missing(cfg, "data"):
        found |= dict(getattr(get_class(cfg.data["_target_"]), "fixed_segments", ()))
        keys = {"segments": ("vision", "audio"), "frames": ("vision",), "slices": ("audio",)}
        found |= {m: cfg.data[key] for key, modalities in keys.items() if key in cfg.data for m in modalities}
    asks = {m: spec["segments"] for m, spec in cfg.backbone.inputs.items() if "segments" in spec}
    return found | asks


def latencies(
    cfg: DictConfig, asked: argparse.Namespace, sizes: Sequence[int], inputs: dict[str, Any], counts: dict[str, int]
) -> dict[int, dict[str, Any]]:
    """Median milliseconds of a forward pass by batch size, on the GPU where there is one.

    A size is left out where a pass would take longer than ``--patience`` allows, judged by the size before.
    """
    import torch

    from hmmoe.analysis.profile.batch import blank, on
    from hmmoe.analysis.profile.forward import median_seconds
    from hmmoe.runtime import build

    device = "cuda" if torch.cuda.is_available() else "cpu"
    low = cfg.precision.startswith(("bf16", "16"))
    dtype = torch.float16 if cfg.precision.startswith("16") else torch.bfloat16
    context = partial(torch.autocast, device, dtype, enabled=low)
    torch.manual_seed(cfg.seed)
    backbone = build.part(without_weights(OmegaConf.to_container(cfg.backbone, resolve=True)), "backbone")
    model = assemble(cfg, backbone).to(device).eval()
    found: dict[int, dict[str, Any]] = {}
    each = 0.0
    for size in sorted(sizes):
        if each * size > asked.patience:
            found[size] = {"latency_ms": None, "left_out": f"about {each * size:.0f} s a pass"}
            continue
        batch = on(blank(inputs, counts, size=size), device)
        median_seconds(model, batch, repeats=1, context=context)  # the first pass warms up
        spent = median_seconds(model, batch, repeats=asked.repeats, context=context)
        each = spent / size
        found[size] = {"latency_ms": 1000 * spent, "latency_device": device, "threads": torch.get_num_threads()}
    return found
