"""VLMo in small: the joint pass over a picture and a sentence that have nothing to do with each other.

Pictures are stacks of blocks only. Their attributes are asked of both vectors, the image's [CLS] and the pooled one of
the text, which VLMo's own heads read; what the sentence says is asked of the latter. What the one has to do with the
other is never seen, unlike in the published model's pairs.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from datamodules.media.image import Pixels
from datamodules.mini.scenes import render_box, sample_box
from hmmoe.backbones.vlmo import VLMo
from scripts.pretraining import bert
from scripts.pretraining.attributes import picture_attributes
from scripts.pretraining.fit import fit, save_half, shuffled

SIZE, WIDTH = 96, 128
ARCHITECTURE = {"width": WIDTH, "depth": 4, "heads": 4, "joint": 3, "size": SIZE, "length": bert.LENGTH}
PIXELS = Pixels(size=SIZE, mean=(0.5,) * 3, std=(0.5,) * 3)


def stacks(seed: int, count: int) -> tuple[Tensor, Tensor]:
    """Pictures (n, 3, S, S) of stacks of blocks, uint8, and their attributes."""
    rng = np.random.default_rng(seed)
    items = [sample_box(rng, "tower") for _ in range(count)]
    pictures = PIXELS.resize(np.stack([render_box(box) for box in items]))
    return pictures, torch.from_numpy(np.stack([picture_attributes(box) for box in items]))


def joint_pass(model: VLMo, pictures: Tensor, ids: Tensor) -> dict[str, Tensor]:
    """Tokens by modality; pictures normalised, ids (n, L) with 0 where nothing is written."""
    parts = model.embed(pictures, ids, ids != 0, 1)
    split = ids.shape[1]
    keep = torch.cat((ids != 0, torch.ones(parts["vision"].shape[:2], dtype=torch.bool)), 1)
    x = torch.cat((parts["text"], parts["vision"]), 1)
    for k in range(model.depth):
        x = model.attend(k, x, keep, split)
        halves = (model.half(k, "text", x[:, :split]), model.half(k, "vision", x[:, split:]))
        x = x + torch.cat([half.out for half in halves], 1)
    return {"text": model.finish("text", x[:, :split]), "vision": model.finish("vision", x[:, split:])}


def pretrain(folder: Path, *, seed: int, steps: int) -> None:
    """Train, then save under the published names."""
    torch.manual_seed(seed)
    words = bert.tokenizer()
    _, ids, slots = bert.pool(seed, 40_000, words)
    values = {name: {value: i for i, value in enumerate(sorted(set(column)))} for name, column in slots.items()}
    labels = torch.tensor([[values[name][v] for v in slots[name]] for name in values]).T
    seen = stacks(seed, 12_000)
    model = VLMo(**ARCHITECTURE, vocabulary=len(words), layer_scale=1.0)
    heads = {f"slot_{name}": nn.Linear(WIDTH, len(known)) for name, known in values.items()}
    heads |= {name: nn.Linear(WIDTH, seen[1].shape[1]) for name in ("shown", "told")}
    heads["word"] = nn.Linear(WIDTH, len(words))
    parts = nn.ModuleDict({"tower": model, **heads})
    noise = torch.Generator().manual_seed(seed)

    def loss(pictures: Tensor, whole: Tensor, ids: Tensor, labels: Tensor) -> Tensor:
        ids = ids[:, : int((ids != 0).sum(1).max())]
        hidden = (torch.rand(ids.shape, generator=noise) < 0.12) & (ids > len(bert.SPECIAL))
        plain = len(ids) // 2  # half of the sentences are read whole, half with gaps
        hidden[:plain] = False
        tokens = joint_pass(model, PIXELS.normalise(pictures), ids.masked_fill(hidden, bert.SPECIAL.index("[MASK]")))
        told, shown = model.pool("text", tokens["text"]), model.pool("vision", tokens["vision"])
        price = F.cross_entropy(parts["word"](tokens["text"][hidden]), ids[hidden])
        for i, name in enumerate(values):
            price = price + F.cross_entropy(parts[f"slot_{name}"](told[:plain]), labels[:plain, i])
        for vector, name in ((shown, "shown"), (told, "told")):
            price = price + 5 * F.binary_cross_entropy_with_logits(parts[name](vector), whole)
        return price

    batches = zip(shuffled(seen, 32, seed), shuffled((ids, labels), 32, seed), strict=False)
    fit(parts, (sight + said for sight, said in batches), loss, steps=steps, lr=2e-3, folder=folder)
    save_half(model.state_dict(), folder / "model.safetensors")
    with torch.no_grad():
        pictures, whole = stacks(seed + 77, 1000)
        _, ids, slots = bert.pool(seed + 77, 1000, words)
        tokens = joint_pass(model, PIXELS.normalise(pictures), ids)
        told, truth = model.pool("text", tokens["text"]), whole > 0.5
        right = ((parts["told"](told) > 0) == truth).float().mean()
        color = torch.tensor([values["color"].get(value, -1) for value in slots["color"]])
        slot = (parts["slot_color"](told).argmax(-1) == color).float().mean()
    rare = torch.maximum(truth.float().mean(0), 1 - truth.float().mean(0)).mean()
    print(f"held out, from the text's vector: attributes {right:.4f} (majority {rare:.4f}), said colour {slot:.4f}")
