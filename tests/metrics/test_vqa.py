"""VQA's normalisation and accuracy: what the official evaluator gives (GT-Vision-Lab/VQA, which is not kept here)."""

from itertools import permutations

import pytest

from hmmoe.metrics.vqa import CONTRACTIONS, agreement, normalise, score, stripped


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ("Yes.", "yes"),
        ("a.b", "ab"),  # whatever stands before a full stop, it goes
        (".5", ".5"),
        ("2.50", "2.50"),
        ("12.", "12"),
        ("black/white", "black white"),
        ("black / white", "black white"),
        ("1,000", "1000"),
        ("1,000 black/white", "1000 blackwhite"),  # one comma in a number glues everything together
        ("red,green", "red green"),
        ("red, green", "red green"),
        ("t-shirt", "t shirt"),
        ("none", "0"),
        ("Ten", "10"),
        ("eleven", "eleven"),
        ("the", ""),
        ("a cat on the mat", "cat on mat"),
        ("dont", "don't"),
        ("DONT", "don't"),
        ("Im", "im"),  # the evaluator's entry is capitalised and never fires
        ("its", "its"),
        ("couldntve", "couldntve"),
        ("couldn'tve", "couldn't've"),
        ("couldnt've", "couldn't've"),
        ("somebody'd", "somebodyd"),
        ("yall'd've", "y'all'd've"),
        ("oclock", "o'clock"),
        ("\tnew\nyork ", "new york"),
        ("what?!", "what"),
        (" ", ""),
        ("." * 40, "." * 8),  # a flag in the place of a count: 32 replacements
    ],
)
def test_normalisation(raw: str, expected: str):
    assert normalise(raw) == expected


def test_every_contraction_gets_its_apostrophes_and_nothing_else():
    assert len(CONTRACTIONS) == 114
    for short, whole in CONTRACTIONS.items():
        assert short.replace("'", "") == whole.replace("'", "")
    assert not {"its", "hell", "wed", "id", "ill", "well", "shed", "were"} & set(CONTRACTIONS)


@pytest.mark.parametrize(("matches", "expected"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_leaving_each_of_ten_out_in_turn(matches: int, expected: float):
    references = ["cat"] * matches + [f"dog {i}" for i in range(10 - matches)]
    by_hand = 0.0
    for left_out in range(10):
        others = references[:left_out] + references[left_out + 1 :]
        by_hand += min(others.count("cat") / 3, 1) / 10
    assert agreement(matches) == pytest.approx(expected, abs=1e-12)
    assert agreement(matches) == pytest.approx(by_hand, abs=1e-12)
    assert score("cat", references) == pytest.approx(expected, abs=1e-12)


def test_nothing_is_normalised_where_all_agree():
    assert score("yes", ["yes"] * 10) == 1.0
    assert score("Yes", ["yes"] * 10) == 0.0
    assert score("2", ["two"] * 10) == 0.0
    assert score(" yes\n", ["yes"] * 10) == 1.0  # ends are cut always
    assert score("yes", [" yes "] * 10) == 1.0


def test_both_sides_are_normalised_where_people_differ():
    references = ["two"] * 6 + ["2"] * 2 + ["The two.", "three"]
    assert score("Two", references) == 1.0
    assert score("3!", references) == pytest.approx(0.3)
    assert score("four", references) == 0.0


def test_people_who_differ_in_spaces_outside_only_are_unanimous():
    assert score("Two", ["two", "two "] * 5) == 0.0
    assert stripped("a\tb\n") == "a b"


def test_the_order_of_the_people_does_not_matter():
    references = ["a cat", "cat", "dog", "1", "one"]
    values = {score("cat", order) for order in permutations(references)}
    assert len(values) == 1
