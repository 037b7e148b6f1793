import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

import iw_jax as iw
from iw_jax import trees
from tests import oracles

INTERVAL = (-20.0, 3.0)
LENGTH = 23.0
kl = jax.jit(iw.kl)
mean_of = jax.jit(lambda code: code.mean)
MUS = [-20.0, -19.9, -8.0, 0.0, 2.9, 3.0]
SIGMAS = [1e-6, 1e-2, 0.5, 3.0, 30.0, 229.0]


def code_at(mu, sigma, dtype=jnp.float64, interval=INTERVAL):
    return iw.LogNormalNoise(jnp.array([np.exp(mu)], dtype), sigma, interval)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("mu", MUS)
def test_truncated_kl_is_that_of_quadrature_plus_a_coin_for_the_sign(mu, sigma):
    expected = np.log(2) + oracles.truncated_normal_kl_to_uniform(mu, sigma, INTERVAL)
    value = kl(code_at(mu, sigma), iw.LogUniform(INTERVAL))
    np.testing.assert_allclose(value, expected, rtol=1e-9)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("mu", MUS)
def test_the_mean_is_that_of_quadrature(mu, sigma):
    expected = oracles.truncated_lognormal_mean(mu, sigma, INTERVAL)
    np.testing.assert_allclose(mean_of(code_at(mu, sigma)), expected, rtol=1e-8)


@pytest.mark.parametrize("sigma", SIGMAS)
@pytest.mark.parametrize("mu", MUS)
def test_kl_to_a_gaussian_is_that_of_quadrature(mu, sigma):
    expected = oracles.truncated_lognormal_kl_to_gaussian(mu, sigma, INTERVAL, 0.1, 0.7)
    prior = iw.IsotropicGaussian(0.7, mean=jnp.array([0.1]))
    np.testing.assert_allclose(kl(code_at(mu, sigma), prior), expected, rtol=1e-8)


def test_a_narrow_prior_around_the_location_costs_what_it_should_in_float32():
    """m = 1, λ = σ = 1e-3: all but the same law; E w² - 2mEw + m² would have lost it."""
    code = iw.LogNormalNoise(jnp.ones(1, jnp.float32), 1e-3)
    prior = iw.IsotropicGaussian(1e-3, mean=jnp.ones(1, jnp.float32))
    assert abs(float(code.kl(prior))) < 2e-4


def test_kl_to_a_gaussian_without_truncation():
    """Negative weights mirror the prior; E w = location, E w² = location² e^α."""
    code = iw.LogNormalNoise(jnp.array([0.4, -1.3]), 0.5, interval=None)
    prior = iw.DiagonalGaussian(jnp.array([0.1, 0.2]), jnp.array([0.7, 2.0]))
    rng = np.random.default_rng(0).normal(size=200_000)
    w = np.array([0.4, -1.3]) * np.exp(0.5 * rng[:, None] - 0.125)
    log_q = stats.norm.logpdf(rng)[:, None] - np.log(0.5 * np.abs(w))
    draws = (log_q - stats.norm.logpdf(w, [0.1, 0.2], [0.7, 2.0])).sum(1)
    assert abs(oracles.z_scores(draws, float(kl(code, prior)))) < 4


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
def test_no_leaf_and_no_location_gives_more_than_finite_numbers(dtype):
    """KL >= log 2, the sign; = log 2 where nothing else is known, however far a leaf drifts."""
    leaves = np.array([-30.0, -10.0, 0.0, 10.0, 100.0, 1e4])
    places = np.array([0.0, 1e-30, 1.0, -1.0, 1e6])
    grid = [jnp.array(np.ravel(x), dtype) for x in np.meshgrid(places, leaves, indexing="ij")]
    code = iw.LogNormalNoise(jnp.ones((), dtype), 1.0)

    def values(location, leaf):
        one = trees.replace(code, location=location, log_scale=leaf)
        return jnp.stack([one.kl(iw.LogUniform()), one.weights(jnp.asarray(0.7, dtype)), one.mean])

    both = jax.jit(jax.vmap(lambda *at: (values(*at), jax.jacfwd(values, (0, 1))(*at))))
    value, slopes = both(*grid)
    for x in (value, *slopes):
        assert np.all(np.isfinite(x))
    kl_ = np.asarray(value[:, 0], float).reshape(5, 6)
    assert np.all(kl_ > np.log(2) - 100 * jnp.finfo(dtype).eps)
    np.testing.assert_allclose(kl_[:, -1], np.log(2), atol=1e-5)


@pytest.mark.parametrize(("mu", "sigma"), [(-8.0, 0.5), (2.9, 1.0), (3.0, 0.01), (-1.0, 100.0)])
def test_draws_follow_the_truncated_law(mu, sigma):
    code = iw.LogNormalNoise(jnp.array([-np.exp(mu)]), sigma)
    keys = jax.random.split(jax.random.key(0), 4000)
    t = np.log(-np.asarray(jax.jit(jax.vmap(lambda k: iw.sample(k, code)))(keys))[:, 0])
    assert np.all((t >= INTERVAL[0] - 1e-12) & (t <= INTERVAL[1] + 1e-12))
    low, high = (np.array(INTERVAL) - mu) / sigma
    assert stats.kstest(t, stats.truncnorm(low, high, mu, sigma).cdf).pvalue > 1e-3


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize("mu", MUS)
def test_the_quantile_is_exact_in_both_tails(mu, dtype):
    """At noise ε the weight is the Φ(ε)-quantile of the truncated law."""
    sigma, noise = 1.5, np.array([-5.0, -1.0, 0.0, 1.0, 5.0])
    code = iw.LogNormalNoise(jnp.full(5, np.exp(mu), dtype), sigma)
    t = np.log(np.asarray(jax.jit(lambda e: code.weights(e))(jnp.array(noise, dtype)), float))
    low, high = (np.array(INTERVAL) - mu) / sigma
    law = stats.truncnorm(low, high, mu, sigma)
    expected = np.where(noise > 0, law.isf(stats.norm.sf(noise)), law.ppf(stats.norm.cdf(noise)))
    tolerance = 1e-9 if dtype == jnp.float64 else 2e-3
    np.testing.assert_allclose(t, expected, rtol=0, atol=tolerance)


