"""Interleaved, paired timing: every round runs every contestant once, and only ratios inside a round are believed."""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import NamedTuple

import torch


class Spread(NamedTuple):
    """Median with the quartiles around it."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        if len(values) == 1:
            return cls(values[0], values[0], values[0])
        low, _, high = statistics.quantiles(values, n=4, method="inclusive")
        return cls(statistics.median(values), low, high)

    def __str__(self) -> str:
        return f"{self.median:.2f} [{self.low:.2f}, {self.high:.2f}]"


class Clock(NamedTuple):
    """Seconds of one call: of this process on the CPU, and on the wall."""

    cpu: float
    wall: float


def timed(call: Callable[[], object]) -> Clock:
    """Run once; work queued on a GPU is waited for."""
    synchronise()
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    synchronise()
    return Clock(time.process_time() - cpu, time.perf_counter() - wall)


def synchronise() -> None:
    """Wait for the GPU, where there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def rounds(calls: Mapping[str, Callable[[int], object]], *, count: int, warm_up: int = 1) -> dict[str, list[Clock]]:
    """Times by contestant, in rounds. Each round starts with another contestant, so none always follows the same one.

    Args:
        calls: what to run, given the number of the round.
        count: rounds that are measured.
        warm_up: rounds before them.
    """
    times: dict[str, list[Clock]] = {name: [] for name in calls}
    names = list(calls)
    for number in range(warm_up + count):
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            clock = timed(partial(calls[name], number))
            if number >= warm_up:
                times[name].append(clock)
    return times


def ratios(times: Mapping[str, Sequence[Clock]], reference: str, *, clock: str = "cpu") -> dict[str, Spread]:
    """Spread of the paired ratios to the reference's time in the same round."""
    base = [getattr(one, clock) for one in times[reference]]
    return {
        name: Spread.of([getattr(one, clock) / other for one, other in zip(mine, base, strict=True)])
        for name, mine in times.items()
    }
