"""Linear Fisher information: closed forms, the bias of few samples, honest error bars."""

import jax
import numpy as np
import pytest
from scipy import stats

import iw_jax as iw
from iw_jax.activations import linear_fisher

phi, Phi = stats.norm.pdf, stats.norm.cdf


def gaussian(seed, number, size, delta, slope=1.0):
    """Samples of N(θ slope, I) at θ = -δ and at θ = δ."""
    rng = np.random.default_rng(seed)
    return [rng.normal(size=(number, size)) + sign * delta * slope for sign in (-1, 1)]


def near(found, truth, allowed=4.0):
    assert abs(found.value - truth) < allowed * found.stderr, (found.value, found.stderr, truth)


def runs(number, size, delta, count, slope=1.0):
    found = [
        iw.linear_fisher_information(*gaussian(seed, number, size, delta, slope), delta)
        for seed in range(count)
    ]
    return np.array([e.value for e in found]), np.array([e.stderr for e in found]), found


def test_few_samples_leave_no_bias_and_an_honest_error():
    """T = 400, N = 40, J = 40: without the correction the mean would be 47.4."""
    value, stderr, _ = runs(400, 40, 0.1, 100)
    assert abs(value.mean() - 40) < 3.5 * value.std() / np.sqrt(len(value))
    assert abs(value.std() - exact_stderr(400, 40, 0.1, 40.0)) < 1.0
    assert abs(stderr.mean() / value.std() - 1) < 0.2


def exact_stderr(number, size, delta, truth):
    """From the variance of the noncentral F distribution, which Hotelling's T² follows."""
    information = number * (2 * delta) ** 2 / 2
    shift, rest = information * truth, 2 * number - 1 - size
    spread = ((size + shift) ** 2 + (size + 2 * shift) * (rest - 2)) / (rest - 4)
    return np.sqrt(2 * spread) / information


def test_the_naive_value_is_as_much_too_large_as_theory_says():
    """So that the correction is tested against what it corrects."""
    naive = []
    for seed in range(60):
        low, high = gaussian(seed, 400, 40, 0.1)
        slope = (high.mean(0) - low.mean(0)) / 0.2
        naive.append(slope @ np.linalg.solve((np.cov(low.T) + np.cov(high.T)) / 2, slope))
    expected = (40 + 2 * 40 / (400 * 0.04)) * 798 / (798 - 41)
    np.testing.assert_allclose(expected, 47.4, atol=0.1)
    assert abs(np.mean(naive) - expected) < 4 * np.std(naive) / np.sqrt(60)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "size", "slope"), [(400, 40, 1.0), (400, 40, 0.0), (100, 60, 1.0), (5000, 20, 1.0)]
)
def test_intervals_cover_the_information(number, size, slope):
    value, _, found = runs(number, size, 0.1, 300, slope)
    truth = size * slope**2
    covered = np.mean([low <= truth <= high for low, high in (e.interval() for e in found)])
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 300)
    assert abs(value.mean() - truth) < 3.5 * value.std() / np.sqrt(300)


@pytest.mark.slow
def test_intervals_cover_that_of_skewed_features():
    """Exponential features: the correction for Gaussians is not theirs, the jackknife is."""
    number, size, delta = 300, 10, 0.1
    found = []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        pair = [rng.exponential(size=(number, size)) * (1 + s * delta) for s in (-1, 1)]
        found.append(iw.linear_fisher_information(*pair, delta))
    truth = size / (1 + delta**2)  # the mean of (1 + δ)² and (1 - δ)² is the variance
    value = np.array([e.value for e in found])
    assert abs(value.mean() - truth) < 3.5 * value.std() / np.sqrt(len(value))
    covered = np.mean([low <= truth <= high for low, high in (e.interval() for e in found)])
    assert covered > 0.95 - 3 * np.sqrt(0.05 * 0.95 / 400)


# --------------------------------------------------------------------------------- closed forms


@pytest.mark.parametrize("m", [0.0, 2.0])
def test_a_rectified_gaussian_unit(m):
    expected = Phi(m) ** 2 / ((m**2 + 1) * Phi(m) + m * phi(m) - (m * Phi(m) + phi(m)) ** 2)
    np.testing.assert_allclose(expected, {0.0: 0.7335, 2.0: 0.99461}[m], atol=1e-4)
    pair = [np.maximum(x + m, 0) for x in gaussian(0, 200_000, 1, 0.05)]
    near(iw.linear_fisher_information(*pair, 0.05), expected)


