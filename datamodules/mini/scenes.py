"""Drawn pictures: boxes of coloured items as in NLVR v1, and objects of a few categories on plain backgrounds."""

from functools import cache
from typing import Literal, TypedDict

import numpy as np
from jaxtyping import Bool, Float, UInt8

SHAPES = ("circle", "square", "triangle")
COLORS = {"Yellow": (255, 255, 0), "Black": (0, 0, 0), "#0099ff": (0, 153, 255)}
SIZES = (10, 20, 30)
BOX, GAP = 100, 50
FLOOR, AISLE = 211, 128
OBJECTS = 8
"""Number of categories that ``object_image`` can draw."""


class Item(TypedDict):
    """One item as NLVR's structured_rep has it: top-left corner inside its box, in pixels."""

    x_loc: int
    y_loc: int
    type: str
    color: str
    size: int


Box = list[Item]


@cache
def coverage(shape: str, size: int) -> Float[np.ndarray, "size size"]:
    """Share of every pixel that the shape covers, 8 x 8 samples per pixel."""
    at = (np.arange(size * 8) + 0.5) / 8
    y, x = np.meshgrid(at, at, indexing="ij")
    if shape == "circle":
        inside = (x - size / 2) ** 2 + (y - size / 2) ** 2 <= (size / 2) ** 2
    elif shape == "triangle":
        inside = np.abs(x - size / 2) <= y / 2
    else:
        inside = np.ones_like(x, dtype=bool)
    return inside.reshape(size, 8, size, 8).mean((1, 3))


def render_box(items: Box) -> UInt8[np.ndarray, "100 100 3"]:
    """One box with its items, in order."""
    canvas = np.full((BOX, BOX, 3), FLOOR, dtype=np.float32)
    for item in items:
        size = item["size"]
        alpha = coverage(item["type"], size)[..., None]
        part = canvas[item["y_loc"] : item["y_loc"] + size, item["x_loc"] : item["x_loc"] + size]
        alpha = alpha[: part.shape[0], : part.shape[1]]
        part += alpha * (np.asarray(COLORS[item["color"]]) - part)
    return canvas.round().astype(np.uint8)


def render(boxes: list[Box]) -> UInt8[np.ndarray, "100 400 3"]:
    """Three boxes side by side, as NLVR v1 shows them."""
    picture = np.full((BOX, 3 * BOX + 2 * GAP, 3), AISLE, dtype=np.uint8)
    for slot, items in enumerate(boxes):
        left = slot * (BOX + GAP)
        picture[:, left : left + BOX] = render_box(items)
    return picture


def sample_box(rng: np.random.Generator, kind: Literal["tower", "scatter"]) -> Box:
    """A stack of 1 to 4 squares in the middle, or 1 to 8 items that do not overlap, some of them at a wall."""
    colors = list(COLORS)
    if rng.random() < 0.3:
        colors = list(rng.choice(colors, size=rng.integers(1, 3), replace=False))
    if kind == "tower":
        return [
            Item(x_loc=40, y_loc=80 - 21 * level, type="square", color=str(rng.choice(colors)), size=20)
            for level in range(rng.integers(1, 5))
        ]
    shapes = SHAPES if rng.random() < 0.7 else (str(rng.choice(SHAPES)), str(rng.choice(SHAPES)))
    items: Box = []
    for _ in range(rng.integers(1, 9)):
        for _ in range(12):
            size = int(rng.choice(SIZES))
            x, y = (_position(rng, size) for _ in range(2))
            if all(_apart(x, y, size, other) for other in items):
                item = Item(x_loc=x, y_loc=y, type=str(rng.choice(shapes)), color=str(rng.choice(colors)), size=size)
                items.append(item)
                break
        if len(items) > 1 and rng.random() < 0.15:
            _stack(rng, items)
    return items


def _position(rng: np.random.Generator, size: int) -> int:
    """Uniform, then pushed back inside: about one item in five touches the right wall, one the floor, as in NLVR."""
    return min(int(rng.integers(0, BOX)), BOX - size)


