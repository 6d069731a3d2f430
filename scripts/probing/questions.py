"""What the probes ask: freshly generated pictures, sounds and sentences with labels."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d, one_hot

from datamodules.media.image import Pixels
from datamodules.media.logmel import LogMel
from datamodules.media.text import Text
from datamodules.mini.scenes import Box, render_box, sample_box, walls
from datamodules.mini.sentences import sample_said
from scripts.pretraining.sounds import pool as sounds
from scripts.pretraining.vit import objects

SEED = 990_001
"""Far from those of pretraining, which takes its chunks from 1000 times its own seed on."""
PRETRAINED_SENTENCES = 40_000
SLOTS = ("form", "color", "n", "quantity")


class Material(NamedTuple):
    """Examples of one modality, training rows first, and the questions about them.

    ``ready`` turns rows into what a tower reads, ``plain`` into a vector without any tower: block means of a picture,
    counts of the words.
    """

    modality: str
    rows: Tensor
    ready: Callable[[Tensor], Any]
    plain: Callable[[Tensor], Float[Tensor, "n D"]]
    labels: dict[str, list[str]]
    train: int


def of_pictures(pictures: np.ndarray, labels: dict[str, list[str]], train: int, spec: dict[str, Any]) -> Material:
    """Pictures (uint8 RGB) for a vision tower."""
    pixels = Pixels(**spec)
    return Material(
        "vision",
        pixels.resize(pictures),
        lambda rows: pixels.normalise(rows).unsqueeze(1),
        lambda rows: adaptive_avg_pool2d(pixels.normalise(rows), 12).flatten(1),
        labels,
        train,
    )


def of_sounds(pictures: Tensor, labels: dict[str, list[str]], train: int) -> Material:
    """Log-mel pictures for a tower that hears."""
    return Material(
        "audio", pictures, lambda rows: rows.unsqueeze(1), lambda r: adaptive_avg_pool2d(r, (16, 24)).flatten(1),
        labels, train,
    )  # fmt: skip


def boxes(spec: dict[str, Any], train: int, test: int) -> Material:
    """Boxes of scattered items, every other one drawn until it has a black circle at a wall, the others until not."""
    rng = np.random.default_rng(SEED)
    items = [_box_with(rng, bool(i % 2)) for i in range(train + test)]
    labels = {
        "number of items": [str(len(box)) for box in items],
        "a black circle touches a wall": [str(bool(i % 2)) for i in range(train + test)],
    }
    return of_pictures(np.stack([render_box(box) for box in items]), labels, train, spec)


def _box_with(rng: np.random.Generator, wanted: bool) -> Box:
    while True:
        box = sample_box(rng, "scatter")
        if any(item["type"] == "circle" and item["color"] == "Black" and any(walls(item)) for item in box) == wanted:
            return box


def stacks(spec: dict[str, Any], train: int, test: int) -> Material:
    """Towers of blocks; half as many, for they are easy."""
    train, test = train // 2, test // 2
    rng = np.random.default_rng(SEED + 1)
    items = [sample_box(rng, "tower") for _ in range(train + test)]
    labels = {
        "colour of a tower's base": [box[0]["color"] for box in items],
        "colour of a tower's top": [box[-1]["color"] for box in items],
    }
    return of_pictures(np.stack([render_box(box) for box in items]), labels, train, spec)


def things(spec: dict[str, Any], train: int, test: int) -> Material:
    """Objects on plain ground."""
    pictures, kinds = objects(SEED + 2, train + test)
    return of_pictures(pictures, {"object category": [str(kind) for kind in kinds]}, train, spec)


def noises(spec: dict[str, Any], train: int, test: int) -> Material:
    """Sounds of one second."""
    pictures, kinds, _ = sounds(SEED + 3, train + test, LogMel(**spec))
    return of_sounds(pictures, {"sound category": [str(kind) for kind in kinds.tolist()]}, train)


def sentences(spec: dict[str, Any], train: int, test: int) -> Material:
    """Sentences that pretraining (seed 0) never saw; a slot that a sentence lacks is "-"."""
    old, rng = np.random.default_rng(0), np.random.default_rng(SEED + 4)
    seen, said = {sample_said(old).words for _ in range(PRETRAINED_SENTENCES)}, []
    while len(said) < train + test:
        if (new := sample_said(rng)).words not in seen:
            seen.add(new.words)
            said.append(new)
    text = Text(**spec)
    ids, _ = text.encode([new.words for new in said])
    pad, size = text.tokenizer.pad_token_id, len(text.tokenizer)
    return Material(
        "text",
        ids,
        lambda rows: {"ids": rows, "keep": rows != pad},
        lambda rows: one_hot(rows, size).sum(1).float(),
        {f"slot {slot}": [new.slots.get(slot, "-") for new in said] for slot in SLOTS},
        train,
    )


def generated(tower: str, inputs: dict[str, Any], train: int, test: int) -> Iterator[Material]:
    """The questions to one tower, made one after the other."""
    ask = {
        "vit": (("vision", things), ("vision", boxes), ("vision", stacks)),
        "swinv2": (("vision", things), ("audio", noises)),
        "ast": (("audio", noises),),
        "bert": (("text", sentences),),
        "valor_audio": (("audio", noises),),
        "swin3d": (("vision", things), ("vision", stacks)),
    }
    for modality, make in ask[tower]:
        yield make(inputs[modality], train, test)


def in_parts(material: Material, answer: Callable[[Tensor], Tensor], size: int = 250) -> Tensor:
    """``answer`` to all rows, so many at a time."""
    return torch.cat([answer(rows) for rows in material.rows.split(size)])
