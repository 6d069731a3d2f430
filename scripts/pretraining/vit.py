"""Vision tower: what is where in a box of items, and which object a picture shows."""

from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.media.image import Pixels
from datamodules.mini.scenes import OBJECTS, object_image, render_box, sample_box
from hmmoe.backbones.weights import load_strictly, read_state
from scripts.pretraining.attributes import patch_attributes, picture_attributes
from scripts.pretraining.fit import fit, save_half, shuffled

SIZE, GRID = 96, 6
ARCHITECTURE = {
    "img_size": SIZE,
    "patch_size": SIZE // GRID,
    "embed_dim": 128,
    "depth": 5,
    "num_heads": 4,
    "num_classes": 0,
}
NAME = "vit_tiny_patch16_224"
PIXELS = Pixels(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)


def build() -> nn.Module:
    """timm's ViT in the mini tower's sizes."""
    return timm.create_model(NAME, **ARCHITECTURE)


def boxes(seed: int, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rendered boxes with their attributes; a third of them towers."""
    rng = np.random.default_rng(seed)
    pictures, whole, parts = [], [], []
    for _ in range(count):
        items = sample_box(rng, "tower" if rng.random() < 0.4 else "scatter")
        pictures.append(render_box(items))
        whole.append(picture_attributes(items))
        parts.append(patch_attributes(items, GRID))
    return np.stack(pictures), np.stack(whole), np.stack(parts)


def objects(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pictures of objects and their categories."""
    rng = np.random.default_rng(seed)
    kinds = rng.integers(0, OBJECTS, count)
    return np.stack([object_image(rng, int(kind), 100) for kind in kinds]), kinds


def pool(seed: int, count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Pictures (uint8), attributes, patch attributes, category (-1 for a box), two processes at work."""
    chunk = 2000
    with ProcessPoolExecutor(2) as workers:
        made = list(workers.map(boxes, [seed * 1000 + i for i in range(count // chunk)], [chunk] * (count // chunk)))
        seen = list(
            workers.map(
                objects, [seed * 1000 + 500 + i for i in range(count // chunk // 6)], [chunk] * (count // chunk // 6)
            )
        )
    whole, parts = (torch.from_numpy(np.concatenate([m[i] for m in made])) for i in (1, 2))
    kinds = torch.from_numpy(np.concatenate([s[1] for s in seen]))
    pictures = torch.cat([PIXELS.resize(m[0]) for m in (*made, *seen)])
    none = len(kinds)
    return (
        pictures,
        torch.cat((whole, torch.zeros(none, whole.shape[1]))),
        torch.cat((parts, torch.zeros(none, *parts.shape[1:]))),
        torch.cat((torch.full((len(whole),), -1), kinds)),
    )


def pretrain(folder: Path, *, seed: int, steps: int, go_on: bool = False) -> None:
    """Train (from the stored weights with ``go_on``), then save under timm's names."""
    torch.manual_seed(seed)
    data = pool(seed, 48_000)
    width = ARCHITECTURE["embed_dim"]
    parts = nn.ModuleDict(
        {
            "tower": build(),
            "whole": nn.Linear(width, data[1].shape[1]),
            "patch": nn.Linear(width, data[2].shape[2]),
            "category": nn.Linear(width, OBJECTS),
        }
    )

    if go_on:
        load_strictly(parts["tower"], read_state(folder / "model.safetensors"), source=str(folder))

    def loss(pictures: Tensor, whole: Tensor, patches: Tensor, kinds: Tensor) -> Tensor:
        tokens = parts["tower"].forward_features(PIXELS.normalise(pictures))
        box = kinds < 0
        price = 4 * F.binary_cross_entropy_with_logits(parts["whole"](tokens[box, 0]).float(), whole[box])
        price = price + 8 * F.binary_cross_entropy_with_logits(parts["patch"](tokens[box, 1:]).float(), patches[box])
        return price + 0.3 * F.cross_entropy(parts["category"](tokens[~box, 0]).float(), kinds[~box])

    fit(parts, shuffled(data, 64, seed), loss, steps=steps, lr=2e-3, folder=folder, go_on=go_on)
    save_half(parts["tower"].state_dict(), folder / "model.safetensors")
    _check(parts, seed)


def _check(parts: nn.ModuleDict, seed: int) -> None:
    """Held-out accuracy of the attributes, printed beside the share of the more frequent answer."""
    pictures, whole, _, kinds = pool(seed + 77, 12_000)
    with torch.no_grad():
        tokens = torch.cat([parts["tower"].forward_features(PIXELS.normalise(x)) for x in pictures.split(500)])
        right = ((parts["whole"](tokens[:, 0]) > 0) == (whole > 0.5))[kinds < 0].float().mean(0)
        guess = whole[kinds < 0].mean(0)
        category = (parts["category"](tokens[:, 0]).argmax(-1) == kinds)[kinds >= 0].float().mean()
    rare = torch.maximum(guess, 1 - guess)
    print(
        f"attributes {right.mean():.4f} (majority {rare.mean():.4f}), worst {right.min():.4f}; category {category:.4f}"
    )
    print("error cut to", ((1 - right).sum() / (1 - rare).sum()).item(), "of the majority's")
