"""What a picture of a box shows, as yes-or-no attributes: the targets of the vision tower."""

import numpy as np
from jaxtyping import Float32

from datamodules.mini.scenes import BOX, COLORS, SHAPES, SIZES, Box, in_corner, stands_on, walls

COLOR_NAMES = tuple(COLORS)
MOST = 6
"""Counts are asked as "at least 1" .. "at least MOST"."""


def at_least(count: int, most: int = MOST) -> list[bool]:
    return [count >= n for n in range(1, most + 1)]


def picture_attributes(items: Box) -> Float32[np.ndarray, " K"]:
    """Attributes of the whole box: counts by colour, shape and size, walls, corners, stacks, order of a tower."""
    found: list[bool] = at_least(len(items), 8)
    for color in COLOR_NAMES:
        of_color = [item for item in items if item["color"] == color]
        found += at_least(len(of_color))
        for shape in SHAPES:
            both = [item for item in of_color if item["type"] == shape]
            found += at_least(len(both), 4)
            found += [any(any(walls(item)) for item in both), any(in_corner(item) for item in both)]
            found += [any(item["size"] == size for item in both) for size in SIZES]
        found += [any(walls(item)[side] for item in of_color) for side in range(4)]
        found += [any(stands_on(item, other) for item in of_color for other in items if other["color"] == below)
                  for below in COLOR_NAMES]  # fmt: skip
    for shape in SHAPES:
        found += at_least(sum(item["type"] == shape for item in items))
    for size in SIZES:
        found += at_least(sum(item["size"] == size for item in items), 4)
    found += at_least(sum(any(walls(item)) for item in items), 4)
    levels = sorted(items, key=lambda item: -item["y_loc"]) if _is_tower(items) else []
    found += [bool(levels), *at_least(len(levels), 4)]
    for level in (0, 1, 2, -1):
        there = levels[level : level + 1 or None] if -len(levels) <= level < len(levels) else []
        found += [any(item["color"] == color for item in there) for color in COLOR_NAMES]
    found += [len({item["color"] for item in items}) == n for n in (1, 2, 3)]
    found += [len({item["type"] for item in items}) == n for n in (1, 2, 3)]
    return np.asarray(found, dtype=np.float32)


def patch_attributes(items: Box, grid: int) -> Float32[np.ndarray, "patches K"]:
    """For every patch: which colour, shape, size and wall contact has an item whose centre lies in it."""
    found = np.zeros((grid, grid, 1 + 3 + 3 + 3 + 4 + 9), dtype=np.float32)
    for item in items:
        half = item["size"] / 2
        cell = found[
            min(int((item["y_loc"] + half) * grid / BOX), grid - 1),
            min(int((item["x_loc"] + half) * grid / BOX), grid - 1),
        ]
        color, shape = COLOR_NAMES.index(item["color"]), SHAPES.index(item["type"])
        cell[[0, 1 + color, 4 + shape, 7 + SIZES.index(item["size"]), 14 + 3 * color + shape]] = 1
        cell[10:14] = np.maximum(cell[10:14], walls(item))
    return found.reshape(grid * grid, -1)


def _is_tower(items: Box) -> bool:
    return all(item["type"] == "square" and item["x_loc"] == 40 and item["size"] == 20 for item in items)
