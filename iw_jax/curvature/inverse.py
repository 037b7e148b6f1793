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
        inside, outside = jnp.zeros((), rows.dtype), rows
        for _ in range(2):  # what one pass leaves inside is rounding, which 1/shift would magnify
            part = krylov.dot(outside, self.vectors.T)
            inside, outside = inside + part, outside - krylov.dot(part, self.vectors)
        return inside, outside


@partial(jax.jit, static_argnames=("rtol", "max_solves"))
def solve(
    A: Operator, rows: jax.Array, inverse: SketchedInverse, *, rtol: float, max_solves: int
) -> tuple[jax.Array, jax.Array]:
    """(A + shift)^-1 of every row, by conjugate gradients from A's products.

    Args:
      A: an operator on n weights, A + shift positive definite.
      rows: (m, n), right-hand sides.
      inverse: the preconditioner, with the shift.
      rtol: residual to aim at, relative to a row.
      max_solves: steps allowed; each takes m products.

    Returns:
      Solutions (m, n), and the largest |(A + shift) x - row| / |row|.
    """
    size = jnp.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / jnp.where(size > 0, size, 1)  # else the longest row alone says when to end

    def apply(V: jax.Array) -> jax.Array:
        return A.flat_block(V) + inverse.shift * V

    solved, _ = jax.scipy.sparse.linalg.cg(
        apply, unit, tol=rtol / 10, maxiter=max_solves, M=inverse
    )
    return size * solved, jnp.max(jnp.linalg.norm(apply(solved) - unit, axis=1))
