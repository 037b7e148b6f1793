r"""Sample information: how many nats the weights hold about each training example.

The code of all examples is Q = N(w*, Σ), Σ = β H̃^-1 with H̃ = H + β Λ^-1 and prior covariance Λ.
Without example i, whose gradient is g_i and whose curvature is H_i = Φ_i'Φ_i, the minimum moves by

    Δ_i = (H̃ - H_i)^-1 g_i            where the loss is quadratic from w* to w* + Δ_i
    nats_i = ½ Δ_i' Σ^-1 Δ_i           = KL of the two codes, of equal covariance
    influence_i = (1/2β) g_i' H̃^-1 g_i   as if one example did not bend the loss

By Woodbury everything follows from C + 1 vectors an example, C the size of its outputs: with
R_i = [Φ_i; g_i'] and R_i H̃^-1 R_i' = [U h; h' g_i'H̃^-1g_i],

    Δ_i = H̃^-1 (Φ_i'y + g_i),         y = Φ_i Δ_i = (I - U)^-1 h
    nats_i = (t + |y|²)/2β,   t = g_i'Δ_i = g_i'H̃^-1g_i + h'y

A sketch knows H between two matrices only, and with it R_i (H̃ - H_i)^-1 R_i' = [X y; y' t], X =
(I - U)^-1 - I, between two ends, lo <= hi. That orders X and t, but |y|² not, as X² is not ordered.
Any matrix between them is the middle + ½ D^½ F D^½, D = hi - lo, |F| <= 1, so that

    |y - y_mid| <= r = ½ √(‖X_hi - X_lo‖ (t_hi - t_lo))
    t_lo + max(|y_mid| - r, 0)² <= 2β nats_i <= t_hi + (|y_mid| + r)²
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from iw_jax import checks, trees
from iw_jax.codes.gaussian import IsotropicGaussian, require_isotropic
from iw_jax.curvature import measure
from iw_jax.curvature.curvatures import ggn
from iw_jax.curvature.dense import require_finite, to_dense
from iw_jax.curvature.inverse import SketchedInverse
from iw_jax.curvature.nystrom import RESIDUAL_PRODUCTS, residual_norm, sketch
from iw_jax.curvature.operators import Operator, require_root
from iw_jax.estimates import Estimate
from iw_jax.task import Task, nll, take
from iw_jax.trees import PyTree
from iw_jax.weights import penalised

# Rows of length n held at once.
_ROWS = 512


@trees.record
class SampleInformation:
    """Nats about each example, and what goes with them.

    Attributes:
      nats: (N,), ½ Δ_i' Σ^-1 Δ_i, what leaving out example i moves; 0 for a masked one.
      influence: (N,), (1/2β) g_i' H̃^-1 g_i; never more than `nats`.
      covariance: (N,), ½ [tr((I - U)^-1 - I) + log det(I - U)], what the KL gains where the code
        without example i has its own covariance; to be added to `nats`.
      leverage: (N,), tr U, the effective number of weights that example i takes up; they sum to γ.
      functional: (N,), ½ Δ_i'G Δ_i, G the GGN on other inputs: the nats by which their predictions
        differ without example i, KL(p_w‖p_w-Δ) summed over them, to second order. The bracket is
        what both ends of the sketch give, an estimate of one. None unless asked for.
      gradient_norm: |λ ∇L + β (w - m)/λ| at w*, in units of the prior; nats.
      off_minimum: nats between Q and the code around the minimum that one Newton step from w*
        finds, ½ d'Σ^-1 d; all of the above is about a minimum.
      prior: P.
      beta: price of a nat.
    """

    nats: Estimate
    influence: Estimate
    covariance: Estimate
    leverage: Estimate
    functional: Estimate | None
    gradient_norm: float
    off_minimum: Estimate
    prior: IsotropicGaussian
    beta: Any


def sample_information(
    task: Task,
    params: PyTree,
    prior: IsotropicGaussian,
    *,
    beta: float = 1.0,
    key: jax.Array,
    num_matvecs: int = 480,
    batch_size: int | None = None,
    curvature: Callable[..., Operator] = ggn,
    tolerance: float = 0.1,
    on: Task | None = None,
) -> SampleInformation:
    """Nats that a Gaussian code around w* holds about every training example.

    A Nyström sketch Ĥ of H, from `num_matvecs` products, stands for it: Ĥ <= H <= Ĥ + ρ, with ρ the
    norm of what the sketch leaves (estimated, from 24 more). `value` is what the larger end gives;
    the brackets hold for every H between both. They reach to inf where the sketch knows an example
    so little that it seems to bend the loss more than all do, and are closed with as many products
    as weights. `cost` counts products; the C + 1 gradients of each example come on top.

    Exact for a quadratic loss. A mislabelled example that the network fits takes many nats. Of a
    network the GGN neglects what its second derivatives add where residuals are left, as they are
    beside wrong labels: it finds the order of examples, and too few nats, by a half to a few times.
    With the Hessian only H_i is that of the GGN, and small motions are met; inf stands for a
    minimum that would not be one without the example.

    Args:
      task: the task; an example of weight v counts v-fold.
      params: w*, weights trained to a minimum of L + β/2 (w - m)'Λ^-1 (w - m).
      prior: P, with one scale or one a layer, centred at 0 or at its mean.
      beta: price of a nat; positive.
      key: a typed random key, for the sketch.
      num_matvecs: curvature products for the sketch; all are held at once.
      batch_size: examples a chunk of a curvature product; None for all at once.
      curvature: H of all examples, also in Σ: `ggn`, or `hessian`, which may be negative and takes
        as many products as there are weights.
      tolerance: nats that the code may be away from its minimum before a warning; inf for none.
      on: a task whose inputs `functional` is about, held-out ones, say; its targets do not matter.
        Takes two products with its curvature for every example, one where the sketch is exact.

    Warns:
      UserWarning: where the lower end of `off_minimum` is beyond `tolerance`.

    Raises:
      TypeError: for a prior that is no `IsotropicGaussian`, or a key that is no typed random key.
      ValueError: unless beta is positive and finite; where prior, parameters, network and data do
        not fit, or the gradient is not finite; for a Hessian with too few products, or where H̃ is
        not positive definite.

    References:
      Harutyunyan et al., arXiv:2101.06640 (smooth unique information); Cook 1977 for linear
      regression, where nats = k/(2β) times Cook's distance, k weights.
    """
    checks.positive("beta", beta)
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 1)
    checks.scalar("beta", beta)
    penalised.require_tolerance(tolerance)
    require_isotropic(prior)
    scales = jax.tree.map(jnp.exp, prior.full_log_scale(params))
    A, H = (
        kind(task, params, batch_size=batch_size).congruence(scales) for kind in (ggn, curvature)
    )
    inverses, cost = _inverses(H, key, num_matvecs, beta)

    _, pull, moved = penalised.loss_and_pulls(task, params, prior, batch_size)
    gradient = pull + jnp.asarray(beta, pull.dtype) * moved
    gradient_norm = float(jnp.linalg.norm(gradient))
    checks.finite("the gradient at params", gradient_norm)
    rows = gradient.astype(A.dtype)[None, None]
    least, most = (float(inverses[i].forms(rows)[0, 0, 0]) / (2 * beta) for i in (0, -1))
    consequence = "nats about examples are those at a minimum"
    penalised.warn(least, gradient_norm, tolerance, consequence)
    width = min(max(_ROWS // (require_root(A).outputs + 1), 1), task.num_examples)
    G = None if on is None else ggn(on, params, batch_size=batch_size).congruence(scales)
    found, predicted = [], []
    for first in range(0, task.num_examples, width):
        chosen = np.arange(first, min(first + width, task.num_examples))
        padded = jnp.asarray(np.resize(chosen, width))  # the last chunk as long as the others
        rows = _rows(A, task, params, scales, padded)
        without = [_left_out(forms) for forms in _forms(rows, inverses)]
        found.append(_parts(without[0], without[-1], beta)[..., : len(chosen)])
        if G is not None:
            ys = [np.where(end.known[:, None], end.y, np.nan) for end in without]
            moves = [_moves(rows, y, inverse) for y, inverse in zip(ys, inverses, strict=True)]
            predicted.append(np.stack([_halves(G, x)[: len(chosen)] for x in moves]))
    nats, influence, covariance, leverage = (
        _estimate(value, lower, upper, cost)
        for value, lower, upper in np.concatenate(found, axis=-1)
    )
    functional = None
    if G is not None:
        spent = cost + len(inverses) * width * len(predicted)
        functional = _functional(np.concatenate(predicted, axis=1), spent)
    return SampleInformation(
        nats=nats,
        influence=influence,
        covariance=covariance,
        leverage=leverage,
        functional=functional,
        gradient_norm=gradient_norm,
        off_minimum=_estimate(np.asarray(least), np.asarray(least), np.asarray(most), cost),
        prior=prior,
        beta=beta,
    )


def _inverses(
    H: Operator, key: jax.Array, num_matvecs: int, beta: float
) -> tuple[list[SketchedInverse], int]:
    """H̃^-1 by the larger end of H̃, then the smaller one; one where exact. Products."""
    if H.root is None:  # it may be negative, which no sketch of few products can tell
        checks.at_least("num_matvecs, with a curvature that may be negative,", num_matvecs, H.size)
    if num_matvecs >= H.size:
        matrix = np.asarray(require_finite(to_dense(H)), np.float64)
        spectrum, axes = np.linalg.eigh((matrix + matrix.T) / 2)
        penalised.require_minimum(beta + spectrum[0], beta)
        vectors, values = (jnp.asarray(x, H.dtype) for x in (axes.T, spectrum))
        return [SketchedInverse(vectors, values, beta)], H.size
    sketching, testing = jax.random.split(key)
    vectors, values = sketch(H, sketching, num_matvecs)
    rest = residual_norm(H, testing, vectors, values)
    ends = [SketchedInverse(vectors, values, beta + rho) for rho in (rest, 0.0)]
    return ends, num_matvecs + RESIDUAL_PRODUCTS


@jax.jit
def _rows(A: Operator, task: Task, params: PyTree, scales: PyTree, chosen: jax.Array) -> jax.Array:
    """R_i = [Φ_i; g_i'] (w, C+1, n) of some examples."""

    def slope(index: jax.Array) -> jax.Array:
        slopes = jax.grad(lambda p: nll(take(task, index[None]), p))(params)
        return ravel_pytree(jax.tree.map(jnp.multiply, slopes, scales))[0].astype(A.dtype)

    roots = A.flat_rows(chosen).reshape(len(chosen), -1, A.size)
    return jnp.concatenate([roots, jax.vmap(slope)(chosen)[:, None]], axis=1)


@jax.jit
def _forms(rows: jax.Array, inverses: list[SketchedInverse]) -> list[jax.Array]:
    """R_i H̃^-1 R_i' (w, C+1, C+1), by every inverse."""
    vectors = inverses[0].vectors  # those of all: XLA takes rows apart along them only once
    return [trees.replace(inverse, vectors=vectors).forms(rows) for inverse in inverses]


class _LeftOut(NamedTuple):
    """R_i (H̃ - H_i)^-1 R_i' = [X y; y' t] of some examples, and what else follows from U."""

    known: np.ndarray  # (w,), whether U < 1; where not, the rest means nothing
    X: np.ndarray  # (w, C, C)
    y: np.ndarray  # (w, C)
    t: np.ndarray  # (w,)
    influence: np.ndarray  # (w,), g_i'H̃^-1 g_i
    covariance: np.ndarray  # (w,), ½ [tr X + log det(I - U)]
    leverage: np.ndarray  # (w,), tr U


def _left_out(forms: Any) -> _LeftOut:
    """From R_i H̃^-1 R_i' (w, C+1, C+1)."""
    forms = np.asarray(forms, float)
    squares, h, U = forms[:, -1, -1], forms[:, :-1, -1], forms[:, :-1, :-1]
    u, axes = np.linalg.eigh(U)
    known = u.max(1) < 1
    u = np.clip(u, 0, 1 - 1e-9)
    back = axes.swapaxes(1, 2)
    X = axes @ ((u / (1 - u))[..., None] * back)
    y = (axes @ (back @ h[..., None] / (1 - u)[..., None]))[..., 0]
    covariance = (u / (1 - u) + np.log1p(-u)).sum(1) / 2
    leverage = np.trace(U, axis1=1, axis2=2)
    return _LeftOut(known, X, y, squares + (h * y).sum(1), squares, covariance, leverage)


def _parts(larger: _LeftOut, smaller: _LeftOut, beta: Any) -> np.ndarray:
    """Nats, influence, covariance, leverage, each (value, lower, upper): (4, 3, w).

    From both ends of H̃. All but |y|² fall as H̃ grows; the larger end gives the value.
    """
    spread = np.linalg.norm(smaller.X - larger.X, 2, axis=(1, 2))
    r = np.sqrt(spread * np.maximum(smaller.t - larger.t, 0)) / 2
    r = np.where(smaller.known, r, np.inf)
    length = np.linalg.norm(larger.y, axis=1)
    middle = np.linalg.norm((larger.y + smaller.y) / 2, axis=1)
    low = larger.t + np.maximum(middle - r, 0) ** 2
    nats = np.stack([larger.t + length**2, low, smaller.t + (middle + r) ** 2]) / (2 * beta)
    influence, covariance, leverage = (
        np.stack([getattr(end, name) for end in (larger, larger, smaller)])
        for name in ("influence", "covariance", "leverage")
    )
    known = np.stack([end.known for end in (larger, larger, smaller)])
    nats, covariance = (np.where(known, part, np.inf) for part in (nats, covariance))
    return np.stack([nats, influence / (2 * beta), covariance, leverage])


@jax.jit
def _moves(rows: jax.Array, y: jax.Array, inverse: SketchedInverse) -> jax.Array:
    """Δ_i = H̃^-1 (Φ_i'y + g_i) (w, n), in units of the prior."""
    y = jnp.asarray(y, rows.dtype)
    return inverse(jnp.einsum("ij,ijn->in", y, rows[:, :-1]) + rows[:, -1])


@jax.jit
def _halves(G: Operator, moves: jax.Array) -> jax.Array:
    """½ Δ_i'G Δ_i (w,)."""
    return jnp.sum(moves * G.flat_block(moves), axis=1) / 2


def _estimate(value: Any, lower: Any, upper: Any, cost: int) -> Estimate:
    """Nothing here was sampled but the sketch."""
    zero = np.zeros_like(value)
    converged = (upper - lower) / 2 <= measure.OPEN * np.abs(lower)
    return Estimate(value, zero, zero + np.inf, lower, upper, cost, converged)


def _functional(ends: np.ndarray, cost: int) -> Estimate:
    """From what every inverse gives, (1 or 2, N): the exact one, or both ends of the sketch."""
    low, high = np.fmin(ends[0], ends[-1]), np.maximum(ends[0], ends[-1])
    return _estimate(low, low, np.where(np.isnan(high), np.inf, high), cost)
