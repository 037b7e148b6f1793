import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature.lanczos import Tridiagonal, tridiagonalise
from iw_jax.curvature.quadrature import gauss, gauss_radau, leading
from tests.curvature.known_spectra import NETWORK_LIKE, haar, matrix, product

N = 40
SPECTRUM = np.logspace(-6, 2, N)
FUNCTIONS = {"log": lambda s: np.log1p(s), "effective": lambda s: s / (1 + s)}


def run(m, depth, probes=3, dtype=jnp.float64):
    starts = jax.random.normal(jax.random.key(1), (probes, len(m)), dtype)
    starts = starts / jnp.linalg.norm(starts, axis=1, keepdims=True)
    m = jnp.asarray(m, dtype)
    return starts, tridiagonalise(lambda V: jax.vmap(lambda v: product(v, m))(V), starts, depth)


def test_full_depth_reproduces_the_eigenvalues():
    _, coefficients = run(matrix(SPECTRUM), N)
    for nodes in gauss(coefficients).nodes:
        np.testing.assert_allclose(nodes, SPECTRUM, rtol=1e-9, atol=1e-12)


def test_weights_are_the_starting_vectors_components():
    starts, coefficients = run(matrix(SPECTRUM, seed=3), N)
    components = (np.asarray(starts) @ haar(3, N)) ** 2
    np.testing.assert_allclose(gauss(coefficients).weights, components, atol=1e-9)


@pytest.mark.parametrize("f", FUNCTIONS.values(), ids=FUNCTIONS)
@pytest.mark.parametrize("c", [1e-2, 1.0, 1e3, 1e6])
@pytest.mark.parametrize(
    "spectrum",
    [SPECTRUM, NETWORK_LIKE, np.r_[np.zeros(20), SPECTRUM]],
    ids=["decades", "network", "singular"],
)
def test_radau_below_exact_below_gauss_and_both_tighten(f, c, spectrum):
    depth = 30
    starts, coefficients = run(matrix(spectrum), depth)
    components = (np.asarray(starts) @ haar(0, len(spectrum))) ** 2
    exact = components @ f(c * spectrum)
    slack = 1e-9 * np.abs(exact)
    previous = None
    for k in (1, 2, 3, 5, 8, 13, 21, depth):
        part = leading(coefficients, k)
        lower = gauss_radau(part).integrate(lambda x: f(c * np.maximum(x, 0)))
        upper = gauss(part).integrate(lambda x: f(c * np.maximum(x, 0)))
        assert (lower <= exact + slack).all()
        assert (exact <= upper + slack).all()
        if previous is not None:
            assert (lower >= previous[0] - slack).all()
            assert (upper <= previous[1] + slack).all()
        previous = lower, upper


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "spectrum",
    [np.r_[np.zeros(30), 1.0, 2.0, 5.0, 9.0, 9.0], np.zeros(12), np.full(12, 3.0)],
    ids=["low rank", "zero", "multiple of the identity"],
)
def test_breakdown_gives_exact_rules_without_nan(spectrum, dtype):
    depth = min(20, len(spectrum))
    starts, coefficients = run(matrix(spectrum), depth, dtype=dtype)
    components = (np.asarray(starts) @ haar(0, len(spectrum))) ** 2
    exact = components @ np.log1p(100 * spectrum)
    tolerance = 1e-9 if dtype == jnp.float64 else 1e-3
    for rule in (gauss(coefficients), gauss_radau(coefficients)):
        received = rule.integrate(lambda x: np.log1p(100 * np.maximum(x, 0)))
        np.testing.assert_allclose(received, exact, rtol=tolerance, atol=tolerance)


def test_past_a_breakdown_no_rule_asks_outside_the_spectrum():
    coefficients = Tridiagonal(jnp.array([[3.0, 0, 0]]), jnp.array([[0.0, 0, 0]]))
    for rule in (gauss(coefficients), gauss_radau(coefficients)):
        np.testing.assert_allclose(rule.integrate(np.log), np.log(3.0), rtol=1e-12)


def test_two_passes_keep_the_basis_orthonormal_in_float32():
    spectrum = np.logspace(-6, 4, 300)
    _, coefficients = run(matrix(spectrum), 80, dtype=jnp.float32)
    nodes = gauss(coefficients).nodes
    # A ghost is a second copy of a converged eigenvalue.
    assert ((nodes > 0.99 * 1e4).sum(-1) == 1).all()
    assert (nodes > -1e-6 * 1e4).all()


def test_host_and_traced_rules_agree():
    _, coefficients = run(matrix(SPECTRUM), 12)
    for rule in (gauss, gauss_radau):
        traced = jax.jit(rule)(coefficients)
        host = rule(coefficients)
        np.testing.assert_allclose(traced.nodes, host.nodes, rtol=1e-8, atol=1e-10)
        np.testing.assert_allclose(traced.weights, host.weights, atol=1e-9)
