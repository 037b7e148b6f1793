"""How far minima move with the data, against closed forms, refits and another parametrisation."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize

import iw_jax as iw
from tests import oracles

KEY = jax.random.key(0)
BETA, NOISE = 0.7, 0.3
WORLD = oracles.linear_world(0, num_examples=8, num_weights=3, noise=0.5)


def with_targets(task, targets):
    return dataclasses.replace(task, targets=targets)


def with_inputs(task, inputs):
    return dataclasses.replace(task, inputs=inputs)


def stability(task, params, scale, **changes):
    options = {"noise_scale": NOISE, "beta": BETA, "key": KEY, "rtol": 1e-9} | changes
    data, perturb = options.pop("data", task.targets), options.pop("perturb", with_targets)
    return iw.stability_information(
        task, params, iw.IsotropicGaussian(scale), data, perturb, **options
    )


def test_regression_moves_by_the_hat_matrix():
    found = stability(WORLD.task, jnp.array(WORLD.minimum), 1e5)
    x, variance = WORLD.x, BETA * WORLD.noise**2
    hat = x @ np.linalg.solve(x.T @ x, x.T)
    np.testing.assert_allclose(found.metric, hat / variance, atol=1e-7)
    np.testing.assert_allclose(found.sensitivity, np.linalg.lstsq(x, np.eye(8))[0].T, atol=1e-7)
    np.testing.assert_allclose(found.nats.value, 1.5 * np.log1p(NOISE**2 / variance), rtol=1e-7)
    np.testing.assert_allclose(found.nats.bracket_upper, found.nats.value, rtol=1e-12)
    assert found.nats.converged
    assert found.asymptotic == -np.inf  # eight targets move three weights
    assert found.off_minimum < 1e-8


@pytest.mark.parametrize("scale", [0.3, {"slow": 0.2, "fast": 1.5}], ids=["one", "by layer"])
def test_the_prior_damps_as_it_does_the_minimum(scale):
    """Ridge regression: A and Σ from dense matrices."""
    x, y, variance = WORLD.x, WORLD.y, WORLD.noise**2
    scales = np.array([0.3] * 3 if isinstance(scale, float) else [1.5, 1.5, 0.2])
    damped = x.T @ x / variance + BETA * np.diag(scales**-2.0)
    A = np.linalg.solve(damped, x.T / variance)
    params = jnp.array(A @ y)
    apply_fn = oracles.linear
    if isinstance(scale, dict):
        params = {"fast": params[:2], "slow": params[2:]}
        apply_fn = lambda w, x: x @ jnp.concatenate([w["fast"], w["slow"]])  # noqa: E731
    found = stability(dataclasses.replace(WORLD.task, apply_fn=apply_fn), params, scale)
    metric = A.T @ damped @ A / BETA
    np.testing.assert_allclose(found.metric, metric, rtol=1e-6, atol=1e-8)
    truth = 0.5 * np.linalg.slogdet(np.eye(8) + NOISE**2 * metric)[1]
    np.testing.assert_allclose(found.nats.value, truth, rtol=1e-8)
    assert found.off_minimum < 1e-12


@pytest.mark.parametrize("beta", [1.0, 1e-4])
def test_a_gaussian_channel_by_its_entropies(beta):
    """w = A D + noise: h(w) - h(w|D), and the published form where the noise is small."""
    rng = np.random.default_rng(3)
    root, A = rng.normal(size=(5, 4)), rng.normal(size=(4, 2))
    task = iw.Task(
        lambda w, rows: rows @ w, iw.GaussianLikelihood(1.0), jnp.array(root), jnp.zeros(5)
    )
    found = stability(
        task,
        jnp.zeros(4),
        1e3,
        data=jnp.zeros(2),
        perturb=lambda task, d: with_targets(task, task.inputs @ (A @ d)),
        noise_scale=1.3,
        beta=beta,
    )
    within = beta * np.linalg.inv(root.T @ root)
    total = within + 1.3**2 * A @ A.T
    truth = 0.5 * (np.linalg.slogdet(total)[1] - np.linalg.slogdet(within)[1])
    np.testing.assert_allclose(found.nats.value, truth, rtol=1e-5)
    published = 0.5 * np.linalg.slogdet(1.3**2 * A.T @ root.T @ root @ A / beta)[1]
    np.testing.assert_allclose(found.asymptotic, published, rtol=1e-5)
    assert 0 < found.nats.value - published < beta  # they meet as β -> 0
    H = root.T @ root
    damped = np.linalg.solve(H + beta / 1e3**2 * np.eye(4), H @ A)
    np.testing.assert_allclose(found.sensitivity.T, damped, rtol=1e-7)


@pytest.fixture(scope="module")
def network():
    """A small network at a minimum of its penalised loss, found in float64."""
    inputs, labels = oracles.classification(0, num_examples=12)
    task = iw.Task(oracles.mlp, iw.Categorical(), jnp.array(inputs), jnp.array(labels))
    start, unravel = jax.flatten_util.ravel_pytree(oracles.mlp_weights(1))

    @jax.jit
    @jax.value_and_grad
    def penalised(w, task):
        return iw.nll(task, unravel(w)) + BETA / 2 * jnp.sum(w**2) / 0.8**2

    def fitted(inputs, start):
        found = optimize.minimize(
            penalised,
            start,
            args=(with_inputs(task, inputs),),
            jac=True,
            method="BFGS",
            options={"gtol": 1e-9},
        )
        return found.x

    return task, fitted(task.inputs, start), unravel, fitted


@pytest.mark.slow
def test_a_network_moves_as_it_does_when_it_is_fitted_again(network):
    task, w, unravel, fitted = network
    direction = jax.random.normal(KEY, task.inputs.shape)
    found = stability(
        task,
        unravel(w),
        0.8,
        data=jnp.zeros(1),
        perturb=lambda task, t: with_inputs(task, task.inputs + t[0] * direction),
    )
    step = 1e-3
    ends = [fitted(task.inputs + sign * step * direction, w) for sign in (1, -1)]
    refitted = (ends[0] - ends[1]) / (2 * step)
    moved = jax.flatten_util.ravel_pytree(found.sensitivity)[0]
    np.testing.assert_allclose(moved, refitted, rtol=1e-3, atol=1e-3 * np.abs(refitted).max())


@pytest.mark.slow
def test_another_parametrisation_moves_log_det_but_not_the_metric(network):
    """w -> w/c, the prior with it: ½ log det F grows by k log c, Δw'Σ^-1Δw stays."""
    task, w, unravel, _ = network
    options = {"data": task.inputs, "perturb": with_inputs}
    plain = stability(task, unravel(w), 0.8, **options)
    factors = {"first": 10.0, "last": 0.2}

    def apply_fn(params, inputs):
        whole = jax.tree.map(jnp.multiply, jax.tree.broadcast(factors, params), params)
        return oracles.mlp(whole, inputs)

    scaled = jax.tree.map(jnp.divide, unravel(w), jax.tree.broadcast(factors, unravel(w)))
    own = dataclasses.replace(task, apply_fn=apply_fn)
    other = stability(own, scaled, {name: 0.8 / c for name, c in factors.items()}, **options)
    np.testing.assert_allclose(other.metric, plain.metric, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(other.nats.value, plain.nats.value, rtol=1e-6)
    assert abs(iw.logdet(iw.ggn(own, scaled), c=1.0, key=KEY).value) > 5 + abs(
        iw.logdet(iw.ggn(task, unravel(w)), c=1.0, key=KEY).value
    )


@pytest.mark.slow
def test_a_sketch_and_solves_in_chunks_find_the_same(network):
    task, w, unravel, _ = network
    options = {"data": {"x": task.inputs}, "perturb": lambda t, d: with_inputs(t, d["x"])}
    options["noise_scale"] = {"x": NOISE}
    exact, sketched = (stability(task, unravel(w), 0.8, num_matvecs=n, **options) for n in (100, 5))
    np.testing.assert_allclose(sketched.metric, exact.metric, rtol=1e-5, atol=1e-8)


@pytest.mark.slow
def test_what_rounding_hides_is_in_the_bracket():
    """Float32, one direction 1e-6 times weaker than the other: its nats are open, not made up."""
    strength = np.array([1.0, 1e-6], np.float32)
    task = iw.Task(
        lambda w, x: w * x, iw.GaussianLikelihood(1e-4), jnp.ones(2, jnp.float32), jnp.zeros(2)
    )
    found = stability(
        task,
        jnp.zeros(2, jnp.float32),
        1.0,
        data=jnp.zeros(2, jnp.float32),
        perturb=lambda task, d: with_targets(task, strength * d),
        noise_scale=1e3,
        rtol=1e-5,
    )
    truth = 0.5 * np.log1p(strength.astype(float) ** 2 * 1e3**2 / (BETA * 1e-8)).sum()
    assert found.nats.bracket_lower < truth < found.nats.bracket_upper
    assert not found.nats.converged


@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_what_the_solves_leave_is_in_the_bracket(rtol):
    """Ten weights of curvatures 1 to 1e10, three products for the preconditioner."""
    rng = np.random.default_rng(0)
    left, right = oracles.haar_orthogonal(1, 10), oracles.haar_orthogonal(2, 10)
    x = 100 * (left * np.geomspace(1, 1e-5, 10)) @ right
    world = oracles.LinearWorld(x, x @ rng.normal(size=10), noise=0.5)
    damped = world.hessian + BETA * np.eye(10)
    A = np.linalg.solve(damped, x.T / world.noise**2)
    found = stability(world.task, jnp.array(A @ world.y), 1.0, num_matvecs=3, rtol=rtol)
    truth = 0.5 * np.linalg.slogdet(np.eye(10) + NOISE**2 * A.T @ damped @ A / BETA)[1]
    assert found.nats.bracket_lower < truth < found.nats.bracket_upper
    assert abs(found.nats.value - truth) > 1e-10 * truth
    assert found.nats.converged
    steps = (found.nats.cost - 2 * 3 - 2 * 10 - 1) / 11 - 1  # of ten numbers and a Newton step
    assert steps == int(steps) > 3


def test_data_may_be_shifts_of_those_of_the_task():
    """Targets y/2 + shift at the shift y/2 are targets y."""
    y = jnp.array(WORLD.y)
    half = with_targets(WORLD.task, y / 2)
    shifted = stability(
        half,
        jnp.array(WORLD.minimum),
        1e3,
        data=y / 2,
        perturb=lambda task, shift: with_targets(task, task.targets + shift),
    )
    plain = stability(WORLD.task, jnp.array(WORLD.minimum), 1e3)
    np.testing.assert_allclose(shifted.metric, plain.metric, atol=1e-9)
    np.testing.assert_allclose(shifted.off_minimum, plain.off_minimum, atol=1e-12)


def test_weights_off_their_minimum_are_told_by_how_much():
    params = jnp.array(WORLD.minimum) + jnp.array([0.5, 0.0, 0.0])
    with pytest.warns(UserWarning, match="nats away from a minimum"):
        found = stability(WORLD.task, params, 1e5)
    H = WORLD.hessian[0, 0]
    np.testing.assert_allclose(found.off_minimum, 0.5 * 0.5**2 * H / BETA, rtol=1e-6)
    gradient = 1e5 * np.linalg.norm(0.5 * WORLD.hessian[0])
    np.testing.assert_allclose(found.gradient_norm, gradient, rtol=1e-6)
    quiet = stability(WORLD.task, params, 1e5, tolerance=100.0)
    np.testing.assert_array_equal(quiet.metric, found.metric)


def test_a_saddle_is_refused():
    """One hidden unit at 0 with residuals: the Hessian has a negative eigenvalue, the GGN none."""
    task = iw.Task(
        lambda w, x: w[0] * (x @ w[1:]), iw.GaussianLikelihood(1.0), jnp.ones((4, 1)), jnp.ones(4)
    )
    with pytest.raises(ValueError, match="must be positive definite at params"):
        stability(task, jnp.zeros(2), 10.0)
    assert stability(task, jnp.zeros(2), 10.0, curvature=iw.ggn).smallest > 0


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"beta": 0.0}, ValueError, "beta must be positive"),
        ({"beta": np.ones(2)}, ValueError, "beta must be a scalar"),
        ({"tolerance": -1.0}, ValueError, "tolerance must be positive"),
        ({"noise_scale": 0.0}, ValueError, "noise_scale must be positive"),
        ({"noise_scale": {"a": 1.0}}, ValueError, "noise_scale must be one value or a"),
        ({"data": jnp.arange(8)}, TypeError, "data must be floating-point"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
        ({"max_solves": 1, "num_matvecs": 1, "rtol": 1e-12}, RuntimeError, "relative residual"),
    ],
)
def test_bad_input(changes, error, message):
    changes = {"tolerance": 1e9} | changes
    with pytest.raises(error, match=message):
        stability(WORLD.task, jnp.array(WORLD.minimum), 1.0, **changes)
