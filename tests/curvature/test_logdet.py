import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import (
    Operator,
    dense_measure,
    ggn,
    gram_matrix,
    gram_measure,
    hessian,
    logdet,
    nystrom_logdet,
    spectral_measure,
    to_dense,
)
from iw_jax.likelihoods import Bernoulli, Categorical, GaussianLikelihood
from iw_jax.task import Task
from tests.curvature.known_spectra import NETWORK_LIKE, matrix, operator, product

KEY = jax.random.key(0)


def apply_fn(params, x):
    return jnp.tanh(x @ params["a"]) @ params["b"]


def network(likelihood, outputs, num=20):
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "a": jax.random.normal(keys[0], (5, 6)),
        "b": jax.random.normal(keys[1], (6, outputs)),
    }
    x = jax.random.normal(keys[2], (num, 5))
    if isinstance(likelihood, Categorical):
        y = jax.random.randint(keys[3], (num,), 0, outputs)
    elif isinstance(likelihood, Bernoulli):
        y = jax.random.bernoulli(keys[3], 0.5, (num, outputs)).astype(int)
    else:
        y = jax.random.normal(keys[3], (num, outputs))
    weights = jnp.linspace(0.0, 2.0, num)
    return Task(apply_fn, likelihood, x, y, weights), params


TASK, PARAMS = network(Categorical(), 3)


@pytest.mark.parametrize("method", ["auto", "krylov", "nystrom", "slq", "dense"])
@pytest.mark.parametrize("c", [1e-2, pytest.param(1.0, marks=pytest.mark.slow), 1e3])
def test_every_method_holds_the_exact_value(method, c):
    estimate = logdet(operator(NETWORK_LIKE), c=c, key=KEY, num_matvecs=100, method=method)
    lower, upper = estimate.interval(0.999)
    truth = np.log1p(c * NETWORK_LIKE).sum()
    if method == "dense":
        np.testing.assert_allclose([lower, upper], truth, rtol=1e-10)
    else:
        assert lower <= truth <= upper
        assert 80 <= estimate.cost <= 100


def test_auto_is_exact_where_products_allow():
    A = ggn(TASK, PARAMS)  # 48 weights; 20 examples with 3 outputs each
    few, _ = network(Categorical(), 3, num=6)
    small = ggn(few, PARAMS)  # rank 18
    exact = dense_measure(A).logdet(2.0).value
    np.testing.assert_allclose(logdet(A, c=2.0, key=KEY, num_matvecs=48).interval(), exact)
    received = logdet(small, c=2.0, key=KEY, num_matvecs=20)
    assert received.cost == 18
    np.testing.assert_allclose(received.interval(), dense_measure(small).logdet(2.0).value)
    assert logdet(A, c=2.0, key=KEY, num_matvecs=40).stderr > 0


@pytest.mark.parametrize(
    ("likelihood", "outputs"),
    [(Categorical(), 3), (Bernoulli(), 2), (GaussianLikelihood(0.3), 2)],
    ids=["categorical", "bernoulli", "gaussian"],
)
def test_primal_and_dual_are_one(likelihood, outputs):
    task, params = network(likelihood, outputs)
    for A in (
        ggn(task, params),
        (3.0 * ggn(task, params)).congruence({"a": 0.5, "b": 2.0}),
        ggn(task, params).restrict("b"),
        ggn(task, params, batch_size=7),
    ):
        primal, dual = dense_measure(A), gram_measure(A)
        assert len(gram_matrix(A)) == 20 * outputs
        for c in (1e-3, 1.0, 1e3):
            np.testing.assert_allclose(dual.logdet(c).value, primal.logdet(c).value, rtol=1e-9)
            np.testing.assert_allclose(
                dual.information(c).value, primal.information(c).value, rtol=1e-7
            )
        np.testing.assert_allclose(dual.trace().value, primal.trace().value, rtol=1e-10)
        np.testing.assert_allclose(dual.integrate(np.ones_like).value, A.size)


def test_the_gram_matrix_is_made_block_by_block(monkeypatch):
    A = ggn(TASK, PARAMS)
    whole = gram_matrix(A)
    monkeypatch.setattr("iw_jax.curvature.gram._ROWS", 8)
    np.testing.assert_allclose(gram_matrix(A), whole, rtol=1e-12, atol=1e-12)
    G = to_dense(A)
    np.testing.assert_allclose(
        np.sort(np.linalg.eigvalsh(whole))[-48:], np.linalg.eigvalsh(G), atol=1e-9
    )


def test_operators_without_a_root_have_no_gram_side():
    A = ggn(TASK, PARAMS)
    for B in (hessian(TASK, PARAMS), A + A, -1.0 * A):
        with pytest.raises(ValueError, match="A must have a root"):
            logdet(B, c=1.0, key=KEY, method="gram", policy="clip")


def test_the_preconditioned_identity_is_exact_at_full_rank():
    spectrum = np.r_[np.zeros(180), np.logspace(-2, 3, 20)]
    estimate = nystrom_logdet(operator(spectrum), c=10.0, key=KEY, num_matvecs=80)
    truth = np.log1p(10 * spectrum).sum()
    np.testing.assert_allclose(estimate.interval(), truth, rtol=1e-6)
    zero = nystrom_logdet(operator(np.zeros(100)), c=10.0, key=KEY, num_matvecs=40)
    np.testing.assert_allclose(zero.interval(), 0, atol=1e-6)


