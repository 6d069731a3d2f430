"""The official accuracy of VQA v2: an answer against those of ten people, after the official normalisation.

Source: Antol et al., "VQA", ICCV 2015; evaluator of GT-Vision-Lab/VQA (``PythonEvaluationTools``, March 2021), whose
results these functions give, its slips included:

* a full stop vanishes unless a digit follows, whatever stands before it, and in the first 32 places only;
* a comma between two digits anywhere makes all punctuation vanish, where it would else become a space;
* an article is dropped even where nothing is left, and "none" is 0.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache

PUNCTUATION = tuple(';/[]"{}()=+\\_-><@`,?!')
FULL_STOP = re.compile(r"\.(?!\d)", re.ASCII)
COMMA_IN_NUMBER = re.compile(r"\d,\d", re.ASCII)
MOST_STOPS = 32
"""The evaluator hands a flag of that value to the place where the number of replacements is expected."""
COUNTED = "zero one two three four five six seven eight nine ten"
ARTICLES = frozenset(("a", "an", "the"))
ONE_APOSTROPHE = """
ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd how'll how's isn't it'd
it'll ma'am mightn't might've mustn't must've needn't not've o'clock oughtn't shan't should've shouldn't somebody'll
somebody's someone'd someone'll someone's something'd something'll that's there'd there're there's they'd they'll
they're they've 'twas wasn't we've weren't what'll what're what's what've when's where'd where's where've who'd who'll
who's who've why'll why're why's won't would've wouldn't y'all you'd you'll you're you've
"""
"""Written without their apostrophe they get it back. What is not here (its, hell, wed) may be another word."""
MORE_APOSTROPHES = """
couldn't've hadn't've he'd've it'd've mightn't've 'ow's'at she'd've shouldn't've somebody'd've someone'd've
something'd've there'd've they'd've we'd've who'd've wouldn't've y'all'll y'all'd've you'd've
"""
"""Written with one apostrophe too few they get it back."""


def _contractions() -> dict[str, str]:
    table = {whole.replace("'", ""): whole for whole in ONE_APOSTROPHE.split()}
    for whole in MORE_APOSTROPHES.split():
        table |= {whole[:at] + whole[at + 1 :]: whole for at, sign in enumerate(whole) if sign == "'"}
    return table | {"somebody'd": "somebodyd"}


CONTRACTIONS = _contractions()
NUMBERS = {"none": "0"} | {word: str(number) for number, word in enumerate(COUNTED.split())}


def stripped(answer: str) -> str:
    """Line ends and tabs as spaces, none of them outside: what is done to every answer."""
    return answer.replace("\n", " ").replace("\t", " ").strip()


@cache
def normalise(answer: str) -> str:
    """Without punctuation and articles, numbers up to ten as digits, contractions with their apostrophe."""
    answer = stripped(answer)
    bare, merge = answer, COMMA_IN_NUMBER.search(answer) is not None
    for sign in PUNCTUATION:
        gone = merge or f"{sign} " in answer or f" {sign}" in answer
        bare = bare.replace(sign, "" if gone else " ")
    bare = FULL_STOP.sub("", bare, count=MOST_STOPS)
    words = [NUMBERS.get(word, word) for word in bare.lower().split()]
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in ARTICLES)


def agreement(matches: int, people: int = 10) -> float:
    """Score of an answer that ``matches`` of ``people`` gave: 0.3, 0.6, 0.9, 1 for 1, 2, 3, 4 and more of ten.

    Every person is left out in turn, and of the others three that agree are enough.
    """
    in_turn = matches * min((matches - 1) / 3, 1) + (people - matches) * min(matches / 3, 1)
    return in_turn / people


def unanimous(references: Iterable[str]) -> bool:
    """Whether all people wrote the same: then nothing is normalised, so "Yes" is wrong where all say "yes"."""
    return len({stripped(reference) for reference in references}) == 1


def score(answer: str, references: Sequence[str]) -> float:
    """Official accuracy of one answer, 0..1."""
    form = stripped if unanimous(references) else normalise
    given = Counter(form(reference) for reference in references)
    return agreement(given[form(answer)], len(references)) if form(answer) in given else 0.0
