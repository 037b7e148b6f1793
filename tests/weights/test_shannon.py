"""Shannon information against integrals over one weight, and channels with a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, special, stats

import iw_jax as iw


def gaussians(means, scales):
    return iw.DiagonalGaussian({"w": jnp.asarray(means)}, {"w": jnp.asarray(scales)})


def one_weight(means, scales):
    """I(w; D), I(w; D, seed), I(w; seed|D) of codes (M, R) of a single weight, by quadrature."""
    grid = np.linspace(means.min() - 12 * scales.max(), means.max() + 12 * scales.max(), 400_001)
    parts = stats.norm.pdf(grid, means[..., None], scales[..., None])
    by_set = parts.mean(1)

    def entropy(p):
        return integrate.trapezoid(special.entr(p), grid)

    whole = entropy(by_set.mean(0))
    sets = np.mean([entropy(p) for p in by_set])
    single = np.mean(np.log(scales) + 0.5 * np.log(2 * np.pi * np.e))
    return whole - sets, whole - single, sets - single


def random_codes(seed):
    rng = np.random.default_rng(seed)
    spread = 10 ** rng.uniform(-1, 1)
    means = rng.normal(size=(4, 1)) * spread + rng.normal(size=(4, 3))
    return means, np.exp(rng.normal(size=(4, 3)) * 0.7)


def two_seeds_or_one_wide(a, s):
    """N(±a, s²) and N(0, a² + s²): close, though single terms of the lower end are far above 0."""
    return np.array([[a, -a], [0, 0]]), np.array([[s, s], [np.hypot(a, s)] * 2])


@pytest.mark.parametrize(
    ("means", "scales"),
    [random_codes(seed) for seed in range(5)]
    + [two_seeds_or_one_wide(*world) for world in ((0.8, 0.7), (1.0, 0.7), (1.5, 1.0))],
)
def test_brackets_hold_the_integrals(means, scales):
    found = iw.shannon_iw(gaussians(means[..., None], scales[..., None]))
    for estimate, exact in zip(
        (found.nats, found.naive, found.seed), one_weight(means, scales), strict=True
    ):
        assert estimate.bracket_lower - 1e-9 <= exact <= estimate.bracket_upper + 1e-9
    # Were these seeds all there are, the bracket would start higher.
    assert found.nats.bracket_lower + found.bias <= one_weight(means, scales)[0] + 1e-9
    assert found.adapted.value >= one_weight(means, scales)[1]


def test_far_apart_data_sets_reach_the_ceiling_and_say_so():
    """Seeds that fall into far minima add log K to the naive number, nothing to I(w; D)."""
    data, seed = np.arange(5.0)[:, None] * 1e3, np.arange(30) % 3 * 1e5
    found = iw.shannon_iw(gaussians((data + seed)[..., None] + np.zeros(2), np.ones((5, 30, 2))))
    np.testing.assert_allclose(found.nats.bracket_upper, np.log(5), rtol=1e-12)
    # Of a run's minimum the 29 others say 9/30, the pool 1/15 of 1/30.
    unseen = np.log(9 / 30 + 9 / 29 / 5 / 30)
    np.testing.assert_allclose(found.nats.bracket_lower, np.log(15) + unseen, rtol=1e-12)
    np.testing.assert_allclose(found.bias, np.log(1 / 3) - unseen, rtol=1e-9)
    np.testing.assert_allclose(found.naive.value, np.log(15), rtol=1e-12)
    np.testing.assert_allclose(found.seed.value, np.log(3), rtol=1e-12)
    assert found.binds
    assert not found.nats.converged
    assert found.ceiling == pytest.approx(np.log(5))


def test_codes_that_ignore_the_data_hold_nothing_of_it():
    rng = np.random.default_rng(0)
    by_seed = np.broadcast_to(rng.normal(size=(1, 6, 4)) * 10, (7, 6, 4))
    found = iw.shannon_iw(gaussians(by_seed, np.ones((7, 6, 4))))
    assert found.nats.bracket_lower == 0
    assert found.nats.value < 0.05
    assert found.nats.converged
    assert not found.binds
    assert found.naive.value > 1.5


@pytest.mark.parametrize(("runs", "enough"), [(2, False), (64, True)])
def test_fresh_seeds_of_codes_that_ignore_the_data(runs, enough):
    """Ten data sets, eight far minima: with few runs chance tells the data sets apart."""
    minima = np.random.default_rng(runs).integers(8, size=(10, runs, 1)) * 1e3
    found = iw.shannon_iw(gaussians(minima, np.ones(minima.shape)))
    assert found.nats.bracket_lower == 0
    assert found.nats.bracket_upper == pytest.approx(found.bias)
    assert not found.binds
    assert found.nats.converged == enough
    assert (found.nats.value < 0.05) == enough


def test_one_seed_tells_nothing_of_others():
    found = iw.shannon_iw(gaussians(np.zeros((9, 1, 1)), np.ones((9, 1, 1))))
    assert np.isnan(found.bias)
    assert not found.nats.converged


def test_the_bracket_holds_on_average_over_seeds():
    """Data sets that prefer one far minimum or another: I(w; D) in closed form."""
    rng = np.random.default_rng(3)
    shares = rng.dirichlet(np.ones(5), size=6)
    exact = special.entr(shares.mean(0)).sum() - special.entr(shares).sum(1).mean()
    ends = []
    for _ in range(25):
        minima = np.stack([rng.choice(5, size=(24, 1), p=p) for p in shares]) * 1e3
        found = iw.shannon_iw(gaussians(minima, np.ones(minima.shape)))
        ends.append((found.nats.bracket_lower, found.nats.value, found.nats.bracket_upper))
    lower, value, upper = np.mean(ends, 0)
    error = np.std(ends, 0).max() / np.sqrt(len(ends))
    assert lower + 3 * error < exact < upper - 3 * error
    assert abs(value - exact) < 0.5 * min(upper - exact, exact - lower)


def test_the_adapted_prior_is_judged_on_data_sets_it_was_not_fitted_to():
    """Of few sets: what is fitted to the codes themselves lies below the best prior's KL."""
    sets, weights, noise = 6, 200, 0.5
    means = np.random.default_rng(4).normal(size=(sets, 2, weights))
    found = iw.shannon_iw(gaussians(means, np.full(means.shape, noise))).adapted
    best = weights / 2 * np.log1p(1 / noise**2)
    assert found.value > best
    pooled = np.var(means.reshape(-1, weights), axis=0) + noise**2
    assert 0.5 * np.log(pooled / noise**2).sum() < best
    lower, upper = found.interval(0.999)
    left = np.array([np.delete(means, m, 0).reshape(-1, weights) for m in range(sets)])
    centre, variance = left.mean(1, keepdims=True), left.var(1, keepdims=True) + noise**2
    # The codes follow N(0, I), whatever the data set.
    law = (1 + noise**2 + centre**2) / variance - 1 + np.log(variance / noise**2)
    assert lower < 0.5 * law.sum(-1).mean() < upper


