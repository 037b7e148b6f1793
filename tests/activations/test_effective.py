"""Effective information against dense matrices, scores drawn by Monte Carlo, and scaling laws."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special

import iw_jax as iw
from iw_jax import trees
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
@pytest.mark.parametrize("num_matvecs", [pytest.param(200, marks=pytest.mark.slow), 6])
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
    exact = jax.jit(lambda x: (covariance(x), jax.jacfwd(mean)(x), jax.jacfwd(covariance)(x)))
    for i, (S, D, dS) in enumerate(map(exact, points)):
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
    scores = np.asarray(jax.jit(jax.vmap(score, (None, 0)))(point, draws))
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


def test_bounds_of_a_layer_that_compresses_hold_its_information_between_them():
    """z = w'x, w ~ N(w*, s² I), x ~ N(0, I_3): log det F = -inf, I(x; z) by quadrature over |x|."""
    number, sigma = 400, 6.0
    x = np.sqrt(number) * np.linalg.qr(np.random.default_rng(0).normal(size=(number, 3)))[0]
    s = np.sqrt(BETA / (number / sigma**2 + BETA))
    layer = lambda w, x: x @ w  # noqa: E731
    task = iw.Task(layer, iw.GaussianLikelihood(sigma), jnp.array(x), jnp.zeros((number, 1)))
    params, prior = s * jnp.array([[1.0], [-0.5], [1.0]]), iw.IsotropicGaussian(1.0)
    inputs = np.random.default_rng(1).normal(size=(300, 3))
    found = iw.effective_information(task, params, layer, inputs, prior, beta=BETA, key=KEY)
    np.testing.assert_allclose(found.covariance[:, 0, 0], s**2 * (inputs**2).sum(1), rtol=1e-5)
    singular = found.logdet()
    assert singular.value == singular.interval()[0] == -np.inf
    # Of three eigenvalues that sum to 3 one is below rounding, in units of the diagonal.
    diagonal = np.diagonal(found.fisher, axis1=1, axis2=2)
    most = np.log(3 * found.rounding) + 2 * np.log(3 / 2) + np.log(diagonal).sum(1).mean()
    assert most - 5 < singular.bracket_upper < most
    size = 1.5  # |w*|/s; z in units of s from here
    r, z = np.linspace(1e-3, 8, 801), np.linspace(-40, 40, 1601)
    at = [special.ndtr(z[:, None] / r + end) for end in (size, -size)]
    weight = np.sqrt(2 / np.pi) * r * np.exp(-(r**2) / 2) / (2 * size)
    density = np.trapezoid(weight * (at[0] - at[1]), r)
    log_radius = (special.digamma(1.5) + np.log(2)) / 2  # E log|x|
    entropy = np.trapezoid(special.entr(density), z)
    exact = entropy - log_radius - np.log(2 * np.pi * np.e) / 2
    above, below = found.gaussian_bound(), found.linear_information(np.eye(3))
    top = np.log(size**2 + 3) / 2 - log_radius
    bottom = np.log1p(size**2 / 3) / 2
    assert bottom < exact < top
    for estimate, value in ((above, top), (below, bottom)):
        assert abs(estimate.value - value) < 4 * estimate.stderr
        assert estimate.stderr < 0.1


def synthetic(rng, number):
    """z = Wx + n of three outputs, two of them alike, x ~ N(0, I_2), n ~ N(0, e^g S0) with g ~ N.

    Returns the record, and what both bounds are of the law.
    """
    W, S0, spread = np.array([[2.0, 0.3], [-0.5, 1.0]]), np.array([[0.5, 0.2], [0.2, 0.4]]), 0.6
    copy = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1e-3]])
    x, g = rng.normal(size=(number, 2)), spread * rng.normal(size=number)
    record = iw.EffectiveInformation(
        mean_term=None,
        covariance_term=None,
        outputs=x @ W.T @ copy.T,
        slopes=np.broadcast_to(copy @ W, (number, 3, 2)),
        covariance=np.exp(g)[:, None, None] * (copy @ S0 @ copy.T),
        rank=np.full(number, 2),
        rounding=1e-14,
        residual=0.0,
        prior=None,
        beta=1.0,
    )
    mean = np.exp(spread**2 / 2) * S0
    logdet = lambda S: np.linalg.slogdet(S)[1] / 2  # noqa: E731
    return record, (logdet(W @ W.T + mean) - logdet(S0), logdet(W @ W.T + mean) - logdet(mean))


