"""Closed forms, numbers worked out by hand, and scipy's own answers."""

import math

import numpy as np
import pytest
from scipy import stats

from hmmoe.analysis.report import statistics as st


def test_summary_of_three_by_hand():
    """64.2, 63.1, 65.2: mean 64.1667, std 1.0504, t(0.975, 2) = 4.3027."""
    told = st.summarise([64.2, 63.1, 65.2])
    assert (told.n, round(told.mean, 4), round(told.std, 4)) == (3, 64.1667, 1.0504)
    half = 4.302652729911275 * told.std / math.sqrt(3)
    assert (told.low, told.high) == pytest.approx((told.mean - half, told.mean + half))
    assert told.error == pytest.approx(1.0504 / math.sqrt(3), rel=1e-4)


def test_one_value_has_no_spread_and_none_is_refused():
    assert st.summarise([0.5]) == st.Summary(1, 0.5, None, None, None)
    with pytest.raises(ValueError, match="at least one value"):
        st.summarise([])


@pytest.mark.parametrize("n", [3, 5, 12])
def test_paired_tests_are_scipys(n):
    draw = np.random.default_rng(n)
    theirs = draw.normal(0.6, 0.02, n)
    ours = theirs + draw.normal(0.01, 0.01, n)
    told = st.paired(ours.tolist(), theirs.tolist())
    whole = stats.ttest_rel(ours, theirs)
    assert told.p_t == pytest.approx(whole.pvalue)
    assert (told.low, told.high) == pytest.approx(tuple(whole.confidence_interval(0.95)))
    assert told.p_wilcoxon == pytest.approx(stats.wilcoxon(ours, theirs).pvalue)
    assert told.mean == pytest.approx((ours - theirs).mean())


def test_pairing_removes_what_seeds_share():
    """Seeds that differ by 0.1 and a gain of about 0.01 in each: unpaired there is nothing to see."""
    theirs = [0.5, 0.6, 0.7, 0.8, 0.9]
    ours = [0.511, 0.609, 0.710, 0.812, 0.909]
    assert st.paired(ours, theirs).p_t < 1e-3 < 0.9 < stats.ttest_ind(ours, theirs).pvalue
    assert st.paired(ours, theirs).p_wilcoxon == pytest.approx(2 / 2**5)


def test_no_spread_gives_no_test():
    for ours, theirs in (([0.7], [0.6]), ([0.7, 0.6], [0.6, 0.5]), ([0.7, 0.7], [0.7, 0.7])):
        told = st.paired(ours, theirs)
        assert told.p_t is None and told.p_wilcoxon is None and told.low is None
    with pytest.raises(ValueError, match="expected pairs, found 2 and 1"):
        st.paired([0.1, 0.2], [0.1])


def test_mcnemar_by_hand():
    """Six discordant examples, all ours: p = 2 / 2^6; concordant ones do not count."""
    ours, theirs = [True] * 6 + [True, False] * 20, [False] * 6 + [True, False] * 20
    assert st.mcnemar(ours, theirs) == st.McNemar(6, 0, pytest.approx(2 / 2**6))
    assert st.mcnemar(theirs, ours) == st.McNemar(0, 6, pytest.approx(2 / 2**6))
    assert st.mcnemar([True, False], [True, False]).p == 1
    tail = sum(math.comb(10, k) for k in (0, 1, 2)) / 2**10
    assert st.mcnemar([True] * 8 + [False] * 2, [False] * 8 + [True] * 2).p == pytest.approx(2 * tail)


@pytest.mark.parametrize("kinds", ["right or wrong", "graded"])
def test_bootstrap_is_the_normal_interval_for_many_examples(kinds):
    draw = np.random.default_rng(5)
    n = 1500
    theirs = draw.random(n)
    ours = theirs + draw.normal(0.02, 0.3, n)
    if kinds == "right or wrong":
        ours, theirs = (ours > 0.5).astype(float), (theirs > 0.5).astype(float)
    told = st.bootstrap(ours.tolist(), theirs.tolist(), rounds=2000)
    difference = ours - theirs
    error = difference.std() / math.sqrt(n)
    assert told.mean == pytest.approx(difference.mean())
    assert told.low == pytest.approx(difference.mean() - 1.96 * error, abs=0.15 * error)
    assert told.high == pytest.approx(difference.mean() + 1.96 * error, abs=0.15 * error)
    assert told.p == pytest.approx(2 * stats.norm.sf(abs(difference.mean()) / error), abs=0.04)


def test_bootstrap_of_equal_models_says_nothing():
    assert st.bootstrap([1.0, 0.0, 1.0], [1.0, 0.0, 1.0], rounds=100)[1:] == (0, 0, 0, 1)
    with pytest.raises(ValueError, match="same examples, found 1 and 2"):
        st.bootstrap([1.0], [1.0, 0.0])


def test_bootstrap_draws_the_same_every_time():
    pair = [1.0, 0.0, 1.0, 1.0], [0.0, 0.0, 1.0, 0.0]
    assert st.bootstrap(*pair, rounds=50) == st.bootstrap(*pair, rounds=50)


def test_holm_by_hand():
    """0.01 x 4, 0.02 x 3, then 0.03 x 2 = 0.06 (not below), 0.04 x 1 raised to 0.06."""
    ps = {"d": 0.04, "a": 0.01, "c": 0.03, "b": 0.02}
    assert st.holm(ps) == {"d": 0.06, "a": 0.04, "c": 0.06, "b": 0.06}
    assert list(st.holm(ps)) == ["d", "a", "c", "b"]
    assert st.holm({"a": 0.7, "b": 0.9}) == {"a": 1.0, "b": 1.0} and st.holm({}) == {}


@pytest.mark.parametrize(("paired", "n", "effect"), [(True, 34, 0.5), (False, 64, 0.5), (False, 17, 1.0)])
def test_detectable_difference_is_cohens_table(paired, n, effect):
    """Known sample sizes for power 0.8 at 0.05, rounded up to whole numbers: the effect lies just below."""
    assert st.detectable(1.0, n, paired=paired) == pytest.approx(effect, rel=0.02)
    assert st.detectable(1.0, n, paired=paired) <= effect < st.detectable(1.0, n - 1, paired=paired)


@pytest.mark.parametrize(("n", "effect"), [(2, 11.55), (3, 3.264), (50, 0.4042)])
def test_detectable_difference_from_two_pairs_on(n, effect):
    """Two pairs leave one degree of freedom; the values have power 0.8 by scipy's noncentral t."""
    assert st.detectable(1.0, n, paired=True) == pytest.approx(effect, rel=1e-3)


def test_detectable_difference_is_found_as_often_as_said():
    draw = np.random.default_rng(0)
    effect = st.detectable(0.01, 5, paired=True)
    samples = draw.normal(effect, 0.01, (4000, 5))
    assert (stats.ttest_1samp(samples, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(0.8, abs=0.025)
    assert st.detectable(0.01, 1, paired=True) is None and st.detectable(None, 5, paired=False) is None


def test_the_knee_is_the_smallest_within_one_standard_error():
    def at(mean: float) -> st.Summary:
        return st.Summary(4, mean, 0.02, mean - 0.03, mean + 0.03)  # standard error 0.01

    curve = {8.0: at(0.70), 16.0: at(0.745), 32.0: at(0.75), 64.0: at(0.748)}
    assert st.knee(curve) == 16
    assert st.knee({size: at(-told.mean) for size, told in curve.items()}, higher=False) == 16
    assert st.knee({8.0: at(0.7), 16.0: at(0.8)}) is None
    assert st.knee({size: st.summarise([told.mean]) for size, told in curve.items()}) is None
