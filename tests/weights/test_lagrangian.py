import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iw_jax as iw
from iw_jax import trees
from tests import oracles

WORLD = oracles.linear_world(0)
TASK = WORLD.task
MEAN, SCALE = jnp.array([0.4, -0.3, 1.0]), jnp.array([0.1, 0.3, 0.2])
CODE = iw.DiagonalGaussian(MEAN, SCALE)
PRIOR = iw.IsotropicGaussian(0.9)
EXPECTED_LOSS = WORLD.expected_loss(np.asarray(MEAN), np.diag(SCALE**2))
KL = oracles.gaussian_kl(np.asarray(MEAN), np.diag(SCALE**2), np.zeros(3), 0.81 * np.eye(3))


@functools.cache
def many():
    keys = jax.random.split(jax.random.key(0), 6000)
    measure = lambda k: iw.information_lagrangian(k, TASK, CODE, PRIOR, beta=0.7)  # noqa: E731
    return jax.jit(jax.vmap(measure))(keys)


def test_the_loss_is_the_closed_form_and_its_error_bar_is_honest():
    loss = many().loss
    assert abs(oracles.z_scores(loss.value, EXPECTED_LOSS)) < 4
    # The square of the error bar is unbiased, and (z is t-like only for normal draws) z has mean 0.
    np.testing.assert_allclose(np.mean(loss.stderr**2), np.var(loss.value), rtol=0.1)
    covered = [(low < EXPECTED_LOSS) & (high > EXPECTED_LOSS) for low, high in [loss.interval(0.9)]]
    assert abs(np.mean(covered) - 0.9) < 0.05  # 8 draws of a chi-square-like loss


def test_z_scores_of_many_draws_are_standard_normal():
    keys = jax.random.split(jax.random.key(1), 300)
    loss = jax.jit(
        jax.vmap(lambda k: iw.information_lagrangian(k, TASK, CODE, PRIOR, num_samples=200).loss)
    )(keys)
    z = np.asarray((loss.value - EXPECTED_LOSS) / loss.stderr)
    assert abs(z.mean()) < 0.25
    assert abs(z.std() - 1) < 0.15


def test_the_kl_is_exact():
    np.testing.assert_allclose(many().kl.value, np.full(6000, KL), rtol=1e-12)
    assert np.all(many().kl.stderr == 0)


def test_the_value_is_loss_plus_beta_kl_draw_by_draw():
    np.testing.assert_allclose(many().value.value, many().loss.value + 0.7 * KL, rtol=1e-12)
    np.testing.assert_allclose(many().value.stderr, many().loss.stderr, rtol=1e-9)


def test_the_lagrangian_at_the_gibbs_optimum_is_the_free_energy():
    """In an orthogonal world mean field is exact: C** = -β log E_P e^(-L/β)."""
    world, beta, cov = oracles.linear_world(1, orthogonal=True), 0.6, 0.81 * np.eye(3)
    mean, covariance = world.gibbs(np.zeros(3), cov, beta)
    code = iw.DiagonalGaussian(jnp.array(mean), jnp.array(np.sqrt(np.diag(covariance))))
    measured = jax.jit(
        lambda k: iw.information_lagrangian(k, world.task, code, PRIOR, beta=beta, num_samples=4000)
    )(jax.random.key(2))
    free_energy = world.free_energy(np.zeros(3), cov, beta)
    assert abs(measured.value.value - free_energy) < 4 * measured.value.stderr
    exact = oracles.exact_linear_loss(None, world.task, code) + beta * iw.kl(code, PRIOR)
    np.testing.assert_allclose(exact, free_energy, rtol=1e-11)


@pytest.mark.parametrize("batch_size", [5, 24])
def test_chunks_change_nothing(batch_size):
    measure = jax.jit(
        lambda key: [
            iw.information_lagrangian(key, TASK, CODE, PRIOR, batch_size=size).loss.value
            for size in (batch_size, None)
        ]
    )
    np.testing.assert_allclose(*measure(jax.random.key(3)), rtol=1e-12)


def test_codes_and_tasks_can_be_made_under_jit():
    """Checks look at constants, not at what tracing makes of them."""

    def measure(key):
        task = iw.Task(
            oracles.linear, iw.GaussianLikelihood(WORLD.noise), TASK.inputs, TASK.targets
        )
        code, prior = iw.DiagonalGaussian(MEAN, SCALE), iw.IsotropicGaussian(0.9)
        return iw.information_lagrangian(key, task, code, prior, beta=0.7).value.value

    key = jax.random.key(6)
    expected = iw.information_lagrangian(key, TASK, CODE, PRIOR, beta=0.7).value.value
    np.testing.assert_allclose(jax.jit(measure)(key), expected, rtol=1e-12)


