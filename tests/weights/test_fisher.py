import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.codes import DiagonalGaussian, IsotropicGaussian
from iw_jax.curvature import ggn, hessian, to_dense
from iw_jax.likelihoods import Categorical, GaussianLikelihood
from iw_jax.task import Task, nll
from iw_jax.weights.fisher import fisher_iw

# Weights here are no minima, by choice: the numbers are right for the Q around them.
pytestmark = pytest.mark.filterwarnings("ignore:params are:UserWarning")
KEY = jax.random.key(0)
NOISE = 0.5
INPUTS = jax.random.normal(jax.random.key(1), (20, 4))
PARAMS = {"a": jax.random.normal(jax.random.key(2), (4,)), "b": jnp.array([0.3])}


def linear(params, x):
    return x @ params["a"] + params["b"]


TARGETS = linear(PARAMS, INPUTS) + NOISE * jax.random.normal(jax.random.key(3), (20,))
TASK = Task(linear, GaussianLikelihood(NOISE), INPUTS, TARGETS)
W = np.concatenate([PARAMS["a"], PARAMS["b"]])
DESIGN = np.concatenate([INPUTS, np.ones((20, 1))], axis=1)
HESSIAN = DESIGN.T @ DESIGN / NOISE**2
LOSS = float(nll(TASK, PARAMS))


def gaussian_kl(w, prior_covariance, precision):
    """KL of N(w, precision^-1) to N(0, prior_covariance), from the dense matrices."""
    ratio = np.linalg.solve(prior_covariance, np.linalg.inv(precision))
    mahalanobis = w @ np.linalg.solve(prior_covariance, w)
    return 0.5 * (np.trace(ratio) - len(w) - np.linalg.slogdet(ratio)[1] + mahalanobis)


PRIORS = {
    "one scale": (IsotropicGaussian(2.0), np.full(5, 2.0), np.zeros(5)),
    "one a layer": (
        IsotropicGaussian({"a": 0.5, "b": 3.0}),
        np.array([0.5] * 4 + [3.0]),
        np.zeros(5),
    ),
    "elsewhere": (
        IsotropicGaussian(0.7, mean={"a": jnp.ones(4), "b": jnp.ones(1)}),
        np.full(5, 0.7),
        np.ones(5),
    ),
}


@pytest.mark.parametrize(("prior", "scales", "mean"), PRIORS.values(), ids=PRIORS)
@pytest.mark.parametrize("beta", [0.3, 1.0, 20.0])
def test_is_the_kl_and_the_lagrangian_of_the_two_dense_gaussians(prior, scales, mean, beta):
    received = fisher_iw(TASK, PARAMS, prior, beta=beta, key=KEY)
    covariance = np.diag(scales**2)
    precision = HESSIAN / beta + np.linalg.inv(covariance)
    kl = gaussian_kl(W - mean, covariance, precision)
    np.testing.assert_allclose(received.nats.value, kl, rtol=1e-10)
    np.testing.assert_allclose(received.distance + received.volume.value, kl, rtol=1e-10)
    # The loss is quadratic, so E_Q L is exact: L(w) + ½ tr HΣ.
    expected_loss = LOSS + 0.5 * np.trace(HESSIAN @ np.linalg.inv(precision))
    gamma = received.effective_dimension.value
    np.testing.assert_allclose(received.loss + beta / 2 * gamma, expected_loss, rtol=1e-10)
    np.testing.assert_allclose(received.lagrangian.value, expected_loss + beta * kl, rtol=1e-10)
    assert received.nats.interval() == (received.nats.value, received.nats.value)
    slope = DESIGN.T @ (DESIGN @ W - np.asarray(TARGETS)) / NOISE**2 + beta * (W - mean) / scales**2
    np.testing.assert_allclose(received.gradient_norm, np.linalg.norm(scales * slope), rtol=1e-9)
    off = slope @ np.linalg.solve(precision, slope) / (2 * beta**2)
    assert received.off_minimum.bracket_lower <= off <= received.off_minimum.bracket_upper