def test_bounds_cover_those_of_the_law_of_the_inputs():
    rng = np.random.default_rng(0)
    found = []
    for _ in range(200):
        record, exact = synthetic(rng, 40)
        estimates = record.gaussian_bound(), record.linear_information(np.eye(2))
        found.append([(e.value - v) / e.stderr for e, v in zip(estimates, exact, strict=True)])
    assert np.all(np.abs(np.mean(found, 0)) < 4 / np.sqrt(200))
    np.testing.assert_allclose(np.std(found, 0), 1, atol=0.2)


def test_bounds_refuse_what_they_do_not_hold_for():
    record, _ = synthetic(np.random.default_rng(0), 2)
    with pytest.raises(ValueError, match=r"more than the 2 independent outputs .* got 2"):
        record.gaussian_bound()
    with pytest.raises(ValueError, match=r"covariance must be \(2, 2\), got \(3, 3\)"):
        record.linear_information(np.eye(3))
    curved = trees.replace(record, slopes=record.slopes * np.array([1, 1.01])[:, None, None])
    with pytest.raises(ValueError, match="layer_fn must be linear"):
        curved.linear_information(np.eye(2))
    many, _ = synthetic(np.random.default_rng(0), 9)
    assert trees.replace(many, rank=np.array([2] * 8 + [1])).gaussian_bound().value == np.inf
    loud = trees.replace(many, outputs=many.outputs * np.array([1, 1, 1.1]))
    assert loud.gaussian_bound().value == np.inf  # without noise, and not a copy


def test_a_change_of_units_of_the_outputs_changes_nothing(world):
    task, params, prior = world
    quiet = lambda w, x: hidden(w, x) * jnp.array([1.0, 1e-4, 1.0, 1e-7])  # noqa: E731
    one, other = (
        iw.effective_information(task, params, f, task.inputs[:6], prior, beta=BETA, key=KEY)
        for f in (hidden, quiet)
    )
    np.testing.assert_allclose(other.fisher, one.fisher, rtol=1e-6)
    np.testing.assert_array_equal(other.rank, one.rank)
    np.testing.assert_allclose(other.logdet().value, one.logdet().value, rtol=1e-6)
    np.testing.assert_allclose(one.logdet().value, np.linalg.slogdet(one.fisher)[1].mean())
    np.testing.assert_allclose(other.gaussian_bound().value, one.gaussian_bound().value)


def test_outputs_that_no_weight_moves_or_that_repeat_others_change_nothing(world):
    task, params, prior = world

    def layer(w, x):
        z = hidden(w, x)
        return jnp.concatenate(
            [z, jnp.zeros((len(x), 1)), z[:, :1], z @ jnp.arange(4.0)[:, None]], 1
        )

    both = [
        iw.effective_information(task, params, f, task.inputs[:6], prior, beta=BETA, key=KEY)
        for f in (layer, hidden)
    ]
    np.testing.assert_allclose(both[0].fisher, both[1].fisher, rtol=1e-6)
    assert both[0].rank.tolist() == [4] * 6
    np.testing.assert_allclose(
        both[0].gaussian_bound().value, both[1].gaussian_bound().value, rtol=1e-6
    )
    noisy = iw.effective_information(
        task, params, layer, task.inputs[:2], prior, beta=BETA, key=KEY, output_noise=0.1
    )
    assert noisy.rank.tolist() == [7, 7]


def test_an_input_that_goes_round_the_noise_is_refused(world):
    task, params, prior = world
    skip = lambda w, x: jnp.concatenate([hidden(w, x), x[:, :1]], 1)  # noqa: E731
    measure = partial(iw.effective_information, task, params, skip, task.inputs[:2], prior, key=KEY)
    with pytest.raises(ValueError, match=r"inputs\[0\] .* Give output_noise"):
        measure()
    assert measure(output_noise=0.1).rank.tolist() == [5, 5]


