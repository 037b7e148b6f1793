r"""Fixed points of maps that never increase an objective, by guarded Anderson acceleration.

Blahut-Arimoto and EM are such maps. Near a fixed point they are linear with a symmetric Jacobian J
(in a metric they bring along), 0 ⪯ J ⪯ 1 at a minimum, so that each iteration multiplies the error
by the largest eigenvalue of J: by β/β_c just below a transition, which makes thousands of
iterations. Anderson's extrapolation,

    z⁺ = z + f - Σ_i a_i (Δz_i + Δf_i),    f = G(z) - z,    a = argmin ‖f - Σ_i a_i Δf_i‖,

is GMRES where G is linear. An extrapolation that raises the objective is taken back: the step after
it is a plain one, and memory begins anew. So the objective falls as it does without.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

_RIDGE = 1e-12  # of the normal equations, whose diagonal is one
_ROUNDING = 500  # of eps: how much of the objective its rounding may raise it by


class Evaluation(NamedTuple):
    """What a map says at a point z.

    Attributes:
      next: G(z), of the shape of z.
      objective: at z, scalar; at most raised by rounding along z, G(z), G(G(z)), ...
      change: how far G moves, scalar, in the unit of the tolerance.
      metric: square root of the diagonal metric of the extrapolation, of the shape of z.
    """

    next: jax.Array
    objective: jax.Array
    change: jax.Array
    metric: jax.Array


class _State(NamedTuple):
    trial: jax.Array  # where the map is evaluated next
    plain: jax.Array  # whether `trial` is G(point): then it is accepted, whatever rounding says
    point: jax.Array  # last accepted
    step: jax.Array  # f = G(point) - point
    objective: jax.Array
    change: jax.Array  # at `point`; inf after a rejection
    points: jax.Array  # (memory, ...) differences of accepted points
    steps: jax.Array  # (memory, ...) and of their f
    stored: jax.Array  # since the memory began; -1: not even a point
    spent: jax.Array  # evaluations


def fixed_point(
    evaluate: Callable[[jax.Array], Evaluation],
    project: Callable[[jax.Array], jax.Array],
    start: jax.Array,
    *,
    tolerance: float,
    max_steps: Any,
    memory: int = 10,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """A fixed point of G near `start`, with no larger objective.

    Args:
      evaluate: z to `Evaluation`; costs one iteration.
      project: brings an extrapolated z back to where G is defined.
      start: z, any shape.
      tolerance: stops where `change` is at most this.
      max_steps: evaluations at most; may be traced.
      memory: differences kept; 0 for the plain iteration.

    Returns:
      The last accepted point, the change there (inf if max_steps ended on a rejected point), and
      the number of evaluations.

    References:
      Anderson 1965; Walker & Ni, SIAM J. Numer. Anal. 49 (2011).
    """
    history = jnp.zeros((memory, *start.shape), start.dtype)
    infinity = jnp.full((), jnp.inf, start.dtype)
    first = _State(
        start, jnp.array(True), start, jnp.zeros_like(start), infinity, infinity,
        history, history, jnp.array(-1), jnp.array(0),
    )  # fmt: skip
    slack = _ROUNDING * float(jnp.finfo(start.dtype).eps)

    def body(s: _State) -> _State:
        at = evaluate(s.trial)
        accepted = s.plain | (at.objective <= s.objective + slack * jnp.abs(s.objective))
        accept, reject = _accepted(s, at), _rejected(s)
        return jax.tree.map(lambda a, b: jnp.where(accepted, a, b), accept, reject)

    def _accepted(s: _State, at: Evaluation) -> _State:
        step = at.next - s.trial
        points, steps = s.points, s.steps
        trial = at.next
        if memory:
            slot = s.stored % memory
            known = s.stored >= 0
            points = points.at[slot].set(jnp.where(known, s.trial - s.point, 0))
            steps = steps.at[slot].set(jnp.where(known, step - s.step, 0))
            extrapolated = project(at.next - _extrapolation(points, steps, step, at.metric))
            usable = known & jnp.all(jnp.isfinite(extrapolated))
            trial = jnp.where(usable, extrapolated, at.next)
        plain = jnp.array(not memory) | (s.stored < 0)
        return _State(
            trial, plain, s.trial, step, at.objective, at.change,
            points, steps, s.stored + 1, s.spent + 1,
        )  # fmt: skip

    def _rejected(s: _State) -> _State:
        return s._replace(
            trial=s.point + s.step, plain=jnp.array(True), change=infinity,
            points=history, steps=history, stored=jnp.array(-1), spent=s.spent + 1,
        )  # fmt: skip

    def going(s: _State) -> jax.Array:
        return (s.change > tolerance) & (s.spent < max_steps)

    end = jax.lax.while_loop(going, body, first)
    return end.point, end.change, end.spent


def _extrapolation(points: Any, steps: Any, step: Any, metric: Any) -> jax.Array:
    """Σ_i a_i (Δz_i + Δf_i), a from the normal equations in units of their diagonal."""
    A = (steps * metric).reshape(len(steps), -1)
    N = jnp.dot(A, A.T, precision=jax.lax.Precision.HIGHEST)
    right = jnp.dot(A, (step * metric).ravel(), precision=jax.lax.Precision.HIGHEST)
    unit = jnp.sqrt(jnp.diag(N))
    unit = jnp.where(unit > 0, unit, 1)
    ridge = max(_RIDGE, float(jnp.finfo(A.dtype).eps)) * jnp.eye(len(A), dtype=A.dtype)
    a = jnp.linalg.solve(N / unit / unit[:, None] + ridge, right / unit) / unit
    return jnp.tensordot(a, points + steps, 1)