def test_away_from_the_minimum_the_lagrangian_is_higher_by_what_is_told():
    prior, beta = IsotropicGaussian(2.0), 0.3
    unflatten = jax.flatten_util.ravel_pytree(PARAMS)[1]
    precision = HESSIAN + beta / 4 * np.eye(5)
    best = np.linalg.solve(precision, DESIGN.T @ np.asarray(TARGETS)) / NOISE**2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        minimum = fisher_iw(TASK, unflatten(jnp.array(best)), prior, beta=beta, key=KEY)
        moved = unflatten(jnp.array(best + 1.0))
        fisher_iw(TASK, moved, prior, beta=beta, key=KEY, tolerance=np.inf)
    assert minimum.gradient_norm < 1e-9
    assert minimum.off_minimum.bracket_upper < 1e-20
    with pytest.warns(UserWarning, match="nats away from a minimum"):
        away = fisher_iw(TASK, moved, prior, beta=[1e3, beta], key=KEY)  # the worst is told
    rise = (away.lagrangian.value[1] - minimum.lagrangian.value) / beta
    off = away.off_minimum
    assert off.bracket_lower[1] < rise < off.bracket_upper[1]
    assert 0.1 * away.nats.value[1] < off.value[1]
    compiled = jax.jit(lambda p: fisher_iw(TASK, p, prior, beta=beta, key=KEY).gradient_norm)
    np.testing.assert_allclose(compiled(moved), away.gradient_norm[1], rtol=1e-9)


@pytest.mark.parametrize(("prior", "scales", "mean"), PRIORS.values(), ids=PRIORS)
def test_a_grid_of_beta_is_the_betas_one_by_one(prior, scales, mean):
    del scales, mean
    grid = np.array([[0.1, 1.0], [10.0, 1e3]])
    together = fisher_iw(TASK, PARAMS, prior, beta=grid, key=KEY)
    for index in np.ndindex(grid.shape):
        alone = fisher_iw(TASK, PARAMS, prior, beta=grid[index], key=KEY)
        for name in ("nats", "volume", "lagrangian", "effective_dimension"):
            np.testing.assert_allclose(
                getattr(together, name).value[index], getattr(alone, name).value, rtol=1e-12
            )


@pytest.mark.parametrize(("prior", "scales", "mean"), PRIORS.values(), ids=PRIORS)
def test_the_slope_of_the_lagrangian_in_beta_is_the_information(prior, scales, mean):
    del scales, mean
    beta, h = 1.7, 1e-4
    up, down = (
        fisher_iw(TASK, PARAMS, prior, beta=b, key=KEY).lagrangian.value
        for b in (beta + h, beta - h)
    )
    nats = fisher_iw(TASK, PARAMS, prior, beta=beta, key=KEY).nats.value
    np.testing.assert_allclose((up - down) / (2 * h), nats, rtol=1e-7)


def mlp(params, x):
    return jnp.tanh(x @ params["first"]) @ params["last"]


def mlp_world(dtype=jnp.float64, hidden=30):
    keys = jax.random.split(jax.random.key(5), 4)
    params = {
        "first": jax.random.normal(keys[0], (8, hidden), dtype),
        "last": jax.random.normal(keys[1], (hidden, 3), dtype) / 3,
    }
    inputs = jax.random.normal(keys[2], (50, 8), dtype)
    targets = jax.random.randint(keys[3], (50,), 0, 3)
    return Task(mlp, Categorical(), inputs, targets), params


@pytest.mark.slow
def test_sampled_information_covers_the_dense_one_per_layer():
    task, params = mlp_world()
    prior = IsotropicGaussian({"first": 0.3, "last": 1.0})
    grid = np.array([0.1, 1.0, 10.0])
    received = fisher_iw(task, params, prior, beta=grid, key=KEY, num_matvecs=200)
    scales = np.concatenate([np.full(240, 0.3), np.full(90, 1.0)])
    h = np.linalg.eigvalsh(np.asarray(to_dense(ggn(task, params))) * np.outer(scales, scales))
    s = np.maximum(h, 0) / grid[:, None]
    volume = 0.5 * (np.log1p(s) - s / (1 + s)).sum(-1)
    distance = sum(
        float(jnp.sum(params[k] ** 2)) / (2 * scale**2)
        for k, scale in zip(params, (0.3, 1.0), strict=True)
    )
    lagrangian = float(nll(task, params)) + grid * (distance + np.log1p(s).sum(-1) / 2)
    for estimate, expected in (
        (received.nats, distance + volume),
        (received.volume, volume),
        (received.lagrangian, lagrangian),
    ):
        lower, upper = estimate.interval(0.999)
        assert (lower <= expected).all()
        assert (expected <= upper).all()
    assert 190 <= received.measure.cost <= 200


def test_flat_directions_cost_no_nats():
    def wider(params, x):
        return linear(params, x) + 0 * jnp.sum(params["idle"])

    idle = {**PARAMS, "idle": jnp.zeros(50)}
    task = Task(wider, GaussianLikelihood(NOISE), INPUTS, TARGETS)
    with_idle, without = (
        fisher_iw(t, p, IsotropicGaussian(2.0), beta=0.5, key=KEY).nats.value
        for t, p in ((task, idle), (TASK, PARAMS))
    )
    np.testing.assert_allclose(with_idle, without, rtol=1e-12)


