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


@pytest.mark.parametrize("seed", range(5))
def test_brackets_hold_the_integrals(seed):
    rng = np.random.default_rng(seed)
    spread = 10 ** rng.uniform(-1, 1)
    means = rng.normal(size=(4, 1)) * spread + rng.normal(size=(4, 3))
    scales = np.exp(rng.normal(size=(4, 3)) * 0.7)
    found = iw.shannon_iw(gaussians(means[..., None], scales[..., None]))
    for estimate, exact in zip(
        (found.nats, found.naive, found.seed), one_weight(means, scales), strict=True
    ):
        assert estimate.bracket_lower - 1e-9 <= exact <= estimate.bracket_upper + 1e-9
    assert found.adapted >= found.naive.bracket_lower
    assert found.adapted >= one_weight(means, scales)[1] - 1e-9


def test_far_apart_data_sets_reach_the_ceiling_and_say_so():
    """Seeds that fall into far minima add log R to the naive number, nothing to I(w; D)."""
    data = np.arange(5.0)[:, None, None] * 1e3
    seed = np.arange(3.0)[None, :, None] * 1e5
    found = iw.shannon_iw(gaussians(data + seed + np.zeros((5, 3, 2)), np.ones((5, 3, 2))))
    np.testing.assert_allclose(found.nats.value, np.log(5), rtol=1e-12)
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
    assert not found.binds
    assert found.naive.value > 1.5


def test_a_gaussian_channel():
    """D ~ N(0, I), w | D ~ N(D, σ² I): I = (n/2) log(1 + 1/σ²), which the adapted prior meets."""
    sets, noise = 400, 2.0
    means = np.random.default_rng(1).normal(size=(sets, 1, 3))
    found = iw.shannon_iw(gaussians(means, np.full((sets, 1, 3), noise)))
    exact = 1.5 * np.log1p(1 / noise**2)
    assert found.nats.bracket_lower < exact < found.nats.bracket_upper
    np.testing.assert_allclose(found.adapted, exact, rtol=0.05)
    np.testing.assert_allclose(found.naive.value, found.nats.value, rtol=1e-12)


def test_one_scale_for_all_weights_is_the_same_in_either_form():
    rng = np.random.default_rng(2)
    means, scales = rng.normal(size=(3, 2, 5)), np.exp(rng.normal(size=(3, 2)))
    make = jax.vmap(jax.vmap(lambda m, s: iw.IsotropicGaussian(s, mean={"w": m})))
    one = iw.shannon_iw(make(jnp.array(means), jnp.array(scales)))
    full = iw.shannon_iw(gaussians(means, np.broadcast_to(scales[..., None], means.shape)))
    np.testing.assert_allclose(one.nats.value, full.nats.value, rtol=1e-12)
    np.testing.assert_allclose(one.adapted, full.adapted, rtol=1e-12)


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