@pytest.mark.parametrize("alpha", [0.01, 0.3, 2.0])
def test_the_emergence_bounds_hold(alpha):
    rng = np.random.default_rng(0)
    for size in (1, 4, 200):
        x, W = rng.normal(size=(4000, size)), rng.normal(size=(3, size))
        value = iw.multiplicative_information(W, alpha, x).value / 3
        lower, upper = iw.emergence_bounds(alpha)
        assert lower - 0.03 < value < upper
    assert abs(value - lower) < 0.02  # the excess vanishes with many inputs


def test_the_emergence_bound_of_one_input_has_the_excess_of_euler_within_its_error():
    """dim x = 1: the excess is E -½ log x² = (γ_Euler + ln 2)/2."""
    rng, exact = (
        np.random.default_rng(1),
        iw.emergence_bounds(0.2)[0] + (np.euler_gamma + np.log(2)) / 2,
    )
    found = [
        iw.multiplicative_information([[1.3]], 0.2, rng.normal(size=(100, 1))) for _ in range(200)
    ]
    z = np.array([(e.value - exact) / e.stderr for e in found])
    assert abs(z.mean()) < 4 / np.sqrt(200)
    np.testing.assert_allclose(z.std(), 1, atol=0.2)


def test_inputs_off_centre_are_noisier_and_tell_no_more():
    """x ~ N(3, I): variances of z and z|x by drawing the weights, for each input many times."""
    rng, alpha = np.random.default_rng(0), 0.5
    W, x = rng.normal(size=(2, 10)), 3 + rng.normal(size=(1000, 10))
    noise = np.exp(np.sqrt(alpha) * rng.normal(size=(400, 1000, 2, 10)) - alpha / 2)
    z = np.einsum("rxij,ij,xj->rxi", noise, W, x)
    within = z.var(0, ddof=1)
    # E log of a sample variance of 400 near-Gaussian draws is that of the variance less 1/399.
    drawn = 0.5 * (np.log(z.var((0, 1))) - np.log(within).mean(0) - 1 / 399).sum()
    found = iw.multiplicative_information(W, alpha, x)
    assert abs(found.value - drawn) < 4 * found.stderr
    centred = iw.multiplicative_information(W, alpha, x - 3)
    assert found.value < 0.5 * centred.value


def fails_late(weights, inputs):
    """NaN where the first coordinate is beyond 1."""
    return hidden(weights, inputs) * jnp.sqrt(1 - inputs[:, :1])


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beta": 0.0}, ValueError, "beta must be positive"),
        ({"beta": [0.5, 1.0]}, ValueError, r"beta must be a scalar, got shape \(2,\)"),
        ({"max_solves": 0}, ValueError, "max_solves must be an integer of at least 1"),
        ({"inputs": jnp.array([[1.0, jnp.nan]])}, ValueError, "inputs must be finite"),
        (
            {"layer_fn": fails_late, "inputs": jnp.array([[0.0, 0.0], [2.0, 0.0]])},
            RuntimeError,
            "relative residual of nan",
        ),
        ({"output_noise": -1.0}, ValueError, "output_noise must not be negative"),
        ({"layer_fn": lambda _, x: x[:, 0]}, ValueError, r"activations \(X, m\)"),
        ({"prior": iw.LogUniform()}, TypeError, "prior must be an IsotropicGaussian"),
        ({"max_solves": 1, "num_matvecs": 1, "rtol": 1e-12}, RuntimeError, "relative residual"),
    ],
)
def test_bad_input(world, changes, error, message):
    task, params, prior = world
    arguments = {"layer_fn": hidden, "prior": prior, "beta": BETA, "key": KEY} | changes
    arguments = {"inputs": task.inputs[:2]} | arguments
    with pytest.raises(error, match=message):
        iw.effective_information(task, params, **arguments)
