"""log det(I + cA), one number: the method that is exact where one fits, else the spectral measure.

Differentiable in what A is made of.
"""

import warnings
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from iw_jax import checks, trees
from iw_jax.curvature import dense, gram, growing, krylov, measure, nystrom
from iw_jax.curvature.growing import Plan
from iw_jax.curvature.measure import SpectralMeasure
from iw_jax.curvature.operators import Operator
from iw_jax.estimates import Estimate

METHODS = ("auto", "dense", "gram", "krylov", "nystrom", "slq")

# Half-widths of 95 % intervals of a normal law.
_NORMAL = 1.96

# Vectors a block product in the backward pass: few enough that activations stay small.
_BLOCK = 16


def logdet(
    A: Operator,
    *,
    c: Any,
    key: jax.Array,
    num_matvecs: int = 240,
    method: str = "auto",
    rtol: float = 0.0,
    atol: float = 0.0,
    policy: str = "error",
) -> Estimate:
    """log det(I + cA) from products with A.

    Methods:
    * "dense": all n eigenvalues, from n products. Exact.
    * "gram": all N·K eigenvalues of ΦΦ', the small side of A = Φ'Φ, for a `ggn`. Exact.
    * "krylov": the spectral measure at this c (see `spectral_measure`).
    * "nystrom": a Nyström sketch as preconditioner (see `nystrom_logdet`).
    * "slq": stochastic Lanczos quadrature, no deflation: probes of depth up to 40, for comparisons.
    * "auto": "dense" or "gram" where `num_matvecs` products give them, else "krylov": it stops at a
      tolerance, knows negative curvature, and at equal products was the more accurate of the two
      on the spectrum of a trained network (docs/curvature.md).

    Differentiable in the leaves of A (the task, the parameters) and in c, under `jit` and `grad`:
    the gradient of the value is c E[z'(I + cA)^-1 ∂A z] over head and probes, with the inverse
    taken in the space of all products ("dense", "krylov", "slq").

    Args:
      A: a symmetric operator on n weights.
      c: positive, scalar or array; λ²/β.
      key: a typed random key.
      num_matvecs: products allowed.
      method: one of the above.
      rtol: "krylov" stops when the 95 % half-width is at most rtol * value + atol; 0 to spend all,
        as is done under `jit`, where a plan is fixed beforehand. With every method `converged` says
        whether the half-width came to that.
      atol: see `rtol`; nats.
      policy: what negative eigenvalues mean: "error", "clip" or "abs"; see `SpectralMeasure`.

    Returns:
      Estimate of the shape of c; nats.

    Warns:
      UserWarning: of negative curvature, and how much, where `policy` lets it pass (not traced).

    Raises:
      ValueError: for an unknown method; for "nystrom" with another policy than "error"; unless
        every c is positive and finite; for "gram" of an operator without a root; and as
        `spectral_measure`.
      TypeError: for a key that is no typed random key.
    """
    checks.positive("c", c)
    checks.key("key", key)
    checks.at_least("num_matvecs", num_matvecs, 4)
    measure.require_policy(policy)
    if method not in METHODS:
        raise ValueError(f"method must be one of {METHODS}, got {method!r}")
    if not (0 <= rtol < np.inf and 0 <= atol < np.inf):
        raise ValueError(f"rtol and atol must be finite and not negative, got {rtol} and {atol}")
    if method == "nystrom" and policy != "error":
        raise ValueError(f"policy must be 'error' with method 'nystrom', got {policy!r}")
    if method == "auto":
        method = _best(A, num_matvecs)
    found = _by_method(A, c, key, num_matvecs, method, rtol, atol, policy)
    return _judged(found, rtol, atol) if rtol or atol else found


def _by_method(
    A: Operator,
    c: Any,
    key: jax.Array,
    num_matvecs: int,
    method: str,
    rtol: float,
    atol: float,
    policy: str,
) -> Estimate:
    if method == "nystrom":
        return nystrom.nystrom_logdet(A, c=c, key=key, num_matvecs=num_matvecs)
    if method == "gram":
        return _reported(gram.gram_measure(A, policy=policy)).logdet(c)
    if trees.is_concrete((A, c, key)):
        if method == "dense":
            return _reported(dense.dense_measure(A, policy=policy)).logdet(c)
        options: dict[str, Any] = {"c": c, "rtol": rtol, "atol": atol}
        if method == "slq":
            options = {"plan": _slq_plan(num_matvecs)}
        measured = growing.spectral_measure(
            A,
            key=key,
            num_matvecs=num_matvecs,
            quantities=("logdet",),
            policy=policy,
            **options,
        )
        return _reported(measured).logdet(c)
    plan = _slq_plan(num_matvecs) if method == "slq" else growing.default_plan(num_matvecs)
    if method == "dense":
        plan = Plan(A.size, 1, 0, 0)
    return _traced(A, jnp.asarray(c, float), key, plan, policy)


def _reported(measured: SpectralMeasure) -> SpectralMeasure:
    """The measure; a warning says what negative curvature it has, where a policy lets it pass."""
    if measured.policy != "error" and trees.is_concrete(measured):
        mass = float(measured.negative_trace.value)
        if mass < -float(measured.tolerance):
            warnings.warn(
                f"negative curvature: its eigenvalues sum to {mass:.4g} (smallest "
                f"{float(measured.smallest):.4g}, largest {float(measured.largest):.4g}); "
                f"policy={measured.policy!r} decides what they count for",
                stacklevel=4,
            )
    return measured


