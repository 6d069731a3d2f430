"""Which sites ``peft.at`` means."""

import pytest

from hmmoe.errors import ConfigError
from hmmoe.peft.base import chosen
from hmmoe.types import Site


def sites(count: int) -> list[Site]:
    return [Site(index, f"site{index:02d}", {"vision": 4}) for index in range(count)]


@pytest.mark.parametrize(
    ("pick", "indices"),
    [
        ("all", {0, 1, 2, 3, 4}),
        ("lower", {0, 1, 2}),
        ("upper", {3, 4}),
        ("alternate", {0, 2, 4}),
        ("1-3", {1, 2, 3}),
        ([0, 4], {0, 4}),
    ],
)
def test_words_ranges_and_lists(pick, indices):
    assert chosen(sites(5), pick) == indices


@pytest.mark.parametrize(
    ("pick", "message"), [("half", "one of all, lower, upper"), ([5], "sites 0..4"), ("4-2", "sites")]
)
def test_sites_that_are_not_there(pick, message):
    with pytest.raises(ConfigError, match=message):
        chosen(sites(5), pick)


def test_the_last_site_is_among_alternate_ones_and_halves_are_the_whole():
    for count in (1, 2, 6, 7):
        here = sites(count)
        assert count - 1 in chosen(here, "alternate")
        if count > 1:
            assert chosen(here, "lower") | chosen(here, "upper") == chosen(here, "all")
