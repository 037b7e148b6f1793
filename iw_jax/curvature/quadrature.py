"""Quadrature rules from T = S'AS: nodes, weights, and bounds from them.

The rules live in float64 on the host (NumPy) where T is concrete, and in the widest JAX type where
it is traced, so that the same lines work under `jit`.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import trees
from iw_jax.trees import namespace

Array = Any

# Below this part of the largest Ritz value a Ritz value is 0 as far as float64 can tell.
_SINGULAR = 1e-12

# The completed corner of the Radau matrix stays below the largest Ritz value over this.
_SMALL = 1e-8


@trees.record
class Quadrature:
    """tr f(A) ≈ Σ_j f(nodes_j) (head_j + mean over probes of probes_j).

    Attributes:
      nodes: (k,), Ritz values.
      head: (k,), weights of tr Q'f(A)Q for the deflated directions Q; they sum to their number.
      tail: (k,), weights of the trace of f(T) over the other directions of the space.
      probes: (P, k), weights of z'f(A)z for each random probe; they sum to |z|².
    """

    nodes: Array
    head: Array
    tail: Array
    probes: Array


def widened(*arrays: Any) -> list[Array]:
    """Arrays in float64 on the host, or the widest JAX type where one is traced."""
    xp = namespace(*arrays)
    dtype = np.float64 if xp is np else jnp.result_type(float)
    return [xp.asarray(x).astype(dtype) for x in arrays]


def after(x: Array, done: Array) -> Array:
    """x, not to be used before `done` is computed.

    Eigensolvers that a program might run side by side have been seen to wait for each other for
    ever (jaxlib 0.10.2 on two cores); the ones here stand in line.
    """
    if namespace(x, done) is np:
        return x
    return jax.lax.optimization_barrier((x, done))[0]


def gauss(matrix: Array, probes: Array, present: Array, head: int) -> tuple[Quadrature, Array]:
    """The block Gauss rule on the whole space: z'f(A)z ≈ p'f(T)p for z = S'p.

    An upper bound for f = log(1 + cx) and cx/(1 + cx) with A positive semi-definite: both are
    operator concave, so that S f(A) S' <= f(S A S') (Jensen).

    Args:
      matrix: T, (k, k).
      probes: (P, k), coordinates p of each probe in the basis.
      present: (k,), 1 for directions of the basis, 0 for rows that are empty.
      head: the first so many rows of the basis are the deflated directions Q.

    Returns:
      The rule, and the eigenvectors of T as columns, (k, k).
    """
    matrix, probes, present = widened(matrix, probes, present)
    return _rule(matrix, probes, present, head)


def overlap(vectors: Array, head: int) -> Array:
    """W, (k, k), with |f(T) on the rows that are not in Q|² = f'W f, in the Frobenius norm.

    Args:
      vectors: (k, k), eigenvectors of T as columns; f are the values at its eigenvalues.
      head: the first so many rows of the basis are the deflated directions Q.
    """
    tail = vectors[head:]
    return (tail.T @ tail) ** 2


def gauss_radau(
    matrix: Array,
    probes: Array,
    present: Array,
    head: int,
    *,
    eigen: tuple[Array, Array],
    residual_gram: Array,
    owners: Array,
    resolution: float,
) -> Quadrature:
    """The block Gauss-Radau rule with nodes at about 0, for a positive semi-definite A.

    Extends T by the directions R of the residuals, A S' = S'T + R'C. Their own corner of A is not
    known, but it is at least C T^-1 C', else A were not positive semi-definite. With that corner
    the extended matrix is a lower bound of A (the Nyström approximation A S'T^-1 S A), and as
    log(1 + cx) and cx/(1 + cx) are operator monotone, the rule is a lower bound of z'f(A)z.

    C (T + M)^-1 C' in its place is a lower bound for any positive M. Here M is what T may be off by
    rounding, along each of its eigenvectors in proportion to what A does there: random directions
    of a large network see almost none of it, and eps of the largest eigenvalue would be more than
    all they see. Nodes then lie below 0 by M, where f must go on; at 0 it would have a kink, and
    lose what makes the rule exact for the trace. (For an indefinite A no bound holds; |θ| in place
    of θ keeps the corner of the order of A.)

    Args:
      matrix: T, (k, k).
      probes: (P, k), coordinates of each probe in the basis.
      present: (k,), 1 for directions of the basis, 0 for rows that are empty.
      head: the first so many rows of the basis are the deflated directions Q.
      eigen: eigenvalues (k,) and eigenvectors (k, k) of T.
      residual_gram: (r, r), inner products of the residuals.
      owners: (r,), the rows of the basis whose products left them.
      resolution: of T, as a part of its largest eigenvalue: eps of the type it was computed in.

    References:
      Golub & Meurant, Matrices, Moments and Quadrature, Sec. 6.2 (one vector).
    """
    matrix, probes, present, residual_gram = widened(matrix, probes, present, residual_gram)
    xp = namespace(matrix)
    theta, vectors = eigen
    largest = xp.max(xp.abs(theta))
    rounding = resolution * (xp.abs(xp.diagonal(matrix)) @ vectors**2) + _SINGULAR * largest
    gaps = xp.abs(theta) + xp.where(rounding > 0, rounding, 1)  # 0 for a zero operator only
    squares, directions = xp.linalg.eigh(after(residual_gram, theta))
    root = directions * xp.sqrt(xp.maximum(squares, 0))  # residual_gram = root root'
    couplings = vectors[owners].T @ root  # C' in the eigenbasis of T: (k, r)
    corner = couplings.T @ (couplings / gaps[:, None])
    # The corner is at most that of A itself. Only where rounding made T singular can it be so large
    # that it would cost the eigensolver its accuracy.
    values, axes = xp.linalg.eigh(corner)
    corner = (axes * xp.minimum(values, largest / _SMALL)) @ axes.T
    sides = vectors @ couplings
    extended = xp.concatenate(
        [xp.concatenate([matrix, sides], 1), xp.concatenate([sides.T, corner], 1)]
    )
    none = xp.zeros((probes.shape[0], root.shape[0]))
    return _rule(extended, xp.concatenate([probes, none], 1), present, head)[0]


def _rule(matrix: Array, probes: Array, present: Array, head: int) -> tuple[Quadrature, Array]:
    nodes, vectors = namespace(matrix).linalg.eigh(matrix)
    squares, k = vectors**2, len(present)
    inside, outside = present[:head] @ squares[:head], present[head:] @ squares[head:k]
    return Quadrature(nodes, inside, outside, (probes @ vectors) ** 2), vectors
