"""Consistency of groups that arrive in pieces."""

import math

import pytest
import torch

from hmmoe.metrics.consistency import Consistency, group_number
from tests.ranks import run_ranks


def test_a_group_counts_only_when_every_example_is_right() -> None:
    metric = Consistency()
    metric.update(torch.tensor([True, True, False]), ["a", "b", "c"])
    metric.update(torch.tensor([True, False]), ["a", "b"])
    assert metric.compute().item() == pytest.approx(1 / 3)


def test_repeated_examples_change_nothing() -> None:
    metric = Consistency()
    metric.update(torch.tensor([True, False, True, True]), ["a", "b", "a", "a"])
    assert metric.compute().item() == 0.5


def test_nothing_seen_is_nan() -> None:
    metric = Consistency()
    metric.update(torch.zeros(0, dtype=torch.bool), [])
    assert math.isnan(metric.compute().item())


def test_reset_forgets() -> None:
    metric = Consistency()
    metric.update(torch.tensor([False]), ["a"])
    metric.reset()
    metric.update(torch.tensor([True]), ["a"])
    assert metric.compute().item() == 1.0


def test_group_numbers_are_the_same_in_every_process() -> None:
    # printf a | b2sum -l 64, read little endian and signed; Python's own hash() would differ from run to run.
    assert group_number("a") == int.from_bytes(bytes.fromhex("40f89e395b66422f"), "little", signed=True)
    assert group_number("a") != group_number("b")


def test_two_ranks_merge_a_group_that_is_split_between_them() -> None:
    answers = [torch.tensor([True, True]), torch.tensor([True, False])]

    def one_rank(rank: int) -> float:
        metric = Consistency()
        metric.update(answers[rank], ["a", "b"])
        return metric.compute().item()

    assert run_ranks(one_rank) == [0.5, 0.5]


def test_unequal_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="found 1 groups"):
        Consistency().update(torch.tensor([True, False]), ["a"])
