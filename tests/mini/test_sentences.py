"""Sentences beside boxes made by hand, for which a reader knows whether they are true."""

import re
from typing import NamedTuple

import numpy as np
import pytest

from datamodules.mini import sentences
from datamodules.mini.scenes import Box, Item
from datamodules.mini.sentences import FORMS, Said, sample_said

COLOR = {"y": "Yellow", "k": "Black", "b": "#0099ff"}
SHAPE = {"o": "circle", "s": "square", "t": "triangle"}
DRAWS = 20_000


def tower(colors: str) -> Box:
    """Blocks from the base up: "ykb" is yellow, black, blue."""
    return [Item(x_loc=40, y_loc=80 - 21 * k, type="square", color=COLOR[c], size=20) for k, c in enumerate(colors)]


def scatter(words: str) -> Box:
    """Items such as "yo20@0,40": a yellow circle of 20 pixels, its left upper corner at x = 0, y = 40."""
    items = [re.fullmatch(r"(\w)(\w)(\d+)@(\d+),(\d+)", word).groups() for word in words.split()]
    return [
        Item(x_loc=int(x), y_loc=int(y), type=SHAPE[shape], color=COLOR[color], size=int(size))
        for color, shape, size, x, y in items
    ]


class Case(NamedTuple):
    """A sentence (as a pattern, for its wording varies) and pictures of three boxes each."""

    form: str
    pattern: str
    true: list[str]
    false: list[str]


ON = "(over|above|on top of|on|right above|directly above)"
UNDER = "(under|below|beneath|underneath|bellow)"
BASE, TOP = "(at the base|at the bottom|as the base)", "(at|on|as) the top"
SECOND = "(as the second block.*|in the second position)"
ONE, TWO, JUST, LEAST = "(one|1)", "(two|2)", "(exactly|only)", "at ?least"
THING = "(block|item|object)"
EACH = "(all the towers have|each tower has|all towers have|all the boxes have|each box has|all boxes have)"
TOWERS = [
    Case("some", "there is exactly one black block", ["y k b", "yyk bb y"], ["y b y", "k k y", "kk y y"]),
    Case("some", f"there are {TWO} yellow blocks", ["y y k", "yyy k k", "k kyy b"], ["y k b", "k b b"]),
    Case("box_with", f"there is a tower .* {JUST} {TWO} blue blocks", ["bb k y", "bbb bkb y"], ["bbb b y", "b b k"]),
    Case("box_with", f"there is a .* at most {ONE} yellow block", ["yy y yy", "k yy yy"], ["yy yyk kyy"]),
    Case("box_with", f"there is a .* a black {THING} and a blue {THING}", ["kb y y", "y y bkb"], ["k b y", "kk bb y"]),
    Case("box_with", "there is a tower (without a|with no|without any) black block", ["k k y", "b y b"], ["k kb yk"]),
    Case("boxes_with", f"there are ({LEAST} )?{TWO} (towers|boxes) with a yellow {THING}",
         ["y y k", "yb ky y"], ["y k b", "yy kk b"]),
    Case("boxes_with", f"there (is|are) {JUST} {ONE} (tower|box) with a black {THING}",
         ["k y b", "y ykk b"], ["k k y", "y y b"]),
    Case("boxes_with", f"{EACH} a blue {THING}", ["b kb bb", "yb b b"], ["b b k"]),
    Case("all_or_none", f"there (is no|is not any) yellow {THING}", ["k b kb"], ["k b ky", "y y y"]),
    Case("colors_of", "there is a tower with blocks of (two different|only two) colors",
         ["yk b k", "ykyk y y"], ["y k b", "ykb yyy k"]),
    Case("colors_of", "there is a tower with blocks of all (3 different|three) colors",
         ["y k ykb", "bkyk y y"], ["y k b", "yk kb by"]),
    Case("colors_of", "there is a tower with blocks (of the same|with the same) color",
         ["yy k b", "kkk yk b"], ["y k b", "yk kb b"]),
    Case("above", f"there is a black block {ON} a blue block", ["bk y y", "yybk k b"], ["kb y y", "k b y", "byk y y"]),
    Case("above", f"there is a black block {UNDER} a blue block", ["kb y y", "b k ykb"], ["bk y y", "kyb y b"]),
    Case("level_of", f"there is a tower with a yellow block {BASE}", ["yk k k", "k yb b"], ["ky k k", "k b bby"]),
    Case("level_of", f"there are {TWO} towers with a black block {TOP}", ["yk k y", "k bk yk"], ["yk ky y", "ky ky k"]),
    Case("level_of", f"all the towers have a blue block {TOP}", ["b yb kkb", "b b b"], ["b yb bk"]),
    Case("level_of", f"the tower with (three|3) blocks has a black block {BASE}",
         ["kyb y y", "yyy kbb b"], ["kyky k kb", "ykk bbb k"]),
    Case("level_of", f"there is a yellow block {TOP} of a tower with {JUST} {TWO} blocks",
         ["ky b b"], ["kyb yk y", "kky y b"]),
    Case("level_of", f"there is a tower with a blue block {SECOND}", ["kb y y", "kby y y"], ["b y k", "kyb bk y"]),
    Case("height_of", "all the towers have the same height", ["yk kk by", "y y k"], ["y k kk"]),
    Case("height_of", "there are three towers with different heights", ["y kk bbb", "yyyy k kk"], ["y k kk", "y y y"]),
    Case("height_of", "there is a tower with only yellow blocks", ["yy k b", "y kb b"], ["yk ky b", "k b b"]),
    Case("height_of", "there is a yellow block between two black blocks",
         ["kyk b b", "b bkyk y"], ["kyyk b b", "yky k k", "k y k"]),
    Case("height_of", f"there are {TWO} towers with {JUST} {TWO} blocks",
         ["yk kb y", "yy yy yy"], ["yk y kkk", "yyy bbb kk"]),
]  # fmt: skip

