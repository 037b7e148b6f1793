"""Effective information against dense matrices, scores drawn by Monte Carlo, and scaling laws."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import iw_jax as iw
from iw_jax.activations import emergence_bounds, multiplicative_information
from tests import oracles

KEY = jax.random.key(0)
BETA = 0.5


def hidden(weights, inputs):
    return jnp.tanh(inputs @ weights["first"]["kernel"] + weights["first"]["bias"])


@pytest.fixture(scope="module")
def world():
    inputs, targets = oracles.classification(0, num_examples=30)
    task = iw.Task(oracles.mlp, iw.Categorical(), jnp.array(inputs), jnp.array(targets))
    params = oracles.mlp_weights(1, width=4)
    prior = iw.IsotropicGaussian({"first": 0.8, "last": 1.5})
    return task, params, prior


def dense(world, layer_fn):
    """S(x) as a function of x, from the dense matrix of the code's covariance."""
    task, params, prior = world
    flat, unravel = jax.flatten_util.ravel_pytree(params)
    scales = jax.flatten_util.ravel_pytree(
        jax.tree.map(
            lambda w, s: jnp.full(w.shape, jnp.exp(s)), params, prior.full_log_scale(params)
        )
    )[0]
    G = iw.curvature.to_dense(iw.ggn(task, params))
    sigma = BETA * jnp.linalg.inv(G + BETA * jnp.diag(1 / scales**2))
    mean = lambda x: layer_fn(params, x[None])[0]  # noqa: E731

    def covariance(x):
        J = jax.jacfwd(lambda w: layer_fn(unravel(w), x[None])[0])(flat)
        return J @ sigma @ J.T

    return mean, covariance


@pytest.mark.parametrize("layer_fn", [hidden, oracles.mlp], ids=["hidden", "outputs"])
@pytest.mark.parametrize("num_matvecs", [200, 6])
def test_is_the_fisher_information_of_the_dense_gaussian(world, layer_fn, num_matvecs):
    task, params, prior = world
    points = task.inputs[:3]
    found = iw.effective_information(
        task,
        params,
        layer_fn,
        points,
        prior,
        beta=BETA,
        key=KEY,
        num_matvecs=num_matvecs,
        rtol=1e-9,
    )
    mean, covariance = dense(world, layer_fn)
    for i, x in enumerate(points):
        S, D, dS = covariance(x), jax.jacfwd(mean)(x), jax.jacfwd(covariance)(x)
        inverse = np.linalg.inv(S)
        np.testing.assert_allclose(found.covariance[i], S, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found.mean_term[i], D.T @ inverse @ D, rtol=1e-5)
        second = 0.5 * np.einsum("ij,jka,kl,lib->ab", inverse, dS, inverse, dS)
        np.testing.assert_allclose(found.covariance_term[i], second, rtol=1e-4)
    assert np.all(found.rank == found.outputs.shape[1])


def test_is_the_covariance_of_scores(world):
    task, params, prior = world
    point = task.inputs[0]
    found = iw.effective_information(
        task, params, hidden, point[None], prior, beta=BETA, key=KEY, num_matvecs=200
    )
    mean, covariance = dense(world, hidden)
    draws = jax.random.multivariate_normal(
        jax.random.key(3), mean(point), covariance(point), (100_000,)
    )
    score = jax.grad(
        lambda x, z: jax.scipy.stats.multivariate_normal.logpdf(z, mean(x), covariance(x))
    )
    scores = np.asarray(jax.vmap(lambda z: score(point, z))(draws))
    outer = scores[:, :, None] * scores[:, None, :]
    z = oracles.z_scores(outer, found.fisher[0])
    assert np.abs(z).max() < 4.5


