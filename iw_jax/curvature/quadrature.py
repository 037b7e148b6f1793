"""Gauss and Gauss-Radau rules from Lanczos coefficients: nodes, weights, and bounds from them.

The rules live in float64 on the host (NumPy) where the coefficients are concrete, and in the
widest JAX type where they are traced, so that the same lines work under `jit`.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from iw_jax import trees
from iw_jax.curvature.lanczos import Tridiagonal

Array = Any

# Below this part of the largest Ritz value a Ritz value is 0 as far as float64 can tell.
_SINGULAR = 1e-12

# The last diagonal entry of the Radau matrix stays below the largest Ritz value over this.
_SMALL = 1e-8


@trees.record
class Quadrature:
    """v'f(A)v ≈ Σ_j weights_j f(nodes_j), a rule for each starting vector v.

    Attributes:
      nodes: (..., k), Ritz values.
      weights: (..., k), summing to |v|².
    """

    nodes: Array
    weights: Array

    def integrate(self, f: Callable[[Array], Array]) -> Array:
        """Σ_j weights_j f(nodes_j), (...,); f maps arrays elementwise."""
        return (self.weights * f(self.nodes)).sum(-1)


def namespace(*arrays: Any) -> Any:
    """NumPy for concrete arrays (float64 whatever JAX allows), jax.numpy for traced ones."""
    return np if trees.is_concrete(arrays) else jnp


def gauss(coefficients: Tridiagonal) -> Quadrature:
    """The Gauss rule: exact for polynomials of degree < 2k, for unit starting vectors.

    An upper bound on v'f(A)v for f = log(1 + cx) and cx/(1 + cx), whose even derivatives are
    negative.

    Args:
      coefficients: of Lanczos, (..., k).

    Returns:
      Rules (..., k).
    """
    alphas, betas, _ = _widened(coefficients)
    return _rule(alphas, betas)


def gauss_radau(coefficients: Tridiagonal) -> Quadrature:
    """The Gauss-Radau rule with a node at 0, for a positive semi-definite A.

    A lower bound on v'f(A)v for f = log(1 + cx) and cx/(1 + cx), whose odd derivatives are
    positive. Where T is numerically singular the node moves to -1e-12 times the largest Ritz value,
    still below the spectrum.

    Args:
      coefficients: of Lanczos, (..., k).

    Returns:
      Rules (..., k + 1).

    References:
      Golub & Meurant, Matrices, Moments and Quadrature, Sec. 6.2; Bai & Golub 1996.
    """
    alphas, betas, exhausted = _widened(coefficients)
    xp = namespace(alphas)
    theta, vectors = xp.linalg.eigh(_matrix(alphas, betas))
    largest = xp.max(xp.abs(theta), -1, keepdims=True)
    floor = _SINGULAR * largest
    node = xp.where(theta[..., :1] < floor, -floor, 0)
    # d = node + b_k² e_k'(T - node)^-1 e_k. The maximum keeps rounding below the node harmless.
    gaps = xp.maximum(theta - node, xp.where(floor > 0, floor, 1))
    last = betas[..., -1:]
    d = node[..., 0] + xp.sum((last * vectors[..., -1, :]) ** 2 / gaps, -1)
    # Lanczos has d <= a_{k+1} <= λ_max. Only where rounding made T singular can d be so large that
    # it would cost the eigensolver its accuracy.
    d = xp.minimum(d, (largest + last)[..., 0] / _SMALL)
    d = xp.where(exhausted, alphas[..., 0], d)
    return _rule(xp.concatenate([alphas, d[..., None]], -1), xp.concatenate([betas, 0 * last], -1))


def leading(coefficients: Tridiagonal, depth: int) -> Tridiagonal:
    """What Lanczos would have returned after `depth` of its steps."""
    return Tridiagonal(coefficients.alphas[..., :depth], coefficients.betas[..., :depth])


def _widened(coefficients: Tridiagonal) -> tuple[Array, Array, Array]:
    """Coefficients in the widest type, and whether the Krylov space was exhausted, (...,).

    Diagonal entries past a breakdown carry no weight; a_1 there (any value inside the spectrum
    would do) keeps f from being asked at 0, where it may not be defined.
    """
    xp = namespace(coefficients)
    dtype = np.float64 if xp is np else jnp.result_type(float)
    alphas, betas = (xp.asarray(x).astype(dtype) for x in (coefficients.alphas, coefficients.betas))
    coupled = xp.concatenate([xp.ones_like(betas[..., :1]), betas[..., :-1]], -1) > 0
    alphas = xp.where(xp.cumprod(coupled, -1) > 0, alphas, alphas[..., :1])
    return alphas, betas, betas[..., -1] == 0


def _matrix(alphas: Array, betas: Array) -> Array:
    xp, k = namespace(alphas), alphas.shape[-1]
    upper = xp.eye(k, k=1) * betas[..., :, None]
    return xp.eye(k) * alphas[..., :, None] + upper + xp.swapaxes(upper, -1, -2)


def _rule(alphas: Array, betas: Array) -> Quadrature:
    nodes, vectors = namespace(alphas).linalg.eigh(_matrix(alphas, betas))
    return Quadrature(nodes, vectors[..., 0, :] ** 2)
