from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import Operator, ggn
from iw_jax.curvature.trace import trace
from iw_jax.likelihoods import Categorical
from iw_jax.task import Task
from tests.curvature.known_spectra import NETWORK_LIKE, matrix, operator, product
from tests.oracles import classification, mlp, mlp_weights, z_scores

KEY = jax.random.key(0)
METHODS = ["hutchinson", "xtrace", "xnystrace"]
J = np.arange(1, 201.0)
SPECTRA = {
    "flat": np.linspace(0.5, 1.5, 200),
    "power law": 1 / J,
    "outliers and bulk": NETWORK_LIKE,
    "low rank": np.r_[np.linspace(1, 2, 30), np.full(170, 1e-3)],
    "exponential": 0.9**J,
    "indefinite": np.r_[-1 / J[:100], J[:100] ** -0.5],
}


@partial(jax.jit, static_argnames=("num_matvecs", "method"))
def many(A, keys, num_matvecs, method):
    run = partial(trace, A, num_matvecs=num_matvecs, method=method)
    return jax.lax.map(lambda key: run(key=key), keys, batch_size=50)


def estimates(spectrum, method, seeds, num_matvecs=24):
    keys = jax.random.split(jax.random.key(1), seeds)
    return many(operator(spectrum), keys, num_matvecs, method)


def covers(estimate, truth, level=0.95):
    lower, upper = estimate.interval(level)
    return (lower <= truth) & (truth <= upper)


# ------------------------------------------------------------------- leave-one-out, done naively


def naive_xtrace(m, probes, space, i):
    """Deflates by the products of `space`; probe i estimates what is left."""
    basis = np.linalg.qr(m @ probes[:, space])[0] if space else np.zeros((len(m), 0))
    rest = probes[:, i] - basis @ (basis.T @ probes[:, i])
    scale = (len(m) - len(space)) / (rest @ rest)
    return np.trace(basis.T @ m @ basis) + scale * rest @ m @ rest


def naive_xnystrace(m, probes, space, i):
    y, some = m @ probes[:, space], probes[:, space]
    nystrom = y @ np.linalg.solve(some.T @ y, y.T) if space else np.zeros_like(m)
    basis = np.linalg.qr(some)[0]
    rest = probes[:, i] - basis @ (basis.T @ probes[:, i])
    scale = (len(m) - len(space)) / (rest @ rest)
    return np.trace(nystrom) + scale * rest @ (m - nystrom) @ rest


@pytest.mark.parametrize(
    ("method", "naive", "probes"),
    [("xtrace", naive_xtrace, 2), ("xtrace", naive_xtrace, 6)]
    + [("xnystrace", naive_xnystrace, k) for k in (4, 6)],
)
def test_value_and_error_are_those_of_the_naive_leave_one_out_formulas(method, naive, probes):
    n, k = 40, probes
    m = matrix(1 / np.arange(1, n + 1.0))
    spent = 2 * k if method == "xtrace" else k
    received = trace(operator(1 / np.arange(1, n + 1.0)), key=KEY, num_matvecs=spent, method=method)
    z = np.asarray(jax.random.normal(KEY, (k, n))).T
    z = z * np.sqrt(n) / np.linalg.norm(z, axis=0)
    one = np.array([naive(m, z, [a for a in range(k) if a != i], i) for i in range(k)])
    changes = [
        (one[i] - naive(m, z, [a for a in range(k) if a not in (i, j)], i))
        * (one[j] - naive(m, z, [a for a in range(k) if a not in (i, j)], j))
        for i in range(k)
        for j in range(k)
        if i != j
    ]
    np.testing.assert_allclose(received.value, one.mean(), rtol=1e-10)
    variance = one.var(ddof=1) / k + abs(np.mean(changes))
    np.testing.assert_allclose(received.stderr, np.sqrt(variance), rtol=1e-7)
    assert received.dof == k - 1
    assert received.cost == spent


# ------------------------------------------------------------------------------- exact answers


@pytest.mark.parametrize("method", METHODS)
def test_the_trace_of_zero_is_zero(method):
    assert trace(operator(np.zeros(60)), key=KEY, num_matvecs=20, method=method).interval() == (
        0,
        0,
    )


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_a_multiple_of_the_identity_is_exact(method, dtype):
    received = trace(
        operator(np.full(60, 3.0), dtype=dtype), key=KEY, num_matvecs=20, method=method
    )
    np.testing.assert_allclose(received.interval(), 180, rtol=1e3 * jnp.finfo(dtype).eps)


@pytest.mark.parametrize("method", ["xtrace", "xnystrace"])
@pytest.mark.parametrize("dtype", [jnp.float64, jnp.float32])
def test_low_rank_is_exact_to_rounding(method, dtype):
    for rank, num_matvecs in ((12, 28), (1, 149)):
        spectrum = np.r_[np.logspace(2, 0, rank), np.zeros(150 - rank)]
        received = trace(
            operator(spectrum, dtype=dtype), key=KEY, num_matvecs=num_matvecs, method=method
        )
        rounding = 12 * num_matvecs * float(jnp.finfo(dtype).eps) * spectrum.sum()
        np.testing.assert_allclose(received.interval(), spectrum.sum(), atol=2 * rounding)
        assert covers(received, spectrum.sum())