# --------------------------------------------------------------------------- the estimators


def linear_local(key, mean, scale, inputs):
    variance = inputs**2 @ scale**2
    return inputs @ mean + jnp.sqrt(variance) * jax.random.normal(key, variance.shape)


ESTIMATORS = {
    "weights": iw.weight_noise,
    "antithetic": iw.antithetic_noise,
    "local": iw.local_noise(linear_local),
}


@functools.cache
def draws(name):
    """Value and gradient in (mean, log_scale) of 4000 calls."""
    one = jax.value_and_grad(lambda code, key: ESTIMATORS[name](key, TASK, code))
    return jax.jit(jax.vmap(lambda k: one(CODE, k)))(jax.random.split(jax.random.key(4), 4000))


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_unbiased_for_the_loss(name):
    assert abs(oracles.z_scores(draws(name)[0], EXPECTED_LOSS)) < 4


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_is_unbiased_for_the_gradient(name):
    """dE[L]/dμ = H (μ - w0), dE[L]/dlog σ_i = H_ii σ_i²."""
    gradient = draws(name)[1]
    slope = WORLD.hessian @ (np.asarray(MEAN) - WORLD.minimum)
    mean_gradient = np.asarray(gradient.mean)
    if name == "antithetic":  # odd orders cancel: no noise at all
        np.testing.assert_allclose(mean_gradient, np.tile(slope, (4000, 1)), rtol=1e-9)
    else:
        assert np.max(np.abs(oracles.z_scores(mean_gradient, slope))) < 4
    curvature = np.diag(WORLD.hessian) * np.asarray(SCALE) ** 2
    assert np.max(np.abs(oracles.z_scores(gradient.log_scale, curvature))) < 4


def test_local_noise_has_less_variance_than_weight_noise():
    assert np.var(draws("local")[0]) < 0.5 * np.var(draws("weights")[0])


def test_the_same_network_gives_the_same_local_estimator():
    assert iw.local_noise(linear_local) is ESTIMATORS["local"]


def test_local_noise_takes_one_scale_for_all_weights():
    one_scale = iw.IsotropicGaussian(0.2, mean=MEAN)
    each_scale = iw.DiagonalGaussian(MEAN, 0.2)
    a, b = (ESTIMATORS["local"](jax.random.key(5), TASK, c) for c in (one_scale, each_scale))
    np.testing.assert_allclose(a, b, rtol=1e-12)


@pytest.mark.parametrize(
    "code", [iw.LowRankGaussian(MEAN, SCALE, jnp.ones((1, 3))), iw.LogNormalNoise(MEAN, SCALE)]
)
def test_local_noise_rejects_codes_whose_weights_are_not_independent_gaussians(code):
    with pytest.raises(
        TypeError, match="local_noise needs a code with independent Gaussian weights"
    ):
        ESTIMATORS["local"](jax.random.key(0), TASK, code)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beta": 0.0}, ValueError, "beta must be positive and finite, got 0.0"),
        ({"beta": -1.0}, ValueError, "beta must be positive and finite, got -1.0"),
        ({"beta": np.nan}, ValueError, "beta must be positive and finite, got nan"),
        ({"beta": np.inf}, ValueError, "beta must be positive and finite, got inf"),
        ({"beta": np.ones(8)}, ValueError, r"beta must be one number, got shape \(8,\)"),
        ({"num_samples": 0}, ValueError, "num_samples must be an integer of at least 1"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
        ({"code": iw.DiagonalGaussian(jnp.ones(4), 1.0)}, ValueError, "params must fit apply_fn"),
        (
            {"code": trees.replace(CODE, log_scale=SCALE * np.nan)},
            ValueError,
            "code must be finite",
        ),
        ({"prior": iw.LogUniform()}, TypeError, "a prior of type LogUniform"),
    ],
)
def test_bad_arguments_are_named(changes, error, message):
    given = {"key": jax.random.key(0), "code": CODE, "prior": PRIOR, **changes}
    key, code, prior = (given.pop(name) for name in ("key", "code", "prior"))
    with pytest.raises(error, match=message):
        iw.information_lagrangian(key, TASK, code, prior, **given)
