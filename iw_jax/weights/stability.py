r"""Shannon information from stability: how far the minimum moves with the data, in code widths.

Training turns data D into the code Q = N(w*(D), Σ), Σ = β (F + β Λ^-1)^-1, around the minimum of
L_D(w) + β/2 (w - m)'Λ^-1 (w - m). Where D has noise of covariance S², the minimum carries it along,
and to first order w is a Gaussian channel for D:

    A = dw*/dD = -(H + β Λ^-1)^-1 d(∇L)/dD        implicit differentiation
    I(w; D) = ½ log det(I + S A'Σ^-1A S)          finite whatever the rank of A
            ≈ H(D) - ½ log[(2πe)^d / det A'Σ^-1A]   where the noise of D is large: -∞ if d > dim w
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from iw_jax import checks, trees
from iw_jax.codes.gaussian import IsotropicGaussian, require_isotropic
from iw_jax.curvature import krylov, measure
from iw_jax.curvature.curvatures import ggn, hessian
from iw_jax.curvature.eigenpairs import top_eigenpairs
from iw_jax.curvature.inverse import SketchedInverse, solve
from iw_jax.curvature.nystrom import sketch
from iw_jax.curvature.operators import Operator
from iw_jax.estimates import Estimate
from iw_jax.task import Task, nll
from iw_jax.trees import PyTree
from iw_jax.weights import penalised

# Directions solved for at once: each takes some vectors of the weights' size.
_ROWS = 64


@trees.record
class StabilityInformation:
    """I(w; D) for data D of d numbers, and the motion of the minimum behind it.

    Attributes:
      nats: I(w; D) = ½ log det(I + S A'Σ^-1A S), exact where the loss is quadratic in (w, D) and
        D is Gaussian. The bracket has what the residuals of the solves leave open, to first order
        and as far as the preconditioner knows H̃^-1; above also what rounding may hide in
        directions that hardly move the weights. `cost` counts the steps of the solves, and a
        product for the pull of each number of D.
      asymptotic: ½ log det(S A'Σ^-1A S), the published form for Gaussian D; nats, below `nats`,
        and -inf where some direction of D does not move the weights.
      metric: A'Σ^-1A, (d, d): Δ' metric Δ is the squared shift of the minimum in the metric of its
        code under D -> D + Δ, twice its KL in nats; free of how the weights are parametrised.
      sensitivity: A = dw*/dD, a tree like the weights with a leading axis d.
      gradient_norm: |λ ∇L + β (w - m)/λ| at the weights given, in units of the prior; nats.
      off_minimum: nats between the code there and that around the minimum that a Newton step finds.
      smallest: smallest eigenvalue of Λ^½ H Λ^½ + β that was found; positive at a minimum.
      residual: largest relative residual of the solves.
      noise_scale: S.
      prior: P.
      beta: price of a nat.
    """

    nats: Estimate
    asymptotic: Any
    metric: np.ndarray
    sensitivity: PyTree
    gradient_norm: float
    off_minimum: float
    smallest: float
    residual: float
    noise_scale: Any
    prior: IsotropicGaussian
    beta: Any


def stability_information(
    task: Task,
    params: PyTree,
    prior: IsotropicGaussian,
    data: PyTree,
    perturb: Callable[[Task, PyTree], Task],
    *,
    noise_scale: Any,
    beta: float = 1.0,
    key: jax.Array,
    num_matvecs: int = 240,
    rtol: float = 1e-5,
    max_solves: int = 200,
    tolerance: float = 0.1,
    batch_size: int | None = None,
    curvature: Callable[..., Operator] = hessian,
) -> StabilityInformation:
    """Nats that the weights tell about noise in the data, from how far their minimum moves.

    With targets as the data: `data=task.targets` and `perturb=lambda task, y:
    dataclasses.replace(task, targets=y)`. Inputs or example weights are given in the same way, and
    a few directions of either as `data=jnp.zeros(d)`.

    A flatter minimum moves further: with H = F the metric is d(∇L)/dD' (H + βΛ^-1)^-1 d(∇L)/dD/β,
    so flatness and stability are not two independent levers. The prior damps both H and Σ; a wide
    one leaves them as they are.

    Args:
      task: the task.
      params: w*, weights trained to a minimum of L + β/2 (w - m)'Λ^-1 (w - m) on
        `perturb(task, data)`.
      prior: P, with one scale or one a layer, centred at 0 or at its mean.
      data: D, a tree of d floating-point numbers; d right-hand sides are solved for.
      perturb: static; (task, data) -> the task with these data, differentiable in them.
      noise_scale: standard deviation of the noise of D; one, or a tree prefix of `data`.
      beta: price of a nat; positive.
      key: a typed random key, for the preconditioner and the search for negative curvature.
      num_matvecs: curvature products for either of the two.
      rtol: relative residual at which a solve ends.
      max_solves: conjugate gradient steps allowed; a step takes a product for every direction.
      tolerance: nats that the code may be away from its minimum before a warning; inf for none.
      batch_size: examples a chunk of a curvature product; None for all at once.
      curvature: H: `hessian`, or `ggn` where the loss has not been minimised far enough.

    Warns:
      UserWarning: where `off_minimum` is beyond `tolerance`.

    Raises:
      TypeError: for a prior that is no `IsotropicGaussian`, data that are not floating-point, or a
        key that is no typed random key.
      ValueError: for arguments out of range; where prior, parameters, network and data do not fit;
        where H + βΛ^-1 has negative curvature.
      RuntimeError: where the solves do not reach `rtol`.

    References:
      Achille, Paolini & Soatto, arXiv:1905.12213v5, Prop. 2.9 (Brunel & Nadal 1998), with Σ for
      βF^-1. As printed, β (2πe)^k (slip: β needs the power too, and it is d, not dim w).
    """
    for name, value in (("beta", beta), ("rtol", rtol), ("noise_scale", noise_scale)):
        checks.positive(name, value)
    checks.scalar("beta", beta)
    penalised.require_tolerance(tolerance)
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 1)
    checks.at_least("max_solves", max_solves, 1)
    require_isotropic(prior)
    for leaf in jax.tree.leaves(data):
        if not jnp.issubdtype(jnp.result_type(leaf), jnp.floating):
            raise TypeError(f"data must be floating-point, got a leaf of {jnp.result_type(leaf)}")
    checks.finite("data", data)
    full = trees.broadcast_prefix("noise_scale", noise_scale, data)
    deviation = np.asarray(ravel_pytree(jax.tree.map(jnp.full_like, data, full))[0], np.float64)
    here = perturb(task, data)
    scales = jax.tree.map(jnp.exp, prior.full_log_scale(params))
    H, F = (
        kind(here, params, batch_size=batch_size).congruence(scales) for kind in (curvature, ggn)
    )
    shift = jnp.asarray(beta, F.dtype)
    sketching, searching = jax.random.split(key)
    smallest = beta + _smallest(H, searching, num_matvecs)
    penalised.require_minimum(smallest, beta)
    _, pull, moved = penalised.loss_and_pulls(here, params, prior, batch_size)
    gradient = (pull + shift * moved).astype(F.dtype)
    gradient_norm = float(jnp.linalg.norm(gradient))
    checks.finite("the gradient at params", gradient)
    forces = _forces(task, params, scales, data, perturb, batch_size).astype(F.dtype)
    inverse = SketchedInverse(*sketch(F, sketching, min(num_matvecs, F.size)), shift)
    solutions = [
        solve(H, rows, inverse, rtol=rtol, max_solves=max_solves)
        for rows in _chunks(jnp.concatenate([-forces, -gradient[None]]))
    ]
    count = len(forces) + 1
    motions, left = (
        jnp.concatenate([getattr(s, name) for s in solutions])[:count]
        for name in ("rows", "residual")
    )
    bent = jnp.concatenate([F.flat_block(rows) for rows in _chunks(motions)])[:count]
    gram, error = (  # in units of the code, (d + 1, d + 1): A'Σ^-1A, and that of A's own error
        np.asarray(x + x.T, np.float64) / (2 * beta)
        for x in (krylov.dot(motions, (bent + shift * motions).T), inverse.forms(left[None])[0])
    )
    metric, off_minimum = gram[:-1, :-1], float(gram[-1, -1]) / 2
    penalised.warn(off_minimum, gradient_norm, tolerance, "dw*/dD is that of a minimum")
    signal, axes = np.linalg.eigh(deviation[:, None] * metric * deviation)
    turned = deviation[:, None] * axes
    slack = np.sqrt(np.maximum(np.einsum("ji,jk,ki->i", turned, error[:-1, :-1], turned), 0))
    # Rounding; below it nothing is known.
    floor = len(signal) * np.finfo(F.dtype).eps * signal.max()
    known = np.where(signal > floor, signal, 0)
    least, value, most = (
        0.5 * np.log1p(np.maximum(root, 0)[-F.size :] ** 2).sum()  # the rank is n at most
        for root in (
            np.sqrt(known) - slack,
            np.sqrt(known),
            np.sqrt(np.maximum(signal, floor)) + slack,
        )
    )
    products = [2 * min(num_matvecs, F.size), 2 * len(forces) + 1, *(s.cost for s in solutions)]
    nats = trees.replace(
        Estimate.exact(value, sum(map(int, products))),
        bracket_lower=least,
        bracket_upper=most,
        converged=(most - least) / 2 <= measure.OPEN * most,
    )
    with np.errstate(divide="ignore"):
        asymptotic = float(0.5 * np.log(known).sum())
    motion = jax.tree.map(jnp.multiply, scales, F.unflatten(motions[:-1]))
    return StabilityInformation(
        nats=nats,
        asymptotic=asymptotic,
        metric=metric,
        sensitivity=motion,
        gradient_norm=gradient_norm,
        off_minimum=off_minimum,
        smallest=smallest,
        residual=max(float(s.worst) for s in solutions),
        noise_scale=noise_scale,
        prior=prior,
        beta=beta,
    )


def _smallest(A: Operator, key: jax.Array, num_matvecs: int) -> float:
    """The smallest eigenvalue, from above: the largest of -A."""
    products = min(max(num_matvecs, 2), A.size)
    return -float(top_eigenpairs(-1.0 * A, 1, key=key, num_matvecs=products).values.value[0])


@partial(jax.jit, static_argnames=("perturb", "batch_size"))
def _forces(
    task: Task,
    params: PyTree,
    scales: PyTree,
    data: PyTree,
    perturb: Callable[[Task, PyTree], Task],
    batch_size: int | None,
) -> jax.Array:
    """d(∇L)/dD in units of the prior, (d, n): how each number pulls at the weights."""
    flat, unravel = ravel_pytree(data)

    def slopes(numbers: jax.Array) -> jax.Array:
        loss = lambda p: nll(perturb(task, unravel(numbers)), p, batch_size=batch_size)  # noqa: E731
        return ravel_pytree(jax.tree.map(jnp.multiply, jax.grad(loss)(params), scales))[0]

    _, push = jax.linearize(slopes, flat)
    axes = jnp.eye(flat.size, dtype=flat.dtype)
    return jax.lax.map(push, axes, batch_size=min(_ROWS, flat.size))


def _chunks(rows: jax.Array) -> list[jax.Array]:
    """At most so many rows at a time, the last ones padded with zeros."""
    width = min(_ROWS, len(rows))
    padded = jnp.pad(rows, ((0, -len(rows) % width), (0, 0)))
    return jnp.split(padded, len(padded) // width)