def test_one_bit_of_a_gaussian():
    pair = [np.sign(x) for x in gaussian(0, 200_000, 1, 0.05)]
    near(iw.linear_fisher_information(*pair, 0.05), 2 / np.pi)


def test_a_variance_is_known_by_squares_and_nearly_by_absolute_values():
    theta, delta = 1.5, 0.1
    rng = np.random.default_rng(0)
    pair = [np.sqrt(t) * rng.normal(size=(200_000, 1)) for t in (theta - delta, theta + delta)]
    whole = 1 / (2 * theta**2)
    for features, expected in (
        (lambda x: x, 0.0),
        (lambda x: x**2, whole),
        (lambda x: np.hstack([x, abs(x)]), whole / (np.pi - 2)),
    ):
        found = iw.linear_fisher_information(*map(features, pair), delta)
        assert abs(found.value - expected) < 4 * found.stderr + 0.005 * expected  # δ² is left


def test_lognormal_features():
    M = np.random.default_rng(1).normal(size=(4, 4)) / 5
    m = M.sum(1)
    expected = m @ np.linalg.solve(np.expm1(M @ M.T), m)
    pair = [np.exp(u @ M.T) for u in gaussian(0, 100_000, 4, 0.05)]
    near(iw.linear_fisher_information(*pair, 0.05), expected)
    near(iw.linear_fisher_information(*map(np.log, pair), 0.05), 4.0)


def test_the_unit_of_the_parameter_only_scales_it():
    pair = gaussian(0, 500, 5, 0.1)
    one, other = (iw.linear_fisher_information(*pair, 0.1 * a) for a in (1.0, 3.0))
    np.testing.assert_allclose(one.value, 9 * other.value, rtol=1e-12)
    np.testing.assert_allclose(one.stderr, 9 * other.stderr, rtol=1e-12)


def test_units_of_the_features_do_not_matter():
    pair = gaussian(0, 500, 5, 0.1)
    scales, shifts = 10.0 ** np.arange(-6, 4, 2), 1e3
    found = iw.linear_fisher_information(*(x * scales + shifts * scales for x in pair), 0.1)
    expected = iw.linear_fisher_information(*pair, 0.1)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-9)


def test_a_unit_that_knows_nothing_changes_nothing():
    pair = gaussian(0, 20_000, 5, 0.1)
    rng = np.random.default_rng(1)
    noisy = [np.hstack([x, rng.normal(size=(len(x), 1))]) for x in pair]
    more, less = (iw.linear_fisher_information(*p, 0.1) for p in (noisy, pair))
    assert abs(more.value - less.value) < 0.5 * less.stderr


def test_dead_and_repeated_units_change_nothing():
    pair = gaussian(0, 500, 5, 0.1)
    expected = iw.linear_fisher_information(*pair, 0.1)
    dead = [np.hstack([0 * x[:, :1] + 7.3, x, 0 * x[:, :1]]) for x in pair]
    found = iw.linear_fisher_information(*dead, 0.1)
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-9)
    mixed = np.random.default_rng(1).normal(size=(5, 3))
    repeated = [np.hstack([x, x, x @ mixed]) for x in pair]
    found = iw.linear_fisher_information(*repeated, 0.1)
    # The 8 directions without variance count with 1e-11, of which rounding is 1e-5.
    np.testing.assert_allclose(found.value, expected.value, rtol=1e-4)
    np.testing.assert_allclose(found.stderr, expected.stderr, rtol=1e-4)


def test_noise_that_is_not_drawn_hides_as_much_as_noise_that_is():
    """Of independent units 1/(1 + noise²) is left; of dependent ones what the closed form says."""
    A = np.array([[1.0, 0.0], [0.99, 0.15]])
    pair = [x @ A.T for x in gaussian(0, 100_000, 2, 0.1)]
    covariance, slope = A @ A.T, A.sum(1)
    noisy = covariance + 0.3**2 * np.diag(covariance.diagonal())
    expected = slope @ np.linalg.solve(noisy, slope)
    found = iw.linear_fisher_information(*pair, 0.1, noise=0.3)
    near(found, expected)
    rng = np.random.default_rng(1)
    spread = 0.3 * np.sqrt(covariance.diagonal())
    drawn = [x + spread * rng.normal(size=x.shape) for x in pair]
    near(iw.linear_fisher_information(*drawn, 0.1), expected)
    assert expected < 0.95 * 2


