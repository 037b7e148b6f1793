"""A growing subspace of directions whose products with A are known: block Krylov, many strands.

Every product that is spent enters one orthonormal basis S and one matrix T = S'AS, wherever its
vector came from: a first random block and its powers, probes that were drawn later and theirs. All
of them then serve every quantity (Rayleigh-Ritz on the whole space), and a rule from T is never
worse than Lanczos from one vector alone, whose Krylov space is part of S.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iw_jax import trees

# After two passes a direction has length 1; what is still far shorter is rounding.
_RESOLVED = 0.1


@trees.record
class Subspace:
    """Orthonormal rows S and T = S'AS; preallocated, rows not yet filled are zero.

    Attributes:
      basis: (rows, n).
      matrix: T, (rows, rows).
      filled: how many rows are in use, int32. Some of these may be zero too: directions that
        turned out to lie in the space already.
    """

    basis: jax.Array
    matrix: jax.Array
    filled: jax.Array


def dot(a: jax.Array, b: jax.Array) -> jax.Array:
    """The matrix product in full precision, which accelerators do not give by default."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def empty(rows: int, size: int, dtype: jnp.dtype) -> Subspace:
    """Room for `rows` directions among `size` weights: rows * size numbers."""
    zeros = jnp.zeros((rows, size), dtype), jnp.zeros((rows, rows), dtype)
    return Subspace(*zeros, jnp.zeros((), jnp.int32))


def advance(
    product: Callable[[jax.Array], jax.Array],
    space: Subspace,
    block: jax.Array,
    negligible: jax.Array | float,
) -> tuple[Subspace, jax.Array]:
    """Takes the span of a block of vectors into the space, at one block product.

    Args:
      product: (b, n) -> (b, n), A times each row.
      space: what is known so far; its basis is donated where it is concrete.
      block: (b, n), any vectors: random ones, or the residual of the step before.
      negligible: vectors no longer than this count as 0.

    Returns:
      The larger space, and the residual (b, n) of the products, orthogonal to it: zero where the
      Krylov space ended. It is the block to go on with, to a tolerance of `rounding(space)`.
      NaN in a product shows up in the matrix.
    """
    block = orthonormalise(block, space.basis, negligible)
    return _absorb(space, block, _not_differentiable(product(block)))


@jax.custom_jvp
def _not_differentiable(products: jax.Array) -> jax.Array:
    """The products; a derivative through the eigenvectors of T would be NaN or worthless."""
    return products


@_not_differentiable.defjvp
def _refuse(*_: Any) -> Any:
    raise TypeError(
        "a Krylov space has no derivative; differentiate `logdet` (method 'krylov', 'slq', 'dense' "
        "or 'gram'), whose gradient is its own"
    )


def rounding(space: Subspace) -> jax.Array:
    """Residuals no longer than this are rounding: one eps of the largest coefficient.

    A looser tolerance would call a spectrum of many decades exhausted where it is not.
    """
    return jnp.finfo(space.matrix.dtype).eps * jnp.max(jnp.abs(space.matrix))


@jax.jit
def orthonormalise(
    block: jax.Array, basis: jax.Array, negligible: jax.Array | float = 0.0
) -> jax.Array:
    """An orthonormal basis of the block, orthogonal to `basis`; zero rows where it has less rank.

    Two Gram-Schmidt passes against the whole basis keep it orthonormal to rounding: without them
    float32 loses orthogonality within some tens of steps and Ritz values appear twice. Within the
    block the Gram matrix is whitened, after each pass and once more, which needs no QR of a tall
    matrix and resolves directions down to about 10 b eps of the longest (shifted CholeskyQR: Fukaya
    et al. 2020, arXiv:1809.11085).

    Args:
      block: (b, n).
      basis: (rows, n), orthonormal or zero rows.
      negligible: rows of the block no longer than this count as 0.
    """
    lengths = _lengths(block)
    block = jnp.where(lengths > negligible, block / jnp.where(lengths > 0, lengths, 1), 0)
    block, _ = _whiten(block - dot(_components(basis, block), basis))
    outside = block - dot(_components(basis, block), basis)
    # What the second pass takes away was rounding of what lies in the space.
    block, _ = _whiten(jnp.where(_lengths(outside) > _RESOLVED * _lengths(block), outside, 0))
    block, resolved = _whiten(block)
    return jnp.where(resolved[:, None], block, 0)