@pytest.mark.parametrize("negative", [1, 30])
def test_nystrom_refuses_negative_curvature(negative):
    A = operator(np.r_[np.full(negative, -3.0), np.logspace(-3, 2, 200 - negative)])
    with pytest.raises(ValueError, match="positive semi-definite for method 'nystrom'"):
        logdet(A, c=1.0, key=KEY, num_matvecs=80, method="nystrom")
    with pytest.raises(ValueError, match="policy must be 'error' with method 'nystrom', got 'abs'"):
        logdet(A, c=1.0, key=KEY, num_matvecs=80, method="nystrom", policy="abs")


def test_a_gradient_through_a_krylov_space_is_refused():
    m = jnp.asarray(matrix(np.logspace(-3, 2, 40)))

    def through(m):
        A = Operator(product, m, like=jnp.zeros(40))
        return spectral_measure(A, key=KEY, num_matvecs=12).logdet(1.0).value

    for differentiate in (jax.grad(through), jax.jit(jax.grad(through))):
        with pytest.raises(TypeError, match="a Krylov space has no derivative; differentiate"):
            differentiate(m)


def test_dense_under_jit_is_exact_in_float32():
    spectrum = np.logspace(-6, 4, 600)
    A = operator(spectrum, dtype=jnp.float32)
    run = jax.jit(lambda A: logdet(A, c=1.0, key=KEY, method="dense"))
    np.testing.assert_allclose(run(A).value, np.log1p(spectrum).sum(), rtol=1e-4)


@pytest.mark.slow
def test_nystrom_brackets_hold_and_float32_agrees():
    for c in (1e-2, 1e2, 1e4):
        truth = np.log1p(c * NETWORK_LIKE).sum()
        for dtype in (jnp.float32, jnp.float64):
            A = operator(NETWORK_LIKE, dtype=dtype)
            lower, upper = nystrom_logdet(A, c=c, key=KEY, num_matvecs=120).interval(0.999)
            slack = 1e-3 * truth if dtype == jnp.float32 else 0
            assert lower - slack <= truth <= upper + slack


def dense_logdet(params, c):
    G = to_dense(ggn(TASK, params))
    return jnp.linalg.slogdet(jnp.eye(len(G)) + c * G)[1]


def test_with_all_directions_the_gradient_is_the_dense_gradient():
    def f(params, c):
        return logdet(ggn(TASK, params), c=c, key=KEY, method="dense").value

    received, expected = (jax.grad(g, argnums=(0, 1))(PARAMS, 2.0) for g in (f, dense_logdet))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), received, expected)
    jitted = jax.jit(jax.grad(f))(PARAMS, 2.0)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8), jitted, expected[0])


@pytest.mark.parametrize("method", [pytest.param("krylov", marks=pytest.mark.slow), "slq"])
def test_the_stochastic_gradient_is_unbiased(method):
    def f(params, key):
        A = ggn(TASK, params)
        return logdet(A, c=2.0, key=key, num_matvecs=40, method=method).value

    keys = jax.random.split(jax.random.key(5), 200)
    grads = jax.jit(lambda keys: jax.lax.map(lambda k: jax.grad(f)(PARAMS, k), keys))(keys)
    expected = jax.grad(dense_logdet)(PARAMS, 2.0)
    for name in PARAMS:
        mean, spread = grads[name].mean(0), grads[name].std(0, ddof=1)
        z = (mean - expected[name]) / (spread / np.sqrt(200))
        # 30 entries: one of N(0, 1) exceeds 4 in one run of 500; truncation adds a little.
        assert np.abs(z).max() < 4.5, name
        assert 0.5 < np.sqrt(np.mean(z**2)) < 1.6, name


@pytest.mark.slow
def test_the_slope_in_c_is_gamma_over_c():
    A = ggn(TASK, PARAMS)
    slope = jax.grad(lambda c: logdet(A, c=c, key=KEY, num_matvecs=40).value)(2.0)
    exact = dense_measure(A).effective_dimension(2.0).value / 2
    np.testing.assert_allclose(slope, exact, rtol=0.1)


def nan_product(v):
    return jnp.nan * v


@pytest.mark.parametrize("method", ["auto", "krylov", "nystrom", "slq", "dense"])
def test_products_that_are_not_finite_are_named(method):
    A = Operator(nan_product, like=jnp.zeros(60))
    with pytest.raises(ValueError, match="products A v must be finite"):
        logdet(A, c=1.0, key=KEY, num_matvecs=40, method=method)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"c": 0.0}, ValueError, "c must be positive and finite, got 0.0"),
        ({"c": [1.0, np.inf]}, ValueError, "c must be positive and finite, got inf"),
        ({"method": "exact"}, ValueError, "method must be one of .*, got 'exact'"),
        ({"method": "nystrom", "c": [1.0, 2.0]}, ValueError, "c must be a scalar"),
        ({"method": "nystrom", "num_matvecs": 8}, ValueError, "at least 16, got 8"),
        ({"num_matvecs": 2}, ValueError, "num_matvecs must be an integer of at least 4, got 2"),
        ({"policy": "ignore"}, ValueError, "policy must be one of"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
    ],
)
def test_arguments_out_of_range_are_named(options, error, message):
    with pytest.raises(error, match=message):
        logdet(operator(NETWORK_LIKE), **{"c": 1.0, "key": KEY, **options})
