"""Operators whose size leaves the range of float32 squares, and NaN: never a false number."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import iw_jax as iw
from iw_jax.curvature import Operator, Plan, gram_measure, logdet, spectral_measure, trace
from tests import oracles

KEY = jax.random.key(0)
SPECTRUM = np.arange(1.0, 301) ** -1.5


def _product(v, matrix):
    return jnp.matmul(matrix, v, precision=jax.lax.Precision.HIGHEST)


@pytest.fixture(scope="module")
def unit():
    Q = oracles.haar_orthogonal(0, 300)
    return jnp.asarray((Q * SPECTRUM) @ Q.T, jnp.float32)


def scaled(unit, scale):
    matrix = jnp.asarray(np.asarray(unit, np.float64) * scale, jnp.float32)
    return Operator(_product, matrix, like=jnp.zeros(300, jnp.float32))


@pytest.mark.parametrize("scale", [1e-25, 1e30])
def test_size_does_not_matter(unit, scale):
    A = scaled(unit, scale)
    reference = logdet(scaled(unit, 1.0), c=2.0, key=KEY, num_matvecs=100, method="krylov")
    found = logdet(A, c=2.0 / scale, key=KEY, num_matvecs=100, method="krylov")
    np.testing.assert_allclose(found.value, reference.value, rtol=1e-4)
    np.testing.assert_allclose(found.stderr, reference.stderr, rtol=1e-2)
    pairs = iw.top_eigenpairs(A, key=KEY, num_pairs=3, num_matvecs=60)
    lower, upper = pairs.values.interval()
    assert np.all((lower <= SPECTRUM[:3] * scale) & (SPECTRUM[:3] * scale <= upper))


@pytest.mark.parametrize("method", ["hutchinson", "xtrace", "xnystrace"])
@pytest.mark.parametrize("scale", [1e-20, 1e18])
def test_traces_are_right_or_say_that_they_are_not(unit, scale, method):
    try:
        found = trace(scaled(unit, scale), key=KEY, num_matvecs=100, method=method)
    except ValueError:
        return
    lower, upper = found.interval(0.9999)
    right = lower <= scale * SPECTRUM.sum() <= upper and upper > lower
    assert right or not found.converged


def test_nystrom_refuses_what_it_cannot_square(unit):
    with pytest.raises(ValueError, match="their squares leave its range"):
        logdet(scaled(unit, 1e-20), c=2e20, key=KEY, num_matvecs=100, method="nystrom")


@pytest.mark.parametrize("method", ["krylov", "dense"])
def test_a_traced_price_that_is_none_is_not_converged(unit, method):
    A = scaled(unit, 1.0)
    run = jax.jit(lambda c: logdet(A, c=c, key=KEY, num_matvecs=60, method=method).converged)
    assert not any(run(c) for c in (-1.0, 0.0, np.nan, np.inf))


def test_exact_traces_of_nan_are_not_converged():
    A = Operator(_product, jnp.full((5, 5), jnp.nan), like=jnp.zeros(5))
    assert not jax.jit(lambda A: trace(A, key=KEY, num_matvecs=10))(A).converged
    assert not jax.jit(lambda A: iw.diagonal(A, key=KEY, num_matvecs=10))(A).converged.any()


@pytest.mark.slow
@pytest.mark.parametrize("size", [1, 8])
def test_a_head_that_is_everything_leaves_nothing_to_probe(size):
    A = Operator(_product, jnp.diag(jnp.arange(1.0, size + 1)), like=jnp.zeros(size))
    found = spectral_measure(A, key=KEY, plan=Plan(size, 1, 2, 2)).logdet(1.0)
    np.testing.assert_allclose(found.value, np.log1p(np.arange(1.0, size + 1)).sum(), rtol=1e-6)
    assert found.stderr == 0


@pytest.mark.parametrize(
    "method",
    ["krylov", "dense", *(pytest.param(m, marks=pytest.mark.slow) for m in ("slq", "nystrom"))],
)
def test_converged_says_whether_the_tolerance_was_met(unit, method):
    A, options = scaled(unit, 1.0), {"c": 2.0, "key": KEY, "num_matvecs": 100, "method": method}
    exact = method == "dense"
    assert bool(logdet(A, rtol=1e-9, **options).converged) == exact
    assert logdet(A, rtol=0.9, **options).converged
    with pytest.raises(ValueError, match="rtol and atol must be finite"):
        logdet(A, rtol=np.nan, **options)
    if method == "slq":
        assert not jax.jit(lambda A: logdet(A, rtol=1e-9, **options))(A).converged


@pytest.mark.parametrize("policy", ["clip", "abs"])
def test_negative_curvature_that_passes_is_reported(policy):
    A = Operator(_product, jnp.diag(jnp.array([3.0, 1.0, -2.0, -0.5])), like=jnp.zeros(4))
    with pytest.warns(UserWarning, match=r"negative curvature: its eigenvalues sum to -2\.5"):
        logdet(A, c=1.0, key=KEY, policy=policy)


def test_float32_says_what_it_does_not_know_of_small_eigenvalues():
    """Softmax has a null direction for every example, which rounding fills: exact in name only."""
    inputs, targets = oracles.classification(0, num_examples=60, num_inputs=30, num_classes=4)
    params = oracles.mlp_weights(1, num_inputs=30, width=20, num_outputs=4)
    both = []
    for dtype in (jnp.float32, jnp.float64):
        x, w = jnp.asarray(inputs, dtype), optax.tree.cast(params, dtype)
        task = iw.Task(oracles.mlp, iw.Categorical(), x, jnp.array(targets))
        both.append(gram_measure(iw.ggn(task, w)))
    c = 1e9 / both[1].largest
    found, exact = (measure.logdet(c) for measure in both)
    lower, upper = found.interval()
    assert lower <= exact.value <= upper
    assert exact.converged
    assert upper - lower > 0
