"""Nats about single examples, against refitting without them and Cook's distance."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import optimize, special

import iw_jax as iw
from iw_jax import trees
from iw_jax.task import take
from tests import oracles

BETA, SCALE = 0.7, 0.9
KEY = jax.random.key(0)


def regression(seed=0, num_examples=12, size=4):
    rng = np.random.default_rng(seed)
    return oracles.LinearWorld(
        rng.normal(size=(num_examples, size)), rng.normal(size=num_examples), noise=0.5
    )


def minimum(world, kept, beta=BETA, scale=SCALE):
    x, y = world.x[kept], world.y[kept]
    precision = x.T @ x / world.noise**2 + beta / scale**2 * np.eye(x.shape[1])
    return np.linalg.solve(precision, x.T @ y / world.noise**2), beta * np.linalg.inv(precision)


def test_regression_is_the_kl_to_the_code_that_was_fitted_without():
    world = regression()
    everything = np.ones(len(world.y), bool)
    mean, cov = minimum(world, everything)
    prior = iw.IsotropicGaussian(scale=SCALE)
    found = iw.sample_information(
        world.task, jnp.asarray(mean), prior, beta=BETA, key=KEY, num_matvecs=4
    )
    for i in range(len(world.y)):
        kept = everything.copy()
        kept[i] = False
        other, other_cov = minimum(world, kept)
        shift = other - mean
        expected = shift @ np.linalg.solve(cov, shift) / 2
        np.testing.assert_allclose(found.nats.value[i], expected, rtol=1e-8)
        whole = oracles.gaussian_kl(other, other_cov, mean, cov)
        np.testing.assert_allclose(expected + found.covariance.value[i], whole, rtol=1e-8)
    gradient = -world.x * ((world.y - world.x @ mean) / world.noise**2)[:, None]
    plain = np.einsum("ij,jk,ik->i", gradient, cov / BETA, gradient) / (2 * BETA)
    np.testing.assert_allclose(found.influence.value, plain, rtol=1e-8)
    assert found.off_minimum.value < 1e-20
    assert found.gradient_norm < 1e-12
    assert (found.nats.converged & (found.nats.bracket_upper == found.nats.value)).all()


def test_the_functional_form_is_what_predictions_move_by():
    world, elsewhere = regression(), regression(seed=5, num_examples=7)
    everything = np.ones(len(world.y), bool)
    mean, _ = minimum(world, everything)
    prior = iw.IsotropicGaussian(scale=SCALE)
    options = dict(beta=BETA, key=KEY, on=elsewhere.task)
    found = iw.sample_information(
        world.task, jnp.asarray(mean), prior, num_matvecs=4, **options
    ).functional
    for i in range(len(world.y)):
        other, _ = minimum(world, np.arange(len(world.y)) != i)
        moved = elsewhere.x @ (other - mean)
        expected = np.sum(moved**2) / (2 * elsewhere.noise**2)
        np.testing.assert_allclose(found.value[i], expected, rtol=1e-8)
    assert found.converged.all()
    sketched = iw.sample_information(
        world.task, jnp.asarray(mean), prior, num_matvecs=3, **options
    ).functional
    assert (sketched.bracket_lower <= sketched.bracket_upper).all()
    assert not np.isnan(sketched.bracket_upper).any()
    assert not sketched.converged.all()
    assert sketched.cost == 3 + 24 + 2 * 12  # the sketch, what it leaves, both ends


def test_on_the_training_inputs_and_without_a_prior_both_forms_are_one():
    world, wide = regression(1), 1e3
    mean, _ = minimum(world, np.ones(len(world.y), bool), scale=wide)
    found = iw.sample_information(
        world.task,
        jnp.asarray(mean),
        iw.IsotropicGaussian(scale=wide),
        beta=1.0,
        key=KEY,
        num_matvecs=4,
        on=world.task,
    )
    np.testing.assert_allclose(found.functional.value, found.nats.value, rtol=1e-5)
    assert (found.nats.cost, found.functional.cost) == (4, 4 + 12)


def test_without_a_prior_it_is_cooks_distance():
    world = regression(1)
    k, wide = world.x.shape[1], 1e5
    mean, _ = minimum(world, np.ones(len(world.y), bool), scale=wide)
    hat = np.diag(world.x @ np.linalg.solve(world.x.T @ world.x, world.x.T))
    residual = world.y - world.x @ mean
    cook = residual**2 / (k * world.noise**2) * hat / (1 - hat) ** 2
    found = iw.sample_information(
        world.task,
        jnp.asarray(mean),
        iw.IsotropicGaussian(scale=wide),
        beta=BETA,
        key=KEY,
        num_matvecs=4,
    )
    np.testing.assert_allclose(found.nats.value, k / (2 * BETA) * cook, rtol=1e-6)
    np.testing.assert_allclose(found.leverage.value, hat, rtol=1e-6)


def softmax_regression(seed=0, num_examples=40, num_inputs=6, num_classes=4, flipped=4):
    rng = np.random.default_rng(seed)
    inputs = rng.normal(size=(num_examples, num_inputs))
    clean = np.argmax(inputs @ rng.normal(size=(num_inputs, num_classes)), axis=1)
    labels = clean.copy()
    labels[:flipped] = (clean[:flipped] + rng.integers(1, num_classes, flipped)) % num_classes
    return inputs, labels


LIKE = {"bias": np.zeros(4), "kernel": np.zeros((6, 4))}
unflatten = jax.flatten_util.ravel_pytree(LIKE)[1]


@jax.jit
@jax.value_and_grad
def penalised(w, task):
    return iw.nll(task, unflatten(w)) + jnp.sum(w**2) / 2 / 2.0**2


def fitted(inputs, labels, weights, start):
    """The minimum of L + β/2 |w|²/λ², β = 1, λ = 2, to rounding, and its task."""
    task = iw.Task(
        oracles.logistic_features,
        iw.Categorical(),
        jnp.asarray(inputs),
        jnp.asarray(labels),
        weights=jnp.asarray(weights, float),
    )
    result = optimize.minimize(
        penalised, start, args=(task,), jac=True, method="BFGS", options={"gtol": 1e-9}
    )
    return task, result.x


@pytest.fixture(scope="module")
def softmax():
    inputs, labels = softmax_regression()
    task, w = fitted(inputs, labels, np.ones(len(labels)), np.zeros(28))
    prior = iw.IsotropicGaussian(scale=2.0)
    exact = iw.sample_information(task, unflatten(w), prior, key=KEY, num_matvecs=w.size)
    return inputs, labels, task, w, prior, exact


def test_it_ranks_examples_as_refitting_without_them_does(softmax):
    inputs, labels, task, w, _, exact = softmax
    H = np.asarray(iw.curvature.to_dense(iw.ggn(task, unflatten(w)))) + np.eye(w.size) / 4
    refitted = []
    for i in range(len(labels)):
        _, other = fitted(inputs, labels, np.arange(len(labels)) != i, w)
        refitted.append((other - w) @ H @ (other - w) / 2)
    ranks = [np.argsort(np.argsort(x)) for x in (refitted, exact.nats.value)]
    assert np.corrcoef(ranks)[0, 1] > 0.98
    # The influence form forgets that one example bends the loss.
    found = exact.nats.value, exact.influence.value
    errors = [np.median(np.abs(np.log(x / refitted))) for x in found]
    assert errors[0] < errors[1]
    assert exact.nats.value[:4].min() > np.median(exact.nats.value[4:])  # the flipped labels


def test_leverages_sum_to_the_effective_dimension(softmax):
    _, _, task, w, prior, exact = softmax
    fisher = iw.fisher_iw(task, unflatten(w), prior, key=KEY, num_matvecs=w.size)
    np.testing.assert_allclose(
        exact.leverage.value.sum(), fisher.effective_dimension.value, rtol=1e-8
    )


@pytest.mark.slow
def test_a_sketch_brackets_the_exact_influence(softmax):
    _, _, task, w, prior, exact = softmax
    widths = []
    for products in (8, 16, 20):
        found = iw.sample_information(
            task, unflatten(w), prior, key=jax.random.key(5), num_matvecs=products
        )
        for name in ("nats", "influence", "covariance", "leverage"):
            estimate, truth = getattr(found, name), getattr(exact, name).value
            assert (estimate.bracket_lower <= truth * (1 + 1e-9)).all()
            assert (estimate.bracket_upper >= truth * (1 - 1e-9)).all()
        widths.append(np.mean(found.influence.bracket_upper - found.influence.bracket_lower))
    assert widths[0] > widths[1] > widths[2]


def test_off_minimum_is_bracketed_and_only_its_lower_end_warns(softmax):
    _, _, task, w, prior, exact = softmax
    assert exact.off_minimum.bracket_upper < 1e-9
    moved = w + np.random.default_rng(0).normal(size=w.size) / 20
    gradient = np.asarray(penalised(moved, task)[1])
    H = np.asarray(iw.curvature.to_dense(iw.ggn(task, unflatten(moved)))) + np.eye(w.size) / 4
    truth = gradient @ np.linalg.solve(H, gradient) / 2

    def found(products, tolerance):
        return iw.sample_information(
            task, unflatten(moved), prior, key=KEY, num_matvecs=products, tolerance=tolerance
        )

    off = found(8, 0.9 * truth).off_minimum  # its lower end is less than that, and no warning
    assert off.bracket_lower < truth < off.bracket_upper
    with pytest.warns(UserWarning, match=f"{truth:.3g} nats away from a minimum"):
        whole = found(28, 0.9 * truth)
    np.testing.assert_allclose(whole.off_minimum.value, truth, rtol=1e-9)
    np.testing.assert_allclose(whole.gradient_norm, 2 * np.linalg.norm(gradient), rtol=1e-9)


@pytest.mark.slow
def test_a_network_moves_by_its_hessian():
    """The dense formula; and refits, which the GGN sees move too little."""
    inputs, labels = oracles.classification(0, num_examples=30)
    start, unravel = jax.flatten_util.ravel_pytree(oracles.mlp_weights(1))
    task = iw.Task(oracles.mlp, iw.Categorical(), jnp.asarray(inputs), jnp.asarray(labels))

    @jax.jit
    @jax.value_and_grad
    def objective(w, weights):
        return iw.nll(trees.replace(task, weights=weights), unravel(w)) + w @ w / 2

    def fit(w, weights):
        options = {"jac": True, "method": "BFGS", "options": {"gtol": 1e-9}}
        return optimize.minimize(objective, w, args=(weights,), **options).x

    w = fit(start, jnp.ones(30))
    options = {"prior": iw.IsotropicGaussian(1.0), "key": KEY, "num_matvecs": w.size}
    by_ggn = iw.sample_information(task, unravel(w), **options).nats.value
    by_hessian = iw.sample_information(task, unravel(w), curvature=iw.hessian, **options)
    H = np.asarray(iw.curvature.to_dense(iw.hessian(task, unravel(w)))) + np.eye(w.size)
    outputs = lambda w: oracles.mlp(unravel(w), jnp.asarray(inputs))  # noqa: E731
    J, p = jax.jit(jax.jacrev(outputs))(w), special.softmax(outputs(w), axis=1)
    metric = np.eye(3) * p[:, None] - p[:, :, None] * p[:, None]
    own = np.einsum("iak,iab,ibl->ikl", J, metric, J)
    slopes = np.einsum("ia,iak->ik", p - np.eye(3)[labels], J)
    errors = []
    for i in range(10):
        move = np.linalg.solve(H - own[i], slopes[i])
        np.testing.assert_allclose(by_hessian.nats.value[i], move @ H @ move / 2, rtol=1e-8)
        moved = fit(w, jnp.ones(30).at[i].set(0)) - w
        exact = [moved @ M @ moved / 2 for M in (H, own.sum(0) + np.eye(w.size))]
        errors.append(np.log([by_hessian.nats.value[i] / exact[0], by_ggn[i] / exact[1]]))
    assert np.abs(np.median(errors, 0)[0]) < 0.3 * np.abs(np.median(errors, 0)[1])


def test_masked_examples_hold_nothing_and_double_ones_count_twice():
    world = regression(2)
    mean, _ = minimum(world, np.ones(len(world.y), bool))
    prior = iw.IsotropicGaussian(scale=SCALE)

    def nats(weights):
        task = iw.Task(
            oracles.linear,
            iw.GaussianLikelihood(world.noise),
            jnp.asarray(world.x),
            jnp.asarray(world.y),
            weights=jnp.asarray(weights, float),
        )
        options = {"num_matvecs": 4, "tolerance": np.inf}  # the minimum is that of equal weights
        return iw.sample_information(task, jnp.asarray(mean), prior, beta=BETA, key=KEY, **options)

    weights = np.ones(len(world.y))
    weights[3] = 0
    assert nats(weights).nats.value[3] == 0
    weights[:2] = 2
    twice = nats(weights).influence.value
    inverse = minimum(
        oracles.LinearWorld(np.sqrt(weights)[:, None] * world.x, world.y, world.noise),
        np.ones(len(world.y), bool),
    )[1]
    gradient = -(weights / world.noise**2 * (world.y - world.x @ mean))[:, None] * world.x
    expected = np.einsum("ij,jk,ik->i", gradient, inverse / BETA, gradient) / (2 * BETA)
    np.testing.assert_allclose(twice, expected, rtol=1e-8)


@pytest.mark.parametrize(
    ("dtype", "rtol"),
    [(jnp.float64, 1e-8), pytest.param(jnp.float32, 2e-3, marks=pytest.mark.slow)],
)
def test_per_layer_priors_and_centres(dtype, rtol):
    weights = oracles.mlp_weights(0)
    inputs, labels = oracles.classification(0)
    prior = iw.IsotropicGaussian(
        scale={"first": 0.5, "last": 2.0}, mean=jax.tree.map(lambda w: 0.5 * w, weights)
    )
    task = iw.Task(oracles.mlp, iw.Categorical(), jnp.asarray(inputs), jnp.asarray(labels))
    flat, unflatten = jax.flatten_util.ravel_pytree(weights)
    scales = np.concatenate([np.full(9, 0.5), np.full(12, 2.0)])
    H = np.asarray(iw.curvature.to_dense(iw.ggn(task, weights)))
    inverse = np.linalg.inv(H + np.diag(1 / scales**2))
    slopes = np.stack(
        [
            jax.grad(lambda w, i=i: iw.nll(take(task, jnp.array([i])), unflatten(w)))(flat)
            for i in range(len(labels))
        ]
    )
    expected = np.einsum("ij,jk,ik->i", slopes, inverse, slopes) / 2
    cast = jax.tree.map(lambda x: x.astype(dtype), (weights, prior))
    typed = iw.Task(oracles.mlp, iw.Categorical(), jnp.asarray(inputs, dtype), task.targets)
    with pytest.warns(UserWarning, match="away from a minimum"):
        found = iw.sample_information(typed, *cast, key=KEY, num_matvecs=flat.size)
    np.testing.assert_allclose(found.influence.value, expected, rtol=rtol)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"beta": 0.0}, ValueError, "beta must be positive"),
        ({"beta": np.ones(2)}, ValueError, "beta must be a scalar"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
        ({"num_matvecs": 0}, ValueError, "num_matvecs must be"),
        ({"curvature": iw.hessian, "num_matvecs": 3}, ValueError, "of at least 4, got 3"),
        ({"tolerance": np.nan}, ValueError, "tolerance must be positive"),
        ({"prior": iw.LogUniform()}, TypeError, "prior must be an IsotropicGaussian"),
    ],
)
def test_what_is_out_of_range_is_named(change, error, message):
    world = regression()
    options = {"prior": iw.IsotropicGaussian(scale=1.0), "key": KEY} | change
    with pytest.raises(error, match=message):
        iw.sample_information(world.task, jnp.zeros(4), **options)
