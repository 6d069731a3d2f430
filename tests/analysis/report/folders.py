"""Small run folders in the format of hmmoe/runtime, with scores that the test chooses."""

import csv
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from PIL import Image

SHA = "93cfc01ae2087c8f4c330c5ce5913d7cec139a24"
SITES, KINDS = 4, ("single", "cross:text", "channel:text")


def manifest(seed: int = 0) -> dict[str, Any]:
    return {
        "root": "data/nlvr",
        "splits": {
            split: {"count": count, "dropped": 0, "sha256": f"{seed}{index}" * 32}
            for index, (split, count) in enumerate((("train", 400), ("val", 100), ("test", 100)))
        },
    }


def write(folder: Path, name: str, content: Mapping[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(dict.fromkeys(key for row in rows for key in row)))
        writer.writeheader()
        writer.writerows(rows)


def make(
    folder: Path,
    *,
    score: float = 0.7,
    seed: int = 1,
    peft: str = "hmmoe",
    settings: Mapping[str, Any] | None = None,
    status: Mapping[str, Any] | None = None,
    git: Mapping[str, Any] | None = None,
    data: Mapping[str, Any] | None = None,
    trained: int = 100_000,
    right: Sequence[bool] | None = None,
    curve: Sequence[float] | None = None,
    alarms: int = 0,
    name: str = "nlvr_hmmoe",
) -> Path:
    """One run. ``settings`` are leaves such as {"peft.rank": 8}; ``right`` says which of its test answers are."""
    values = {"peft.rank": 8, **(settings or {})} if peft != "linear_probe" else dict(settings or {})
    words = [f"experiment={name}", f"peft={peft}", *(f"{k}={v}" for k, v in (settings or {}).items()), f"seed={seed}"]
    record = {"job": "train", "name": name, "scale": "mini", "seed": seed, "tags": [], "overrides": words}
    record |= {"time": f"2026-01-01T00:00:{seed:02d}+00:00", "git": dict(git or {"sha": SHA, "dirty": False})}
    record |= {"versions": {"torch": "2.15.0"}, "hardware": {"cpu": "AMD EPYC", "threads": 1, "gpus": []}}
    record |= {"command": "train.py " + " ".join(words), "fingerprint": "fd35", "data": dict(data or manifest())}
    write(folder, "run.json", record)
    write(folder, "status.json", status or {"status": "completed", "seconds": 60.0})
    tree: dict[str, Any] = {"name": name, "seed": seed, "data": {"_target_": "datamodules.nlvr.NLVR", "seed": seed}}
    tree |= {"peft": {"_target_": f"hmmoe.peft.{peft}"}, "paths": {"run_dir": str(folder)}}
    for key, value in values.items():
        node = tree
        *path, leaf = key.split(".")
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    choices = {"peft": peft, "data": "nlvr", "experiment": name, "hydra/launcher": "basic", "scale@data": "x"}
    (folder / ".hydra").mkdir(exist_ok=True)
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"choices": choices}}}))
    if status and status["status"] != "completed":
        return folder
    curve = curve or [score - 0.1, score - 0.04, score - 0.01, score]
    rows = [
        {"epoch": e, "step": 10 * e, "val/acc": v, "train/loss": 1 - v + 0.01 * e, "experts/alarms": alarms}
        for e, v in enumerate(curve)
    ]
    write_rows(folder / "metrics.csv", rows)
    result = {"metrics": {"train": {"acc": 0.9}, "val": {"acc": score + 0.01}, "test": {"acc": score, "loss": 0.5}}}
    result |= {"references": {"val": {"majority": 0.55}, "test": {"majority": 0.56}}, "seconds": 60.0, "seed": seed}
    result |= {"selected": {"monitor": "val/acc", "mode": "max", "score": score + 0.01, "epoch": 3, "on_test": False}}
    sizes = {"adapters": trained // 2, "router": 0, "head": trained - trained // 2, "backbone": 0, "trained": trained}
    result |= {"parameters": {**sizes, "total": 10 * trained, "trained_percent": 10.0}, "peak_memory_mib": 900.0}
    result |= {"cost": {"flops_per_sample": 2e8 + 100 * trained, "latency_ms_per_sample": 3.0, "step_ms": 41.0}}
    write(folder, "result.json", result | {"precision": "32-true", "processes": 1})
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "best.ckpt").write_bytes(b"0" * 2000)
    if right is not None:
        table = [{"id": f"t{i}", "prediction": int(one), "label": 1} for i, one in enumerate(right)]
        write_rows(folder / "predictions" / "test.csv", table)
    return folder


