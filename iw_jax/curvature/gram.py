"""The small side of A = Φ'Φ: the Gram matrix ΦΦ' has the same non-zero eigenvalues, N·K of them."""

import jax
import jax.numpy as jnp

from iw_jax.curvature import dense, krylov, measure
from iw_jax.curvature.operators import Operator, require_root
from iw_jax.trees import namespace

# Rows of Φ held at once, twice over.
_ROWS = 512


def gram_matrix(A: Operator) -> jax.Array:
    """K = ΦΦ' of an operator A = Φ'Φ, for a `ggn` of N examples with outputs of size K.

    Row i of Φ is sqrt(weight_i) S_i' J_i with J_i the Jacobian of the outputs in the weights and
    S_i S_i' the likelihood's Fisher (`root_product`); for the squared error of unit scale K is the
    empirical neural tangent kernel. Memory: K twice, and two blocks of 512 rows.

    Args:
      A: an operator with a `root`, such as a `ggn`, its multiples, blocks and congruences.

    Returns:
      (N·K, N·K), of the operator's type.

    Raises:
      ValueError: if the operator has no root.
    """
    root = require_root(A)
    examples, outputs = root.examples, root.outputs
    width = min(max(_ROWS // outputs, 1), examples)
    starts = [min(s, examples - width) for s in range(0, examples, width)]
    K = jnp.zeros((root.size, root.size), A.dtype)
    for i, first in enumerate(starts):
        rows = _rows(A, first + jnp.arange(width))
        for second in starts[: i + 1]:
            others = rows if second == first else _rows(A, second + jnp.arange(width))
            K = _place(K, rows, others, first * outputs, second * outputs)
    return K


def gram_measure(A: Operator, *, policy: str = "error") -> measure.SpectralMeasure:
    """The exact spectral measure of A = Φ'Φ from the eigenvalues of ΦΦ'.

    Args:
      A: an operator with a `root`.
      policy: as in `SpectralMeasure`; no eigenvalue is negative.

    Raises:
      ValueError: if the operator has no root, for an unknown policy or rows that are not finite.
    """
    measure.require_policy(policy)
    K = dense.require_finite(gram_matrix(A))
    eigenvalues = dense.symmetric_eigenvalues(K)
    xp = namespace(eigenvalues)
    return measure.exact_measure(xp.maximum(eigenvalues, 0), A.size, A.dtype, policy, len(K))


@jax.jit
def _rows(A: Operator, indices: jax.Array) -> jax.Array:
    return A.flat_rows(indices)


@jax.jit
def _place(K: jax.Array, rows: jax.Array, others: jax.Array, first: int, second: int) -> jax.Array:
    block = krylov.dot(rows, others.T)
    K = jax.lax.dynamic_update_slice(K, block, (first, second))
    return jax.lax.dynamic_update_slice(K, block.T, (second, first))
