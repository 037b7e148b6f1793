from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import Operator, ggn, to_dense
from iw_jax.curvature.diagonal import diagonal
from iw_jax.likelihoods import Categorical
from iw_jax.task import Task
from tests.curvature.known_spectra import NETWORK_LIKE, matrix, operator, product
from tests.oracles import classification, mlp, mlp_weights

KEY = jax.random.key(0)
POWER_LAW = 1 / np.arange(1, 201.0)
INDEFINITE = np.r_[-POWER_LAW[:100], POWER_LAW[:100] ** 0.5]


@partial(jax.jit, static_argnames="num_matvecs")
def many(A, keys, num_matvecs):
    run = partial(diagonal, A, num_matvecs=num_matvecs)
    return jax.lax.map(lambda key: run(key=key), keys, batch_size=50)


@pytest.mark.parametrize("spectrum", [POWER_LAW, NETWORK_LIKE, INDEFINITE])
def test_every_entry_is_unbiased_and_covered(spectrum):
    truth = np.diag(matrix(spectrum))
    run = many(operator(spectrum), jax.random.split(KEY, 200), 30)
    error = np.asarray(run.value) - truth
    z = error.mean(0) / (error.std(0, ddof=1) / np.sqrt(200))
    assert np.abs(z).max() < 4.5  # of 200
    lower, upper = run.interval()
    covered = ((lower <= truth) & (truth <= upper)).mean(0)
    assert covered.mean() >= 0.94
    assert covered.min() >= 0.85
    rms = np.sqrt((error**2).mean())
    assert 0.9 < np.sqrt(np.mean(np.asarray(run.stderr) ** 2)) / rms < 1.1


def test_deflation_beats_signs_alone():
    m = matrix(NETWORK_LIKE)
    run = many(operator(NETWORK_LIKE), jax.random.split(KEY, 50), 30)
    received = np.mean((np.asarray(run.value) - np.diag(m)) ** 2)
    signs_alone = np.mean((m**2).sum(1) - np.diag(m) ** 2) / 30
    assert received < signs_alone / 100


@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_low_rank_is_exact_to_rounding(dtype):
    spectrum = np.r_[100.0, 3.0, 1.0, np.zeros(147)]
    received = diagonal(operator(spectrum, dtype=dtype), key=KEY, num_matvecs=15)
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(received.value, np.diag(matrix(spectrum)), atol=300 * eps)
    assert received.value.dtype == dtype
    assert received.cost == 15


def test_the_diagonal_of_zero_is_zero():
    received = diagonal(operator(np.zeros(60)), key=KEY, num_matvecs=20)
    np.testing.assert_array_equal(received.interval(), 0)


def test_few_weights_and_few_rows_are_exact_and_in_the_order_of_the_leaves():
    task = Task(mlp, Categorical(), *map(jnp.asarray, classification(0, num_examples=5)))
    A = ggn(task, mlp_weights(0))
    truth = np.diag(to_dense(A))
    for allowed, cost in ((15, 15), (21, 15), (14, 14)):
        received = diagonal(A, key=KEY, num_matvecs=allowed)
        assert received.cost == cost
        lower, upper = received.interval(1 - 1e-6)
        slack = 1e-12 * truth.max()
        assert ((lower - slack <= truth) & (truth <= upper + slack)).all()
    tree = A.unflatten(diagonal(A, key=KEY).value[None])
    np.testing.assert_allclose(jax.flatten_util.ravel_pytree(tree)[0], truth, rtol=1e-10)
    wide = operator(np.linspace(-1, 1, 70))  # more columns than are multiplied at once
    np.testing.assert_allclose(diagonal(wide, key=KEY).value, np.diag(to_dense(wide)), rtol=1e-10)


def test_jit_gives_what_the_host_gives():
    A = operator(POWER_LAW)
    host = diagonal(A, key=KEY, num_matvecs=20)
    traced = jax.jit(partial(diagonal, num_matvecs=20))(A, key=KEY)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8, atol=1e-12), host, traced)


@pytest.mark.parametrize("num_matvecs", [20, 60])
def test_products_that_are_not_finite_are_named(num_matvecs):
    A = Operator(product, jnp.full((60, 60), jnp.nan), like=jnp.zeros(60))
    with pytest.raises(ValueError, match="products A v must be finite"):
        diagonal(A, key=KEY, num_matvecs=num_matvecs)


def test_bad_arguments_are_named():
    A = operator(np.ones(60))
    with pytest.raises(ValueError, match="num_matvecs must be an integer of at least 8, got 7"):
        diagonal(A, key=KEY, num_matvecs=7)
    with pytest.raises(TypeError, match="key must be a typed random key"):
        diagonal(A, key=0)