def test_few_weights_and_few_rows_are_exact():
    spectrum = np.linspace(-1, 2, 30)
    received = trace(operator(spectrum), key=KEY, num_matvecs=30)
    np.testing.assert_allclose(received.interval(), spectrum.sum(), rtol=1e-12)
    assert received.cost == 30

    task = Task(mlp, Categorical(), *map(jnp.asarray, classification(0, num_examples=5)))
    few_rows = trace(ggn(task, mlp_weights(0)), key=KEY, num_matvecs=15)
    many_products = trace(ggn(task, mlp_weights(0)), key=KEY, num_matvecs=21)
    assert few_rows.cost == 15 < ggn(task, mlp_weights(0)).size == 21
    np.testing.assert_allclose(few_rows.value, many_products.value, rtol=1e-12)


# ---------------------------------------------------------------------------------- error bars


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_it_is_unbiased_and_its_interval_covers(method):
    for spectrum in (SPECTRA["power law"], SPECTRA["low rank"]):
        run = estimates(spectrum, method, 200)
        assert abs(z_scores(run.value, spectrum.sum())) < 3.5
        rms = np.sqrt(np.mean((run.value - spectrum.sum()) ** 2))
        assert 0.8 < np.sqrt(np.mean(run.stderr**2)) / rms < 1.25
        assert covers(run, spectrum.sum()).mean() >= 0.92


@pytest.mark.slow
@pytest.mark.parametrize("num_matvecs", [12, 50])
@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("method", METHODS)
def test_intervals_cover_on_every_spectrum(method, name, num_matvecs):
    spectrum = SPECTRA[name]
    if method == "xnystrace" and name == "indefinite":
        pytest.skip("needs a positive semi-definite operator")
    run = estimates(spectrum, method, 600, num_matvecs)
    lower, upper = run.interval()
    rms = np.sqrt(np.mean((run.value - spectrum.sum()) ** 2))
    assert abs(z_scores(run.value, spectrum.sum())) < 3.5
    assert covers(run, spectrum.sum()).mean() >= 0.92
    assert np.mean(upper - lower) / 2 < 4 * rms


@pytest.mark.slow
def test_xtrace_beats_hutchinson_where_eigenvalues_fall():
    spectrum = NETWORK_LIKE
    rms = {
        method: np.sqrt(np.mean((estimates(spectrum, method, 200).value - spectrum.sum()) ** 2))
        for method in METHODS
    }
    assert rms["xtrace"] < rms["hutchinson"] / 20
    assert rms["xnystrace"] < rms["hutchinson"] / 20


# ----------------------------------------------------------------------- types, tracing, choice


@pytest.mark.parametrize("method", METHODS)
def test_float32_covers_too(method):
    A = operator(NETWORK_LIKE, dtype=jnp.float32)
    run = many(A, jax.random.split(KEY, 200), 24, method)
    assert covers(run, NETWORK_LIKE.sum(), 0.99).mean() >= 0.95


@pytest.mark.parametrize("method", METHODS)
def test_jit_gives_what_the_host_gives(method):
    A = operator(SPECTRA["power law"])
    host = trace(A, key=KEY, num_matvecs=20, method=method)
    traced = jax.jit(partial(trace, num_matvecs=20, method=method))(A, key=KEY)
    jax.tree.map(partial(np.testing.assert_allclose, rtol=1e-8), host, traced)


def test_the_value_of_hutchinson_has_a_gradient():
    m = jnp.asarray(matrix(1 / np.arange(1, 41.0)))

    def value(scale):
        A = Operator(product, scale * m, like=jnp.zeros(40))
        return trace(A, key=KEY, num_matvecs=10, method="hutchinson").value

    np.testing.assert_allclose(jax.grad(value)(2.0), value(1.0), rtol=1e-10)
    assert jax.grad(value)(0.0) == pytest.approx(value(1.0))


@pytest.mark.slow
def test_auto_takes_nystrom_only_where_a_root_proves_it_right():
    task = Task(mlp, Categorical(), *map(jnp.asarray, classification(0, num_examples=20)))
    weights = mlp_weights(0, width=6)
    rooted = ggn(task, weights)
    for A, method in ((rooted, "xnystrace"), (rooted + rooted, "xtrace")):
        auto, named = (trace(A, key=KEY, num_matvecs=20, method=x) for x in ("auto", method))
        assert auto.value == named.value
        assert covers(auto, trace(A, key=KEY).value, 0.999)


def test_an_indefinite_operator_is_refused_by_xnystrace():
    A = operator(SPECTRA["indefinite"])
    with pytest.raises(ValueError, match=r"positive semi-definite.*method='xtrace'"):
        trace(A, key=KEY, num_matvecs=50, method="xnystrace")
    traced = jax.jit(partial(trace, num_matvecs=50, method="xnystrace"))(A, key=KEY)
    assert not traced.converged


@pytest.mark.parametrize("method", ["auto", *METHODS])
@pytest.mark.parametrize("num_matvecs", [20, 60])
def test_products_that_are_not_finite_are_named(method, num_matvecs):
    A = Operator(product, jnp.full((60, 60), jnp.nan), like=jnp.zeros(60))
    with pytest.raises(ValueError, match="products A v must be finite"):
        trace(A, key=KEY, num_matvecs=num_matvecs, method=method)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"num_matvecs": 3}, ValueError, "num_matvecs must be an integer of at least 4, got 3"),
        ({"method": "hutch"}, ValueError, "method must be one of .* got 'hutch'"),
        ({"key": 0}, TypeError, "key must be a typed random key"),
    ],
)
def test_bad_arguments_are_named(options, error, message):
    with pytest.raises(error, match=message):
        trace(operator(np.ones(60)), **{"key": KEY, **options})
