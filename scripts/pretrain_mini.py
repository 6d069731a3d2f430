"""Pretrain the mini towers on generated data, one modality at a time.

python -m scripts.pretrain_mini vit --steps 6000 --seed 0
"""

import argparse
import importlib
from pathlib import Path

STEPS = {"vit": 4500, "bert": 1800, "ast": 500, "swinv2": 1400, "valor_audio": 500, "swin3d": 700, "vlmo": 1400}
OUT = Path("hmmoe/backbones/mini")


def main() -> None:
    """Train one tower, or all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tower", choices=[*STEPS, "all"])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help=f"optimizer steps (default: {STEPS})")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--go-on", action="store_true", help="start from the weights that are there (vit)")
    given = parser.parse_args()
    for tower in STEPS if given.tower == "all" else [given.tower]:
        folder = given.out / tower
        folder.mkdir(parents=True, exist_ok=True)
        module = importlib.import_module(f"scripts.pretraining.{tower}")
        more = {"go_on": True} if given.go_on else {}
        module.pretrain(folder, seed=given.seed, steps=given.steps or STEPS[tower], **more)


if __name__ == "__main__":
    main()