def test_a_linear_layer_hears_a_louder_input_worse():
    """x -> 2x: mean and noise of z = Wx double, D does not, so both terms fall fourfold."""
    x = np.random.default_rng(0).normal(size=(50, 3))
    task = iw.Task(lambda w, x: x @ w, iw.GaussianLikelihood(0.3), jnp.array(x), jnp.zeros((50, 2)))
    params, prior = (
        jnp.array(np.random.default_rng(1).normal(size=(3, 2))),
        iw.IsotropicGaussian(2.0),
    )
    at = jnp.array([[0.3, -1.0, 0.5]])
    layer = lambda w, x: x @ w  # noqa: E731
    one, two = (
        iw.effective_information(task, params, layer, x, prior, beta=BETA, key=KEY)
        for x in (at, 2 * at)
    )
    np.testing.assert_allclose(two.mean_term, one.mean_term / 4, rtol=1e-5)
    np.testing.assert_allclose(two.covariance_term, one.covariance_term / 4, rtol=1e-5)
    # S = β (x'H^-1x) I with one H for both columns: the covariance term is 2 m v v'.
    H = x.T @ x / 0.3**2 + BETA / 4 * np.eye(3)
    v = np.linalg.solve(H, at[0]) / (at[0] @ np.linalg.solve(H, at[0]))
    np.testing.assert_allclose(one.covariance_term[0], 2 * 2 * np.outer(v, v), rtol=1e-4)


def test_finite_forms_for_a_layer_that_compresses():
    """z = w'x of one output from three inputs: log det F = -inf, both bounds are finite."""
    x = np.random.default_rng(0).normal(size=(400, 3))
    layer = lambda w, x: x @ w  # noqa: E731
    task = iw.Task(layer, iw.GaussianLikelihood(0.3), jnp.array(x), jnp.zeros((400, 1)))
    params, prior = jnp.array([[1.0], [2.0], [-1.0]]), iw.IsotropicGaussian(1.0)
    found = iw.effective_information(task, params, layer, x[:50], prior, beta=BETA, key=KEY)
    assert np.all(np.linalg.matrix_rank(found.fisher) < 3)
    assert 0 < found.gaussian_bound() < 10
    assert 0 < found.linear_information(np.eye(3)) < 10


def test_units_that_no_weight_moves_are_left_out(world):
    task, params, prior = world
    layer = lambda w, x: jnp.concatenate([hidden(w, x), jnp.zeros((len(x), 2))], 1)  # noqa: E731
    both = [
        iw.effective_information(task, params, f, task.inputs[:2], prior, beta=BETA, key=KEY)
        for f in (layer, hidden)
    ]
    np.testing.assert_allclose(both[0].fisher, both[1].fisher, rtol=1e-6)
    assert both[0].rank.tolist() == [4, 4]
    assert both[0].gaussian_bound() == np.inf
    noisy = iw.effective_information(
        task, params, layer, task.inputs[:2], prior, beta=BETA, key=KEY, output_noise=0.1
    )
    assert noisy.rank.tolist() == [6, 6]
    assert np.all(np.diagonal(noisy.mean_term[0]) < np.diagonal(both[0].mean_term[0]))


@pytest.mark.parametrize("alpha", [0.01, 0.3, 2.0])
def test_the_emergence_bounds_hold(alpha):
    rng = np.random.default_rng(0)
    for size in (1, 4, 200):
        x, W = rng.normal(size=(4000, size)), rng.normal(size=(3, size))
        value = multiplicative_information(W, alpha, x) / 3
        lower, upper = emergence_bounds(alpha)
        assert lower - 0.03 < value < upper
    assert abs(value - lower) < 0.02  # the excess vanishes with many inputs


def test_the_emergence_bound_of_one_input_has_the_excess_of_euler():
    """dim x = 1: the excess is E -½ log x² = (γ_Euler + ln 2)/2."""
    x = np.random.default_rng(1).normal(size=(400_000, 1))
    excess = multiplicative_information([[1.3]], 0.2, x) - emergence_bounds(0.2)[0]
    np.testing.assert_allclose(excess, (np.euler_gamma + np.log(2)) / 2, rtol=0.01)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beta": 0.0}, ValueError, "beta must be positive"),
        ({"output_noise": -1.0}, ValueError, "output_noise must not be negative"),
        ({"layer_fn": lambda _, x: x[:, 0]}, ValueError, r"activations \(X, m\)"),
        ({"prior": iw.LogUniform()}, TypeError, "prior must be an IsotropicGaussian"),
        ({"max_solves": 1, "num_matvecs": 1, "rtol": 1e-12}, RuntimeError, "relative residual"),
    ],
)
def test_bad_input(world, changes, error, message):
    task, params, prior = world
    arguments = {"layer_fn": hidden, "prior": prior, "beta": BETA, "key": KEY} | changes
    layer_fn, own_prior = arguments.pop("layer_fn"), arguments.pop("prior")
    with pytest.raises(error, match=message):
        iw.effective_information(task, params, layer_fn, task.inputs[:2], own_prior, **arguments)
