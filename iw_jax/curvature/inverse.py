"""(A + shift)^-1 of blocks of vectors: by a Nyström sketch, and by solves that it preconditions."""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iw_jax import trees
from iw_jax.curvature import krylov
from iw_jax.curvature.operators import Operator


@trees.record
class SketchedInverse:
    """(Â + shift)^-1 for the Â of `nystrom.sketch`: one part inside its span, the other outside.

    Attributes:
      vectors: (rank, n), orthonormal eigenvectors of Â.
      values: (rank,), its eigenvalues.
      shift: positive, scalar.
    """

    vectors: jax.Array
    values: jax.Array
    shift: Any

    def __call__(self, V: jax.Array) -> jax.Array:
        """(Â + shift)^-1 of each row of V, (m, n)."""
        inside, outside = self._split(V)
        return krylov.dot(inside / (self.values + self.shift), self.vectors) + outside / self.shift

    def forms(self, rows: jax.Array) -> jax.Array:
        """R (Â + shift)^-1 R' (w, m, m) for blocks R of rows (w, m, n)."""
        inside, outside = self._split(rows)
        inside = inside / jnp.sqrt(self.values + self.shift)
        outside = outside / jnp.sqrt(self.shift).astype(rows.dtype)
        return jax.vmap(krylov.gram)(inside) + jax.vmap(krylov.gram)(outside)

    def _split(self, rows: jax.Array) -> tuple[jax.Array, jax.Array]:
        if len(self.vectors) == rows.shape[-1]:  # they span everything
            return krylov.dot(rows, self.vectors.T), jnp.zeros_like(rows)
        inside, outside = jnp.zeros((), rows.dtype), rows
        for _ in range(2):  # what one pass leaves inside is rounding, which 1/shift would magnify
            part = krylov.dot(outside, self.vectors.T)
            inside, outside = inside + part, outside - krylov.dot(part, self.vectors)
        return inside, outside


@trees.record
class Solution:
    """Rows X that solve (A + shift) X = R, and what they leave.

    Attributes:
      rows: X, (m, n).
      residual: R - (A + shift) X, (m, n).
      worst: the largest |residual| of a row, relative to that row of R.
      cost: products spent.
    """

    rows: jax.Array
    residual: jax.Array
    worst: Any
    cost: Any


def solve(
    A: Operator, rows: jax.Array, inverse: SketchedInverse, *, rtol: float, max_solves: int
) -> Solution:
    """(A + shift)^-1 of every row, by preconditioned conjugate gradients from A's products.

    Args:
      A: an operator on n weights, A + shift positive definite.
      rows: (m, n), right-hand sides.
      inverse: the preconditioner, with the shift.
      rtol: residual relative to a row: a tenth of it is aimed at, ten times it are accepted.
      max_solves: steps allowed; each takes m products.

    Raises:
      RuntimeError: where one ends beyond that. Traced ones pass.
    """
    solution = _conjugate_gradients(A, rows, inverse, rtol, max_solves)
    if trees.is_concrete(solution.worst) and not solution.worst <= 10 * rtol:
        raise RuntimeError(
            f"the solves ended at a relative residual of {float(solution.worst):.2g}, beyond rtol="
            f"{rtol}; give the preconditioner more products (num_matvecs) or the solves more steps "
            "(max_solves)"
        )
    return solution


@partial(jax.jit, static_argnames="max_solves")
def _conjugate_gradients(
    A: Operator, rows: jax.Array, inverse: SketchedInverse, rtol: Any, max_solves: int
) -> Solution:
    """Each row has step lengths of its own, and rests once it is solved."""
    size = jnp.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / jnp.where(size > 0, size, 1)

    def apply(V: jax.Array) -> jax.Array:
        return A.flat_block(V) + inverse.shift * V

    def inner(V: jax.Array, W: jax.Array) -> jax.Array:
        return jnp.sum(V * W, axis=1, keepdims=True)

    def active(residual: jax.Array) -> jax.Array:
        return jnp.linalg.norm(residual, axis=1, keepdims=True) > rtol / 10

    def going(state: tuple) -> jax.Array:
        _, residual, _, _, steps = state
        return jnp.any(active(residual)) & (steps < max_solves)

    def step(state: tuple) -> tuple:
        solved, residual, direction, square, steps = state
        image = apply(direction)
        on = active(residual)
        length = jnp.where(on, square / inner(direction, image), 0)
        solved, residual = solved + length * direction, residual - length * image
        steep = inverse(residual)
        new = inner(residual, steep)
        direction = steep + jnp.where(on, new / square, 0) * direction
        return solved, residual, direction, new, steps + 1

    steep = inverse(unit)
    start = jnp.zeros_like(unit), unit, steep, inner(unit, steep), 0
    solved, *_, steps = jax.lax.while_loop(going, step, start)
    left = unit - apply(solved)
    worst = jnp.max(jnp.linalg.norm(left, axis=1))
    return Solution(size * solved, size * left, worst, len(rows) * (steps + 1))
