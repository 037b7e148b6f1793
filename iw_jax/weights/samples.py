r"""Sample information: how many nats the weights hold about each training example.

The code of all examples is Q = N(w*, Σ), Σ = β H̃^-1 with H̃ = H + β Λ^-1 and prior covariance Λ.
Without example i, whose gradient is g_i and whose curvature is H_i = Φ_i'Φ_i, the minimum moves by

    Δ_i = (H̃ - H_i)^-1 g_i            to first order in the loss's third derivatives
    nats_i = ½ Δ_i' Σ^-1 Δ_i           = KL of the two codes, of equal covariance
    influence_i = (1/2β) g_i' H̃^-1 g_i   as if one example did not bend the loss

By Woodbury everything follows from C + 1 vectors an example, C the size of its outputs: with
R_i = [Φ_i; g_i'] and R_i H̃^-1 R_i' = [U h; h' g_i'H̃^-1g_i],

    Δ_i = H̃^-1 R_i' a_i,    a_i = [(I - U)^-1 h; 1]
"""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from iw_jax import checks, trees
from iw_jax.codes.gaussian import IsotropicGaussian, require_isotropic
from iw_jax.curvature import measure
from iw_jax.curvature.curvatures import ggn
from iw_jax.curvature.inverse import SketchedInverse
from iw_jax.curvature.nystrom import residual_norm, sketch
from iw_jax.curvature.operators import Operator, require_root
from iw_jax.estimates import Estimate
from iw_jax.task import Task, nll, take
from iw_jax.trees import PyTree

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
    off_minimum: Any
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
    on: Task | None = None,
) -> SampleInformation:
    """Nats that a Gaussian code around w* holds about every training example.

    H is the GGN. A Nyström sketch Ĥ of it, from `num_matvecs` products, stands for it: Ĥ <= H <=
    Ĥ + ρ, with ρ the norm of what the sketch leaves (estimated). The bracket reaches from what the
    larger end gives, which is `value`, to what the smaller one gives: inf where the sketch knows an
    example so little that it seems to bend the loss more than all do. With as many products as
    weights it is closed.

    Exact for a quadratic loss. A mislabelled example that the network fits takes many nats.

    Args:
      task: the task; an example of weight v counts v-fold.
      params: w*, weights trained to a minimum of L + β/2 (w - m)'Λ^-1 (w - m).
      prior: P, with one scale or one a layer, centred at 0 or at its mean.
      beta: price of a nat; positive.
      key: a typed random key, for the sketch.
      num_matvecs: curvature products for the sketch; all are held at once.
      batch_size: examples a chunk of a curvature product; None for all at once.
      on: a task whose inputs `functional` is about, held-out ones, say; its targets do not matter.
        Takes two products with its curvature for every example.

    Warns:
      UserWarning: where `off_minimum` is more than all examples hold together.

    Raises:
      TypeError: for a prior that is no `IsotropicGaussian`, or a key that is no typed random key.
      ValueError: unless beta is positive and finite; where prior, parameters, network and data do
        not fit, or the gradient is not finite.

    References:
      Harutyunyan et al., arXiv:2101.06640 (smooth unique information); Cook 1977 for linear
      regression, where nats = k/(2β) times Cook's distance, k weights.
    """
    checks.positive("beta", beta)
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 1)
    if np.ndim(beta) != 0:
        raise ValueError(f"beta must be a scalar, got shape {np.shape(beta)}")
    require_isotropic(prior)
    scales = jax.tree.map(jnp.exp, prior.full_log_scale(params))
    A = ggn(task, params, batch_size=batch_size).congruence(scales)  # in units of the prior
    sketching, testing = jax.random.split(key)
    vectors, values = sketch(A, sketching, min(num_matvecs, A.size))
    rest = () if num_matvecs >= A.size else (residual_norm(A, testing, vectors, values),)
    inverses = [SketchedInverse(vectors, values, beta + rho) for rho in (*rest, 0.0)]

    gradient = penalised_gradient(
        task, params, prior, scales, jnp.asarray(beta, A.dtype), batch_size
    )
    off_minimum = float(inverses[-1].forms(gradient[None, None])[0, 0, 0] / (2 * beta))
    checks.finite("the gradient at params", off_minimum)
    width = min(max(_ROWS // (require_root(A).outputs + 1), 1), task.num_examples)
    G = None if on is None else ggn(on, params, batch_size=batch_size).congruence(scales)
    ends, predicted = [], []
    for first in range(0, task.num_examples, width):
        chosen = np.arange(first, min(first + width, task.num_examples))
        padded = jnp.asarray(np.resize(chosen, width))  # the last chunk as long as the others
        rows = _rows(A, task, params, scales, padded)
        found = [_nats(forms, beta) for forms in _forms(rows, inverses)]
        ends.append(np.stack([nats[:, : len(chosen)] for nats, _ in found]))
        if G is not None:
            moves = [_moves(rows, a, inv) for (_, a), inv in zip(found, inverses, strict=True)]
            predicted.append(np.stack([_halves(G, x)[: len(chosen)] for x in moves]))
    parts = np.concatenate(ends, axis=2)
    nats, influence, covariance, leverage = (
        _estimate(low, high, num_matvecs) for low, high in zip(parts[0], parts[-1], strict=True)
    )
    if off_minimum > nats.value.sum():
        warnings.warn(
            f"params are {off_minimum:.3g} nats away from a minimum, more than the "
            f"{nats.value.sum():.3g} that all examples hold: train on, with the prior's penalty",
            stacklevel=2,
        )
    return SampleInformation(
        nats=nats,
        influence=influence,
        covariance=covariance,
        leverage=leverage,
        functional=None if G is None else _functional(np.concatenate(predicted, 1), num_matvecs),
        off_minimum=off_minimum,
        prior=prior,
        beta=beta,
    )


@partial(jax.jit, static_argnames="batch_size")
def penalised_gradient(
    task: Task, params: PyTree, prior: Any, scales: PyTree, beta: jax.Array, batch_size: int | None
) -> jax.Array:
    """(n,), the gradient of L + β/2 |u|² in units of the prior, u = (w - m)/λ."""
    slopes = jax.grad(lambda p: nll(task, p, batch_size=batch_size))(params)
    centred = jax.tree.map(lambda w, m, s: (w - m) / s, params, prior.full_mean(params), scales)
    total = jax.tree.map(lambda g, s, u: s * g + beta * u, slopes, scales, centred)
    return ravel_pytree(total)[0].astype(beta.dtype)


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
    return [inverse.forms(rows) for inverse in inverses]


def _nats(forms: Any, beta: Any) -> tuple[np.ndarray, np.ndarray]:
    """From R_i H̃^-1 R_i': nats, influence, covariance, leverage (4, w), and a_i (w, C+1).

    Infinite, and nan, where U reaches 1.
    """
    forms = np.asarray(forms, float)
    squares, h, U = forms[:, -1, -1], forms[:, :-1, -1], forms[:, :-1, :-1]
    u, axes = np.linalg.eigh(U)
    valid = u.max(1) < 1
    u = np.clip(u, 0, 1 - 1e-9)
    bent = axes @ (np.swapaxes(axes, 1, 2) @ h[..., None] / (1 - u)[..., None])  # (I - U)^-1 h
    a = np.concatenate([bent[..., 0], np.ones((len(h), 1))], axis=1)
    moved = np.einsum("ij,ijk,ik->i", a, forms, a)
    widened = (u / (1 - u) + np.log1p(-u)).sum(1) / 2
    nats, covariance = (np.where(valid, x, np.inf) for x in (moved / (2 * beta), widened))
    parts = np.stack([nats, squares / (2 * beta), covariance, np.trace(U, axis1=1, axis2=2)])
    return parts, np.where(valid[:, None], a, np.nan)


@jax.jit
def _moves(rows: jax.Array, a: jax.Array, inverse: SketchedInverse) -> jax.Array:
    """Δ_i = H̃^-1 R_i' a_i (w, n), in units of the prior."""
    return inverse(jnp.einsum("ij,ijn->in", jnp.asarray(a, rows.dtype), rows))


@jax.jit
def _halves(G: Operator, moves: jax.Array) -> jax.Array:
    """½ Δ_i'G Δ_i (w,)."""
    return jnp.sum(moves * G.flat_block(moves), axis=1) / 2


def _estimate(lower: np.ndarray, upper: np.ndarray, cost: int) -> Estimate:
    """The lower end, which is finite, as value; nothing here was sampled but the sketch."""
    zero = np.zeros_like(lower)
    converged = (upper - lower) / 2 <= measure.OPEN * np.abs(lower)
    return Estimate(lower, zero, zero + np.inf, lower, upper, cost, converged)


def _functional(ends: np.ndarray, cost: int) -> Estimate:
    """From what every inverse gives, (1 or 2, N): the exact one, or both ends of the sketch."""
    low, high = np.fmin(ends[0], ends[-1]), np.maximum(ends[0], ends[-1])
    return _estimate(low, np.where(np.isnan(high), np.inf, high), cost)