def test_the_improper_code_has_the_location_as_its_mean():
    code = iw.LogNormalNoise(jnp.array([2.0, -0.5]), 0.6, interval=None)
    np.testing.assert_array_equal(code.mean, code.location)
    draws = jax.jit(jax.vmap(lambda k: iw.sample(k, code)))(
        jax.random.split(jax.random.key(1), 20_000)
    )
    assert np.max(np.abs(oracles.z_scores(draws, [2.0, -0.5]))) < 4
    variance = (np.asarray(draws) - code.location) ** 2
    expected = np.array([4.0, 0.25]) * np.expm1(0.36)
    np.testing.assert_allclose(variance.mean(0), expected, rtol=0.1)


def test_the_improper_kl_has_exact_differences_and_no_more():
    prior = iw.LogUniform(None)
    wide, narrow = (iw.LogNormalNoise(jnp.ones(3), s, interval=None) for s in (0.5, 0.1))
    np.testing.assert_allclose(kl(narrow, prior) - kl(wide, prior), 3 * np.log(5.0), rtol=1e-12)


def test_the_improper_kl_differs_as_the_truncated_one_where_the_ends_are_far():
    improper, proper = (
        [kl(iw.LogNormalNoise(jnp.ones(1), s, i), iw.LogUniform(i)) for s in (0.3, 0.05)]
        for i in (None, (-30.0, 30.0))
    )
    np.testing.assert_allclose(improper[1] - improper[0], proper[1] - proper[0], rtol=1e-12)


def test_the_improper_variance_stays_below_its_cap_for_any_leaf():
    code = iw.LogNormalNoise(jnp.ones(4), 0.5, interval=None)
    pushed = trees.replace(code, log_scale=jnp.array([-20.0, 0.0, 5.0, 50.0]))
    assert np.all(pushed.scale**2 <= 0.7 + 1e-12)
    np.testing.assert_allclose(pushed.scale[-1] ** 2, 0.7, rtol=1e-12)


@pytest.mark.parametrize("interval", [INTERVAL, None])
def test_the_scale_is_the_one_given(interval):
    given = np.array([1e-5, 0.01, 0.8])
    code = iw.LogNormalNoise(jnp.ones(3), given, interval)
    np.testing.assert_allclose(code.scale, given, rtol=1e-12)


def test_a_log_uniform_prior_has_no_unit():
    code = code_at(0.0, 0.5)
    assert code.in_units_of(iw.LogUniform()) is code
    assert code.from_units_of(iw.LogUniform()) is code


def test_an_interval_may_be_a_list():
    code = iw.LogNormalNoise(jnp.ones(2), 0.1, [-3, 2])
    assert kl(code, iw.LogUniform([-3.0, 2.0])) == kl(code, iw.LogUniform((-3, 2)))


def test_float32_locations_stay_float32_and_agree_with_float64():
    single, double = code_at(-1.0, 0.4, jnp.float32), code_at(-1.0, 0.4)
    out = iw.sample(jax.random.key(0), single), single.mean, kl(single, iw.LogUniform())
    assert {x.dtype for x in jax.tree.leaves(out)} == {jnp.dtype("float32")}
    np.testing.assert_allclose(out[-1], kl(double, iw.LogUniform()), rtol=1e-6)


CODE = iw.LogNormalNoise(jnp.ones(2), 0.1)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: iw.LogNormalNoise(jnp.ones(2), 0.0), ValueError, "scale must be positive"),
        (lambda: iw.LogNormalNoise(jnp.ones(2), 1e3), ValueError, "scale² must stay below 52900"),
        (
            lambda: iw.LogNormalNoise(jnp.ones(2), 0.9, None),
            ValueError,
            "scale² must stay below 0.7",
        ),
        (lambda: iw.LogNormalNoise(jnp.ones(2), np.ones(3)), ValueError, "the shapes of location"),
        (lambda: iw.LogNormalNoise(jnp.ones((2, 3)), np.ones(3)), ValueError, "shapes of location"),
        (lambda: iw.LogNormalNoise(jnp.ones(2) / 0, 0.1), ValueError, "location must be finite"),
        (lambda: iw.LogNormalNoise(jnp.ones(2), 0.1, (1.0, 1.0)), ValueError, "interval must be"),
        (lambda: iw.LogUniform((3.0, -20.0)), ValueError, "interval must be"),
        (lambda: iw.LogUniform((-np.inf, 0.0)), ValueError, "interval must be"),
        (lambda: CODE.kl(iw.LogUniform((-8.0, 1.0))), ValueError, "must have the same interval"),
        (lambda: CODE.kl(iw.LogUniform(None)), ValueError, "must have the same interval"),
        (
            lambda: CODE.kl(CODE),
            TypeError,
            "a prior of type LogNormalNoise",
        ),
    ],
)
def test_bad_arguments_are_named(make, error, message):
    with pytest.raises(error, match=message):
        make()
