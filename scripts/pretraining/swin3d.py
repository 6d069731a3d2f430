"""VALOR's vision tower in small: the attributes of boxes and the category of objects, in clips of one frame."""

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.media.image import Pixels
from datamodules.mini.scenes import OBJECTS
from hmmoe.backbones.swin3d import Swin3D
from scripts.pretraining.fit import fit, save_half, shuffled
from scripts.pretraining.vit import boxes, objects

SIZE = 48
ARCHITECTURE = {"stride": 1, "embed_dim": 32, "depths": (2, 2, 2), "num_heads": (2, 4, 8), "window_size": (2, 6, 6)}
PIXELS = Pixels(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)


def pretrain(folder: Path, *, seed: int, steps: int) -> None:
    """Train on batches of either kind, then save under torchvision's names."""
    torch.manual_seed(seed)
    encoder = Swin3D(**ARCHITECTURE)
    width = encoder.widths[-1]

    def stacks(seed: int, count: int) -> tuple[Tensor, Tensor]:
        pictures, whole, _ = boxes(seed, count)
        return PIXELS.resize(pictures), torch.from_numpy(whole)

    def sights(seed: int, count: int) -> tuple[Tensor, Tensor]:
        pictures, kinds = objects(seed, count)
        return PIXELS.resize(pictures), torch.from_numpy(kinds)

    boxed, seen = stacks(seed, 12_000), sights(seed + 1, 6000)
    heads = {"whole": nn.Linear(width, boxed[1].shape[1]), "category": nn.Linear(width, OBJECTS)}
    parts = nn.ModuleDict({"tower": encoder.library, **heads})

    def pooled(pictures: Tensor) -> Tensor:
        x, ctx = encoder.embed(PIXELS.normalise(pictures).unsqueeze(1), None)
        for k in range(len(encoder.widths)):
            x = encoder.merge(k, encoder.half(k, x, ctx), ctx)
        return encoder.pool(encoder.finish(x, ctx), None)

    def loss(stack: Tensor, whole: Tensor, sight: Tensor, kinds: Tensor) -> Tensor:
        vectors = pooled(torch.cat((stack, sight)))
        price = 4 * F.binary_cross_entropy_with_logits(parts["whole"](vectors[: len(stack)]), whole)
        return price + F.cross_entropy(parts["category"](vectors[len(stack) :]), kinds)

    batches = zip(shuffled(boxed, 24, seed), shuffled(seen, 24, seed), strict=False)
    fit(parts, (stack + sight for stack, sight in batches), loss, steps=steps, lr=1.5e-3, folder=folder)
    save_half(encoder.library.state_dict(), folder / "model.safetensors")
    (box, whole), (sight, kinds) = stacks(seed + 77, 1000), sights(seed + 78, 1000)
    with torch.no_grad():
        right = ((torch.cat([parts["whole"](pooled(x)) for x in box.split(200)]) > 0) == (whole > 0.5)).float().mean(0)
        known = (torch.cat([parts["category"](pooled(x)) for x in sight.split(200)]).argmax(-1) == kinds).float().mean()
    guess = whole.mean(0)
    rare = torch.maximum(guess, 1 - guess).mean()
    print(f"held out: attributes {right.mean():.4f} (majority {rare:.4f}), objects {known:.4f} (chance 0.125)")
