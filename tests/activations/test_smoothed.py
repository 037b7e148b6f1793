"""Entropies under noise, from samples: Gaussians, codes with known words, theory's own numbers."""

import warnings

import jax
import numpy as np
import pytest
from scipy import integrate, special, stats

import iw_jax as iw
from iw_jax.activations import smoothed

KEY = jax.random.key(0)
NUM, SIZE = 400, 3  # samples and their coordinates: one shape for most of the tests


def noise(size, sigma):
    return size / 2 * np.log(2 * np.pi * np.e * sigma**2)


def entropies(size, number, sigma, runs):
    """From `runs` sets of samples of N(0, I)."""
    samples = np.random.default_rng(0).normal(size=(runs, number, size))
    keys = jax.random.split(KEY, runs)
    with warnings.catch_warnings():  # a single set may seem not to converge
        warnings.simplefilter("ignore", UserWarning)
        return [iw.smoothed_entropy(k, s, sigma) for k, s in zip(keys, samples, strict=True)]


def covered(found, truth):
    intervals = [e.interval() for e in found]
    return sum(low <= truth <= high for low, high in intervals)


def test_a_smoothed_gaussian_is_a_broader_gaussian():
    truth = noise(SIZE, np.sqrt(1 + 0.5**2))
    found = entropies(SIZE, NUM, 0.5, runs=40)
    assert covered(found, truth) >= 35  # 38 of 40 on average
    # The plug-in value is too low, by at most the chi² of the law, over n.
    values = np.array([e.value for e in found])
    error = values.std(ddof=1) / np.sqrt(len(values))
    chi2 = (1 + 1 / 0.5**2) ** SIZE - 1
    assert -chi2 / NUM - 3 * error < values.mean() - truth < 3 * error
    # The error bar is the true scatter.
    assert 0.7 < values.std(ddof=1) / np.mean([e.stderr for e in found]) < 1.4


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "number", "sigma"),
    [(1, 400, 0.3), (3, 400, 0.5), (3, 2000, 0.5), (5, 400, 1.0), (5, 2000, 1.0), (5, 2000, 0.5)],
)
def test_intervals_cover_the_entropy_of_a_smoothed_gaussian(size, number, sigma):
    found = entropies(size, number, sigma, runs=200)
    assert covered(found, noise(size, np.sqrt(1 + sigma**2))) >= 0.92 * 200


@pytest.fixture(scope="module")
def corners():
    """Drawn with equal weights from the eight of the cube."""
    return np.random.default_rng(0).choice([-1.0, 1.0], size=(NUM, SIZE))


def test_corners_that_are_told_apart_add_the_log_of_their_number(corners):
    found = iw.smoothed_entropy(KEY, corners, 0.1)
    low, high = found.interval()
    truth = noise(SIZE, 0.1) + SIZE * np.log(2)
    assert low <= truth <= high
    # What the samples themselves can know: the entropy of how often they show each corner.
    shares = np.unique(corners, axis=0, return_counts=True)[1] / NUM
    assert abs(found.value - noise(SIZE, 0.1) - special.entr(shares).sum()) < 4 * found.stderr
    assert found.converged
    assert found.cost == NUM


def test_samples_at_one_place_have_the_entropy_of_the_noise(corners):
    found = iw.smoothed_entropy(KEY, np.ones_like(corners), 0.1)
    assert abs(found.value - noise(SIZE, 0.1)) < 4 * found.stderr
    np.testing.assert_allclose(found.bracket_lower, found.bracket_upper, rtol=1e-12)
    assert found.converged


def test_a_repetition_code_over_noise_is_one_binary_channel(corners):
    """Along the diagonal words lie at ±√3; across it there is only noise."""
    sigma, place = 1.0, np.sqrt(SIZE)
    words = corners[:, :1] * np.ones(SIZE)

    def density(t):
        return (stats.norm.pdf(t, place, sigma) + stats.norm.pdf(t, -place, sigma)) / 2

    along = integrate.quad(lambda t: special.entr(density(t)), -12, 12, epsabs=1e-12)[0]
    low, high = iw.smoothed_entropy(KEY, words, sigma).interval()
    assert low <= along + noise(SIZE - 1, sigma) <= high
    assert high - low < 0.3


