"""Drawn boxes, objects and sounds: the same by seed, in the right colours, at the right places."""

from itertools import pairwise

import numpy as np
import pytest

from datamodules.mini import scenes
from datamodules.mini.scenes import (
    BOX,
    COLORS,
    FLOOR,
    OBJECTS,
    SHAPES,
    Item,
    in_corner,
    object_image,
    render,
    render_box,
    sample_box,
    stands_on,
    walls,
)
from datamodules.mini.sounds import SOUNDS, synthesize


def item(x: int, y: int, size: int = 20, shape: str = "square", color: str = "Black") -> Item:
    return Item(x_loc=x, y_loc=y, type=shape, color=color, size=size)


@pytest.mark.parametrize("kind", ["tower", "scatter"])
def test_boxes_hang_on_the_seed_alone(kind: str):
    first, again, other = (sample_box(np.random.default_rng(seed), kind) for seed in (3, 3, 4))
    assert first == again != other


@pytest.mark.parametrize("category", range(OBJECTS))
def test_objects_hang_on_the_seed_alone(category: int):
    first, again, other = (object_image(np.random.default_rng(seed), category, 32) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)


@pytest.mark.parametrize("category", range(SOUNDS))
def test_sounds_hang_on_the_seed_alone_and_fit_a_file(category: int):
    first, again, other = (synthesize(np.random.default_rng(seed), category, 0.5, 16_000) for seed in (3, 3, 4))
    assert np.array_equal(first, again) and not np.array_equal(first, other)
    assert first.shape == (8000,) and first.dtype == np.float32
    assert 0.25 < np.abs(first).max() <= 1


def test_scattered_items_lie_inside_and_apart():
    rng = np.random.default_rng(0)
    for box in (sample_box(rng, "scatter") for _ in range(100)):
        assert 1 <= len(box) <= 8
        taken = np.zeros((BOX, BOX), dtype=int)
        for one in box:
            assert min(one["x_loc"], one["y_loc"]) >= 0
            assert max(one["x_loc"], one["y_loc"]) + one["size"] <= BOX
            taken[one["y_loc"] : one["y_loc"] + one["size"], one["x_loc"] : one["x_loc"] + one["size"]] += 1
        assert taken.max() == 1


def test_towers_are_stacks_from_the_floor_up():
    rng = np.random.default_rng(0)
    boxes = [sample_box(rng, "tower") for _ in range(50)]
    assert {len(box) for box in boxes} == {1, 2, 3, 4}
    assert all(walls(box[0]) == (False, False, False, True) for box in boxes)
    assert all(stands_on(upper, lower) for box in boxes for lower, upper in pairwise(box))


@pytest.mark.parametrize("size", scenes.SIZES)
@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("shape", SHAPES)
def test_an_item_has_its_colour_and_area(shape: str, color: str, size: int):
    picture = render_box([item(13, 40, size, shape, color)])
    middle = picture[40 + size // 2, 13 + size // 2]
    assert tuple(middle) == COLORS[color]
    rest = picture.copy()
    rest[40 : 40 + size, 13 : 13 + size] = FLOOR
    assert (rest == FLOOR).all()
    share = {"square": 1, "circle": np.pi / 4, "triangle": 0.5}[shape]
    covered = (FLOOR - picture[..., 0].astype(float)).sum() / (FLOOR - COLORS[color][0])
    assert covered == pytest.approx(share * size**2, rel=0.02)


def test_three_boxes_stand_between_two_aisles():
    picture = render([[item(0, 0, color="Yellow")], [item(80, 80)], [item(40, 0, color="#0099ff")]])
    assert picture.shape == (100, 400, 3)
    assert (picture[:, 100:150] == scenes.AISLE).all() and (picture[:, 250:300] == scenes.AISLE).all()
    assert [tuple(picture[y, x]) for y, x in ((10, 10), (90, 240), (10, 350), (50, 50))] == [
        (255, 255, 0), (0, 0, 0), (0, 153, 255), (FLOOR,) * 3,
    ]  # fmt: skip


def test_objects_of_two_categories_differ_by_their_outline():
    """A disc fills pi/4 of its square, a ring pi/4 (1 - 0.6^2): the same draw, so the same ground and scale."""
    disc, ring = (object_image(np.random.default_rng(1), category, 64).astype(int) for category in (0, 2))
    ground = np.median(ring.reshape(-1, 3), axis=0)
    inked = [(np.abs(picture - ground).sum(-1) > 90).sum() for picture in (disc, ring)]
    assert inked[1] / inked[0] == pytest.approx(0.64, abs=0.05)


def test_walls_and_corners():
    assert walls(item(0, 40)) == (True, False, False, False)
    assert walls(item(80, 40)) == (False, True, False, False)
    assert walls(item(40, 0)) == (False, False, True, False)
    assert walls(item(40, 80)) == (False, False, False, True)
    assert walls(item(1, 79)) == (False,) * 4
    assert [in_corner(item(x, y)) for x, y in ((0, 0), (80, 0), (0, 80), (80, 80), (0, 40), (40, 80))] == [
        True, True, True, True, False, False,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("upper", "lower", "stands"),
    [
        (item(40, 59), item(40, 80), True),
        (item(40, 57), item(40, 80), True),
        (item(40, 56), item(40, 80), False),
        (item(59, 60), item(40, 80), True),
        (item(60, 60), item(40, 80), False),
        (item(40, 80), item(40, 59), False),
    ],
    ids=["one pixel apart", "three apart", "four apart", "over the edge", "beside", "below"],
)
def test_standing_on(upper: Item, lower: Item, stands: bool):
    assert stands_on(upper, lower) is stands
