"""What counts as a step, on a clock that the test turns."""

import pytest

from hmmoe.callbacks import step_times


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(step_times.time, "perf_counter", lambda: now[0])
    return now


def test_the_median_of_steps_inside_epochs(clock, unchecked):
    timer = step_times.StepTimes()
    assert timer.report() == {}
    for starts in ((0.0, 0.1, 0.2, 0.5), (100.0, 100.1)):  # a long validation in between
        timer.on_train_epoch_start(None, None)
        for start in starts:
            clock[0] = start
            timer.on_train_batch_start(None, None, None, 0)
    assert timer.report() == {"step_ms": pytest.approx(100)}


def test_only_the_last_steps_are_kept(clock, unchecked):
    timer = step_times.StepTimes(keep=3)
    for start in (0, 10, 11, 12, 13):
        clock[0] = start
        timer.on_train_batch_start(None, None, None, 0)
    assert timer.report() == {"step_ms": 1000}
