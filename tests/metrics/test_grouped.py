"""Mean scores overall and by kind, whatever the batches."""

import pytest
import torch

from hmmoe.metrics.grouped import GroupMean
from tests.ranks import run_ranks

SCORES = torch.tensor([1.0, 0.0, 0.6, 1.0, 0.3, 0.0, 0.9])
KINDS = ["a", "b", "a", "c", "b", "a", "c"]
CASES = [(None, 3.8 / 7), (["a"], 1.6 / 3), (["b", "c"], 2.2 / 4)]


def value(batches: list[list[int]], kinds: list[str] | None) -> float:
    metric = GroupMean(kinds)
    for batch in batches:
        metric.update(SCORES[batch], [KINDS[i] for i in batch])
    return metric.compute().item()


@pytest.mark.parametrize(("kinds", "expected"), CASES)
@pytest.mark.parametrize("batches", [[[0, 1, 2, 3, 4, 5, 6]], [[6], [5, 0], [1, 4, 3, 2]], [[i] for i in range(7)]])
def test_batches_and_order_do_not_matter(kinds, expected, batches):
    assert value(batches, kinds) == pytest.approx(expected, abs=1e-6)


def test_no_example_of_the_kind_is_no_score():
    metric = GroupMean(["d"])
    metric.update(SCORES, KINDS)
    assert metric.compute().isnan()


def test_kinds_are_needed_only_where_they_are_asked_for():
    everything = GroupMean()
    everything.update(SCORES)
    assert everything.compute().item() == pytest.approx(3.8 / 7, abs=1e-6)
    with pytest.raises(ValueError, match=r"found 2 kinds for 7 scores"):
        GroupMean(["a"]).update(SCORES, ["a", "b"])


def test_half_a_million_scores_keep_every_digit():
    metric = GroupMean()
    for _ in range(50):
        metric.update(torch.full((10_000,), 0.3))
    assert metric.compute().item() == pytest.approx(0.3, abs=1e-7)


def test_two_ranks_with_unequal_shares():
    def one_rank(rank: int) -> float:
        metric = GroupMean(["a"])
        own = slice(0, 3) if rank == 0 else slice(3, 7)
        metric.update(SCORES[own], KINDS[own])
        return metric.compute().item()

    assert run_ranks(one_rank) == pytest.approx([1.6 / 3] * 2, abs=1e-6)