@pytest.mark.slow
def test_twice_the_data_at_twice_the_price_is_the_same_information():
    task, params = mlp_world()
    twice = Task(
        mlp,
        Categorical(),
        *jax.tree.map(lambda x: jnp.concatenate([x, x]), (task.inputs, task.targets)),
    )
    weighted = Task(mlp, Categorical(), task.inputs, task.targets, jnp.full(50, 2.0))
    once = fisher_iw(task, params, IsotropicGaussian(0.5), beta=1.5, key=KEY)
    for other in (twice, weighted):
        received = fisher_iw(other, params, IsotropicGaussian(0.5), beta=3.0, key=KEY)
        np.testing.assert_allclose(received.nats.value, once.nats.value, rtol=1e-9)
        np.testing.assert_allclose(received.loss, 2 * once.loss, rtol=1e-12)


def test_chunks_and_float32_change_nothing_that_matters():
    prior = IsotropicGaussian(0.5)
    task, params = mlp_world()
    dense = fisher_iw(task, params, prior, key=KEY, num_matvecs=400)
    chunked = fisher_iw(task, params, prior, key=KEY, num_matvecs=400, batch_size=7)
    narrow = fisher_iw(*mlp_world(jnp.float32), prior, key=KEY, num_matvecs=400)
    np.testing.assert_allclose(chunked.nats.value, dense.nats.value, rtol=1e-9)
    np.testing.assert_allclose(chunked.gradient_norm, dense.gradient_norm, rtol=1e-9)
    task32, params32 = mlp_world(jnp.float32)
    wide = jax.tree.map(lambda x: x.astype(jnp.float64), params32)
    task64 = Task(mlp, Categorical(), task32.inputs.astype(jnp.float64), task32.targets)
    same = fisher_iw(task64, wide, prior, key=KEY, num_matvecs=400)
    np.testing.assert_allclose(narrow.nats.value, same.nats.value, rtol=1e-5)


def test_hessians_need_a_policy():
    task, params = mlp_world()
    options = {"key": KEY, "num_matvecs": 400, "curvature": hessian}
    with pytest.raises(ValueError, match="positive semi-definite"):
        fisher_iw(task, params, IsotropicGaussian(1.0), **options)
    received = fisher_iw(task, params, IsotropicGaussian(1.0), policy="clip", **options)
    h = np.linalg.eigvalsh(np.asarray(to_dense(hessian(task, params))))
    s = np.maximum(h, 0)
    volume = 0.5 * (np.log1p(s) - s / (1 + s)).sum()
    np.testing.assert_allclose(received.volume.value, volume, rtol=1e-9)
    assert received.measure.negative_count.value == (h < -received.measure.tolerance).sum() > 0


@pytest.mark.parametrize("beta", [0.0, -1.0, float("nan"), float("inf")])
def test_a_beta_that_is_no_price_is_named(beta):
    with pytest.raises(ValueError, match=f"beta must be positive and finite, got {beta}"):
        fisher_iw(TASK, PARAMS, IsotropicGaussian(1.0), beta=beta, key=KEY)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"key": 0}, TypeError, "key must be a typed random key"),
        ({"prior": DiagonalGaussian(PARAMS, 1.0)}, TypeError, "prior must be an IsotropicGaussian"),
        ({"prior": IsotropicGaussian({"a": 1.0})}, ValueError, "scale must be one value or a"),
        ({"prior": IsotropicGaussian(1.0, mean=jnp.zeros(5))}, ValueError, "prior's mean must"),
        ({"params": {"a": jnp.zeros(3)}}, ValueError, "params must fit apply_fn"),
        ({"tolerance": 0.0}, ValueError, "tolerance must be positive, got 0.0"),
        ({"batch_size": 0}, ValueError, "batch_size must be an integer of at least 1"),
    ],
)
def test_what_does_not_fit_is_named(options, error, message):
    given = {"params": PARAMS, "prior": IsotropicGaussian(1.0), "key": KEY, **options}
    with pytest.raises(error, match=message):
        fisher_iw(TASK, given.pop("params"), given.pop("prior"), **given)


def test_no_compile_for_new_parameters_prices_or_keys():
    traces = []

    def counted(params, x):
        traces.append(1)
        return mlp(params, x)

    task, params = mlp_world()
    task = Task(counted, Categorical(), task.inputs, task.targets)

    def measure(seed, scale, beta):
        scaled = jax.tree.map(lambda x: scale * x, params)
        prior = IsotropicGaussian({"first": scale, "last": 1.0})
        return fisher_iw(task, scaled, prior, beta=beta, key=jax.random.key(seed), num_matvecs=60)

    measure(0, 1.0, 1.0)
    first = len(traces)
    measure(1, 0.5, 0.1)
    assert len(traces) - first <= 1  # check_task traces shapes; nothing else is traced