def _apart(x: int, y: int, size: int, other: Item) -> bool:
    """At least one pixel lies between."""
    return (
        x + size < other["x_loc"]
        or other["x_loc"] + other["size"] < x
        or y + size < other["y_loc"]
        or other["y_loc"] + other["size"] < y
    )


def _stack(rng: np.random.Generator, items: Box) -> None:
    """Move the last item onto another one, where there is room."""
    moved, below = items[-1], items[int(rng.integers(0, len(items) - 1))]
    y = below["y_loc"] - moved["size"] - 1
    x = below["x_loc"] + int(rng.integers(-3, 4))
    if y >= 0 and 0 <= x <= BOX - moved["size"] and all(_apart(x, y, moved["size"], o) for o in items[:-1]):
        moved["x_loc"], moved["y_loc"] = x, y


def walls(item: Item) -> tuple[bool, bool, bool, bool]:
    """Touches the left, right, top, bottom of its box."""
    far_x, far_y = item["x_loc"] + item["size"], item["y_loc"] + item["size"]
    return item["x_loc"] <= 0, far_x >= BOX, item["y_loc"] <= 0, far_y >= BOX


def in_corner(item: Item) -> bool:
    """Touches two walls that meet."""
    left, right, top, bottom = walls(item)
    return (left or right) and (top or bottom)


def stands_on(upper: Item, lower: Item) -> bool:
    """The upper item lies right above the lower one, at most three pixels apart."""
    gap = lower["y_loc"] - upper["y_loc"] - upper["size"]
    overlap = min(upper["x_loc"] + upper["size"], lower["x_loc"] + lower["size"]) - max(upper["x_loc"], lower["x_loc"])
    return 0 <= gap <= 3 and overlap > 0


def object_image(rng: np.random.Generator, category: int, size: int) -> UInt8[np.ndarray, "size size 3"]:
    """An object of the category: its outline is the category's, colour, background, place and scale are random.

    Args:
        rng: source of everything random.
        category: 0..``OBJECTS`` - 1.
        size: height and width in pixels.
    """
    ground, ink = rng.uniform(0, 255, (2, 3))
    while np.abs(ground - ink).sum() < 180:
        ground, ink = rng.uniform(0, 255, (2, 3))
    scale = rng.uniform(0.45, 0.9) * size / 2
    cy, cx = rng.uniform(scale, size - scale, 2)
    picture = np.where(object_pixels(category, size, (cy, cx), scale)[..., None], ink, ground)
    return np.clip(picture + rng.normal(0, 8, picture.shape), 0, 255).astype(np.uint8)


def object_pixels(category: int, size: int, centre: tuple[float, float], scale: float) -> Bool[np.ndarray, "size size"]:
    """Which pixels of a square picture an object covers.

    Args:
        category: 0..``OBJECTS`` - 1.
        size: height and width of the picture.
        centre: of the object, (y, x) in pixels.
        scale: half of the object's height and width in pixels.
    """
    (cy, cx), at = centre, np.arange(size) + 0.5
    y, x = np.meshgrid((at - cy) / scale, (at - cx) / scale, indexing="ij")
    return _outline(category, y, x)


def _outline(category: int, y: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Pixels of a category's object in coordinates -1..1."""
    radius, square = np.hypot(x, y), np.maximum(np.abs(x), np.abs(y)) <= 0.9
    angle = np.arctan2(y, x)
    return [
        radius <= 1,
        (np.abs(x) <= (y + 1) / 2) & (y <= 1),
        (radius <= 1) & (radius >= 0.6),
        square & ((np.abs(x) <= 0.3) | (np.abs(y) <= 0.3)),
        square & (np.floor((y + 1) * 3.5) % 2 == 0),
        square & ((np.floor((y + 1) * 2) + np.floor((x + 1) * 2)) % 2 == 0),
        radius <= 0.65 + 0.35 * np.cos(5 * angle),
        square & (np.abs(x - y) <= 0.35),
    ][category]
