"""The table of hosts in docs/backbones.md: ``python -m scripts.host_table [--write] [names]``.

Every ``conf/backbone/*.yaml`` at its real size with random weights, one process each: sites, widths, parameters, the
share that HMMoE (rank 32, 2 experts per group, no head) trains, and FLOPs, seconds and memory of one frozen forward of
one sample with one segment per modality (or as many frames as a clip tower takes) on one thread. Then every family's
largest difference from its library.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from itertools import groupby
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs/backbones.md"
MODES = ("eval", "bf16", "train")


def build(name: str) -> tuple[Any, Any]:
    """A backbone at its real size with random weights, and its inputs."""
    from omegaconf import OmegaConf

    from hmmoe.runtime.build import part
    from hmmoe.runtime.compose import settings
    from hmmoe.runtime.profiling import without_weights

    node = OmegaConf.to_container(settings(["experiment=nlvr_hmmoe", f"backbone={name}"]).backbone, resolve=True)
    return part(without_weights(node), "backbone"), node["inputs"]


def measure(name: str) -> dict[str, Any]:
    """One row."""
    import torch
    from torch import nn

    from hmmoe.analysis.profile.batch import blank
    from hmmoe.analysis.profile.forward import cost
    from hmmoe.model import AdaptedModel
    from hmmoe.peft.hmmoe import HMMoE
    from hmmoe.peft.policies import LinearProbe
    from hmmoe.trainable import counts

    class NoHead(nn.Module):
        def forward(self, features):
            return features[min(features)].pooled

    torch.manual_seed(0)
    torch.set_num_threads(1)
    backbone, inputs = build(name)
    batch = blank(inputs, {m: spec["segments"] for m, spec in inputs.items() if "segments" in spec}, size=1)
    frozen = AdaptedModel(backbone, LinearProbe, lambda widths: NoHead()).eval()
    start = time.perf_counter()
    with torch.no_grad():
        frozen(batch)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    flops = cost(frozen, batch, repeats=3)
    groups = {"single": None, "cross": None, "channel": None}
    with torch.device("meta"):
        adapted = AdaptedModel(
            backbone, lambda sites: HMMoE(sites, groups=groups, rank=32, experts_per_group=2), lambda widths: NoHead()
        )
    total = counts(adapted)
    runs = {
        m: [(width, len(list(same))) for width, same in groupby(site.widths.get(m, 0) for site in backbone.sites)]
        for m in backbone.modalities
    }
    return {
        "name": name,
        "sites": len(backbone.sites),
        "widths": {m: ", ".join(f"{w} x {n}" for w, n in row if w) for m, row in runs.items()},
        "frozen": total["total"] - total["trained"],
        "trained": total["trained"],
        "share": total["trained_percent"],
        "gflop": flops["flops_per_sample"] / 1e9,
        "seconds": min(seconds, flops["latency_ms_per_sample"] / 1000),
        "mib": peak,
    }


def parity() -> dict[str, list[float]]:
    """Family -> largest difference from the library's own forward at small sizes, by mode."""
    import torch

    from tests.backbones.families import FAMILIES, KEEP, run
    from tests.small import perturb

    found = {}
    for name, (make_encoder, make, forward, masked) in FAMILIES.items():
        found[name] = []
        for mode in MODES:
            encoder, x = make_encoder(), make()
            perturb(encoder)
            encoder.train(mode == "train")
            with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=mode == "bf16"):
                torch.manual_seed(3)
                ours = run(encoder, x, KEEP if masked else None)
                torch.manual_seed(3)
                found[name].append((ours - forward(encoder.library, x)).abs().max().item())
    return found


def table(rows: list[dict[str, Any]], differences: dict[str, list[float]]) -> str:
    """Markdown of everything."""
    columns = "`backbone=`", "sites", "widths at the sites (width x sites)", "frozen", "HMMoE trains", "share"
    lines = header(*columns, "GFLOP", "seconds", "peak MiB")
    for row in rows:
        widths = "; ".join(f"{m} {text}" for m, text in row["widths"].items())
        cells = [f"`{row['name']}`", row["sites"], widths, f"{row['frozen']:,}", f"{row['trained']:,}"]
        cells += [f"{row['share']:.2f} %", f"{row['gflop']:.1f}", f"{row['seconds']:.2f}", f"{row['mib']:.0f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    lines += [
        "",
        "| family (small, perturbed weights) | float32 eval | bf16 autocast | seeded train mode |",
        "|---|---|---|---|",
    ]
    lines += [f"| {name} | " + " | ".join(f"{d:.1g}" for d in found) + " |" for name, found in differences.items()]
    return "\n".join(lines)


def header(*columns: str) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|"]


def main() -> None:
    """Print the tables, or put them between the marks in docs/backbones.md."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="files of conf/backbone; all if none")
    parser.add_argument("--write", action="store_true", help="into docs/backbones.md")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        print(json.dumps(measure(options.one)))
        return
    names = options.names or sorted(path.stem for path in (ROOT / "conf/backbone").glob("*.yaml"))
    rows = []
    for name in names:
        done = subprocess.run(
            [sys.executable, "-m", "scripts.host_table", "--one", name], capture_output=True, text=True, cwd=ROOT
        )
        if done.returncode:
            raise SystemExit(f"{name} failed:\n{done.stderr}")
        rows.append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{name}: {rows[-1]['share']:.2f} % of {rows[-1]['frozen'] + rows[-1]['trained']:,}", file=sys.stderr)
    text = table(rows, parity())
    if options.write:
        page = PAGE.read_text()
        head, rest = page.split("<!-- hosts -->\n", 1)
        PAGE.write_text(f"{head}<!-- hosts -->\n{text}\n<!-- end hosts -->{rest.split('<!-- end hosts -->', 1)[1]}")
    else:
        print(text)


if __name__ == "__main__":
    main()
