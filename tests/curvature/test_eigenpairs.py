import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import Operator, ggn, to_dense, top_eigenpairs
from iw_jax.likelihoods import Categorical
from iw_jax.task import Task
from tests.curvature.known_spectra import NETWORK_LIKE, matrix, operator

KEY = jax.random.key(0)


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("spectrum", "pairs", "allowed"),
    [
        (NETWORK_LIKE, 5, 60),
        (NETWORK_LIKE, 3, 9),
        (np.r_[np.zeros(50), 3.0, 2.0, 1.0], 5, 30),
        (np.r_[np.zeros(50), 7.0, 7.0, 1.0], 2, 20),
        (np.zeros(40), 3, 10),
        (np.full(40, 3.0), 4, 20),
        (np.r_[np.full(20, -5.0), np.linspace(0, 1, 30)], 3, 45),
        (NETWORK_LIKE, 10, 200),
    ],
)
def test_the_largest_eigenvalues_lie_in_their_brackets(spectrum, pairs, allowed, dtype):
    found = top_eigenpairs(operator(spectrum, dtype=dtype), pairs, key=KEY, num_matvecs=allowed)
    slack = 20 * float(jnp.finfo(dtype).eps) * np.abs(spectrum).max()
    expected = np.sort(spectrum)[::-1][:pairs]
    assert (found.values.value <= expected + slack).all()
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(pairs), atol=1e-4)
    products = matrix(spectrum) @ np.asarray(found.vectors, float).T
    residuals = np.linalg.norm(products - found.vectors.T * found.values.value, axis=0)
    np.testing.assert_allclose(found.residuals, residuals, atol=50 * slack + 1e-12)
    close = np.asarray(found.values.converged)
    assert close[0]
    near = np.abs(found.values.value - expected) <= found.residuals + slack
    assert near[close].all()


def test_vectors_are_trees_of_the_weights():
    task = Task(lambda p, x: x @ p["w"] + p["b"], Categorical(), jnp.eye(6), jnp.arange(6) % 3)
    params = {"w": jnp.ones((6, 3)), "b": jnp.zeros(3)}
    A = ggn(task, params)
    found = top_eigenpairs(A, 2, key=KEY, num_matvecs=21)
    assert jax.tree.map(jnp.shape, found.vectors) == {"w": (2, 6, 3), "b": (2, 3)}
    np.testing.assert_allclose(
        found.values.value, np.linalg.eigvalsh(to_dense(A))[::-1][:2], rtol=1e-9
    )


def test_arguments_out_of_range_are_named():
    A = operator(NETWORK_LIKE)
    with pytest.raises(ValueError, match="num_pairs must be at most the 200 weights, got 201"):
        top_eigenpairs(A, 201, key=KEY)
    with pytest.raises(ValueError, match="num_matvecs must be an integer of at least 20, got 19"):
        top_eigenpairs(A, 10, key=KEY, num_matvecs=19)
    nan = Operator(lambda v: jnp.nan * v, like=jnp.zeros(60))
    with pytest.raises(ValueError, match="products A v must be finite"):
        top_eigenpairs(nan, 2, key=KEY, num_matvecs=10)
