import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature import krylov
from tests.curvature.known_spectra import NETWORK_LIKE, matrix

N = 60


def grow(m, blocks, dtype=jnp.float64, rows=48):
    """A strand of each width, so many blocks deep; the space and the last residual."""
    m = jnp.asarray(m, dtype)
    space = krylov.empty(rows, len(m), dtype)
    for seed, (width, depth) in enumerate(blocks):
        residual = jax.random.normal(jax.random.key(seed), (width, len(m)), dtype)
        negligible = 1e-5
        for _ in range(depth):
            space, residual = krylov.advance(
                lambda V: jnp.matmul(V, m, precision="highest"), space, residual, negligible
            )
            negligible = krylov.rounding(space)
    return space, residual


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spectrum", [np.logspace(-6, 4, N), NETWORK_LIKE], ids=["decades", "net"])
def test_two_strands_make_one_orthonormal_basis_and_t_is_the_compression(spectrum, dtype):
    m = matrix(spectrum)
    space, residual = grow(m, [(2, 10), (4, 7)], dtype)
    S, T = (np.asarray(x, np.float64) for x in (space.basis, space.matrix))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(S @ S.T, np.eye(48), atol=50 * eps)
    np.testing.assert_allclose(T, S @ m @ S.T, atol=50 * eps * spectrum.max())
    np.testing.assert_allclose(T, T.T, atol=0)
    outside = S[-4:] @ m - (S[-4:] @ m @ S.T) @ S
    np.testing.assert_allclose(residual, outside, atol=50 * eps * spectrum.max())


def test_the_products_of_all_but_the_last_blocks_stay_inside():
    m = matrix(NETWORK_LIKE)
    space, _ = grow(m, [(2, 10), (4, 7)])
    S = np.asarray(space.basis)
    outside = S @ m - (S @ m @ S.T) @ S
    sizes = np.linalg.norm(outside, axis=1)
    last = np.r_[18:20, 44:48]
    assert sizes[np.setdiff1d(np.arange(48), last)].max() < 1e-9
    assert sizes[44:48].min() > 1e-6


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float64])
@pytest.mark.parametrize(
    "spectrum",
    [np.r_[np.zeros(55), 1.0, 2.0, 5.0, 9.0, 9.0], np.zeros(N), np.full(N, 3.0)],
    ids=["low rank", "zero", "multiple of the identity"],
)
def test_a_krylov_space_that_ends_leaves_zeros_and_no_nan(spectrum, dtype):
    space, residual = grow(matrix(spectrum), [(3, 8), (3, 8)], dtype)
    S = np.asarray(space.basis)
    lengths = np.linalg.norm(S, axis=1)
    assert np.all((lengths < 1e-6) | (np.abs(lengths - 1) < 1e-5))
    assert np.isfinite(space.matrix).all()
    assert np.isfinite(residual).all()
    tolerance = 1e-5 if dtype == jnp.float32 else 1e-12
    np.testing.assert_allclose(S @ matrix(spectrum) @ S.T, space.matrix, atol=9 * tolerance)


def test_nearly_dependent_vectors_are_told_apart_in_float32():
    key, other = jax.random.split(jax.random.key(0))
    first = jax.random.normal(key, (1, 400), jnp.float32)
    block = first + 1e-4 * jax.random.normal(other, (5, 400), jnp.float32)
    block = jnp.concatenate([first, block])
    S = krylov.orthonormalise(block, jnp.zeros((1, 400), jnp.float32))
    np.testing.assert_allclose(S @ S.T, np.eye(6), atol=1e-5)
    # The span: what is left of each vector is rounding of the largest.
    left = block - (block @ S.T) @ S
    assert jnp.linalg.norm(left, axis=1).max() < 1e-5 * jnp.linalg.norm(first)


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_long_vectors_are_orthonormal_in_float32(width):
    """Sums over two or three rows of a million went wrong by 4e-4."""
    block = jax.random.normal(jax.random.key(0), (width, 1_000_000), jnp.float32)
    S = np.asarray(krylov.orthonormalise(block, jnp.zeros((0, 1_000_000), jnp.float32)), float)
    np.testing.assert_allclose(S @ S.T, np.eye(width), atol=2e-6)


def test_a_full_space_has_no_direction_left():
    space, _ = grow(matrix(np.arange(1.0, 21)), [(3, 4), (4, 4)], rows=28)
    S = np.asarray(space.basis)
    np.testing.assert_allclose(np.sort(np.linalg.norm(S, axis=1)), [0] * 8 + [1] * 20, atol=1e-9)
    np.testing.assert_allclose(S.T @ S, np.eye(20), atol=1e-9)


def test_dependent_and_negligible_vectors_become_zero():
    v = jnp.ones((1, 10)) / jnp.sqrt(10)
    w = jnp.eye(1, 10)
    S = krylov.orthonormalise(jnp.concatenate([w, 1e-12 * jnp.eye(1, 10, 3)]), v, 1e-9)
    np.testing.assert_allclose(np.sort(jnp.linalg.norm(S, axis=1)), [0, 1], atol=1e-12)
    np.testing.assert_allclose(S @ v.T, 0, atol=1e-12)
