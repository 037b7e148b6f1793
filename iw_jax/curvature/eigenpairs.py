"""The largest eigenvalues of an operator and their eigenvectors, with error bounds."""

from typing import Any

import jax
import numpy as np

from iw_jax import checks, trees
from iw_jax.curvature import dense, growing, krylov, quadrature
from iw_jax.curvature.growing import Plan
from iw_jax.curvature.operators import Operator
from iw_jax.estimates import Estimate
from iw_jax.trees import PyTree

# `converged` means a residual of at most this part of the largest eigenvalue.
_CONVERGED = 1e-3

# Ritz values are rounded by a few eps of the largest.
_ROUNDING = 10.0


@trees.record
class Eigenpairs:
    """The k largest eigenvalues and their eigenvectors.

    Attributes:
      values: Estimate (k,), descending; nats per squared weight. No sampling error. `value` is the
        Ritz value, which never exceeds the eigenvalue of its rank; the bracket reaches up from it
        by the residual |A v - θ v|, within which some eigenvalue lies. `converged` says that the
        residual is at most 1e-3 of the largest eigenvalue.
      vectors: a tree like the weights with a leading axis k; orthonormal.
      residuals: (k,), |A v - θ v|.
    """

    values: Estimate
    vectors: PyTree
    residuals: Any


def top_eigenpairs(
    A: Operator, num_pairs: int, *, key: jax.Array, num_matvecs: int = 100
) -> Eigenpairs:
    """The algebraically largest eigenpairs, by block Krylov and Rayleigh-Ritz.

    The block is num_pairs wide, so that an eigenvalue may occur that often. One whose eigenvector
    the random start hardly touches can be passed over; every residual bound still holds for the
    pair it is given with.

    Args:
      A: a symmetric operator on n weights.
      num_pairs: k, at most n.
      key: a typed random key.
      num_matvecs: products allowed, at least 2k (or n); the basis takes as many vectors.

    Raises:
      TypeError: for a key that is no typed random key.
      ValueError: for counts out of range, products that are not finite.

    References:
      Saad, Numerical Methods for Large Eigenvalue Problems, Sec. 6.3 and Cor. 3.4.
    """
    checks.key("key", key)
    checks.at_least("num_pairs", num_pairs, 1)
    if num_pairs > A.size:
        raise ValueError(f"num_pairs must be at most the {A.size} weights, got {num_pairs}")
    checks.at_least("num_matvecs", num_matvecs, min(2 * num_pairs, A.size))
    block = A.size if num_matvecs >= A.size else num_pairs
    plan = Plan(block, max(min(num_matvecs, A.size) // block, 1), 0, 0)
    state = growing.init(A, key=key, plan=plan, policy="abs")
    while not state.ended:
        state = growing.step(A, state)

    space = state.space
    outside = krylov.project_out(state.residuals, space, state.spent)
    matrix, gram, unit = quadrature.widened(space.matrix, *krylov.scaled_gram(outside))
    dense.require_finite(matrix)
    xp = trees.namespace(matrix)
    theta, rotation = xp.linalg.eigh(matrix)
    # A direction that was never filled is no eigenvector, though T has a 0 for it.
    filled = xp.asarray(krylov.present(space))
    real = (rotation**2 * filled[:, None]).sum(0) > 0.5
    order = xp.argsort(xp.where(real, -theta, np.inf))[:num_pairs]
    theta, rotation = theta[order], rotation[:, order]
    last = rotation[-plan.block :]
    residuals = unit * xp.sqrt(xp.maximum(xp.einsum("ik,ij,jk->k", last, gram, last), 0))
    rounding = _ROUNDING * float(np.finfo(A.dtype).eps) * xp.max(xp.abs(theta))
    converged = residuals <= _CONVERGED * xp.max(xp.abs(theta))
    zero = 0 * theta
    values = Estimate(
        theta,
        zero,
        zero + np.inf,
        theta - rounding,
        theta + residuals + rounding,
        plan.cost,
        converged,
    )
    return Eigenpairs(values, A.unflatten(krylov.combine(rotation.T, space)), residuals)