PLACED = {
    "left": "ko20@0,40",
    "right": "ko20@80,40",
    "top": "ko20@40,0",
    "bottom": "ko20@40,80",
    "corner": "ko20@80,0",
    "nowhere": "ko20@40,40",
}
"""A black circle, and where it touches."""
ELSE = "ys20@0,0"
EVERYWHERE = {"left", "right", "top", "bottom", "corner"}
CIRCLE = f"there is (a|{LEAST} {ONE}) black circle"
SCATTERED = [
    (f"{CIRCLE} (touching the (wall|edge|side)|closely touching a wall|touching any edge)", EVERYWHERE),
    (f"{CIRCLE} (touching the (base|bottom|bottom edge)|closely touching the bottom of a box)", {"bottom"}),
    (f"{CIRCLE} (touching the (top|roof)|closely touching the top of a box)", {"top", "corner"}),
    (f"{CIRCLE} (touching the right (wall|side)|attached to the right)", {"right", "corner"}),
    (f"{CIRCLE} (touching the left (wall|side)|attached to the left)", {"left"}),
    (f"{CIRCLE} (touching (the|a) corner|closely touching any corner|in a corner)", {"corner"}),
    ("all the black circles are touching the (wall|edge|side)", EVERYWHERE),
    ("none of the black circles are touching the right (wall|side)", {"left", "top", "bottom", "nowhere"}),
    (CIRCLE, set(PLACED)),
]

