"""Stochastic Lanczos quadrature: the spectral measure from a fixed number of products."""

import math
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from iw_jax import checks
from iw_jax.curvature import dense, measure, quadrature
from iw_jax.curvature.lanczos import Tridiagonal, tridiagonalise
from iw_jax.curvature.operators import Operator
from iw_jax.estimates import Estimate

# An n x n matrix in float64 up to here takes at most half a gigabyte.
_DENSE_LIMIT = 8192


def spectral_measure(
    A: Operator,
    *,
    key: jax.Array,
    num_matvecs: int = 240,
    num_probes: int | None = None,
    policy: str = "error",
) -> measure.SpectralMeasure:
    """Nodes and weights that give log det(I + cA) and its relatives for every c at once.

    Where n <= num_matvecs (and n <= 8192) the n products of the identity give everything: the
    result is exact. Else every probe, uniform on the sphere |z|² = n over the whole tree, is run
    through Lanczos to depth num_matvecs // num_probes; all advance together, one pass over the
    data a step. Deterministic given the key.

    The default plan: 5 probes at least, since probe values are skewed and Student's t at fewer
    degrees of freedom is wide; 6 of depth 40 at 240 products (at depth 40 the bracket is 1e-4 of
    the value for c λ_max = 1e5, at depth 20 it is 4 %); depth and number both grow like the square
    root beyond, since it is not known beforehand which error is the larger.

    Args:
      A: a symmetric operator on n weights.
      key: a typed random key.
      num_matvecs: products allowed, at least 4.
      num_probes: P, at most num_matvecs / 2; None for the plan above. A number is taken at its
        word: no dense path.
      policy: what negative eigenvalues mean: "error", "clip" or "abs"; see `SpectralMeasure`.

    Raises:
      TypeError: for a key that is no typed random key.
      ValueError: for counts or a policy out of range, products that are not finite, or with policy
        "error" a Ritz value that is negative beyond rounding. Under `jit` the last two cannot
        raise: `Estimate.converged` is False then.

    References:
      Ubaru, Chen & Saad 2017 (SLQ); Bai & Golub 1996 (bracket).
    """
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 4)
    checks.optional_at_least("num_probes", num_probes, 1)
    measure.require_policy(policy)
    if num_probes is None:
        if A.size <= min(num_matvecs, _DENSE_LIMIT):
            return dense.dense_measure(A, policy=policy)
        num_probes = _plan(num_matvecs)
    elif 2 * num_probes > num_matvecs:
        raise ValueError(
            f"num_probes must be at most num_matvecs / 2 = {num_matvecs // 2}, got {num_probes}"
        )
    depth = min(num_matvecs // num_probes, A.size)

    coefficients = _run(A, key, num_probes, depth)
    dense.require_finite(coefficients.alphas)
    gauss = quadrature.gauss(coefficients)
    half = quadrature.leading(coefficients, max(depth // 2, 1))
    xp = quadrature.namespace(gauss)
    return measure.require_sound(
        measure.SpectralMeasure(
            exact=quadrature.Quadrature(xp.zeros(0), xp.zeros(0)),
            gauss=_scaled(gauss, A.size),
            radau=_scaled(quadrature.gauss_radau(coefficients), A.size),
            half=_scaled(quadrature.gauss(half), A.size),
            exhausted=xp.asarray(coefficients.betas)[:, -1] == 0,
            cost=num_probes * depth,
            tolerance=measure.spectral_tolerance(gauss.nodes, A.size, A.dtype),
            size=A.size,
            policy=policy,
        )
    )


def logdet(
    A: Operator, *, c: Any, key: jax.Array, num_matvecs: int = 240, policy: str = "error"
) -> Estimate:
    """log det(I + cA) from products with A.

    Args:
      A: a symmetric operator on n weights.
      c: positive, scalar or array; λ²/β.
      key: a typed random key.
      num_matvecs: products allowed; n of them make the result exact.
      policy: what negative eigenvalues mean: "error", "clip" or "abs"; see `SpectralMeasure`.

    Returns:
      Estimate of the shape of c; nats.

    Raises:
      ValueError: unless every c is positive and finite; and as `spectral_measure`.
      TypeError: for a key that is no typed random key.
    """
    checks.positive("c", c)
    spectrum = spectral_measure(A, key=key, num_matvecs=num_matvecs, policy=policy)
    return spectrum.logdet(c)


def _plan(num_matvecs: int) -> int:
    depth = 40 * math.sqrt(num_matvecs / 240)
    return min(max(5, int(num_matvecs / depth)), num_matvecs // 2)


@partial(jax.jit, static_argnames=("num_probes", "depth"))
def _run(A: Operator, key: jax.Array, num_probes: int, depth: int) -> Tridiagonal:
    z = jax.random.normal(key, (num_probes, A.size), A.dtype)
    starts = z / jnp.linalg.norm(z, axis=1, keepdims=True)
    return tridiagonalise(A.flat_block, starts, depth)


def _scaled(rule: quadrature.Quadrature, squared_norm: int) -> quadrature.Quadrature:
    return quadrature.Quadrature(rule.nodes, squared_norm * rule.weights)
