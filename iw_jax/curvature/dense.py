"""Dense references: the matrix itself, its eigenvalues, and the exact spectral measure."""

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax.curvature import measure
from iw_jax.curvature.operators import Operator
from iw_jax.curvature.quadrature import widened
from iw_jax.trees import namespace

# Columns a block product: enough to fill a processor, few enough that activations stay small.
_BLOCK = 64


def to_dense(A: Operator) -> jax.Array:
    """The matrix of an operator, column by column; n products.

    Args:
      A: an operator on n weights.

    Returns:
      (n, n), rows and columns in the order of the tree's leaves, of the operator's type.
    """
    return _rows(A).T


def eigenvalues(A: Operator) -> np.ndarray:
    """All eigenvalues; n products.

    Args:
      A: a symmetric operator on n weights.

    Returns:
      (n,), ascending; float64 on the host (the widest JAX type where traced).

    Raises:
      ValueError: if a product holds NaN or inf.
    """
    return symmetric_eigenvalues(require_finite(to_dense(A)))


def symmetric_eigenvalues(matrix: jax.Array) -> np.ndarray:
    """Eigenvalues (n,) of a symmetric matrix, in float64 on the host (traced: the widest type)."""
    (matrix,) = widened(matrix)
    return namespace(matrix).linalg.eigvalsh((matrix + matrix.T) / 2)


def dense_measure(A: Operator, *, policy: str = "error") -> measure.SpectralMeasure:
    """The exact spectral measure from n products: no sampling error, closed brackets.

    Args:
      A: a symmetric operator on n weights.
      policy: "error", "clip" or "abs" for negative eigenvalues; see `SpectralMeasure`.

    Raises:
      ValueError: for an unknown policy, products that are not finite, or with policy "error" an
        eigenvalue that is negative beyond rounding.
    """
    measure.require_policy(policy)
    nodes = eigenvalues(A)
    return measure.require_sound(measure.exact_measure(nodes, A.size, A.dtype, policy, A.size))


def require_finite(numbers: jax.Array) -> jax.Array:
    """The numbers; raises ValueError where products gave NaN or inf. Traced ones pass."""
    if namespace(numbers) is np and not np.all(np.isfinite(numbers)):
        raise ValueError("products A v must be finite, got NaN or inf; check the loss at params")
    return numbers


@jax.jit
def _rows(A: Operator) -> jax.Array:
    n = A.size

    def block(first: jax.Array) -> jax.Array:
        return A.flat_block(jax.nn.one_hot(first + jnp.arange(_BLOCK), n, dtype=A.dtype))

    return jax.lax.map(block, jnp.arange(0, n, _BLOCK)).reshape(-1, n)[:n]
