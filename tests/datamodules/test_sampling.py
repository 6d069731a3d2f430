"""Batches are a function of seed, epoch and rank."""

import pytest

from datamodules.sampling import Batches, Draw
from hmmoe.errors import ConfigError


def batches(count: int, size: int, *, training: bool, epoch: int = 0, seed: int = 3, **ranks: int) -> list[list[Draw]]:
    sampler = Batches(range(count), size, training=training, seed=seed, **ranks)
    sampler.set_epoch(epoch)
    drawn = list(sampler)
    assert len(drawn) == len(sampler)
    return drawn


def flat(drawn: list[list[int]]) -> list[int]:
    return [index for batch in drawn for index in batch]


def indices(drawn: list[list[Draw]]) -> list[list[int]]:
    return [[draw.index for draw in batch] for batch in drawn]


def test_a_fresh_sampler_at_epoch_5_draws_what_an_unbroken_run_draws():
    unbroken = Batches(range(20), 4, training=True, seed=3)
    for epoch in range(6):
        unbroken.set_epoch(epoch)
        drawn = list(unbroken)
    assert drawn == batches(20, 4, training=True, epoch=5)
    assert drawn != batches(20, 4, training=True, epoch=4)
    assert drawn != batches(20, 4, training=True, epoch=5, seed=4)


def test_training_draws_each_example_at_most_once_and_drops_the_rest():
    drawn = indices(batches(22, 4, training=True))
    assert [len(batch) for batch in drawn] == [4] * 5
    assert len(set(flat(drawn))) == 20


def test_training_on_less_than_one_batch_takes_all():
    assert sorted(flat(indices(batches(3, 8, training=True)))) == [0, 1, 2]


def test_two_processes_draw_together_what_one_draws():
    alone = indices(batches(22, 4, training=True))
    both = [indices(batches(22, 2, training=True, rank=rank, world=2)) for rank in range(2)]
    assert [sorted(a + b) for a, b in zip(*both, strict=True)] == [sorted(batch) for batch in alone]


@pytest.mark.parametrize("count, size, world", [(9, 4, 2), (989, 64, 3), (5, 2, 4), (8, 8, 1)])
def test_evaluation_counts_every_example_once_in_equally_many_batches(count: int, size: int, world: int):
    parts = [indices(batches(count, size, training=False, rank=rank, world=world)) for rank in range(world)]
    assert sorted(index for part in parts for index in flat(part)) == list(range(count))
    assert len({len(part) for part in parts}) == 1
    assert all(1 <= len(batch) <= size for part in parts for batch in part)


def test_augmentation_depends_on_seed_epoch_and_example_only():
    draw = Draw(7, (3, 5))
    assert draw.rng().random() == Draw(7, (3, 5)).rng().random()
    others = [Draw(8, (3, 5)), Draw(7, (3, 6)), Draw(7, (4, 5))]
    assert all(other.rng().random() != draw.rng().random() for other in others)
    assert Draw(7, None).rng() is None


def test_too_few_examples_for_the_processes_are_refused():
    with pytest.raises(ConfigError, match=r"3 examples for 4 processes.*trainer\.devices"):
        Batches(range(3), 1, training=False, seed=0, rank=0, world=4)
    with pytest.raises(ConfigError, match=r"data\.batch_size=0"):
        Batches(range(3), 0, training=False, seed=0)


def test_a_part_of_the_examples_is_the_same_part_every_epoch():
    batches = Batches(range(40), 4, training=True, seed=3, take=10)
    seen = []
    for epoch in range(3):
        batches.set_epoch(epoch)
        seen.append({draw.index for batch in batches for draw in batch})
    assert len(batches) == 2 and all(len(epoch) == 8 for epoch in seen) and len(set.union(*seen)) <= 10
    assert [draw.index for batch in Batches(range(40), 4, training=False, seed=3) for draw in batch] == list(range(40))


@pytest.mark.parametrize(("take", "count"), [(0.25, 10), (0.001, 1), (10, 10), (1, 1), (100, 40)])
def test_a_part_is_a_number_or_a_share(take, count):
    assert Batches(range(40), 1, training=True, seed=3, take=take).count == count
