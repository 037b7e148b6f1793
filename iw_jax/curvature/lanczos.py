"""Lanczos tridiagonalisation with full reorthogonalisation, many starting vectors in lockstep."""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from iw_jax import trees


@trees.record
class Tridiagonal:
    """Coefficients of T = Q'AQ, one symmetric tridiagonal matrix for each starting vector.

    Attributes:
      alphas: (P, k), the diagonal.
      betas: (P, k), the couplings b_1 .. b_k; the last one couples T to what was not explored
        (Gauss-Radau needs it). 0 from where the Krylov space is exhausted: T is exact then.
    """

    alphas: jax.Array
    betas: jax.Array


def tridiagonalise(
    product: Callable[[jax.Array], jax.Array], starts: jax.Array, depth: int
) -> Tridiagonal:
    """k steps of Lanczos from each of P starting vectors, with one block product a step.

    Two Gram-Schmidt passes against the whole basis keep it orthonormal to rounding: without them
    float32 loses orthogonality within some tens of steps and Ritz values appear twice. Pure, under
    `jit` and `vmap`. Memory: the basis, P k n numbers.

    Args:
      product: (P, n) -> (P, n), A times each row.
      starts: (P, n), starting vectors of length 1.
      depth: k, at most n.

    Returns:
      Coefficients of the type of `starts`. NaN in a product shows up in `alphas`.

    References:
      Golub & Meurant, Matrices, Moments and Quadrature, ch. 4.
    """
    probes, size = starts.shape
    eps = jnp.finfo(starts.dtype).eps

    def step(carry, j):
        basis, vector, previous, beta, largest = carry
        basis = basis.at[:, j].set(vector)
        u = product(vector)
        alpha = _dot("pn,pn->p", vector, u)
        u = u - alpha[:, None] * vector - beta[:, None] * previous
        for _ in range(2):  # rows of the basis not yet filled are zero and take nothing off
            u = u - _dot("pk,pkn->pn", _dot("pkn,pn->pk", basis, u), basis)
        beta = jnp.sqrt(_dot("pn,pn->p", u, u))
        largest = jnp.maximum(largest, jnp.maximum(jnp.abs(alpha), beta))
        # Not larger than rounding of one coefficient: the space is exhausted. The next vector is
        # 0, so every later coefficient is 0 too. A looser threshold would call a spectrum of many
        # decades exhausted where it is not, and close the bracket wrongly.
        going_on = beta > eps * largest
        beta = jnp.where(going_on, beta, 0)
        u = jnp.where(going_on[:, None], u / jnp.where(going_on, beta, 1)[:, None], 0)
        return (basis, u, vector, beta, largest), (alpha, beta)

    zeros = jnp.zeros(probes, starts.dtype)
    basis = jnp.zeros((probes, depth, size), starts.dtype)
    first = (basis, starts, jnp.zeros_like(starts), zeros, zeros)
    _, (alphas, betas) = jax.lax.scan(step, first, jnp.arange(depth))
    return Tridiagonal(alphas.T, betas.T)


def _dot(subscripts: str, *operands: jax.Array) -> jax.Array:
    return jnp.einsum(subscripts, *operands, precision=jax.lax.Precision.HIGHEST)