def _judged(found: Estimate, rtol: float, atol: float) -> Estimate:
    """Converged only where the 95 % half-width meets the tolerance, under `jit` too."""
    t = _NORMAL + (_NORMAL**3 + _NORMAL) / (4 * jnp.maximum(jnp.asarray(found.dof), 1))  # Student
    reach = jnp.where(jnp.asarray(found.stderr) > 0, t * found.stderr, found.stderr)
    half = (found.bracket_upper - found.bracket_lower) / 2 + reach
    return trees.replace(
        found, converged=found.converged & (half <= rtol * jnp.abs(found.value) + atol)
    )


def _best(A: Operator, num_matvecs: int) -> str:
    if A.size <= min(num_matvecs, growing.DENSE_LIMIT):
        return "dense"
    if A.root is not None and A.root.size <= num_matvecs:
        return "gram"
    return "krylov"


def _slq_plan(num_matvecs: int) -> Plan:
    probes = max(num_matvecs // 40, min(5, num_matvecs // 2))
    return Plan(1, 0, probes, num_matvecs // probes)


@partial(jax.custom_vjp, nondiff_argnums=(3, 4))
def _traced(A: Operator, c: jax.Array, key: jax.Array, plan: Plan, policy: str) -> Estimate:
    """By a fixed plan, whatever is concrete; the value alone has a gradient."""
    return _grown(A, c, key, plan, policy)[0]


@partial(jax.jit, static_argnums=(3, 4))
def _grown(
    A: Operator, c: jax.Array, key: jax.Array, plan: Plan, policy: str
) -> tuple[Estimate, jax.Array, growing.Growth]:
    state = growing.init(A, key=key, plan=plan, policy=policy)
    while not state.ended:
        state = growing.step(A, state)
    measured = growing.finish(state)
    return measured.logdet(c), measured.effective_dimension(c).value, state


def _forward(A: Operator, c: jax.Array, key: jax.Array, plan: Plan, policy: str) -> Any:
    estimate, effective_dimension, state = _grown(A, c, key, plan, policy)
    return estimate, (A, c, effective_dimension, state)


def _backward(plan: Plan, policy: str, saved: Any, cotangent: Estimate) -> Any:
    """Σ_k w_k v_k' ∂A v_k, with Σ_k w_k v_k v_k' the symmetric part of f'(A) (QQ' + mean zz').

    f'(A) = c (I + cA)^-1 is taken in the space of all products, f'(S'TS) = S' f'(T) S.
    """
    del plan
    A, c, effective_dimension, state = saved
    theta, vectors = jnp.linalg.eigh(state.space.matrix)
    size = jnp.abs(theta) if policy == "abs" else jnp.maximum(theta, 0)
    sign = jnp.sign(theta) if policy == "abs" else theta > 0
    per_c = (cotangent.value * c)[..., None] / (1 + c[..., None] * size)
    slope = sign * per_c.reshape(-1, len(theta)).sum(0)
    inner = jnp.diag((jnp.arange(len(theta)) < state.head).astype(theta.dtype))
    if len(state.probes):
        inner = inner + krylov.dot(state.probes.T, state.probes) / len(state.probes)
    outer = krylov.dot(krylov.dot(vectors * slope, vectors.T), inner)
    weights, rotation = jnp.linalg.eigh((outer + outer.T) / 2)
    gradient = _gradient_of_quadratic_forms(A, krylov.dot(rotation.T, state.space.basis), weights)
    return gradient, cotangent.value * effective_dimension / c, None


def _gradient_of_quadratic_forms(A: Operator, V: jax.Array, weights: jax.Array) -> Operator:
    """The gradient of Σ_k w_k v_k'A v_k in the floating-point leaves of A, block by block."""
    leaves, treedef = jax.tree.flatten(A)
    moving = [jnp.issubdtype(jnp.result_type(x), jnp.floating) for x in leaves]

    def forms(floats: list[jax.Array], V: jax.Array, weights: jax.Array) -> jax.Array:
        given = iter(floats)
        own = [next(given) if m else x for m, x in zip(moving, leaves, strict=True)]
        products = jax.tree.unflatten(treedef, own).flat_block(V)
        return jnp.sum(weights * jnp.sum(V * products, axis=1))

    floats = [jnp.asarray(x) for m, x in zip(moving, leaves, strict=True) if m]
    pad = -len(V) % _BLOCK
    blocks = (
        jnp.pad(V, ((0, pad), (0, 0))).reshape(-1, _BLOCK, V.shape[1]),
        jnp.pad(weights, (0, pad)).reshape(-1, _BLOCK),
    )

    def add(total: list[jax.Array], block: tuple[jax.Array, jax.Array]) -> tuple[Any, None]:
        part = jax.grad(forms)(floats, *block)
        return [a + b for a, b in zip(total, part, strict=True)], None

    total = iter(jax.lax.scan(add, [jnp.zeros_like(x) for x in floats], blocks)[0])
    cotangents = [
        next(total) if m else np.zeros(jnp.shape(x), jax.dtypes.float0)
        for m, x in zip(moving, leaves, strict=True)
    ]
    return jax.tree.unflatten(treedef, cotangents)


_traced.defvjp(_forward, _backward)