def test_a_reed_muller_code_is_measured_as_from_its_words():
    """RM(1, 3): the 16 affine functions of three bits, ±1 on eight places."""
    bits = np.array([[int(b) for b in f"{i:03b}"] for i in range(8)])
    affine = np.array([[int(b) for b in f"{i:04b}"] for i in range(16)])
    words = 1.0 - 2.0 * ((affine[:, :3] @ bits.T + affine[:, 3:]) % 2)
    sigma, rng = 1.0, np.random.default_rng(1)
    drawn = words[rng.integers(16, size=100_000)]
    points = drawn + sigma * rng.normal(size=drawn.shape)
    # Log densities less that of the own word, whose mean is known: the noise's entropy.
    relative = (2 * points @ words.T - 8) / (2 * sigma**2)
    own = (2 * (points * drawn).sum(1) - 8) / (2 * sigma**2)
    told = own - special.logsumexp(relative, axis=1) + np.log(16)  # information on the word
    exact, error = told.mean() + noise(8, sigma), told.std() / np.sqrt(len(told))
    assert error < 0.005

    found = iw.smoothed_entropy(KEY, words[rng.integers(16, size=1000)], sigma)
    low, high = found.interval()
    assert low - 2 * error <= exact <= high + 2 * error
    assert high - low < 0.4
    assert 0 < told.mean() < np.log(16)


def test_intervals_hold_however_many_draws_there_are_of_a_sample():
    """More draws take the scatter of the noise away, not that of the samples."""
    size, number, sigma = 1, 256, 0.5
    truth = size / 2 * np.log(2 * np.pi * np.e * (1 + sigma**2))

    def holds(seed):
        samples = np.random.default_rng(seed).normal(size=(number, size))
        key = jax.random.key(seed)
        found = iw.smoothed_entropy(key, samples, sigma, num_points=16 * number)
        low, high = found.interval()
        return low <= truth <= high

    assert sum(map(holds, range(40))) >= 0.92 * 40 - 2 * np.sqrt(40 * 0.92 * 0.08)


def test_devices_share_the_draws(corners):
    whole = iw.smoothed_entropy(KEY, corners, 0.5)
    dealt = iw.smoothed_entropy(KEY, corners, 0.5, mesh=iw.make_mesh(data=2))
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(dealt), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_it_is_the_same_under_jit(corners):
    eager = iw.smoothed_entropy(KEY, corners, 0.5)
    traced = jax.jit(iw.smoothed_entropy)(KEY, corners, 0.5)
    for a, b in zip(jax.tree.leaves(eager), jax.tree.leaves(traced), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9)


def test_too_few_samples_are_warned_of():
    samples = np.random.default_rng(0).uniform(-1, 1, size=(200, 10))
    with pytest.warns(UserWarning, match="200 samples are too few in 10 dimensions at sigma = 0.0"):
        found = iw.smoothed_entropy(KEY, samples, 0.01)
    assert not found.converged
    # All that is seen is that the samples are different.
    assert abs(found.value - noise(10, 0.01) - np.log(200)) < 4 * found.stderr


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"key": jax.random.PRNGKey(0)}, TypeError, "key must be a typed random key"),
        ({"samples": np.ones((3, 2))}, ValueError, r"\(n, d\) with n >= 4, got \(3, 2\)"),
        ({"samples": np.ones(8)}, ValueError, "samples must be"),
        ({"samples": np.full((8, 2), np.nan)}, ValueError, "must be finite"),
        ({"sigma": 0.0}, ValueError, "sigma must be positive"),
        ({"sigma": np.ones(2)}, ValueError, "sigma must be a scalar"),
        ({"num_points": 1}, ValueError, "num_points must be an integer of at least 2"),
    ],
)
def test_samples_that_say_nothing_are_named(changes, error, message):
    given = {"key": KEY, "samples": np.ones((8, 2)), "sigma": 1.0, **changes}
    with pytest.raises(error, match=message):
        iw.smoothed_entropy(**given)


