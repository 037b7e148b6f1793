"""(A + shift)^-1 against dense inverses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from iw_jax.curvature.inverse import SketchedInverse, solve
from iw_jax.curvature.nystrom import sketch
from tests.curvature import known_spectra

SPECTRUM = np.geomspace(1e-3, 1e2, 30)
SHIFT = 0.1


def problem(rank):
    A = known_spectra.operator(SPECTRUM)
    inverse = SketchedInverse(*sketch(A, jax.random.key(0), rank), SHIFT)
    rows = jax.random.normal(jax.random.key(1), (3, 30)) * jnp.array([[1e-3], [1.0], [1e3]])
    return A, inverse, rows


def test_a_full_sketch_is_the_inverse():
    _, inverse, rows = problem(30)
    truth = np.linalg.inv(known_spectra.matrix(SPECTRUM) + SHIFT * np.eye(30))
    np.testing.assert_allclose(inverse(rows), rows @ truth, rtol=1e-8)
    np.testing.assert_allclose(inverse.forms(rows[None])[0], rows @ truth @ rows.T, rtol=1e-8)


def test_solves_reach_every_row_whatever_its_length():
    A, inverse, rows = problem(10)
    found = solve(A, rows, inverse, rtol=1e-9, max_solves=100)
    dense = known_spectra.matrix(SPECTRUM) + SHIFT * np.eye(30)
    np.testing.assert_allclose(found.rows, rows @ np.linalg.inv(dense), rtol=1e-7)
    np.testing.assert_allclose(found.residual, rows - found.rows @ dense, atol=1e-9)
    assert found.worst < 1e-9
    assert np.abs(inverse(rows) / found.rows - 1).max() > 0.1  # the sketch alone was not enough


def test_every_product_is_counted():
    A, inverse, rows = problem(30)
    assert solve(A, rows, inverse, rtol=1e-6, max_solves=100).cost == 3 * 2  # a step, and a look


def test_the_residual_says_when_there_were_too_few_steps():
    A, inverse, rows = problem(2)
    options = {"rtol": 1e-9, "max_solves": 2}
    with pytest.raises(RuntimeError, match="the solves ended at a relative residual of 3"):
        solve(A, rows, inverse, **options)
    assert jax.jit(lambda rows: solve(A, rows, inverse, **options).worst)(rows) > 1e-3


@pytest.mark.parametrize("length", [0.0, 1.0])
def test_rows_of_zeros_solve_to_zeros(length):
    A, inverse, rows = problem(10)
    rows = rows.at[0].set(length * rows[0])
    solved = solve(A, rows, inverse, rtol=1e-6, max_solves=50).rows
    assert np.isfinite(solved).all()
    assert (solved[0] == 0).all() == (length == 0)
