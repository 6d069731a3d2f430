"""Folders of jobs can be read by a person and typed into a command."""

import pytest

from hydra_plugins.hmmoe_launcher._names import names


@pytest.mark.parametrize(
    ("jobs", "expected"),
    [
        (["peft.rank=8 seed=1 x=2", "peft.rank=8 seed=2 x=2"], ["seed-1", "seed-2"]),
        (
            ["peft.rank=8 data.rank=1", "peft.rank=16 data.rank=2"],
            ["peft.rank-8_data.rank-1", "peft.rank-16_data.rank-2"],
        ),
        (["++lr=1e-3", "++lr=-2"], ["lr-1e-3", "lr--2"]),
        (["peft.groups={cross:{rank:4}}", "peft.groups={single:{}}"], ["groups-cross-rank-4", "groups-single"]),
        (["a/b@c=x", "a/b@c=y"], ["a-b-c-x", "a-b-c-y"]),
        (["a=1", "b=1"], ["a-1", "b-1"]),
        (["a=1 b=2"], ["b-2"]),
        (["a=,", "a='  '"], ["a-none", "a-none"]),
    ],
)
def test_what_varies_is_the_name(jobs, expected):
    assert names([job.split(" ", 2) if "'" not in job else [job] for job in jobs], ["-m", "a=1"]) == expected


def test_names_do_not_grow_for_ever():
    assert len(names([[f"a={'x' * 500}"], ["a=y"]], [])[0]) <= 90