def _lengths(block: jax.Array) -> jax.Array:
    """Norms of the rows, (b, 1), by their largest entries: squares may leave the floats."""
    unit = jnp.max(jnp.abs(block), axis=1, keepdims=True)
    return unit * jnp.sqrt(jnp.sum((block / jnp.where(unit > 0, unit, 1)) ** 2, 1, keepdims=True))


def _whiten(block: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Λ^-½ U' block for its Gram matrix U Λ U', and where Λ is about as large as its largest."""
    values, vectors = jnp.linalg.eigh(gram(block))
    largest = values[-1]
    shift = 10 * len(values) * jnp.finfo(block.dtype).eps * largest
    scale = jnp.where(largest > 0, jnp.maximum(values, shift), 1)
    return dot(vectors.T, block) / jnp.sqrt(scale)[:, None], values > _RESOLVED * largest


@partial(jax.jit, donate_argnums=0)
def _absorb(space: Subspace, block: jax.Array, products: jax.Array) -> tuple[Subspace, jax.Array]:
    """Enters an orthonormal block and its products; two Gram-Schmidt passes leave the residual."""
    first, width = space.filled, len(block)
    zero = jnp.zeros_like(first)
    basis = jax.lax.dynamic_update_slice(space.basis, block, (first, zero))
    columns = dot(basis, products.T)
    residual = products - dot(columns.T, basis)
    again = dot(basis, residual.T)
    residual, columns = residual - dot(again.T, basis), columns + again
    inner = jax.lax.dynamic_slice(columns, (first, zero), (width, width))
    columns = jax.lax.dynamic_update_slice(columns, (inner + inner.T) / 2, (first, zero))
    matrix = jax.lax.dynamic_update_slice(space.matrix, columns, (zero, first))
    matrix = jax.lax.dynamic_update_slice(matrix, columns.T, (first, zero))
    return Subspace(basis, matrix, first + width), residual


@jax.jit
def coordinates(space: Subspace, vectors: jax.Array) -> jax.Array:
    """Components of vectors (m, n) along the basis, (m, rows)."""
    return _components(space.basis, vectors)


@jax.jit
def project_out(vectors: jax.Array, space: Subspace, rows: jax.Array | int) -> jax.Array:
    """Vectors (m, n) less their components along the first so many rows of the basis."""
    among = jnp.arange(len(space.basis)) < rows  # a slice would copy a large basis
    for _ in range(2):
        components = jnp.where(among, _components(space.basis, vectors), 0)
        vectors = vectors - dot(components, space.basis)
    return vectors


@jax.jit
def gram(vectors: jax.Array) -> jax.Array:
    """Inner products of the rows (m, n), (m, m).

    Rows of zeros make them four at least: with two or three XLA:CPU may take one long sum, which in
    float32 is off by 4e-3 of the whole at n = 4e6 (jaxlib 0.10.2).
    """
    rows = len(vectors)
    padded = jnp.pad(vectors, ((0, max(4 - rows, 0)), (0, 0)))
    return dot(padded, padded.T)[:rows, :rows]


@jax.jit
def scaled_gram(vectors: jax.Array) -> tuple[jax.Array, jax.Array]:
    """`gram` of vectors/unit, and the unit, their largest entry: squares may leave the floats."""
    unit = jnp.max(jnp.abs(vectors), initial=0)
    unit = jnp.where(unit > 0, unit, 1)
    return gram(vectors / unit), unit


@jax.jit
def present(space: Subspace) -> jax.Array:
    """1 for directions of the space, 0 for rows that are empty, (rows,)."""
    return jnp.round(jnp.einsum("ij,ij->i", space.basis, space.basis))


@jax.jit
def combine(coefficients: jax.Array, space: Subspace) -> jax.Array:
    """Vectors (m, n) from their coordinates (m, rows)."""
    return dot(coefficients.astype(space.basis.dtype), space.basis)


def _components(basis: jax.Array, vectors: jax.Array) -> jax.Array:
    """Inner products of vectors (m, n) with the rows of a basis, (m, rows).

    XLA:CPU copies a right factor that is to be transposed. The basis is the largest array there is,
    so it stands on the left; the barrier keeps XLA from changing sides.
    """
    return jax.lax.optimization_barrier(dot(basis, vectors.T)).T