# -------------------------------------------------------------------------------------- theory


@pytest.mark.parametrize(("size", "nats"), [(1, 7.4e-4), (5, 0.018), (10, 0.87), (12, 4.0)])
def test_the_risk_is_that_of_the_papers_table(size, nats):
    """1810.11589, Table I: sigma = 1, n = 1e9."""
    np.testing.assert_allclose(smoothed.entropy_risk_bound(10**9, size, 1.0), nats, rtol=0.03)


@pytest.mark.parametrize(("size", "sigma"), [(1, 1.0), (3, 0.5), (10, 0.1)])
def test_theory_allows_less_error_to_more_samples(size, sigma):
    numbers = [10**k for k in range(2, 10)]
    risk = [smoothed.entropy_risk_bound(n, size, sigma) for n in numbers]
    bias = [smoothed.entropy_bias_bound(n, size, sigma) for n in numbers]
    assert np.all(np.diff(risk) < 0)
    assert np.all(np.diff(bias) <= 0)
    assert np.all(np.array(bias) >= 0)
    assert np.all(np.array(bias) <= risk)


def test_many_dimensions_do_not_overflow():
    assert smoothed.entropy_risk_bound(1000, 10_000, 0.005) == np.inf


def test_the_worst_law_is_a_grid_of_points_just_too_close_to_be_told_apart():
    """Theorem 4 at one share of errors; the best share is at least as good."""
    n, d, sigma, share = 1000, 10, 0.01, 0.1
    reach = stats.norm.isf((1 - (1 - share) ** (1 / d)) / 2)
    cells = np.floor(1 / (sigma * reach))
    binary = stats.bernoulli(share).entropy()
    at_share = d * (1 - share) * np.log(cells) - np.log(n) - binary
    assert at_share > 10
    assert at_share <= smoothed.entropy_bias_bound(n, d, sigma) < d * np.log(1 / sigma)


def test_noise_as_broad_as_the_cube_forces_no_bias():
    assert smoothed.entropy_bias_bound(100, 2, 10.0) == 0.0


def test_the_bound_of_the_monte_carlo_error_is_loose_where_networks_live():
    np.testing.assert_allclose(smoothed.monte_carlo_bound(4096, 977, 10, 0.005), 0.63, rtol=0.01)


def test_the_bound_of_the_monte_carlo_error_holds(corners):
    """Many entropies of the same centres: their scatter, for bounded units and for any others."""
    found = [iw.mixture_entropy(k, corners, 0.5).value for k in jax.random.split(KEY, 40)]
    scatter = np.std(found, ddof=1)
    assert scatter < smoothed.monte_carlo_bound(NUM, 1, SIZE, 0.5)
    moment = np.square(corners).sum(1).mean()
    assert scatter < smoothed.monte_carlo_bound(NUM, 1, SIZE, 0.5, second_moment=moment)
    once, often = (smoothed.monte_carlo_bound(NUM, k, SIZE, 0.5, moment) for k in (1, 4))
    np.testing.assert_allclose(once / often, 2.0)


def test_the_monte_carlo_bound_of_unbounded_units_is_the_papers():
    d, sigma, moment, pairs = 4, 0.5, 2.0, 100
    top = 9 * 4 * 0.25 + 8 * (2 + 0.5 * 2) * 2.0 + 3 * (11 * 0.5 * 2 + 1) * np.sqrt(2.0)
    found = smoothed.monte_carlo_bound(pairs, 1, d, sigma, second_moment=moment)
    np.testing.assert_allclose(found**2, top / (0.25 * pairs))
