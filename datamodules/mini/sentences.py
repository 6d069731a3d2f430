"""Templated sentences about boxes of items, in the manner of NLVR v1, that know whether they are true of a picture."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from datamodules.mini.scenes import SHAPES, SIZES, Box, Item, in_corner, stands_on, walls

COLORS = {"yellow": "Yellow", "black": "Black", "blue": "#0099ff"}
SIZE_WORDS = dict(zip(("small", "medium", "big"), SIZES, strict=True))
DIGITS = ("zero", "one", "two", "three", "four", "five", "six", "seven")


class Quantity(NamedTuple):
    """A count as it is said and what it asks for."""

    words: str
    kind: str
    n: int

    def holds(self, count: int) -> bool:
        """Whether a count satisfies it; a bare number means at least."""
        if self.kind == "exactly":
            return count == self.n
        if self.kind == "most":
            return count <= self.n
        return count >= self.n


class What(NamedTuple):
    """Items of a description; None leaves a property open."""

    color: str | None
    shape: str | None
    size: str | None

    def fits(self, item: Item) -> bool:
        """Whether the item answers the description."""
        return (
            (self.color is None or item["color"] == COLORS[self.color])
            and (self.shape is None or item["type"] == self.shape)
            and (self.size is None or item["size"] == SIZE_WORDS[self.size])
        )

    def say(self, rng: np.random.Generator, plural: bool, noun: str | None) -> str:
        """The description in words; ``noun`` is used where no shape is asked for."""
        name = self.shape or noun or str(rng.choice(["item", "object"]))
        return " ".join(word for word in (self.size, self.color, name + "s" * plural) if word)


class Said(NamedTuple):
    """A sentence, its meaning slot by slot, and its test."""

    words: str
    slots: dict[str, str]
    holds: Callable[[list[Box]], bool]


PLACES: dict[str, tuple[tuple[str, ...], Callable[[Item], bool]]] = {
    "wall": (
        ("touching the wall", "touching the edge", "touching the side", "closely touching a wall", "touching any edge"),
        lambda item: any(walls(item)),
    ),
    "bottom": (
        (
            "touching the base",
            "touching the bottom",
            "closely touching the bottom of a box",
            "touching the bottom edge",
        ),
        lambda item: walls(item)[3],
    ),
    "top": (
        ("touching the top", "touching the roof", "closely touching the top of a box"),
        lambda item: walls(item)[2],
    ),
    "right": (("touching the right wall", "touching the right side", "attached to the right"), lambda i: walls(i)[1]),
    "left": (("touching the left wall", "touching the left side", "attached to the left"), lambda i: walls(i)[0]),
    "corner": (("touching the corner", "touching a corner", "closely touching any corner", "in a corner"), in_corner),
}
UP = ("over", "above", "on top of", "on", "right above", "directly above")
DOWN = ("under", "below", "beneath", "underneath", "bellow")


def number(rng: np.random.Generator, n: int) -> str:
    """A number in letters or digits."""
    return DIGITS[n] if rng.random() < 0.6 else str(n)


def quantity(rng: np.random.Generator, most: int = 5) -> Quantity:
    """A random count."""
    n = int(min(1 + rng.geometric(0.42) - 1, most))
    kind = str(rng.choice(["bare", "least", "exactly", "most"], p=[0.33, 0.3, 0.29, 0.08]))
    word = number(rng, n)
    if kind == "bare" and n == 1:
        return Quantity("a", kind, 1)
    said = {
        "bare": (word,),
        "least": (f"at least {word}", f"atleast {word}"),
        "exactly": (f"exactly {word}", f"only {word}"),
        "most": (f"at most {word}",),
    }[kind]
    return Quantity(str(rng.choice(said)), kind, n)


def what(rng: np.random.Generator, kind: str) -> What:
    """A random description."""
    color = str(rng.choice(list(COLORS))) if rng.random() < 0.8 else None
    if kind == "tower":
        return What(color, None, None)
    shape = str(rng.choice(SHAPES)) if rng.random() < 0.55 else None
    size = str(rng.choice(list(SIZE_WORDS))) if rng.random() < 0.1 else None
    return What(color, shape, size)


def _noun(rng: np.random.Generator, kind: str) -> str:
    return str(rng.choice(["block", "block", "item"])) if kind == "tower" else str(rng.choice(["item", "object"]))


def _there(n: int, words: str) -> str:
    return f"there {'is' if n == 1 else 'are'} {words}"


def _counted(rng: np.random.Generator, kind: str) -> tuple[str, Quantity, What]:
    q, w = quantity(rng), what(rng, kind)
    return f"{q.words} {w.say(rng, q.n > 1, _noun(rng, kind))}", q, w


def _count(items: Box, w: What) -> int:
    return sum(w.fits(item) for item in items)


def _slots(form: str, q: Quantity | None = None, w: What | None = None, end: str = "", **more: str) -> dict[str, str]:
    slots = {f"form{end}": form} if not end else {}
    if q is not None:
        slots |= {f"quantity{end}": q.kind, f"n{end}": str(q.n)}
    if w is not None:
        slots |= {f"color{end}": w.color or "-", f"shape{end}": w.shape or "-", f"size{end}": w.size or "-"}
    return slots | more


def some(rng: np.random.Generator, kind: str) -> Said:
    """There are n ... [at a place]."""
    words, q, w = _counted(rng, kind)
    place = str(rng.choice(list(PLACES))) if kind == "scatter" and rng.random() < 0.5 else "-"
    there = PLACES[place][1] if place != "-" else lambda item: True
    end = f" {rng.choice(PLACES[place][0])}" if place != "-" else ""

    def holds(boxes: list[Box]) -> bool:
        return q.holds(sum(w.fits(item) and there(item) for box in boxes for item in box))

    return Said(_there(q.n, words) + end, _slots("some", q, w, place=place), holds)


def box_with(rng: np.random.Generator, kind: str) -> Said:
    """There is a box (tower) with n ... [and m ...]."""
    words, q, w = _counted(rng, kind)
    name = "tower" if kind == "tower" and rng.random() < 0.7 else str(rng.choice(["box", "grey box"]))
    start = f"there is a {name} {rng.choice(['with', 'which has', 'containing', 'that has'])} {words}"
    if rng.random() < 0.45:
        more, q2, w2 = _counted(rng, kind)
        slots = _slots("box_with", q, w) | _slots("", q2, w2, end="2")
        return Said(
            f"{start} and {more}",
            slots,
            lambda boxes: any(q.holds(_count(b, w)) and q2.holds(_count(b, w2)) for b in boxes),
        )
    if rng.random() < 0.25:
        lacks = str(rng.choice(["without a", "with no", "without any"]))
        return Said(
            f"there is a {name} {lacks} {w.say(rng, False, _noun(rng, kind))}",
            _slots("box_without", None, w),
            lambda boxes: any(_count(b, w) == 0 for b in boxes),
        )
    return Said(start, _slots("box_with", q, w), lambda boxes: any(q.holds(_count(b, w)) for b in boxes))


def boxes_with(rng: np.random.Generator, kind: str) -> Said:
    """There are n boxes with m ...; every box has m ..."""
    words, q2, w = _counted(rng, kind)
    name = "tower" if kind == "tower" and rng.random() < 0.6 else "box"
    many = "towers" if name == "tower" else "boxes"
    if rng.random() < 0.35:
        start = str(
            rng.choice([f"all the {many} have", f"each {name} has", f"every {name} contains", f"all {many} have"])
        )
        return Said(
            f"{start} {words}",
            _slots("all_boxes", None, None) | _slots("", q2, w, end="2"),
            lambda boxes: all(q2.holds(_count(b, w)) for b in boxes),
        )
    q = quantity(rng, 3)
    start = _there(q.n, f"{q.words} {many if q.n > 1 else name} with")
    return Said(
        f"{start} {words}",
        _slots("boxes_with", q) | _slots("", q2, w, end="2"),
        lambda boxes: q.holds(sum(q2.holds(_count(b, w)) for b in boxes)),
    )


def all_or_none(rng: np.random.Generator, kind: str) -> Said:
    """All, none of, the ... are at a place; there is no ..."""
    w = what(rng, kind)
    if kind == "tower" or rng.random() < 0.3:
        return Said(
            f"there {rng.choice(['is no', 'is not any'])} {w.say(rng, False, _noun(rng, kind))}",
            _slots("no", None, w),
            lambda boxes: all(_count(b, w) == 0 for b in boxes),
        )
    place = str(rng.choice(list(PLACES)))
    there, said = PLACES[place][1], str(rng.choice(PLACES[place][0]))
    name = w.say(rng, True, None)
    if rng.random() < 0.5:
        return Said(
            f"all the {name} are {said}",
            _slots("all_at", None, w, place=place),
            lambda boxes: all(there(i) for b in boxes for i in b if w.fits(i)),
        )
    return Said(
        f"none of the {name} are {said}",
        _slots("none_at", None, w, place=place),
        lambda boxes: not any(there(i) for b in boxes for i in b if w.fits(i)),
    )


def colors_of(rng: np.random.Generator, kind: str) -> Said:
    """There is a box with items of one, two, all three colours."""
    count = int(rng.integers(1, 4))
    name = "tower" if kind == "tower" and rng.random() < 0.6 else "box"
    noun = "blocks" if name == "tower" else "items"
    said = {
        1: ("of the same color", "of only one color", "of a single colour", "with the same color"),
        2: ("of two different colors", "of only two colors", "of two colours"),
        3: ("of all 3 different colors", "of three different colors", "of all three colors"),
    }[count]
    size = int(rng.integers(2, 6)) if rng.random() < 0.5 else 0
    n = f"{number(rng, size)} " if size else ""
    return Said(
        f"there is a {name} with {n}{noun} {rng.choice(said)}",
        _slots("colors", None, None, n=str(size), colors=str(count)),
        lambda boxes: any(
            len({i["color"] for i in b}) == count and len(b) >= 2 and (not size or len(b) == size) for b in boxes
        ),
    )


def above(rng: np.random.Generator, kind: str) -> Said:
    """There is a ... right above a ..."""
    first, second = what(rng, kind), what(rng, kind)
    up = rng.random() < 0.6
    noun = _noun(rng, kind)
    word = str(rng.choice(UP if up else DOWN))
    upper, lower = (first, second) if up else (second, first)
    return Said(
        f"there is a {first.say(rng, False, noun)} {word} a {second.say(rng, False, noun)}",
        _slots("above" if up else "below", None, first) | _slots("", None, second, end="2"),
        lambda boxes: any(
            upper.fits(i) and lower.fits(j) and stands_on(i, j) for b in boxes for i in b for j in b if i is not j
        ),
    )


def level_of(rng: np.random.Generator, kind: str) -> Said:
    """Towers with a coloured block at the base, at the top, in the middle, second from below."""
    color = str(rng.choice(list(COLORS)))
    level, said = [
        (0, ("at the base", "at the bottom", "as the base")),
        (-1, ("at the top", "on the top", "as the top")),
        (1, ("as the second block", "as the second block from the base", "in the second position")),
    ][int(rng.choice(3, p=[0.4, 0.45, 0.15]))]

    def at(box: Box) -> bool:
        levels = sorted(box, key=lambda item: -item["y_loc"])
        return -len(levels) <= level < len(levels) and levels[level]["color"] == COLORS[color]

    place, slots = str(rng.choice(said)), {"color": color, "level": str(level)}
    n = int(rng.integers(1, 5))
    chance = rng.random()
    if chance < 0.2:
        return Said(
            f"the tower with {number(rng, n)} block{'s' * (n > 1)} has a {color} block {place}",
            slots | {"form": "the_tower", "n": str(n)},
            lambda boxes: any(len(b) == n and at(b) for b in boxes),
        )
    if chance < 0.4:
        q = quantity(rng, 4)
        return Said(
            f"there is a {color} block {place} of a tower with {q.words} block{'s' * (q.n > 1)}",
            slots | _slots("block_of_tower", q),
            lambda boxes: any(q.holds(len(b)) and at(b) for b in boxes),
        )
    if chance < 0.5:
        return Said(
            f"all the towers have a {color} block {place}",
            slots | {"form": "all_towers"},
            lambda boxes: all(at(b) for b in boxes),
        )
    q = quantity(rng, 3)
    return Said(
        _there(q.n, f"{q.words} tower{'s' * (q.n > 1)} with a {color} block {place}"),
        slots | _slots("towers_level", q),
        lambda boxes: q.holds(sum(at(b) for b in boxes)),
    )


def height_of(rng: np.random.Generator, kind: str) -> Said:
    """Towers of n blocks; towers of one height; towers of only one colour; blocks between blocks."""
    chance = rng.random()
    if chance < 0.2:
        same = rng.random() < 0.5
        return Said(
            str(rng.choice(["all the towers have", "there are three towers with"]))
            + (" the same height" if same else " different heights"),
            {"form": "heights", "n": str(int(same))},
            lambda boxes: len({len(b) for b in boxes}) == (1 if same else 3),
        )
    if chance < 0.4:
        color = str(rng.choice(list(COLORS)))
        return Said(
            f"there is a tower with only {color} blocks",
            {"form": "only_color", "color": color},
            lambda boxes: any(all(i["color"] == COLORS[color] for i in b) for b in boxes),
        )
    if chance < 0.6:
        one, two = (str(c) for c in rng.choice(list(COLORS), 2))

        def between(box: Box) -> bool:
            row = [i["color"] for i in sorted(box, key=lambda i: -i["y_loc"])]
            return any(
                row[k - 1] == row[k + 1] == COLORS[two] and row[k] == COLORS[one] for k in range(1, len(row) - 1)
            )

        return Said(
            f"there is a {one} block between two {two} blocks",
            {"form": "between", "color": one, "color2": two},
            lambda boxes: any(between(b) for b in boxes),
        )
    q, q2 = quantity(rng, 3), quantity(rng, 4)
    return Said(
        _there(q.n, f"{q.words} tower{'s' * (q.n > 1)} with {q2.words} block{'s' * (q2.n > 1)}"),
        _slots("towers_of", q) | _slots("", q2, None, end="2"),
        lambda boxes: q.holds(sum(q2.holds(len(b)) for b in boxes)),
    )


FORMS = {
    "tower": (some, box_with, boxes_with, all_or_none, colors_of, above, level_of, level_of, height_of),
    "scatter": (some, some, some, box_with, box_with, boxes_with, all_or_none, colors_of, above),
}


def sample_said(rng: np.random.Generator, kind: str | None = None) -> Said:
    """A random sentence with its meaning."""
    kind = kind or str(rng.choice(["tower", "scatter"]))
    forms = FORMS[kind]
    return forms[int(rng.integers(len(forms)))](rng, kind)
