"""Dense references: the matrix itself, its eigenvalues, and the exact spectral measure."""

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax.curvature import measure
from iw_jax.curvature.operators import Operator
from iw_jax.curvature.quadrature import Quadrature, namespace

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
    matrix = to_dense(A)
    xp = namespace(matrix)
    matrix = require_finite(matrix)
    matrix = xp.asarray(matrix, np.float64 if xp is np else jnp.result_type(float))
    return xp.linalg.eigvalsh((matrix + matrix.T) / 2)


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
    xp = namespace(nodes)
    none = Quadrature(xp.zeros((0, 1)), xp.zeros((0, 1)))
    return measure.require_sound(
        measure.SpectralMeasure(
            exact=Quadrature(nodes, xp.ones_like(nodes)),
            gauss=none,
            radau=none,
            half=none,
            exhausted=xp.ones(0, bool),
            cost=A.size,
            tolerance=measure.spectral_tolerance(nodes, A.size, A.dtype),
            size=A.size,
            policy=policy,
        )
    )


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
