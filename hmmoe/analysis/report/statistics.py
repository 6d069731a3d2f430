"""The statistics of the report: plain numbers in, plain numbers out.

Two questions are kept apart. *Would other seeds say the same?* is asked of the scores of matched seeds (paired t,
Wilcoxon). *Would other examples say the same?* is asked of the examples of the test set with the trained models held
fixed (McNemar, bootstrap). A small p of the second kind says nothing about the first.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np
from scipy import optimize, special, stats

CONFIDENCE = 0.95
ALPHA = 1 - CONFIDENCE
POWER = 0.8
FEW = 5
"""Seeds below which a row says so: Wilcoxon cannot reach p < 0.05 with five pairs, and t intervals are wide."""


class Summary(NamedTuple):
    """Of n values; std (n - 1 below) is None for one, the interval where there is none or no spread to judge by."""

    n: int
    mean: float
    std: float | None
    low: float | None
    high: float | None

    @property
    def error(self) -> float | None:
        """Standard error of the mean."""
        return None if self.std is None else self.std / math.sqrt(self.n)


class Paired(NamedTuple):
    """Differences (ours - baseline) on matched seeds. Tests are None below two pairs, or without any spread."""

    n: int
    mean: float
    low: float | None
    high: float | None
    p_t: float | None
    p_wilcoxon: float | None


class McNemar(NamedTuple):
    """Examples that only we, and only the baseline, got right; exact two-sided p."""

    ours: int
    theirs: int
    p: float


class Bootstrap(NamedTuple):
    """Mean difference over the examples, percentile interval and two-sided p."""

    n: int
    mean: float
    low: float
    high: float
    p: float


def summarise(values: Sequence[float], confidence: float = CONFIDENCE) -> Summary:
    """Mean, standard deviation and the t interval of the mean: mean +- t(n - 1) std / sqrt(n).

    Raises:
        ValueError: no value.
    """
    if not values:
        raise ValueError("expected at least one value, found none")
    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Summary(1, mean, None, None, None)
    std = float(np.std(values, ddof=1))
    half = float(stats.t.ppf((1 + confidence) / 2, n - 1)) * std / math.sqrt(n)
    return Summary(n, mean, std, mean - half, mean + half)


def paired(ours: Sequence[float], theirs: Sequence[float], confidence: float = CONFIDENCE) -> Paired:
    """Paired t test, its interval, and the exact Wilcoxon signed-rank test, two-sided.

    Raises:
        ValueError: unequal lengths, or nothing to compare.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"expected pairs, found {len(ours)} and {len(theirs)} values")
    differences = np.subtract(ours, theirs)
    told = summarise(differences.tolist(), confidence)
    # Seeds that differ by rounding only would give p = 0 from t, which divides by their spread.
    if told.std is None or told.std <= 1e-12 * max(1.0, abs(told.mean)):
        return Paired(told.n, told.mean, None, None, None, None)
    p_t = float(2 * stats.t.sf(abs(told.mean) / (told.std / math.sqrt(told.n)), told.n - 1))
    p_wilcoxon = float(stats.wilcoxon(differences).pvalue) if np.any(differences) else None
    return Paired(told.n, told.mean, told.low, told.high, p_t, p_wilcoxon)


def mcnemar(ours: Sequence[bool], theirs: Sequence[bool]) -> McNemar:
    """Exact McNemar test: of the examples that one model alone got right, half should be either's.

    Raises:
        ValueError: unequal lengths.
    """
    if len(ours) != len(theirs):
        raise ValueError(f"expected the same examples, found {len(ours)} and {len(theirs)}")
    first, second = np.asarray(ours, dtype=bool), np.asarray(theirs, dtype=bool)
    mine, other = int((first & ~second).sum()), int((~first & second).sum())
    p = float(stats.binomtest(mine, mine + other, 0.5).pvalue) if mine + other else 1.0
    return McNemar(mine, other, p)


