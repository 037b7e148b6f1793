"""log det(I + cA) with a Nyström sketch as preconditioner: exact head, probes for a flat rest."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.curvature import dense, growing, krylov, measure
from iw_jax.curvature.operators import Operator, blocked, structure_of
from iw_jax.estimates import Estimate
from iw_jax.trees import namespace

# Share of the products for the sketch, and the depth of the probes of what it leaves.
_SKETCH, _DEPTH = 0.5, 20

# Steps of subspace iteration for the norm of what it leaves, vectors, and products in all.
_STEPS, _VECTORS = 6, 4
RESIDUAL_PRODUCTS = _STEPS * _VECTORS

_INDEFINITE = (
    "A must be positive semi-definite for method 'nystrom', got negative curvature; measure the "
    "ggn or fisher, or take method 'krylov' with policy 'clip' or 'abs'"
)


def nystrom_logdet(A: Operator, *, c: Any, key: jax.Array, num_matvecs: int = 240) -> Estimate:
    """log det(I + cA) = log det(I + cÂ) + tr log M, for A positive semi-definite.

    Â = AΩ (Ω'AΩ)^-1 Ω'A <= A is the Nyström approximation from half of the products, M =
    (I + cÂ)^-½ (I + cA) (I + cÂ)^-½ >= I is flat where the sketch is good, and its log-determinant
    is left to probes. The identity is exact for any sketch, so the bracket stays rigorous. The
    probes serve this one c only; `spectral_measure` serves all, and takes fewer products.

    Args:
      A: a positive semi-definite operator on n weights.
      c: positive, a scalar; λ²/β.
      key: a typed random key.
      num_matvecs: products allowed, at least 16.

    Returns:
      Estimate, scalar; nats.

    Raises:
      ValueError: unless c is one positive finite number, for a budget below 16, products that are
        not finite, or negative curvature (traced: `converged` is False).
      TypeError: for a key that is no typed random key.

    References:
      Wenger et al. 2022, arXiv:2107.00243; Cortinovis & Toni 2026, arXiv:2601.05778.
    """
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 16)
    checks.positive("c", c)
    if np.ndim(c) != 0:
        raise ValueError(f"c must be a scalar for method 'nystrom', got shape {np.shape(c)}")
    sketching, probing = jax.random.split(key)
    rank = min(int(_SKETCH * num_matvecs), A.size)
    vectors, values = sketch(A, sketching, rank)
    depth = min(_DEPTH, (num_matvecs - rank) // 2)
    plan = growing.Plan(1, 0, (num_matvecs - rank) // depth, depth)
    flat = structure_of(jax.ShapeDtypeStruct((A.size,), A.dtype))
    rest = blocked(_excess, A, vectors, values, jnp.asarray(c, A.dtype), structure=flat)
    # M - I is positive semi-definite up to rounding of the identity, which is no fault of A.
    tail = growing.spectral_measure(rest, key=probing, plan=plan, policy="clip")
    xp = namespace(values, c, tail)
    c, values = xp.asarray(c, dtype=float), xp.asarray(values).astype(float)
    scale = 1 + xp.concatenate([c * values, tail.gauss.nodes])
    tail = trees.replace(tail, policy="error", tolerance=measure.spectral_tolerance(scale, A.dtype))
    if xp is np and tail.smallest < -tail.tolerance:
        raise ValueError(_INDEFINITE)
    estimate = tail.logdet(1.0)
    head = xp.log1p(c * values).sum()
    return trees.replace(
        estimate,
        value=head + estimate.value,
        bracket_lower=head + estimate.bracket_lower,
        bracket_upper=head + estimate.bracket_upper,
        cost=rank + plan.cost,
        converged=(
            (estimate.bracket_upper - estimate.bracket_lower) / 2
            <= measure.OPEN * xp.abs(head + estimate.value)
        )
        & (tail.smallest >= -tail.tolerance),
    )


def _excess(
    V: jax.Array, A: Operator, vectors: jax.Array, values: jax.Array, c: jax.Array
) -> jax.Array:
    """(M - I) v for each row: with Π = (I + cÂ)^-½, Π (I + cA) Π v - v."""
    shrink = jax.lax.rsqrt(1 + c * values) - 1

    def root(V: jax.Array) -> jax.Array:
        return V + krylov.dot(shrink * krylov.dot(V, vectors.T), vectors)

    inner = root(V)
    return root(inner + c * A.flat_block(inner)) - V


def sketch(A: Operator, key: jax.Array, rank: int) -> tuple[jax.Array, jax.Array]:
    """The Nyström approximation Â = AΩ (Ω'AΩ)^-1 Ω'A <= A of a positive semi-definite operator.

    A shift ν keeps the Cholesky factor of Ω'AΩ real, and is taken off again.

    Args:
      A: a positive semi-definite operator on n weights.
      key: a typed random key.
      rank: products, at most n; Â = A where it is n.

    Returns:
      Eigenvectors (rank, n), orthonormal, and eigenvalues (rank,), descending.

    Raises:
      ValueError: for products that are not finite, or negative curvature.

    References:
      Tropp, Yurtsever, Udell & Cevher 2017, arXiv:1706.05736, Alg. 3.
    """
    omega = jnp.linalg.qr(jax.random.normal(key, (A.size, rank), A.dtype))[0].T
    products = A.flat_block(omega)
    require_room(dense.require_finite(products))
    eps, tiny = jnp.finfo(A.dtype).eps, jnp.finfo(A.dtype).tiny
    shift = jnp.maximum(math.sqrt(A.size) * eps * jnp.linalg.norm(products), math.sqrt(tiny))
    products = products + shift * omega
    core = krylov.dot(products, omega.T)
    factor = jnp.linalg.cholesky((core + core.T) / 2)
    if namespace(factor) is np and not np.all(np.isfinite(factor)):
        raise ValueError(_INDEFINITE)
    half = jax.scipy.linalg.solve_triangular(factor, products, lower=True)  # Â + ν = half'half
    left, singular, _ = jnp.linalg.svd(half.T, full_matrices=False)
    return left.T, jnp.maximum(singular**2 - shift, 0)


def require_room(products: jax.Array) -> None:
    """Raises where products are so small that the shift, the root of the smallest number, is not.

    Traced ones pass.
    """
    if namespace(products) is not np:
        return
    largest, least = float(np.abs(products).max()), math.sqrt(float(jnp.finfo(products.dtype).tiny))
    if 0 < largest < 1e4 * least:
        raise ValueError(
            f"products A v must be larger than {1e4 * least:.0e} or 0 in {products.dtype}, got "
            f"{largest:.1e}: their squares leave its range; measure 2.0**40 * A with c / 2.0**40"
        )


def residual_norm(A: Operator, key: jax.Array, vectors: jax.Array, values: jax.Array) -> float:
    """About the largest eigenvalue of A - Â, for `sketch`'s Â; `RESIDUAL_PRODUCTS` products.

    Subspace iteration sees it from below, and twice what it sees is returned.
    """
    block = jax.random.normal(key, (_VECTORS, A.size), A.dtype)
    nothing = jnp.zeros((0, A.size), A.dtype)
    for _ in range(_STEPS):
        block = krylov.orthonormalise(block, nothing)
        inside = krylov.dot(block, vectors.T)
        products = A.flat_block(block) - krylov.dot(inside * values, vectors)
        seen = jnp.linalg.norm(krylov.dot(products, block.T), 2)
        block = products
    return 2 * float(seen)
