"""A run whose processes do not belong together ends at once, on every one of them, and says why."""

import lightning as L
import pytest

from hmmoe.callbacks.guard import Guard
from hmmoe.errors import ConfigError
from tests.ranks import run_ranks

SETTINGS = {"name": "ave_hmmoe", "seed": 1, "peft": {"rank": 8, "groups": {"single": {}}}}


class Counting(L.Trainer):
    """A trainer that knows no more than how many processes it counts."""

    world_size = 0

    def __init__(self, world_size: int) -> None:
        self.world_size = world_size


def start(settings: dict, world_size: int) -> str:
    """What the guard says at fit start; "" if it lets the run pass."""
    try:
        Guard(settings).on_fit_start(Counting(world_size), L.LightningModule())
    except ConfigError as error:
        return str(error)
    return ""


def test_two_processes_with_the_same_settings_pass():
    reordered = dict(reversed(SETTINGS.items()))
    assert run_ranks(lambda rank: start(reordered if rank else SETTINGS, 2)) == ["", ""]


def test_unequal_settings_end_the_run_on_both_processes():
    """Two ranks of different jobs, as a sweep inside one process group makes them."""

    def one(rank: int) -> str:
        return start(SETTINGS | {"seed": 1 + rank, "peft": {"rank": 8 << rank, "groups": {"single": {}}}}, 2)

    first, second = run_ranks(one)
    assert first == second
    assert "peft.rank (8 on rank 0, 16 on rank 1), seed (1 on rank 0, 2 on rank 1)" in first
    assert "Give all of them the same command" in first and "name" not in first


def test_a_setting_that_one_process_lacks_is_named():
    first, second = run_ranks(lambda rank: start(SETTINGS if rank else SETTINGS | {"tags": ["x"]}, 2))
    assert first == second and 'tags (["x"] on rank 0, nothing on rank 1)' in first


@pytest.mark.parametrize("counted", [1, 4])
def test_a_process_group_that_is_not_the_trainers_ends_the_run_on_both_processes(counted):
    """Half of the data would be used, or the same data twice, and the metrics would look normal."""
    for said in run_ranks(lambda rank: start(SETTINGS, counted)):
        assert f"the trainer counts {counted} processes" in said and "process group holds 2" in said


def test_a_process_alone():
    assert start(SETTINGS, 1) == ""
    assert "process group holds 1" in start(SETTINGS, 2)
