"""Rank statistics against scipy, and on tables whose answer is known."""

import numpy as np
import pytest
from scipy import stats

from experiments.common import ranks

RNG = np.random.default_rng(0)
# A full grid of two settings and three seeds, and a gap that both settings and chance move.
A, B, SEED = (grid.ravel() for grid in np.meshgrid([0, 1], [0, 1, 2], range(3), indexing="ij"))
SETTINGS = {"a": A, "b": B, "seed": SEED}
GAP = 10.0 * A + B + 0.01 * RNG.normal(size=len(A))


@pytest.mark.parametrize("ties", [False, True])
def test_tau_over_all_pairs_is_scipys(ties):
    x, y = RNG.normal(size=(4, 50)), RNG.normal(size=50)
    if ties:
        x, y = np.round(x), np.round(2 * y)
    expected = [stats.kendalltau(own, y).statistic for own in x]
    received = ranks.kendall(x, y, ranks.pairs({"none": y}))
    np.testing.assert_allclose(received, expected, rtol=1e-12)


def test_pairs_share_what_is_to_be_shared():
    first, second = ranks.pairs(SETTINGS, same=("b", "seed"), differ=("a",))
    assert len(first) == 9  # one pair for each of three b and three seeds
    assert np.all(B[first] == B[second])
    assert np.all(A[first] != A[second])


def test_a_measure_of_one_setting_is_found_along_it_alone():
    measures = np.stack([A, -B, GAP]).astype(float)
    along = {
        "a": ranks.pairs(SETTINGS, same=("b", "seed"), differ=("a",)),
        "b": ranks.pairs(SETTINGS, same=("a", "seed"), differ=("b",)),
    }
    np.testing.assert_array_equal(ranks.kendall(measures, GAP, along["a"]), [1, 0, 1])
    np.testing.assert_array_equal(ranks.kendall(measures, GAP, along["b"]), [0, -1, 1])


def test_information_is_left_only_to_what_is_more_than_the_settings():
    noise = RNG.normal(size=len(A))
    measures = np.stack([A, A + 10.0 * B, GAP, -GAP, noise])
    own = {"a": A, "b": B}
    received = ranks.conditional_information(measures, GAP, ranks.pairs(SETTINGS), own)
    np.testing.assert_allclose(received[:2], 0, atol=1e-12)
    np.testing.assert_allclose(received[2:4], 1, rtol=1e-12)
    assert received[4] < 0.3
    with_one = ranks.conditional_information(measures, GAP, ranks.pairs(SETTINGS), own, most=1)
    assert with_one[1] > 0.1  # two settings are more than any one tells


def test_jackknife_of_a_mean_is_its_standard_error():
    x = RNG.normal(size=12)
    value, error = ranks.jackknife(lambda keep: np.array(x[keep].mean()), np.arange(12))
    np.testing.assert_allclose(value, x.mean())
    np.testing.assert_allclose(error, x.std(ddof=1) / np.sqrt(12))


@pytest.mark.parametrize("ties", [False, True])
def test_rho_of_the_sample_is_scipys(ties):
    x, y = RNG.normal(size=(2, 50))
    if ties:
        x, y = np.round(x), np.round(2 * y)
    received = ranks.spearman(x, y, seed=0, num_draws=10)
    np.testing.assert_allclose(received[0], stats.spearmanr(x, y).statistic, rtol=1e-12)


def test_resamples_of_rho_spread_as_its_standard_error():
    x = RNG.normal(size=400)
    draws = ranks.spearman(x, RNG.normal(size=400), seed=0)[1:]
    assert draws.std() == pytest.approx(1 / np.sqrt(399), rel=0.1)  # exact where nothing is shared
    np.testing.assert_array_equal(ranks.spearman(x, np.exp(x), seed=0), 1)