def test_a_gaussian_channel():
    """D ~ N(0, I), w | D ~ N(D, σ² I): I = (n/2) log(1 + 1/σ²), which the adapted prior meets."""
    sets, noise = 400, 2.0
    means = np.random.default_rng(1).normal(size=(sets, 1, 3))
    found = iw.shannon_iw(gaussians(means, np.full((sets, 1, 3), noise)))
    exact = 1.5 * np.log1p(1 / noise**2)
    assert found.nats.bracket_lower < exact < found.nats.bracket_upper
    np.testing.assert_allclose(found.adapted.value, exact, rtol=0.05)
    np.testing.assert_allclose(found.naive.value, found.nats.value, rtol=1e-12)


def test_one_scale_for_all_weights_is_the_same_in_either_form():
    rng = np.random.default_rng(2)
    means, scales = rng.normal(size=(3, 2, 5)), np.exp(rng.normal(size=(3, 2)))
    make = jax.vmap(jax.vmap(lambda m, s: iw.IsotropicGaussian(s, mean={"w": m})))
    one = iw.shannon_iw(make(jnp.array(means), jnp.array(scales)))
    full = iw.shannon_iw(gaussians(means, np.broadcast_to(scales[..., None], means.shape)))
    np.testing.assert_allclose(one.nats.value, full.nats.value, rtol=1e-12)
    np.testing.assert_allclose(one.adapted.value, full.adapted.value, rtol=1e-12)


@pytest.mark.parametrize(
    ("codes", "error", "message"),
    [
        (lambda: gaussians(np.zeros((1, 4, 2)), np.ones((1, 4, 2))), ValueError, "at least 2 data"),
        (lambda: gaussians(np.zeros(4), np.ones(4)), ValueError, "leading axes"),
        (lambda: iw.LogNormalNoise(jnp.ones((2, 2, 2)), 0.1), TypeError, "LogNormalNoise"),
    ],
)
def test_bad_input(codes, error, message):
    with pytest.raises(error, match=message):
        iw.shannon_iw(codes())
