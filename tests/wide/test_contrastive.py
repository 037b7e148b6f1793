"""I(X; Z|D): channels whose information is known, the integral against draws, and brackets."""

import itertools

import jax
import numpy as np
import pytest
from scipy import integrate, special, stats

from iw_jax import wide

KEY = jax.random.key(0)
RNG = np.random.default_rng(0)


def channel(number, sigma, size=1, runs=1):
    """z = x + N(0, σ²) at `number` inputs x ~ N(0, 1), drawn anew in every run."""
    return wide.Moments(RNG.normal(size=(runs, number, size)), np.full((runs, number), sigma**2))


@pytest.mark.parametrize("number", [10, 100])
@pytest.mark.parametrize("sigma", [0.3, 1.0])
def test_on_average_over_inputs_they_bracket_the_capacity(number, sigma):
    truth = np.log1p(1 / sigma**2) / 2
    found = wide.contrastive_integrals(channel(number, sigma, runs=100))
    lower, upper = found.lower.value, found.upper.value
    error = lower.std(ddof=1) / 10, upper.std(ddof=1) / 10
    assert lower.mean() < truth + 2 * error[0]
    assert upper.mean() > truth - 2 * error[1]
    assert np.all(lower < np.log(number))
    assert np.all(lower < upper)
    few = wide.contrastive_integrals(channel(number // 2, sigma, runs=100))
    gap = (few.upper.value - few.lower.value).mean()
    assert (upper - lower).mean() < 0.8 * gap  # more inputs, a narrower bracket


def uneven(number=6, size=1):
    """Densities of different widths, some far apart, two at the same place."""
    mean = RNG.normal(size=(1, number, size)) * 2
    mean[:, 1] = mean[:, 0]
    return wide.Moments(mean, RNG.uniform(0.05, 1.0, (1, number)) ** 2)


def test_the_integral_is_that_of_adaptive_quadrature():
    moments = uneven()
    mean, deviation = moments.mean[0, :, 0], np.sqrt(moments.variance[0])
    count = len(mean)

    def integrand(z, rest):
        p = stats.norm.pdf(z, mean, deviation)
        other = (p.sum() - p) / (count - 1) if rest else p.mean()
        # Far out, where a sum is 0, so is p.
        return (special.xlogy(p, p) - special.xlogy(p, np.maximum(other, 1e-300))).sum() / count

    edges = np.unique(np.concatenate([mean + k * deviation for k in range(-8, 9, 2)]))
    found = wide.contrastive_integrals(moments)
    for rest, estimate in enumerate((found.lower, found.upper)):
        whole = sum(
            integrate.quad(integrand, a, b, args=(rest,), epsabs=1e-12, limit=200)[0]
            for a, b in itertools.pairwise(edges)
        )
        np.testing.assert_allclose(estimate.value[0], whole, rtol=1e-9)


@pytest.mark.parametrize("size", [1, 3])
def test_draws_agree_with_the_integral_and_their_error_is_right(size):
    moments = uneven(size=size)
    keys = jax.random.split(KEY, 60)
    runs = [wide.contrastive_bounds(key, moments, num_draws=16) for key in keys]
    long = wide.contrastive_bounds(jax.random.key(1), moments, num_draws=4000)
    exact = wide.contrastive_integrals(moments) if size == 1 else long
    for name in ("lower", "upper"):
        truth = getattr(exact, name).value[0]
        estimate = getattr(long, name)
        assert abs(estimate.value[0] - truth) <= 4 * estimate.stderr[0]
        intervals = [getattr(run, name).interval() for run in runs]
        covered = sum(bool(low[0] <= truth <= high[0]) for low, high in intervals)
        assert covered >= 60 * 0.95 - 3 * np.sqrt(60 * 0.95 * 0.05)


def test_inputs_that_are_told_apart_give_the_log_of_their_number():
    moments = wide.Moments(np.arange(7.0).reshape(1, 7, 1), np.full((1, 7), 1e-4))
    found = wide.contrastive_integrals(moments)
    np.testing.assert_allclose(found.lower.value, np.log(7), rtol=1e-12)
    drawn = wide.contrastive_bounds(KEY, moments)
    np.testing.assert_allclose(drawn.lower.value, np.log(7), rtol=1e-12)
    assert abs(drawn.upper.value - found.upper.value) < 4 * drawn.upper.stderr
    # Of two inputs the upper one is the KL of the one from the other: nothing is lost where the
    # density of the other is e^-5000.
    two = wide.Moments(moments.mean[:, :2], moments.variance[:, :2])
    np.testing.assert_allclose(wide.contrastive_integrals(two).upper.value, 0.5 * 1e4, rtol=1e-9)


def test_inputs_that_are_the_same_give_nothing():
    found = wide.contrastive_integrals(wide.Moments(np.ones((1, 7, 1)), np.ones((1, 7))))
    np.testing.assert_allclose(found.lower.value, 0, atol=1e-12)
    np.testing.assert_allclose(found.upper.value, 0, atol=1e-12)


def test_draws_are_the_same_under_jit():
    moments = uneven(size=2)
    eager = wide.contrastive_bounds(KEY, moments, num_draws=2)
    traced = jax.jit(lambda k, m: wide.contrastive_bounds(k, m, num_draws=2))(KEY, moments)
    np.testing.assert_allclose(eager.upper.value, traced.upper.value, rtol=1e-10)


def test_what_has_no_bound_is_named():
    one = wide.Moments(np.zeros((1, 1, 1)), np.ones((1, 1)))
    with pytest.raises(ValueError, match="must be those of at least two inputs, got 1"):
        wide.contrastive_integrals(one)
    known = wide.Moments(np.zeros((1, 2, 1)), np.array([[0.0, 1.0]]))
    for function in (wide.contrastive_integrals, lambda m: wide.contrastive_bounds(KEY, m)):
        with pytest.raises(ValueError, match="variance of the outputs must be positive"):
            function(known)
    with pytest.raises(ValueError, match="moments must have one output, got 2"):
        wide.contrastive_integrals(uneven(size=2))
    narrow = wide.Moments(np.array([[[0.0], [1.0]]]), np.full((1, 2), 1e-12))
    with pytest.raises(ValueError, match=r"an integral would take 1.6e\+07 nodes"):
        wide.contrastive_integrals(narrow)
    with pytest.raises(ValueError, match="num_draws must be an integer of at least 2, got 1"):
        wide.contrastive_bounds(KEY, uneven(), num_draws=1)