def route(folder: Path, *, split: str = "test", shift: float = 0.0, dead: bool = False) -> Path:
    """Utilisation tables of two modalities: the share of ``cross`` grows with depth, by ``shift`` more."""
    rows = []
    for site in range(SITES):
        for modality, source in (("vision", "text"), ("text", "vision")):
            cross = 0.2 + 0.15 * site + shift
            shares = {"single": 0.6 * (1 - cross), f"cross:{source}": cross, f"channel:{source}": 0.4 * (1 - cross)}
            for group, share in shares.items():
                place = {"epoch": 4, "split": split, "site": f"site{site:02d}", "depth": site, "modality": modality}
                told = {"selection_share": 0.3, "entropy": 0.9, "token_entropy": 0.5, "tokens": 1000}
                rows.append(
                    {**place, "level": "group", "group": group, "expert": "", "weight_share": share}
                    | {"selection_share": 0.3, "ratio": 3 * share, **told, "dead": False}
                )
                for expert in (0, 1):
                    part = (0.0 if expert else 1.0) if dead and site == 0 else 0.6 - 0.2 * expert
                    rows.append(
                        {**place, "level": "expert", "group": group, "expert": expert, "weight_share": part}
                        | {"selection_share": 0.3, "ratio": 2 * part, **told, "dead": part == 0}
                    )
    write_rows(folder / "routing" / f"epoch_0004_{split}.csv", rows)
    return folder


def exemplify(folder: Path, *, split: str = "test") -> Path:
    """Words and patches by expert, as ``TokenExamples`` leaves them."""
    head = ("epoch", "site", "modality", "group", "expert", "rank", "token", "share", "overall", "count", "id", "tile")
    rows, tile = [], 0
    for site in ("site00", "site03"):
        for group in KINDS:
            for expert in (0, 1):
                for rank, word in enumerate(("yellow", "##ing", "box", "exactly")):
                    place = (4, site, "text", group.replace("text", "vision"), expert, rank)
                    rows.append(dict(zip(head, (*place, word, 0.9 - 0.1 * rank, 0.17, 20, "", ""), strict=True)))
                for rank in range(4):
                    where = f"picture 0, row {rank + 1}, column 2 of 6"
                    place = (4, site, "vision", group, expert, rank, where, 0.8 - 0.1 * rank, 0.17, 1, f"t{rank}", tile)
                    rows.append(dict(zip(head, place, strict=True)))
                    tile += 1
    write_rows(folder / "routing" / f"tokens_{split}.csv", rows)
    pixels = np.random.default_rng(0).integers(0, 255, (-(-tile // 16) * 48, 16 * 48, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "routing" / f"patches_{split}.png")
    return folder


def sweep(root: Path, *, seeds: int = 3, ranks: Sequence[int] = (8, 16, 32), examples: int = 0) -> Path:
    """Two methods by ranks by seeds, and one that failed; hmmoe gains 0.02 on lora at every rank and seed."""
    draw = np.random.default_rng(3)
    job = 0
    for seed in range(1, seeds + 1):
        luck = 0.01 * draw.standard_normal()
        for peft, gain in (("lora", 0.0), ("hmmoe", 0.02)):
            for rank in ranks:
                score = 0.7 + gain + luck + 0.015 * min(rank, 16) / 16 + 0.002 * draw.standard_normal()
                right = (draw.random(examples) < score).tolist() if examples else None
                trained = rank * 12_000 * (2 if peft == "hmmoe" else 1)
                options = {"settings": {"peft.rank": rank}, "trained": trained, "right": right}
                folder = make(root / str(job), score=float(score), seed=seed, peft=peft, **options)
                if peft == "hmmoe":
                    route(folder, shift=0.02 * seed)
                job += 1
    make(root / str(job), seed=9, status={"status": "failed", "reason": "ValueError: a loss that is not finite"})
    return root
