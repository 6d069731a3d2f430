"""Synthetic sounds of a few categories: pitch, phase, level and noise are random, the course over time is not."""

import numpy as np
from jaxtyping import Float32
from scipy.signal import butter, sosfilt

SOUNDS = 8
"""Number of categories that ``synthesize`` can make."""


def synthesize(
    rng: np.random.Generator, category: int, seconds: float, sample_rate: int
) -> Float32[np.ndarray, " samples"]:
    """A mono sound in -1..1.

    Args:
        rng: source of everything random.
        category: 0 bell, 1 rising chirp, 2 hiss, 3 engine, 4 beeps, 5 whistle, 6 thuds, 7 falling chirp.
        seconds: length.
        sample_rate: in Hz.
    """
    t = np.arange(round(seconds * sample_rate)) / sample_rate
    pitch = rng.uniform(0.8, 1.25)
    wave = _MAKERS[category](rng, t, pitch, sample_rate)
    wave = wave / max(np.abs(wave).max(), 1e-9) * rng.uniform(0.3, 0.9)
    return (wave + rng.normal(0, 0.004, len(t))).clip(-1, 1).astype(np.float32)


def _bell(rng: np.random.Generator, t: np.ndarray, pitch: float, rate: int) -> np.ndarray:
    partials = sum(np.sin(2 * np.pi * 520 * pitch * k * t) / k for k in (1, 2.76, 5.4))
    return partials * np.exp(-4 * ((t + rng.uniform(0, 0.2)) % 1.0))


def _chirp(start: float, stop: float):
    def make(rng: np.random.Generator, t: np.ndarray, pitch: float, rate: int) -> np.ndarray:
        u = (t * 2.5 + rng.uniform()) % 1.0
        return np.sin(2 * np.pi * pitch * np.cumsum(start + (stop - start) * u) / rate)

    return make


def _hiss(rng: np.random.Generator, t: np.ndarray, pitch: float, rate: int) -> np.ndarray:
    edge = butter(4, min(2500 * pitch, 0.45 * rate), "highpass", fs=rate, output="sos")
    return sosfilt(edge, rng.normal(size=len(t)))


def _engine(rng: np.random.Generator, t: np.ndarray, pitch: float, rate: int) -> np.ndarray:
    phase = 90 * pitch * t + rng.uniform()
    return 2 * (phase % 1.0) - 1 + 0.3 * rng.normal(size=len(t)) * (np.sin(2 * np.pi * 14 * t) > 0)


def _beeps(rng: np.random.Generator, t: np.ndarray, pitch: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * 1400 * pitch * t) * ((t * 6 + rng.uniform()) % 1.0 < 0.5)


def _whistle(rng: np.random.Generator, t: np.ndarray, pitch: float, rate: int) -> np.ndarray:
    return np.sin(2 * np.pi * 2600 * pitch * t + 6 * np.sin(2 * np.pi * 6 * t + rng.uniform(0, 6)))


def _thuds(rng: np.random.Generator, t: np.ndarray, pitch: float, rate: int) -> np.ndarray:
    beat = (t * 4 + rng.uniform()) % 1.0
    low = sosfilt(butter(2, 220 * pitch, "lowpass", fs=rate, output="sos"), rng.normal(size=len(t)))
    return low * np.exp(-9 * beat)


_MAKERS = (_bell, _chirp(400, 2200), _hiss, _engine, _beeps, _whistle, _thuds, _chirp(2200, 400))