def bootstrap(
    ours: Sequence[float],
    theirs: Sequence[float],
    *,
    rounds: int = 10_000,
    seed: int = 0,
    confidence: float = CONFIDENCE,
) -> Bootstrap:
    """Examples drawn with replacement, the same for both models; the mean of their differences in score.

    Two-sided p: twice the smaller share of rounds on either side of zero, (count + 1) / (rounds + 1).

    Raises:
        ValueError: unequal lengths, or no example.
    """
    if len(ours) != len(theirs) or not len(ours):
        raise ValueError(f"expected the same examples, found {len(ours)} and {len(theirs)}")
    differences = np.subtract(ours, theirs)
    values, counts = np.unique(differences, return_counts=True)
    generator = np.random.default_rng(seed)
    # Resampling n examples of few distinct differences is a multinomial draw: no (rounds x n) table.
    if len(values) <= 256:
        drawn = generator.multinomial(len(differences), counts / len(differences), size=rounds)
        means = drawn @ values / len(differences)
    else:
        means = np.array([generator.choice(differences, len(differences)).mean() for _ in range(rounds)])
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, (tail, 1 - tail))
    side = min((means <= 0).sum(), (means >= 0).sum())
    p = min(1.0, 2 * (float(side) + 1) / (rounds + 1))
    return Bootstrap(len(differences), float(differences.mean()), float(low), float(high), p)


def holm(ps: Mapping[str, float]) -> dict[str, float]:
    """Adjusted p of several comparisons (Holm 1979): the i-th smallest of m times m - i + 1, never falling."""
    adjusted: dict[str, float] = {}
    highest = 0.0
    for index, (name, p) in enumerate(sorted(ps.items(), key=lambda item: item[1])):
        highest = max(highest, min(1.0, p * (len(ps) - index)))
        adjusted[name] = highest
    return {name: adjusted[name] for name in ps}


def detectable(std: float | None, n: int, *, paired: bool, alpha: float = ALPHA, power: float = POWER) -> float | None:
    """Smallest true difference that a two-sided t test at ``alpha`` finds with probability ``power``.

    Args:
        std: of the differences (paired), or of either of two methods with n seeds each (not paired).
        n: pairs, or seeds of either method.
        paired: which of the two.
        alpha: level of the test.
        power: wanted.

    Returns:
        In units of ``std``'s; None for fewer than two seeds.
    """
    if std is None or n < 2:
        return None
    return _effect(n if paired else 2 * n, n - 1 if paired else 2 * n - 2, paired, alpha, power) * std


@cache
def _effect(total: int, freedom: int, paired: bool, alpha: float, power: float) -> float:
    """The difference in units of the standard deviation, from the noncentral t distribution.

    That is the mean of a normal tail over the estimated deviation s, which has a chi distribution: scipy's ``nct`` is
    NaN where two pairs need it.
    """
    critical = float(stats.t.ppf(1 - alpha / 2, freedom))
    scale = math.sqrt(total) if paired else math.sqrt(total / 4)
    estimates = stats.chi(freedom, scale=1 / math.sqrt(freedom))
    s = np.linspace(*estimates.ppf((1e-12, 1 - 1e-12)), 5001)
    weights = estimates.pdf(s)

    def missing(effect: float) -> float:
        found = special.ndtr(effect * scale - critical * s) + special.ndtr(-effect * scale - critical * s)
        return float(np.trapezoid(weights * found, s)) - power

    high = 1.0
    while missing(high) < 0:
        high *= 2
    return float(optimize.brentq(missing, 0.0, high, xtol=1e-6))


def knee(curve: Mapping[float, Summary], *, higher: bool = True) -> float | None:
    """Smallest size whose mean lies within one standard error of the best mean; None where no error is known.

    The one-standard-error rule of model selection: what lies to its right buys nothing that these seeds can show.
    """
    if len(curve) < 3:
        return None
    sign = 1 if higher else -1
    best = max(curve.values(), key=lambda one: sign * one.mean)
    if best.error is None:
        return None
    return min(size for size, one in curve.items() if sign * (best.mean - one.mean) <= best.error)