MORE = [
    ("some", f"there (are|is) at most {TWO} yellow {THING}s",
     ["ys20@0,0 yo20@40,0|ko20@0,0|ko20@0,0", "ko20@0,0|ko20@0,0|ko20@0,0"],
     ["ys20@0,0 yo20@40,0|yt10@0,0|ko20@0,0"]),
    ("some", f"there are {LEAST} (three|3) triangles",
     ["yt20@0,0|kt20@0,0|bt10@0,0"],
     ["yt20@0,0|kt20@0,0|bs10@0,0"]),
    ("some", f"there is (a|{LEAST} {ONE}) big {THING}",
     ["ys20@0,0|ks30@0,0|bo10@0,0"],
     ["ys20@0,0|ks20@0,0|bo10@0,0"]),
    ("box_with", f"there is a (grey )?box .* {TWO} blue squares",
     ["bs20@0,0 bs10@40,0|ko20@0,0|ko20@0,0"],
     ["bs20@0,0|bs10@40,0|ko20@0,0", "bs20@0,0 bo10@40,0|ko20@0,0|ko20@0,0"]),
    ("boxes_with", f"{EACH} {JUST} {ONE} yellow ({THING}|circle)",
     ["yo20@0,0|yo20@0,0|yo10@0,0 ks10@50,50"],
     ["yo20@0,0|yo20@0,0|yo10@0,0 yo10@50,50", "yo20@0,0|yo20@0,0|ks20@0,0"]),
    ("colors_of", "there is a box with items (of the same|with the same) color",
     ["yo20@0,0 ys20@40,0|ko20@0,0|bo20@0,0"],
     ["yo20@0,0|ko20@0,0|bo20@0,0", "yo20@0,0 ks20@40,0|ko20@0,0|bo20@0,0"]),
    ("above", f"there is a yellow {THING} {ON} a black {THING}",
     ["yo20@40,58 ks20@42,80|bo10@0,0|bo10@0,0"],
     ["yo20@40,30 ks20@42,80|bo10@0,0|bo10@0,0", "ks20@40,58 yo20@42,80|bo10@0,0|bo10@0,0"]),
]  # fmt: skip


def find(form: str, kind: str, pattern: str) -> Said:
    """The first draw of the form that reads so."""
    rng = np.random.default_rng(0)
    drawn = (getattr(sentences, form)(rng, kind) for _ in range(DRAWS))
    return next(said for said in drawn if re.fullmatch(pattern, said.words))


@pytest.mark.parametrize("case", TOWERS, ids=lambda case: case.pattern)
def test_what_is_said_of_towers(case: Case):
    said = find(case.form, "tower", case.pattern)
    for pictures, truth in ((case.true, True), (case.false, False)):
        for picture in pictures:
            boxes = [tower(colors) for colors in picture.split()]
            assert len(boxes) == 3
            assert said.holds(boxes) is truth, (said.words, picture)


@pytest.mark.parametrize(("pattern", "places"), SCATTERED, ids=[pattern for pattern, _ in SCATTERED])
def test_what_is_said_of_places(pattern: str, places: set[str]):
    form = "all_or_none" if pattern.startswith(("all", "none")) else "some"
    said = find(form, "scatter", pattern)
    boxes = {place: [scatter(ELSE), scatter(f"{ELSE} {circle}"), scatter(ELSE)] for place, circle in PLACED.items()}
    assert {place for place, picture in boxes.items() if said.holds(picture)} == places, said.words


@pytest.mark.parametrize(("form", "pattern", "true", "false"), MORE, ids=[case[1] for case in MORE])
def test_what_is_said_of_scattered_items(form: str, pattern: str, true: list[str], false: list[str]):
    said = find(form, "scatter", pattern)
    for pictures, truth in ((true, True), (false, False)):
        for picture in pictures:
            assert said.holds([scatter(words) for words in picture.split("|")]) is truth, (said.words, picture)


def test_every_form_is_tried_by_hand():
    tried = {case.form for case in TOWERS} | {case[0] for case in MORE}
    assert {form.__name__ for forms in FORMS.values() for form in forms} <= tried


@pytest.mark.parametrize(
    ("kind", "holding"),
    [("bare", [2, 3, 4]), ("least", [2, 3, 4]), ("exactly", [2]), ("most", [0, 1, 2])],
)
def test_quantities(kind: str, holding: list[int]):
    assert [n for n in range(5) if sentences.Quantity("two", kind, 2).holds(n)] == holding


def test_sentences_hang_on_the_seed_alone():
    first, again, other = (sample_said(np.random.default_rng(seed)).words for seed in (5, 5, 6))
    assert first == again != other


def test_slots_repeat_what_is_said():
    rng = np.random.default_rng(0)
    for said in (sample_said(rng) for _ in range(300)):
        assert said.slots["form"]
        for slot in ("color", "color2", "shape", "shape2", "size", "size2"):
            if said.slots.get(slot, "-") != "-":
                assert said.slots[slot] in said.words
