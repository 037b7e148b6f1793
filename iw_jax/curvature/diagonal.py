"""The diagonal of an operator from products."""

from functools import partial

import jax
import jax.numpy as jnp

from iw_jax import checks
from iw_jax.curvature import dense, krylov
from iw_jax.curvature.operators import Operator
from iw_jax.estimates import Estimate

# Columns of the identity, and rows of a root, multiplied at once.
_BLOCK, _ROWS = 64, 512

# Rounding moves what is known exactly by a few eps of what it is summed from.
_ROUNDING = 10.0


def diagonal(A: Operator, *, key: jax.Array, num_matvecs: int = 100) -> Estimate:
    """diag A: a low-rank part exactly, the remainder from random signs.

    With P = Q'Q the projector on the span of A Ω, Ω random, and R = 1 - P,

        diag A = diag(PA + AP - PAP) + E[z * (RARz)],   z of random signs,

    a third of the products each for A Ω, for A Q and for the signs, in two passes. Unbiased; the
    variance of entry i is Σ_{j≠i} (RAR)_ij² over the number of signs, so that a matrix of low rank
    comes out exactly, to rounding. (RA in place of RAR, as in Diag++, would have a larger one.)

    Where n or the rows of a `root` (see `Operator`) are at most num_matvecs, so many products or
    rows give it exactly.

    Args:
      A: a symmetric operator on n weights.
      key: a typed random key.
      num_matvecs: products allowed, at least 8. Memory: as many vectors of n numbers.

    Returns:
      Estimate whose fields are arrays (n,), flat, in the order of the tree's leaves as in
      `to_dense`; nats per squared weight. `A.unflatten(estimate.value[None])` is the tree, with a
      leading axis of 1. Each entry's interval holds for itself; of n intervals of 95 % some 5 %
      miss. The bracket is rounding.

    Raises:
      TypeError: for a key that is no typed random key.
      ValueError: for too few products, or products that are not finite.

    References:
      Bekas, Kokiopoulou & Saad 2007 (signs); Baston & Nakatsukasa, arXiv:2208.03268 (deflation).
    """
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 8)
    if exact_cost(A) <= num_matvecs:
        return Estimate.exact(exact_diagonal(A), exact_cost(A))
    rank = num_matvecs // 3
    low_rank, samples, rounding = _parts(A, key, rank, num_matvecs - 2 * rank)
    dense.require_finite(low_rank)
    dense.require_finite(samples)
    remainder = Estimate.mean_of(samples)
    value = low_rank + remainder.value
    return Estimate(
        value=value,
        stderr=remainder.stderr,
        dof=remainder.dof,
        bracket_lower=value - rounding,
        bracket_upper=value + rounding,
        cost=num_matvecs,
        converged=jnp.isfinite(value),
    )


def exact_cost(A: Operator) -> int:
    """Products, or rows of the root where those are fewer, that give the diagonal exactly."""
    return A.size if A.root is None else min(A.size, A.root.size)


def exact_diagonal(A: Operator) -> jax.Array:
    """diag A, (n,), from n products, or from fewer rows of the root.

    Raises:
      ValueError: if a product holds NaN or inf.
    """
    few_rows = A.root is not None and A.root.size < A.size
    return dense.require_finite((_squared_rows if few_rows else _identity_products)(A))


@jax.jit
def _identity_products(A: Operator) -> jax.Array:
    n = A.size

    def block(first: jax.Array) -> jax.Array:
        columns = first + jnp.arange(_BLOCK)
        image = A.flat_block(jax.nn.one_hot(columns, n, dtype=A.dtype))
        return jnp.take_along_axis(image, jnp.minimum(columns, n - 1)[:, None], axis=1)[:, 0]

    return jax.lax.map(block, jnp.arange(0, n, _BLOCK)).reshape(-1)[:n]


@jax.jit
def _squared_rows(A: Operator) -> jax.Array:
    """Σ of the squared rows of Φ, A = Φ'Φ."""
    assert A.root is not None
    examples, outputs = A.root.examples, A.root.outputs
    width = min(max(_ROWS // outputs, 1), examples)

    def add(total: jax.Array, first: jax.Array) -> tuple[jax.Array, None]:
        indices = first + jnp.arange(width)
        rows = A.flat_rows(jnp.minimum(indices, examples - 1))
        real = jnp.repeat(indices < examples, outputs)
        return total + jnp.sum(jnp.where(real[:, None], rows**2, 0), axis=0), None

    return jax.lax.scan(add, jnp.zeros(A.size, A.dtype), jnp.arange(0, examples, width))[0]


@partial(jax.jit, static_argnames=("rank", "signs"))
def _parts(
    A: Operator, key: jax.Array, rank: int, signs: int
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The low-rank part (n,), z * RARz for every z (signs, n), and what rounding may do (n,)."""
    test_key, sign_key = jax.random.split(key)
    sketch = A.flat_block(jax.random.normal(test_key, (rank, A.size), A.dtype))
    Q = krylov.orthonormalise(sketch, jnp.zeros((0, A.size), A.dtype))

    def outside(V: jax.Array) -> jax.Array:
        return V - krylov.dot(krylov.dot(V, Q.T), Q)

    z = jax.random.rademacher(sign_key, (signs, A.size), A.dtype)
    AQ, ARz = jnp.split(A.flat_block(jnp.concatenate([Q, outside(z)])), [rank])
    inner = krylov.dot(Q, AQ.T)
    low_rank = Q * (2 * AQ - krylov.dot((inner + inner.T) / 2, Q))
    rounding = _ROUNDING * jnp.finfo(A.dtype).eps * jnp.sum(jnp.abs(low_rank), axis=0)
    return jnp.sum(low_rank, axis=0), z * outside(ARz), rounding