def test_noise_leaves_no_bias_of_few_samples():
    value = [
        iw.linear_fisher_information(*gaussian(s, 100, 20, 0.1), 0.1, noise=0.5).value
        for s in range(100)
    ]
    assert abs(np.mean(value) - 20 / 1.25) < 3.5 * np.std(value) / np.sqrt(100)


def test_one_factor_serves_all_nested_sets():
    rng = np.random.default_rng(0)
    A, pair = rng.normal(size=(6, 6)), gaussian(0, 300, 6, 0.1)
    pair = [x @ A.T for x in pair]
    z = [(x - np.mean(pair, (0, 1))) / np.std(pair, (0, 1)) for x in pair]
    blocks = [np.split(x, 10) for x in z]
    moments = linear_fisher.Moments(
        counts=np.full(10, 30),
        sums=np.stack([[b.sum(0) for b in x] for x in blocks], 1),
        products=np.array([a.T @ a + b.T @ b for a, b in zip(*blocks, strict=True)]),
    )
    found = linear_fisher.information(moments, 0.1, 0.0, [1, 3, 6])
    for i, size in enumerate((1, 3, 6)):
        own = [x[:, :size] for x in pair]
        expected = iw.linear_fisher_information(*own, 0.1, num_blocks=10)
        np.testing.assert_allclose(found.value[i], expected.value, rtol=1e-9)
        np.testing.assert_allclose(found.stderr[i], expected.stderr, rtol=1e-9)
    assert found.cost == 600


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"delta": 0.0}, "delta must be positive and finite, got 0.0"),
        ({"delta": -1.0}, "delta must be positive and finite, got -1.0"),
        ({"delta": np.ones(2)}, "delta must be a scalar"),
        ({"noise": -0.1}, "noise must be at least 0 and finite, got -0.1"),
        ({"num_blocks": 1}, "num_blocks must be an integer of at least 2, got 1"),
        ({"minus": np.ones((9, 3))}, r"must both be \(T, N\), N >= 1, got \(9, 3\) and \(9, 2\)"),
        ({"minus": np.ones(9)}, "must both be"),
        ({"minus": np.full((9, 2), np.nan)}, "minus must be finite"),
        ({"minus": np.ones((4, 2)), "plus": np.ones((4, 2))}, "T must be at least 5, the number"),
    ],
)
def test_samples_that_say_nothing_are_named(changes, message):
    given = {"minus": np.ones((9, 2)), "plus": np.ones((9, 2)), "delta": 0.1, **changes}
    with pytest.raises(ValueError, match=message):
        iw.linear_fisher_information(**given)


def test_no_block_of_the_jackknife_is_empty():
    """Eight samples make eight blocks at most, and as many degrees of freedom less one."""
    pair = gaussian(0, 8, 2, 0.1)
    found, expected = (iw.linear_fisher_information(*pair, 0.1, num_blocks=n) for n in (20, 8))
    assert found.dof == 7
    np.testing.assert_array_equal(found.value, expected.value)
    np.testing.assert_array_equal(found.stderr, expected.stderr)


@pytest.mark.parametrize("spread", [0.0, 1e-7])
def test_a_feature_that_is_the_parameter_itself_is_named(spread):
    """It was left out as if it were constant, though its information is infinite, or nearly."""
    known = [
        np.hstack([x, np.full((30, 1), sign * 0.1) + spread * x[:, :1]])
        for x, sign in zip(gaussian(0, 30, 2, 0.1), (-1, 1), strict=True)
    ]
    with pytest.raises(ValueError, match="feature 2 must vary at θ - δ and at θ"):
        iw.linear_fisher_information(*known, 0.1)


def test_of_a_difference_that_is_the_parameter_noise_sets_what_is_found():
    """(x, x + θ) with noise on both: 1/(2 noise²), as the docstring says of such directions."""
    low, high = gaussian(0, 2000, 1, 0.1, slope=0.0)
    pair = [np.hstack([low, low - 0.1]), np.hstack([high, high + 0.1])]
    for noise in (0.1, 0.01):
        x, y = 1 + noise**2, 1.0
        expected = np.array([0, 1]) @ np.linalg.solve([[x, y], [y, x]], [0, 1])
        found = iw.linear_fisher_information(*pair, 0.1, noise=noise)
        assert abs(found.value / expected - 1) < 0.1
        assert abs(found.value * 2 * noise**2 - 1) < 0.1


def test_what_is_constant_tells_nothing():
    found = iw.linear_fisher_information(np.ones((30, 2)), np.ones((30, 2)), 0.1)
    assert found.value == 0
    assert isinstance(jax.tree.leaves(found)[0], jax.Array)
